"""The ragged stage types: rows may be selected and batches joined, and no token is lost or moved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_dist.types import (
    Comparisons,
    Demonstrations,
    Experience,
    PolicyBatch,
    PreferenceBatch,
    Prompts,
    Ragged,
    Sequences,
    ValueBatch,
    ragged_indices,
)

quick = settings(deadline=None, max_examples=12)  # a shared machine may be slow at any moment
lengths = st.lists(st.integers(0, 5), max_size=8)
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=8)


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def numbered(size: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + size, dtype=torch.int64)


def make_sequences(sizes: list[tuple[int, int]]) -> Sequences:
    prompts, responses = ints([p for p, _ in sizes]), ints([r for _, r in sizes])
    total, answered, rows = int((prompts + responses).sum()), int(responses.sum()), len(sizes)
    return Sequences(
        tokens=numbered(total),
        prompt_lengths=prompts,
        response_lengths=responses,
        rollout_logprobs=-numbered(answered).float(),
        loss_mask=numbered(answered) % 3 > 0,
        finished=numbered(rows) % 2 == 0,
        weight_version=numbered(rows, 5),
        rows=numbered(rows, 100),
        ids=numbered(rows, 200),
    )


def make_experience(sizes: list[tuple[int, int]]) -> Experience:
    sequences = make_sequences(sizes)
    per_token = numbered(int(sequences.response_lengths.sum())).float()
    scores = numbered(len(sizes)).float()
    by_source = torch.stack([scores, scores * 0], dim=1)
    return Experience(sequences, per_token, per_token + 0.25, per_token + 0.5, by_source, scores, per_token + 0.75)


def make_policy_batch(sizes: list[tuple[int, int]]) -> PolicyBatch:
    sequences = make_sequences(sizes)
    per_token = numbered(int(sequences.response_lengths.sum())).float()
    return PolicyBatch(sequences, per_token, per_token + 0.25, per_token + 0.5, per_token + 0.75)


def make_value_batch(sizes: list[tuple[int, int]]) -> ValueBatch:
    sequences = make_sequences(sizes)
    per_token = numbered(int(sequences.response_lengths.sum())).float()
    return ValueBatch(sequences, per_token, per_token + 0.25)


def make_prompts(sizes: list[tuple[int, int]]) -> Prompts:
    rows = ints([p for p, _ in sizes])
    return Prompts(numbered(int(rows.sum())), rows, numbered(len(sizes), 7), numbered(len(sizes), 70))


def make_demonstrations(sizes: list[tuple[int, int]]) -> Demonstrations:
    total = sum(p + r for p, r in sizes)
    return Demonstrations(numbered(total), ints([p for p, _ in sizes]), ints([r for _, r in sizes]))


def make_comparisons(sizes: list[tuple[int, int]]) -> Comparisons:
    """Row i has as many answers as its pair's second number, all as long as its first one plus their number."""
    counts = [[p + 1 + k for k in range(r)] for p, r in sizes]
    flat = [count for row in counts for count in row]
    return Comparisons(
        tokens=numbered(sum(flat)),
        token_counts=ints(flat),
        prompt_counts=ints([p + 1 for p, r in sizes for _ in range(r)]),
        ranks=ints([k for row in counts for k in range(1, len(row) + 1)]),
        answers=ints([len(row) for row in counts]),
        tokens_per_row=ints([sum(row) for row in counts]),
    )


def make_preferences(sizes: list[tuple[int, int]]) -> PreferenceBatch:
    comparisons = make_comparisons(sizes)
    return PreferenceBatch(comparisons, numbered(int(comparisons.answers.sum())).float())


MAKERS = [
    make_preferences,
    make_prompts,
    make_sequences,
    make_experience,
    make_policy_batch,
    make_value_batch,
    make_demonstrations,
    make_comparisons,
]


def tensors(batch: Ragged) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, value in vars(batch).items():
        if isinstance(value, Ragged):
            found |= {f"{name}.{inner}": numbers for inner, numbers in tensors(value).items()}
        else:
            found[name] = value.tolist()
    return found


@quick
@given(rows=lengths, data=st.data())
def test_ragged_indices_are_the_positions_of_the_picked_rows(rows: list[int], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    starts = [sum(rows[:i]) for i in range(len(rows))]
    expected = [starts[i] + offset for i in index for offset in range(rows[i])]
    assert ragged_indices(ints(rows), ints(index)).tolist() == expected


@pytest.mark.parametrize("make", MAKERS)
@quick
@given(sizes=pairs, data=st.data())
def test_joining_single_rows_gives_the_batch_back(
    make: object, sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    batch = make(sizes)  # type: ignore[operator]
    order = data.draw(st.permutations(range(len(sizes))))
    back = sorted(range(len(order)), key=order.__getitem__)
    assert tensors(type(batch).cat([batch.select([i]) for i in range(len(batch))])) == tensors(batch)
    assert tensors(batch.select(order).select(back)) == tensors(batch)


@pytest.mark.parametrize("make", MAKERS)
@quick
@given(sizes=pairs, data=st.data())
def test_a_row_is_the_same_wherever_it_is_selected_from(
    make: object, sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    batch = make(sizes)  # type: ignore[operator]
    index = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=6))
    picked = batch.select(index)
    assert len(picked) == len(index)
    for place, row in enumerate(index):
        assert tensors(picked.select([place])) == tensors(batch.select([row]))


@pytest.mark.parametrize("make", MAKERS)
def test_no_rows_are_a_batch_too(make: object) -> None:
    batch = make([(2, 3), (1, 1)])  # type: ignore[operator]
    nothing = batch.select([])
    assert len(nothing) == 0
    assert all(numbers == [] for numbers in tensors(nothing).values())
    assert tensors(type(batch).cat([nothing, batch, nothing])) == tensors(batch)


@quick
@given(sizes=pairs)
def test_sequences_know_their_prompts_and_responses(sizes: list[tuple[int, int]]) -> None:
    sequences = make_sequences(sizes)
    rest = list(range(len(sequences.tokens)))
    for (prompt, response), prompts, responses in zip(
        sizes, sequences.prompt_lists(), sequences.response_lists(), strict=True
    ):
        assert prompts == rest[:prompt]
        assert responses == rest[prompt : prompt + response]
        rest = rest[prompt + response :]
    assert not rest


@quick
@given(sizes=pairs)
def test_prompts_are_split_into_their_token_lists(sizes: list[tuple[int, int]]) -> None:
    prompts = make_prompts(sizes)
    assert [len(row) for row in prompts.token_lists()] == [p for p, _ in sizes]
    assert [token for row in prompts.token_lists() for token in row] == prompts.tokens.tolist()


def test_a_tensor_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tokens has shape \[3\], expected \[2\]"):
        Prompts(numbered(3), ints([2]), ints([0]), ints([0]))
    with pytest.raises(ValueError, match="ranks has shape"):
        Comparisons(numbered(2), ints([1, 1]), ints([0, 0]), ints([1]), ints([2]), ints([2]))
