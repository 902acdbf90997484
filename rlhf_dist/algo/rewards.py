"""From scores of responses to rewards of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def sequence_sums(flat: Tensor, lengths: Tensor) -> Tensor:
    """``[R]`` values of B rows summed row by row: ``[B]``."""
    rows = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    return torch.zeros(lengths.numel(), dtype=flat.dtype).index_add_(0, rows, flat)


def at_last_tokens(scores: Tensor, lengths: Tensor) -> Tensor:
    """``[B]`` scores of rows of ``lengths`` tokens (1 or more), each at its row's last token: ``[R]``, 0 elsewhere."""
    flat = torch.zeros(int(lengths.sum()), dtype=scores.dtype)
    flat[torch.cumsum(lengths, 0) - 1] = scores
    return flat


def shape_rewards(token_scores: Tensor, penalty: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    """The reward of arXiv 2203.02155, eq. 2: the score minus beta * log(pi / pi_ref), spread over the tokens.

    Each token pays its own share of the penalty, and has its score on top. The score of a token that the policy did not
    sample goes to the last one before it that it did; where there is none, nobody gets it.

    Args:
        token_scores: ``[R]`` float32.
        penalty: ``[R]`` float32, beta times the KL of each token.
        lengths: ``[B]`` int64, response tokens of each sequence, at least 1.
        mask: ``[R]`` bool, true where the policy sampled the token.

    Returns:
        rewards ``[R]`` float32, 0 where masked.
    """
    rewards = torch.where(mask, -penalty, 0.0)
    sampled = torch.cummax(torch.where(mask, torch.arange(mask.numel()), -1), 0).values  # the last one up to each token
    starts = torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
    earned = sampled >= starts  # by a token of the same response
    return rewards.index_add_(0, sampled[earned], token_scores[earned])


def penalize_missing_eos(token_scores: Tensor, lengths: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """``[R]`` scores, less ``penalty`` at the last token of a response that was cut off before its end of sequence.

    Args:
        token_scores: ``[R]`` float32.
        lengths: ``[B]`` int64, response tokens of each sequence, at least 1.
        finished: ``[B]`` bool, whether the end-of-sequence token was sampled.
        penalty: 0 or more.
    """
    return token_scores - at_last_tokens(torch.where(finished, 0.0, penalty), lengths)


def penalize_overlong(token_scores: Tensor, lengths: Tensor, longest: int, buffer: int, penalty: float) -> Tensor:
    """``[R]`` scores, less at the last token of each response a penalty that grows over the last tokens allowed.

    The soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13): nothing up to ``longest - buffer`` tokens, then
    growing with the length, to ``penalty`` at ``longest`` tokens.

    Args:
        token_scores: ``[R]`` float32.
        lengths: ``[B]`` int64, response tokens of each sequence, at least 1.
        longest: tokens at which a response is cut off.
        buffer: tokens over which the penalty grows, up to ``longest``; 0: there is none.
        penalty: 0 or more.
    """
    if not buffer:
        return token_scores
    beyond = (lengths - (longest - buffer)).clamp(min=0).to(token_scores.dtype)
    return token_scores - at_last_tokens(penalty * beyond / buffer, lengths)


def clip_scores(token_scores: Tensor, limit: float) -> Tensor:
    """``[R]`` scores, each within +- ``limit``; a limit of 0 leaves them as they are."""
    return token_scores.clamp(-limit, limit) if limit > 0 else token_scores


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

    def normalize(self, token_scores: Tensor, lengths: Tensor) -> Tensor:
        """``[R]`` scores over the standard deviation, after the mean was taken from each response's last token.

        So a response with ``lengths[i]`` tokens scores what its sum was, less the mean, over the standard deviation.
        """
        return (token_scores - at_last_tokens(torch.full(lengths.shape, self.mean), lengths)) / self.std
