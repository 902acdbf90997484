"""How a batch is cut into the minibatches of PPO's inner loop."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def minibatch_plan(size: int, minibatch_size: int, epochs: int, seed: int) -> list[Tensor]:
    """Rows of each optimizer step: every epoch a fresh shuffle of all ``size`` rows, cut into near-equal parts.

    ``ceil(size / minibatch_size)`` parts an epoch, whose sizes differ by one at most: no row is dropped, and there
    is no small last minibatch with a noisy gradient.

    Args:
        size: rows of the batch.
        minibatch_size: most rows of an optimizer step.
        epochs: passes over the batch.
        seed: of the shuffles; the same one gives the same plan on every machine.

    Returns:
        row numbers ``[rows of the minibatch]`` int64 of each optimizer step, in order.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = math.ceil(size / minibatch_size)
    plan: list[Tensor] = []
    for _ in range(epochs):
        plan.extend(torch.tensor_split(torch.randperm(size, generator=generator), parts))
    return plan


def steps_per_batch(size: int, minibatch_size: int, epochs: int) -> int:
    """Optimizer steps that :func:`minibatch_plan` makes of a batch of ``size`` rows."""
    return math.ceil(size / minibatch_size) * epochs
