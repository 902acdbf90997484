"""Between the engine that samples and the model that learns: their log-probabilities never agree to the last bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhf_dist.algo.kl import k3
from rlhf_dist.algo.rewards import sequence_sums
from rlhf_dist.config.algorithms import CORRECTIONS


def correction_weights(
    logprobs: Tensor, rollout_logprobs: Tensor, lengths: Tensor, mask: Tensor, correction: str, cap: float
) -> Tensor:
    """Importance weights of the trainer's policy over the one that sampled, for every token.

    With the ratio r_t of the two probabilities of a sampled token:

    * ``off``: 1.
    * ``truncate``: min(r_t, cap): truncated importance sampling (Ionides 2008; Yao et al. 2025), token by token.
    * ``mask``: 1 where r_t lies within [1/cap, cap], else 0: such a token is not learned from.
    * ``sequence``: min(prod r_t, cap) over the tokens of the response, for all of them: without the cap it is free of
      bias, where the ratio of a token alone ignores what came before and after it.
    * ``sequence-mask``: 1 where the geometric mean of a response's r_t lies within [1/cap, cap], else 0 for all of it.

    Args:
        logprobs: ``[R]`` float32, nats, the trainer's when the step begins.
        rollout_logprobs: ``[R]`` float32, nats, the engine's, by the weights that sampled.
        lengths: ``[B]`` int64, tokens of each response, R together.
        mask: ``[R]`` bool, true where the token was sampled; the others have no part in a response's ratio.
        correction: one of the above.
        cap: above 1.

    Returns:
        ``[R]`` float32, without gradient.

    Raises:
        ValueError: there is no such correction.
    """
    log_ratio = (logprobs - rollout_logprobs) * mask
    bound = math.log(cap)
    match correction:
        case "off":
            return torch.ones_like(logprobs)
        case "truncate":
            return log_ratio.clamp(max=bound).exp()
        case "mask":
            return (log_ratio.abs() <= bound).to(logprobs.dtype)
        case "sequence":
            whole = sequence_sums(log_ratio, lengths).clamp(max=bound).exp()
            return torch.repeat_interleave(whole, lengths)
        case "sequence-mask":
            mean = sequence_sums(log_ratio, lengths) / sequence_sums(mask.to(logprobs.dtype), lengths).clamp(min=1)
            return torch.repeat_interleave((mean.abs() <= bound).to(logprobs.dtype), lengths)
        case other:
            raise ValueError(f"correction {other!r}: expected {', '.join(CORRECTIONS)}")


def mismatch_figures(logprobs: Tensor, rollout_logprobs: Tensor) -> dict[str, float]:
    """How far engine and trainer are apart, over N sampled tokens.

    Args:
        logprobs: ``[N]`` float32, nats, the trainer's at the weights that sampled.
        rollout_logprobs: ``[N]`` float32, nats, the engine's.

    Returns:
        ``logprob_gap``: mean absolute difference, nats; ``ratio_max``: largest importance ratio either way;
        ``kl``: nats a token, the k3 estimate of KL(engine, trainer).
    """
    if logprobs.numel() == 0:
        return {"logprob_gap": 0.0, "ratio_max": 1.0, "kl": 0.0}
    gap = (rollout_logprobs - logprobs).abs()
    return {
        "logprob_gap": float(gap.mean()),
        "ratio_max": float(gap.max().exp()),
        "kl": float(k3(rollout_logprobs, logprobs).mean()),
    }
