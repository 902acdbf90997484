"""The sampler: every row once an epoch, and nothing but the step's number decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.data.samplers import EpochSampler

quick = settings(deadline=None, max_examples=50)  # a shared machine may be slow at any moment
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32)


@quick
@given(size=sizes, batch=sizes, seed=seeds, epochs=st.integers(1, 4))
def test_straddling_batches_are_full_and_draw_every_row_once_an_epoch(
    size: int, batch: int, seed: int, epochs: int
) -> None:
    sampler = EpochSampler(size, batch, seed)
    batches = [sampler.indices(step) for step in range(-(-size * epochs // batch))]
    assert all(rows.shape == (batch,) and rows.dtype == torch.int64 for rows in batches)
    drawn = torch.cat(batches)
    for epoch in range(epochs):
        assert sorted(drawn[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))


@quick
@given(size=sizes, batch=sizes, seed=seeds, epoch=st.integers(0, 3))
def test_without_straddling_an_epoch_is_whole_batches_and_a_rest(size: int, batch: int, seed: int, epoch: int) -> None:
    sampler = EpochSampler(size, batch, seed, straddle=False)
    steps = sampler.steps_per_epoch
    batches = [sampler.indices(epoch * steps + step) for step in range(steps)]
    assert all(len(rows) == batch for rows in batches[:-1])
    assert sorted(torch.cat(batches).tolist()) == list(range(size))


@quick
@given(size=sizes, batch=sizes, seed=seeds, step=st.integers(0, 50), straddle=st.booleans())
def test_a_batch_depends_on_the_step_alone(size: int, batch: int, seed: int, step: int, straddle: bool) -> None:
    used = EpochSampler(size, batch, seed, straddle)
    for earlier in range(step % 5):
        used.indices(earlier)
    state = torch.random.get_rng_state()
    assert torch.equal(used.indices(step), EpochSampler(size, batch, seed, straddle).indices(step))
    assert torch.equal(state, torch.random.get_rng_state())


def test_epochs_and_seeds_differ_in_their_order() -> None:
    sampler = EpochSampler(100, 100, seed=1)
    orders = [sampler.indices(0), sampler.indices(1), EpochSampler(100, 100, seed=2).indices(0)]
    assert not any(torch.equal(a, b) for i, a in enumerate(orders) for b in orders[:i])


@pytest.mark.parametrize(("size", "batch"), [(0, 1), (1, 0)])
def test_nothing_to_draw_is_an_error(size: int, batch: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        EpochSampler(size, batch, seed=1)


def test_a_step_before_the_first_is_an_error() -> None:
    with pytest.raises(ValueError, match="before the first"):
        EpochSampler(3, 1, seed=1).indices(-1)
