"""How a ragged batch becomes the micro-batches that a forward pass takes; nothing else knows of padding or packing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def is_flash(attention: str) -> bool:
    """Whether an attn_implementation of transformers is one of flash attention, which needs no mask."""
    return "flash" in attention


def resolve_layout(layout: str, attention: str) -> str:
    """What a role's `layout` comes to with the attention that its model has.

    Packed sequences waste nothing where flash attention keeps them apart. Any other implementation gets a mask over
    all pairs of a micro-batch's tokens for it, and computes all of them; padding is cheaper there.
    """
    if layout != "auto":
        return layout
    return "packed" if is_flash(attention) else "right"


def micro_batches(lengths: Tensor, max_tokens: int, max_rows: int = 0, layout: str = "right") -> list[Tensor]:
    """Cuts B rows into groups whose size, padding included, stays within ``max_tokens``.

    Rows of like length go together, so little is spent on padding. A row longer than the budget stands alone.

    Args:
        lengths: ``[B]`` int64.
        max_tokens: of a group: rows times its longest row where it is padded, the sum of its rows where it is packed.
        max_rows: most rows of a group; 0: no limit.
        layout: how a group will be laid out, see :func:`lay_out`.

    Returns:
        row numbers of each group, ``[b]`` int64; every row in exactly one group. Empty for B = 0.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    groups: list[list[int]] = []
    room = rows_left = longest = 0
    for row in order.tolist():
        cost = int(lengths[row]) if layout == "packed" else longest
        if rows_left == 0 or cost > room:
            groups.append([])
            cost = longest = int(lengths[row])
            room, rows_left = max_tokens, max_rows or len(order)
        groups[-1].append(row)
        room, rows_left = room - cost, rows_left - 1
    return [torch.tensor(group, dtype=torch.int64) for group in groups]


def balanced_shards(lengths: Tensor, shards: int) -> list[Tensor]:
    """Deals B rows out to ``shards`` workers so that each gets about as many tokens.

    Longest row first, each to the worker with the fewest tokens so far. B may be any number: a worker may get none.

    Args:
        lengths: ``[B]`` int64, tokens of each row.
        shards: workers, 1 or more.

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
class MicroBatch:
    """The sequences of one forward pass, laid out on the model's device.

    Attributes:
        input_ids: ``[b, L]`` int64; packed: ``[1, T]``.
        attention_mask: ``[b, L]`` int64, 1 on tokens; None where no token attends to what it must not without one:
            packed, because the positions tell the sequences apart, and padded on the right, behind all tokens.
        position_ids: of the same shape as the input, int64, from 0 in every sequence.
        lengths: ``[b]`` int64 on CPU.
        starts: ``[b]`` int64 on CPU, where each sequence's first token stands in ``input_ids.flatten()``.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    lengths: Tensor
    starts: Tensor

    def flat_index(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where (row, position) stands in ``input_ids.flatten()``: ``[N]`` int64 on the model's device."""
        return (self.starts[rows] + positions).to(self.input_ids.device)


def lay_out(tokens: Tensor, lengths: Tensor, layout: str, device: torch.device) -> MicroBatch:
    """Lays ``[T]`` tokens of rows with ``[b]`` lengths out for a forward pass.

    Args:
        tokens: int64, row after row.
        lengths: int64.
        layout: ``right`` or ``left``: padded there with token 0, ``left`` under an attention mask of 0; on the right
            a causal model needs none, and attention is faster without. ``packed``: one sequence behind the other
            without padding, kept apart by positions that begin anew.
        device: where it shall be.
    """
    offsets = torch.cumsum(lengths, 0) - lengths
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(offsets, lengths)
    if layout == "packed":
        return MicroBatch(tokens[None].to(device), None, within[None].to(device), lengths, offsets)
    rows, longest = lengths.numel(), int(lengths.max())
    starts = torch.arange(rows) * longest + (longest - lengths if layout == "left" else 0)
    places = torch.repeat_interleave(starts, lengths) + within
    padded = torch.zeros(3, rows * longest, dtype=torch.int64)
    padded[:, places] = torch.stack([tokens, torch.ones_like(tokens), within])
    if layout == "right":  # positions that began anew in the padding would be taken for packed sequences
        padded[2] = torch.arange(longest).repeat(rows)
    input_ids, mask, positions = padded.view(3, rows, longest).to(device).unbind(0)
    return MicroBatch(input_ids, None if layout == "right" else mask, positions, lengths, starts)


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
