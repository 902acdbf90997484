"""The answers of rankings through a model: few forwards, little padding, the same number of them on every worker."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_dist.types import ragged_indices

FORWARDS = 4


def forward_by_length(tokens: Tensor, lengths: Tensor, forward: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One value for each of N answers, in several forwards of answers of like length.

    The answers of a prompt share a loss, so they stay in one micro-batch however much they differ in length, and
    padding them all to the longest one would cost several times the work. The number of forwards is always the same,
    as they are collectives under ZeRO; with fewer answers than that the first one is run again, at weight 0.

    Args:
        tokens: ``[T]`` int64, the answers one after another, each with its prompt.
        lengths: ``[N]`` int64.
        forward: the tokens of some answers, and which ones they are ``[n]`` int64, to their values ``[n]``.

    Returns:
        ``[N]``, in the order of the answers.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    values, idle = [], torch.zeros(())
    for part in torch.tensor_split(order, FORWARDS):
        rows = part if part.numel() else order[:1]
        output = forward(tokens[ragged_indices(lengths, rows)], rows)
        if part.numel():
            values.append(output)
        else:
            idle = idle.to(output.device) + 0.0 * output.sum()
    joined = torch.cat(values)
    return (joined + idle.to(joined.device))[torch.argsort(order)]
