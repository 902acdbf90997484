"""Which rows a step learns from: a pure function of the step's number, so that a resume needs nothing saved."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_dist.config.schema import SupervisedTrainingConfig


@dataclass(frozen=True)
class EpochSampler:
    """Draws batches from shuffled epochs: every row once in each epoch, in an order of its own.

    Attributes:
        size: rows of the data set, 1 or more.
        batch_size: rows of a batch, 1 or more; may be larger than ``size`` where batches straddle.
        seed: of the shuffling, together with the epoch's number.
        straddle: True: every batch is full, and goes on into the next epoch where one ends (PPO). False: an epoch's
            last batch is smaller where ``batch_size`` does not divide ``size`` (supervised training).
    """

    size: int
    batch_size: int
    seed: int
    straddle: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or self.batch_size < 1:
            raise ValueError(f"expected a size and a batch_size of 1 or more, got {self.size} and {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """Steps from the start after which every row was drawn."""
        return math.ceil(self.size / self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Rows of batch number ``step``, from 0: ``[batch_size]`` int64, or fewer at the end of an epoch.

        ValueError if ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step {step} is before the first one, 0")
        if not self.straddle:
            epoch, within = divmod(step, self.steps_per_epoch)
            return self._order(epoch)[within * self.batch_size : (within + 1) * self.batch_size]
        first = step * self.batch_size
        start, end = first // self.size, (first + self.batch_size - 1) // self.size
        order = torch.cat([self._order(epoch) for epoch in range(start, end + 1)])
        return order[first - start * self.size :][: self.batch_size].clone()

    def _order(self, epoch: int) -> Tensor:
        """All rows in the order of an epoch, ``[size]`` int64."""
        digest = hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randperm(self.size, generator=generator)


def steps_of(training: SupervisedTrainingConfig, size: int) -> int:
    """Optimizer steps of supervised training on ``size`` examples: `max_steps`, or what the epochs come to."""
    return training.max_steps or math.ceil(training.epochs * math.ceil(size / training.batch_size))
