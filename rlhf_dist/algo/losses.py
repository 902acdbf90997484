"""The losses, one value a token or a row; the caller sums them and divides by the batch's global count.

Dividing by the count of *all* workers' and micro-batches' tokens, rather than averaging averages, is what makes the
gradient independent of how a batch was cut up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PolicyObjective:
    """What the actor minimizes.

    Attributes:
        clip_low, clip_high: the ratio counts down to ``1 - clip_low`` and up to ``1 + clip_high``.
        aggregation: of the tokens of a minibatch, see `rlhf_dist.algo.aggregation`.
        horizon: tokens, for the ``constant`` aggregation.
        kl_coef: of a KL to the reference in the loss; 0 where there is none.
        kl_estimator: of that KL.
        pretrain_coef: gamma of PPO-ptx (arXiv 2203.02155, eq. 2).
    """

    clip_low: float
    clip_high: float
    aggregation: str
    horizon: int
    kl_coef: float
    kl_estimator: str
    pretrain_coef: float


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate (Schulman et al., arXiv 1707.06347, eq. 7), negated.

    Args:
        logprobs: ``[R]`` float32, the policy's being trained; carries the gradient.
        old_logprobs: ``[R]`` float32, those of the policy that sampled.
        advantages: ``[R]`` float32.
        clip_low, clip_high: epsilon below and above 1; apart in DAPO (arXiv 2503.14476, section 3.1).

    Returns:
        loss ``[R]``, and whether the ratio lay outside of the clipping range, ``[R]`` bool.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    return loss, (ratio < 1.0 - clip_low) | (ratio > 1.0 + clip_high)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error, the larger of the plain and the clipped one (arXiv 2403.17031, detail 3.4).

    Args:
        values: ``[R]`` float32, the critic's; carries the gradient.
        old_values: ``[R]`` float32, the critic's at sampling time.
        returns: ``[R]`` float32.
        clip: how far from the old value the new one counts; 0 turns clipping off.

    Returns:
        loss ``[R]``, and where the clipped error was the larger one, ``[R]`` bool.
    """
    error = (values - returns).square()
    if clip <= 0:
        return 0.5 * error, torch.zeros_like(error, dtype=torch.bool)
    near = old_values + (values - old_values).clamp(-clip, clip)
    clipped_error = (near - returns).square()
    return 0.5 * torch.maximum(error, clipped_error), clipped_error > error


def ranked_pairs(ranks: Tensor, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of answers to the same prompt that differ in rank.

    Args:
        ranks: ``[N]`` int64, 1 is best.
        answers: ``[B]`` int64, K of each row; sums to N.

    Returns:
        better ``[P]``, worse ``[P]`` (positions in ``ranks``) and the row of each pair ``[P]``, int64.
    """
    better, worse, rows = [], [], []
    start = 0
    for row, k in enumerate(answers.tolist()):
        i, j = torch.combinations(torch.arange(start, start + k), 2).unbind(1) if k > 1 else (ranks[:0], ranks[:0])
        first_better = ranks[i] < ranks[j]
        differ = ranks[i] != ranks[j]
        better.append(torch.where(first_better, i, j)[differ])
        worse.append(torch.where(first_better, j, i)[differ])
        rows.append(torch.full_like(better[-1], row))
        start += k
    if not better:
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty, empty
    return torch.cat(better), torch.cat(worse), torch.cat(rows)


def ranking_loss(scores: Tensor, ranks: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """K-way ranking loss (arXiv 2203.02155, eq. 1): the mean over a prompt's pairs of -log sigmoid(better - worse).

    All pairs of a prompt are one element of the batch, weighing as much as any other prompt's. Ties are dropped.

    Args:
        scores: ``[N]`` float32; carries the gradient.
        ranks: ``[N]`` int64, 1 is best.
        answers: ``[B]`` int64, K of each row; sums to N.

    Returns:
        loss ``[B]`` (nats; 0 for a row without pairs), and whether each pair is ranked right, ``[P]`` bool.
    """
    better, worse, rows = (part.to(scores.device) for part in ranked_pairs(ranks.cpu(), answers.cpu()))
    margins = scores[better] - scores[worse]
    counts = torch.bincount(rows, minlength=answers.numel()).clamp(min=1)
    zeros = torch.zeros(answers.numel(), dtype=scores.dtype, device=scores.device)
    return zeros.index_add(0, rows, -F.logsigmoid(margins)) / counts, margins > 0


def dpo_loss(
    logprobs: Tensor, ref_logprobs: Tensor, ranks: Tensor, answers: Tensor, beta: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Direct preference optimization (arXiv 2305.18290, eq. 7) on K-way rankings.

    An answer's implicit reward is beta * log(pi / pi_ref). The loss of a prompt is the mean over its pairs of -log
    sigmoid(better - worse), with ``label_smoothing`` the share of pairs taken to be labelled the wrong way round. With
    K = 2 it is the paper's. Ties are dropped.

    Args:
        logprobs: ``[N]`` float32, nats, the policy's of each whole answer; carries the gradient.
        ref_logprobs: ``[N]`` float32, nats, the reference's.
        ranks: ``[N]`` int64, 1 is best.
        answers: ``[B]`` int64, K of each row; sums to N.
        beta: strength of the tie to the reference.
        label_smoothing: 0 to 0.5.

    Returns:
        loss ``[B]`` (nats; 0 for a row without pairs), and the margin of each pair's implicit rewards ``[P]``.
    """
    better, worse, rows = (part.to(logprobs.device) for part in ranked_pairs(ranks.cpu(), answers.cpu()))
    rewards = beta * (logprobs - ref_logprobs)
    margins = rewards[better] - rewards[worse]
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
    counts = torch.bincount(rows, minlength=answers.numel()).clamp(min=1)
    zeros = torch.zeros(answers.numel(), dtype=logprobs.dtype, device=logprobs.device)
    return zeros.index_add(0, rows, losses) / counts, margins


def ranked_right(margins: Tensor) -> Tensor:
    """Of each pair's margin ``[P]`` whether it is ranked right ``[P]`` float32: 1, 0, or one half for a tie, as all are
    before the policy has moved away from the reference."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()
