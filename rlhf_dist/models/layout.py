"""How a ragged batch becomes the padded micro-batches that a forward pass takes, and nothing else knows of padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def micro_batches(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Cuts B rows into groups whose padded size stays within ``max_tokens``.

    Rows of like length go together, so little is spent on padding. A row longer than the budget stands alone.

    Args:
        lengths: ``[B]`` int64.
        max_tokens: rows of a group times its longest row.

    Returns:
        row numbers of each group, ``[b]`` int64; every row in exactly one group. Empty for B = 0.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    groups: list[Tensor] = []
    start = 0
    while start < order.numel():
        longest = int(lengths[order[start]])
        size = max(1, max_tokens // max(longest, 1))
        groups.append(order[start : start + size])
        start += size
    return groups


def balanced_shards(lengths: Tensor, shards: int) -> list[Tensor]:
    """Deals B rows out to ``shards`` workers so that each gets about as many tokens.

    Longest row first, each to the worker with the fewest tokens so far. Any B goes: a worker may get none.

    Returns:
        ``shards`` tensors of row numbers, int64, each ascending; every row in exactly one.
    """
    loads = [0] * shards
    rows: list[list[int]] = [[] for _ in range(shards)]
    for row in torch.argsort(lengths, descending=True, stable=True).tolist():
        lightest = min(range(shards), key=loads.__getitem__)
        rows[lightest].append(row)
        loads[lightest] += int(lengths[row])
    return [torch.tensor(sorted(part), dtype=torch.int64) for part in rows]


@dataclass(frozen=True)
class Padded:
    """One micro-batch, padded on the right, on the model's device.

    Attributes:
        input_ids: ``[b, L]`` int64.
        attention_mask: ``[b, L]`` int64, 1 on tokens.
        position_ids: ``[b, L]`` int64.
        lengths: ``[b]`` int64 on CPU.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    lengths: Tensor

    def flat_index(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where (row, position) stands in ``[b * L]``: ``[N]`` int64 on the model's device."""
        return (rows * self.input_ids.shape[1] + positions).to(self.input_ids.device)


def pad(tokens: Tensor, lengths: Tensor, device: torch.device) -> Padded:
    """Pads ``[T]`` tokens of rows with ``[b]`` lengths, on the right, with token 0 behind an attention mask of 0."""
    longest = int(lengths.max())
    positions = torch.arange(longest)
    mask = positions < lengths[:, None]
    input_ids = torch.zeros(lengths.numel(), longest, dtype=torch.int64)
    input_ids[mask] = tokens
    # Padding repeats position 0 rather than running on: it must not reach beyond the model's context.
    position_ids = torch.where(mask, positions, 0)
    return Padded(input_ids.to(device), mask.long().to(device), position_ids.to(device), lengths)


def predicting_positions(lengths: Tensor, response_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """For each response token, the row and the position whose hidden state predicts it: the token before it.

    Args:
        lengths: ``[b]`` int64, prompt and response.
        response_lengths: ``[b]`` int64.

    Returns:
        rows ``[R]`` and positions ``[R]``, int64, in the order of the flat response tokens.
    """
    rows = torch.repeat_interleave(torch.arange(lengths.numel()), response_lengths)
    offsets = torch.cumsum(response_lengths, 0) - response_lengths
    within = torch.arange(rows.numel()) - offsets[rows]
    return rows, (lengths - response_lengths)[rows] + within - 1
