"""Between the engine that samples and the model that learns: their log-probabilities never agree to the last bit."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_dist.algo.kl import k3
from rlhf_dist.config.algorithms import CORRECTIONS


def correction_weights(logprobs: Tensor, rollout_logprobs: Tensor, correction: str, cap: float) -> Tensor:
    """Importance weights of the trainer's policy over the engine's, token by token.

    * ``off``: 1.
    * ``truncate``: min(ratio, cap): truncated importance sampling (Ionides 2008; Yao et al. 2025).
    * ``mask``: 1 where the ratio lies within [1/cap, cap], else 0: such a token is not learned from.

    Args:
        logprobs: ``[R]`` float32, nats, the trainer's at the weights that sampled.
        rollout_logprobs: ``[R]`` float32, nats, the engine's.
        correction: one of the above.
        cap: above 1.

    Returns:
        ``[R]`` float32, without gradient.

    Raises:
        ValueError: there is no such correction.
    """
    log_ratio = logprobs - rollout_logprobs
    match correction:
        case "off":
            return torch.ones_like(logprobs)
        case "truncate":
            return log_ratio.exp().clamp(max=cap)
        case "mask":
            return (log_ratio.abs() <= torch.tensor(cap).log()).to(logprobs.dtype)
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
