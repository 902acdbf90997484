"""The language-model head as the trainer needs it: log-probabilities of given tokens, never a tensor of all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ROWS = 512


def _chunk_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature)[target], chunk by chunk.

    The logits of a chunk live only while it is worked on; the backward computes them again and turns them into
    their gradient in place. With V in the tens of thousands that is most of a training step's memory, and the
    reason that an autograd log-softmax over ``[R, V]`` is the slower one too.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(targets.numel(), dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        for start in range(0, targets.numel(), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = _chunk_logits(hidden[rows], weight, bias, temperature)
            normalizer = torch.logsumexp(logits, dim=-1)
            logprobs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normalizer
            logits -= normalizer[:, None]
            entropy[rows] = -logits.exp().mul_(logits.clamp_(min=-1e4)).sum(-1)  # in place: a chunk is large
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        for start in range(0, targets.numel(), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = _chunk_logits(hidden[rows], weight, bias, ctx.temperature)
            # d logprob / d logits = onehot - softmax
            grad = torch.softmax(logits, dim=-1).neg_()
            grad[torch.arange(grad.shape[0], device=grad.device), targets[rows]] += 1.0
            grad *= grad_logprobs[rows, None] / ctx.temperature
            narrow = grad.to(hidden.dtype)
            grad_hidden[rows] = narrow @ weight
            if hidden.dtype == torch.float32:
                grad_weight.addmm_(grad.t(), hidden[rows])
            else:
                grad_weight += narrow.t() @ hidden[rows]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
        )


class LMHead(nn.Module):
    """Stands where a model's output embedding stood, with the same parameters under the same names.

    Being a module of its own, it is gathered and released by ZeRO-3 like any other layer.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of ``targets``.

        Args:
            hidden: ``[R, H]``, the states that predict them.
            targets: ``[R]`` int64.
            temperature: divides the logits.

        Returns:
            log-probabilities ``[R]`` float32, nats, and the entropy of the distribution at each of them ``[R]``
            float32, nats, without gradient.
        """
        return _TokenLogprobs.apply(hidden, self.weight, self.bias, targets, temperature)
