"""An advantage estimator of one's own: docs/howto/own_estimator.md."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_dist.algo.advantages import Episodes
from rlhf_dist.algo.rewards import sequence_sums


def group_ranks(episodes: Episodes) -> tuple[Tensor, Tensor | None]:
    """The share of the other responses to its prompt that a response beats, less the share that beat it.

    From -1 (the worst of its group) to 1 (the best): one reward that is far off cannot drown the others.

    Returns:
        the advantage of each response token ``[R]``; and None, as there is no critic to give targets to.
    """
    totals = sequence_sums(episodes.rewards, episodes.lengths)  # [B]
    same = episodes.groups[:, None] == episodes.groups[None, :]  # [B, B]
    wins = (torch.sign(totals[:, None] - totals[None, :]) * same).sum(1)
    others = (same.sum(1) - 1).clamp(min=1)
    return torch.repeat_interleave(wins / others, episodes.lengths), None
