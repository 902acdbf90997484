"""The language-model head as the trainer needs it: log-probabilities of given tokens, never a tensor of all logits.

The head's logits are made a tile at a time: some rows (places of tokens) by some columns (of the vocabulary), few
enough to stay in a processor's cache. A tile is exponentiated and summed while it is there, against the largest logit
that its rows have met so far (an online softmax: Milakov and Gimelshein, arXiv 1805.02867). The memory for it depends
neither on how many tokens there are nor on the vocabulary; where a gradient is wanted, the exponentials of a chunk of
rows are kept, which grow with the vocabulary up to a limit.

Where a loss is given with the tokens, one product with the weight does for both directions. A token's loss depends on
its own log-probability l only, so that its slope g = d loss / d l is known as soon as l is; and the gradient

    d loss / d hidden = g (W[target] - p W) / T,   d loss / d W = (onehot(target) - p)^T (g hidden) / T

is made from the exponentials of those same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from rlhf_dist.device import HEAD_KEPT, HEAD_KEPT_ELSEWHERE, HEAD_TILE

CHUNK_ROWS = 512  # rows that are worked on at a time, at most

TokenLosses: TypeAlias = Callable[[Tensor, slice], Tensor]
"""Log-probabilities ``[n]`` (float32, nats) of a slice of a micro-batch's response tokens, and that slice, to these
tokens' losses ``[n]``, each of which depends on its own log-probability only."""


