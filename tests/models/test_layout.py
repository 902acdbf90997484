"""Micro-batches, shards and padding: no row lost, none twice, every position where it belongs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.config.algorithms import LAYOUTS
from rlhf_dist.models.layout import (
    balanced_shards,
    lay_out,
    micro_batches,
    predicting_positions,
    resolve_layout,
)

lengths_strategy = st.lists(st.integers(1, 30), max_size=25)


@given(lengths_strategy, st.integers(1, 100), st.integers(0, 4), st.sampled_from(list(LAYOUTS)))
def test_micro_batches_hold_every_row_once_within_the_budget(
    lengths: list[int], budget: int, most: int, layout: str
) -> None:
    groups = micro_batches(torch.tensor(lengths, dtype=torch.int64), budget, most, layout)
    assert sorted(row for group in groups for row in group.tolist()) == list(range(len(lengths)))
    for group in groups:
        held = [lengths[row] for row in group.tolist()]
        size = sum(held) if layout == "packed" else len(held) * max(held)
        assert len(held) == 1 or size <= budget
        assert not most or len(held) <= most


@given(lengths_strategy, st.integers(1, 6))
def test_shards_hold_every_row_once_and_are_balanced(lengths: list[int], shards: int) -> None:
    parts = balanced_shards(torch.tensor(lengths, dtype=torch.int64), shards)
    assert len(parts) == shards
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in part.tolist()) for part in parts]
    assert max(loads) - min(loads) <= max(lengths, default=0)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6), st.sampled_from(list(LAYOUTS))
)
def test_each_response_token_is_predicted_from_the_token_before_it(sizes: list[tuple[int, int]], layout: str) -> None:
    prompts, responses = (torch.tensor(part) for part in zip(*sizes, strict=True))
    lengths = prompts + responses
    tokens = torch.arange(int(lengths.sum())) + 1
    batch = lay_out(tokens, lengths, layout, torch.device("cpu"))
    rows, positions = predicting_positions(lengths, responses)
    wanted = [(row, p + k - 1) for row, (p, r) in enumerate(sizes) for k in range(r)]
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == wanted
    starts = torch.cumsum(lengths, 0) - lengths
    where = batch.flat_index(rows, positions)
    assert torch.equal(batch.input_ids.flatten()[where], tokens[starts[rows] + positions])
    assert torch.equal(batch.position_ids.flatten()[where], positions)
    assert int(batch.position_ids.max()) == int(lengths.max()) - 1
    if layout == "left":
        assert batch.attention_mask is not None
        assert torch.equal(batch.input_ids[batch.attention_mask.bool()], tokens)
    else:
        assert batch.attention_mask is None
    if layout == "packed":
        assert batch.input_ids.shape == (1, int(lengths.sum()))
    elif layout == "right":  # a row that began anew would be taken for two packed ones
        assert torch.equal(batch.position_ids, torch.arange(int(lengths.max())).expand_as(batch.input_ids))


def test_sequences_are_packed_where_flash_attention_keeps_them_apart_and_padded_elsewhere():
    for attention in ("flash_attention_2", "kernels-community/flash-attn2"):
        assert resolve_layout("auto", attention) == "packed"
    assert resolve_layout("auto", "sdpa") == resolve_layout("auto", "eager") == "right"
    assert resolve_layout("left", "flash_attention_2") == "left" and resolve_layout("packed", "sdpa") == "packed"
