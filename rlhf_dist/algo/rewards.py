"""From scores of whole responses to rewards of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def sequence_sums(flat: Tensor, lengths: Tensor) -> Tensor:
    """``[R]`` values of B rows summed row by row: ``[B]``."""
    rows = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    return torch.zeros(lengths.numel(), dtype=flat.dtype).index_add_(0, rows, flat)


def shape_rewards(scores: Tensor, penalty: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    """The reward of arXiv 2203.02155, eq. 2: the score minus beta * log(pi / pi_ref), spread over the tokens.

    Each token pays its own share of the penalty; the last one that the policy sampled gets the score on top.

    Args:
        scores: ``[B]`` float32.
        penalty: ``[R]`` float32, beta times the KL of each token.
        lengths: ``[B]`` int64, response tokens of each sequence, at least 1.
        mask: ``[R]`` bool, true where the policy sampled the token; a sequence without one gets no reward.

    Returns:
        rewards ``[R]`` float32, 0 where masked.
    """
    rewards = torch.where(mask, -penalty, 0.0)
    places = torch.where(mask, torch.arange(mask.numel()), -1)
    rows = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    last = torch.full_like(lengths, -1).scatter_reduce_(0, rows, places, "amax")
    some = last >= 0
    rewards[last[some]] += scores[some]
    return rewards


def penalize_missing_eos(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """``[B]`` scores, less ``penalty`` where the response was cut off before an end-of-sequence token."""
    return torch.where(finished, scores, scores - penalty)


def clip_scores(scores: Tensor, limit: float) -> Tensor:
    """``[B]`` scores within +- ``limit``; a limit of 0 leaves them as they are."""
    return scores.clamp(-limit, limit) if limit > 0 else scores


@dataclass
class RunningMoments:
    """Mean and variance of all scores seen so far (Chan et al.'s pairwise update), part of a checkpoint."""

    count: float = 0.0
    mean: float = 0.0
    sum_squares: float = 0.0

    def update(self, values: Tensor) -> None:
        """Takes in ``[B]`` values."""
        n = values.numel()
        if n == 0:
            return
        values = values.double()
        delta = float(values.mean()) - self.mean
        total = self.count + n
        self.sum_squares += float((values - values.mean()).square().sum()) + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def std(self) -> float:
        """Population standard deviation; 1 before two values were seen."""
        return max((self.sum_squares / self.count) ** 0.5, 1e-6) if self.count > 1 else 1.0

    def normalize(self, values: Tensor) -> Tensor:
        """``[B]`` values, less the mean, over the standard deviation."""
        return (values - self.mean) / self.std