def chunk_rows(device: str, columns: int) -> int:
    """Rows of which a gradient is made at a time on a device of type ``device``, for a vocabulary of ``columns``."""
    return max(1, min(CHUNK_ROWS, HEAD_KEPT.get(device, HEAD_KEPT_ELSEWHERE) // columns))


def tile_columns(device: str, columns: int) -> int:
    """Columns of a tile on a device of type ``device``, of a vocabulary of ``columns``."""
    return min(HEAD_TILE.get(device, columns), columns)


class _Softmax:
    """softmax((hidden @ weight.T + bias) / T) of n rows, tile by tile.

    Args:
        hidden: ``[n, H]``.
        weight: ``[V, H]``, of the same dtype.
        bias: ``[V]``, or None.
        targets: ``[n]`` int64.
        temperature: T.
        keep: ``[n, V]`` float32 to keep the exponentials in, for :meth:`gradient`; None: they are not kept.

    Attributes:
        logprobs: ``[n]`` float32, nats, of the targets.
        mean_weight: ``[n, H]`` float32, the mean of the weight's rows under the distribution; None unless kept.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        keep: Tensor | None = None,
    ) -> None:
        self.hidden, self.weight, self.bias, self.targets = hidden, weight, bias, targets
        self.temperature, self._keep = temperature, keep
        rows = hidden.shape[0]
        self._largest = torch.full((rows,), torch.finfo(torch.float32).min, device=hidden.device)
        self._shifts: list[Tensor] = []  # of each tile that is kept: what was taken from its logits
        self._total, self._mean_bias, self._picked = (torch.zeros_like(self._largest) for _ in range(3))
        self.mean_weight = None if keep is None else hidden.new_zeros(hidden.shape, dtype=torch.float32)
        self._width = tile_columns(hidden.device.type, weight.shape[0])
        room = hidden.new_empty(rows, self._width)
        for columns in self._tiles():
            self._add(columns, room)
        self._normalizer = self._largest + self._total.log()
        self.logprobs = self._picked - self._normalizer
        if self.mean_weight is not None:
            self.mean_weight /= self._total[:, None]

    def entropy(self) -> Tensor:
        """``[n]`` float32, nats: log Z less the mean logit, which is the one that the mean weight gives."""
        assert self.mean_weight is not None, "exponentials were not kept"
        mean = (self.hidden.float() * self.mean_weight).sum(1) + self._mean_bias / self._total
        return self._normalizer - mean / self.temperature

    def _tiles(self) -> Iterator[slice]:
        return _chunks(self.weight.shape[0], self._width)

    def _logits(self, columns: slice, room: Tensor) -> Tensor:
        """``[n, c]`` float32, in ``room`` where that is float32."""
        weight = self.weight[columns]
        logits = torch.mm(self.hidden, weight.t(), out=room[:, : weight.shape[0]])
        if self.bias is not None:
            logits += self.bias[columns]
        logits = logits.float()
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)

    def _add(self, columns: slice, room: Tensor) -> None:
        logits = self._logits(columns, room)
        places = self.targets - columns.start
        here = (places >= 0) & (places < logits.shape[1])
        picked = logits.gather(1, places.clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
        self._picked = torch.where(here, picked, self._picked)
        largest = torch.maximum(self._largest, logits.amax(1))
        rescale = (self._largest - largest).exp_()
        self._largest = largest
        logits -= largest[:, None]
        exps = torch.exp(logits, out=logits if self._keep is None else self._keep[:, columns])
        self._total = self._total * rescale + exps.sum(1)
        if self.mean_weight is not None:
            self._shifts.append(largest)
            self.mean_weight *= rescale[:, None]
            _add_product(self.mean_weight, exps, self.weight[columns])
            if self.bias is not None:  # which may be -inf, for a token that shall never come
                finite = self.bias[columns].float().clamp(min=torch.finfo(torch.float32).min)
                self._mean_bias = self._mean_bias * rescale + exps @ finite

    def gradient(self, slope: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The gradient of a loss with slope ``[n]`` in the log-probabilities.

        Args:
            slope: ``[n]`` float32.
            weight: ``[V, H]`` float32, to which the weight's gradient is added; None: it is not wanted.
            bias: the same for the bias, ``[V]``.

        Returns:
            ``[n, H]``, with respect to the hidden states, in their dtype.
        """
        assert self.mean_weight is not None and self._keep is not None, "exponentials were not kept"
        slope = slope / self.temperature
        if weight is not None:
            weight.index_add_(0, self.targets, self.hidden.float() * slope[:, None])
        if bias is not None:
            bias.index_add_(0, self.targets, slope)
        probability = -slope / self._total
        for columns, shift in zip(self._tiles(), self._shifts, strict=True):
            scale = probability * (shift - self._largest).exp_()
            exps = self._keep[:, columns]
            if weight is not None:
                states = (self.hidden.float() * scale[:, None]).to(self.hidden.dtype)
                _add_product(weight[columns], exps.t(), states)
            if bias is not None:
                bias[columns] += scale @ exps
        return ((self.weight[self.targets] - self.mean_weight) * slope[:, None]).to(self.hidden.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds ``left @ right`` to ``total`` (float32); computed in the dtype of ``right``."""
    if right.dtype == torch.float32:
        total.addmm_(left, right)
    else:
        total += left.to(right.dtype) @ right


class _TokenLogprobs(torch.autograd.Function):
    """The log-probabilities of targets; the backward pass makes the logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> Tensor:
        logprobs = torch.empty(targets.numel(), dtype=torch.float32, device=hidden.device)
        for rows in _chunks(targets.numel(), CHUNK_ROWS):
            logprobs[rows] = _Softmax(hidden[rows], weight, bias, targets[rows], temperature).logprobs
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature = temperature
        return logprobs

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets = ctx.saved_tensors
        gradients = _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        for rows in _chunks(targets.numel(), chunk_rows(weight.device.type, weight.shape[0])):
            softmax = _Softmax(hidden[rows], weight, bias, targets[rows], ctx.temperature, keep=gradients.room(rows))
            gradients.add(rows, softmax, slopes[rows])
        return gradients.hidden, gradients.of_weight(), gradients.of_bias(), None, None


class _SummedLosses(torch.autograd.Function):
    """The sum of tokens' losses; the gradient is made on the way forward, and the backward pass only scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        losses: TokenLosses,
        in_place: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients = _Gradients(ctx.needs_input_grad, hidden, weight, bias, in_place)
        logprobs = torch.empty(targets.numel(), dtype=torch.float32, device=hidden.device)
        entropy, total = torch.empty_like(logprobs), logprobs.new_zeros(())
        for rows in _chunks(targets.numel(), chunk_rows(weight.device.type, weight.shape[0])):
            softmax = _Softmax(hidden[rows], weight, bias, targets[rows], temperature, gradients.room(rows))
            logprobs[rows], entropy[rows] = softmax.logprobs, softmax.entropy()
            loss, slopes = _slopes(losses, softmax.logprobs, rows)
            gradients.add(rows, softmax, slopes)
            total += loss
        ctx.gradients = gradients
        ctx.mark_non_differentiable(logprobs, entropy)
        return total, logprobs, entropy

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients: _Gradients = ctx.gradients
        ctx.gradients = None  # they are made once, so that the graph cannot be gone through again
        gradients.scale(scale)
        return gradients.hidden, gradients.of_weight(), gradients.of_bias(), *[None] * 4


def _slopes(losses: TokenLosses, logprobs: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """The sum of the losses of some rows, and its gradient in their log-probabilities ``[n]``."""
    with torch.enable_grad():
        leaf = logprobs.detach().requires_grad_()
        loss = losses(leaf, rows).sum()
        (slopes,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), slopes


class _Gradients:
    """Gradients of the head's inputs, as they are added up chunk by chunk.

    Args:
        wanted: of hidden states, weight, bias and others, in this order, whether a gradient is.
        hidden: ``[R, H]``.
        weight: ``[V, H]``.
        bias: ``[V]``, or None.
        in_place: whether those of weight and bias are added to what these have already.
    """

    def __init__(
        self, wanted: Sequence[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None, in_place: bool = False
    ) -> None:
        self.hidden = torch.empty_like(hidden)
        self._in_place, self._dtype = in_place, weight.dtype
        self._weight = _room(weight, in_place) if wanted[1] else None
        self._bias = _room(bias, in_place) if wanted[2] and bias is not None else None
        self._kept = torch.empty(0)
        self._columns = weight.shape[0]

    def room(self, rows: slice) -> Tensor:
        """Where the exponentials of these rows may be kept: ``[n, V]`` float32."""
        size = (len(range(*rows.indices(self.hidden.shape[0]))), self._columns)
        if self._kept.shape[0] < size[0]:
            self._kept = torch.empty(size, dtype=torch.float32, device=self.hidden.device)
        return self._kept[: size[0]]

    def add(self, rows: slice, softmax: _Softmax, slopes: Tensor) -> None:
        """Takes the rows' part in."""
        self.hidden[rows] = softmax.gradient(slopes, self._weight, self._bias)

    def scale(self, factor: Tensor) -> None:
        """Multiplies what was added. Those that were added in place cannot be any more: the factor must be 1."""
        if float(factor) == 1.0:
            return
        if self._in_place:
            raise RuntimeError(f"the loss was scaled by {float(factor):g} after its gradient had been added up")
        for gradient in (self.hidden, self._weight, self._bias):
            if gradient is not None:
                gradient *= factor

    def of_weight(self) -> Tensor | None:
        """``[V, H]`` in the weight's dtype; None where it is not wanted, or in its place already."""
        return None if self._weight is None or self._in_place else self._weight.to(self._dtype)

    def of_bias(self) -> Tensor | None:
        """``[V]``, in the same way."""
        return None if self._bias is None or self._in_place else self._bias.to(self._dtype)


def _room(parameter: Tensor, in_place: bool) -> Tensor:
    """Where the gradient of a parameter is added up, float32."""
    if not in_place:
        return torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _chunks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


class LMHead(nn.Module):
    """Stands where a model's output embedding stood, with the same parameters under the same names.

    Being a module of its own, it is gathered and released by ZeRO-3 like any other layer.

    Attributes:
        in_place: whether a loss' forward pass adds the gradients of weight and bias to their ``grad`` itself. That
            saves passes over memory of their size; autograd, and its hooks, then never see them, and the loss must not
            be scaled any more. Only for float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.in_place = False

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        temperature: float,
        losses: TokenLosses | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of ``targets``, or the sum of losses of theirs, which takes two thirds of the time.

        Args:
            hidden: ``[R, H]``, the states that predict them.
            targets: ``[R]`` int64.
            temperature: divides the logits.
            losses: of the tokens by their log-probabilities, as they shall be summed, scaled already.

        Returns:
            without losses: log-probabilities ``[R]`` float32, nats, with gradient. With losses: their sum (a scalar,
            float32, with gradient); log-probabilities ``[R]`` without gradient; the entropy of the distribution at
            each of them ``[R]`` float32, nats, without gradient.
        """
        if losses is None:
            return _TokenLogprobs.apply(hidden, self.weight, self.bias, targets, temperature)
        return _SummedLosses.apply(hidden, self.weight, self.bias, targets, temperature, losses, self.in_place)
