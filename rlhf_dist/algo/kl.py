"""The KL penalty: estimators of the divergence a token, and controllers of its coefficient."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """``[R]`` nats: log(p/q) of the sampled tokens. Unbiased, of high variance, may be negative.

    (Schulman, "Approximating KL divergence", 2020, for this and the two below.)

    Args:
        logprobs: ``[R]`` float32, nats, log p: the policy's log-probabilities of tokens that it sampled.
        ref_logprobs: ``[R]`` float32, nats, log q: the reference's.
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """``[R]`` nats: half the squared log-ratio. Biased, of low variance. Arguments as of :func:`k1`."""
    return 0.5 * (logprobs - ref_logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """``[R]`` nats: q/p - 1 - log(q/p). Unbiased and never negative. Arguments as of :func:`k1`."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


class KLController(Protocol):
    """Holds the coefficient beta of the penalty."""

    coef: float

    def update(self, kl_sequence_mean: float, samples: int) -> None:
        """Takes in one step's mean KL a sequence (nats) over ``samples`` sequences."""
        ...


class FixedKL:
    """A coefficient that stays."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl_sequence_mean: float, samples: int) -> None:
        """Does nothing."""


class AdaptiveKL:
    """A proportional controller in log space (Ziegler et al., arXiv 1909.08593, section 2.2).

    Args:
        coef: the coefficient to start from.
        target: nats a sequence to steer to.
        horizon: samples over which an error of 20% or more changes the coefficient by 20%.
    """

    def __init__(self, coef: float, target: float, horizon: int) -> None:
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, kl_sequence_mean: float, samples: int) -> None:
        """Raises the coefficient where the KL is above the target, lowers it where it is below."""
        error = min(max(kl_sequence_mean / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * samples / self.horizon
