"""Micro-batches, shards and padding: no row lost, none twice, every position where it belongs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.models.layout import balanced_shards, micro_batches, pad, predicting_positions

lengths_strategy = st.lists(st.integers(1, 30), max_size=25)


@given(lengths_strategy, st.integers(1, 100))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = micro_batches(torch.tensor(lengths, dtype=torch.int64), budget)
    assert sorted(row for group in groups for row in group.tolist()) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group.tolist())
        assert len(group) == 1 or len(group) * longest <= budget


@given(lengths_strategy, st.integers(1, 6))
def test_shards_hold_every_row_once_and_are_balanced(lengths: list[int], shards: int) -> None:
    parts = balanced_shards(torch.tensor(lengths, dtype=torch.int64), shards)
    assert len(parts) == shards
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in part.tolist()) for part in parts]
    assert max(loads) - min(loads) <= max(lengths, default=0)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6))
def test_each_response_token_is_predicted_from_the_token_before_it(sizes: list[tuple[int, int]]) -> None:
    prompts, responses = (torch.tensor(part) for part in zip(*sizes, strict=True))
    lengths = prompts + responses
    tokens = torch.arange(int(lengths.sum())) + 1
    batch = pad(tokens, lengths, torch.device("cpu"))
    rows, positions = predicting_positions(lengths, responses)
    wanted = [(row, p + k - 1) for row, (p, r) in enumerate(sizes) for k in range(r)]
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == wanted
    flat = batch.input_ids.flatten()
    assert torch.equal(flat[batch.flat_index(rows, positions)], batch.input_ids[rows, positions])
    assert torch.equal(batch.input_ids[batch.attention_mask.bool()], tokens)
    assert int(batch.position_ids.max()) == int(lengths.max()) - 1
