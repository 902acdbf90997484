"""Batches sampled ahead: by which weights each is, that time decides nothing, and that a checkpoint keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.controller.batches import FILE, SampledBatches, weights_of
from rlhf_dist.rollout.sampling import Response, to_sequences
from rlhf_dist.types import Prompts, Sequences


def prompts(number: int) -> Prompts:
    ids = torch.arange(2) + 2 * number
    one = torch.ones(2, dtype=torch.int64)
    return Prompts(ids, one, ids, ids)


class Engines:
    """Samples with the version of the weights that they were given last; it is an error to change it meanwhile."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.version, self.seconds = 0, seconds
        self.order: list[int] = []
        self.sampling = threading.Lock()

    def sample(self, batches: Sequence[Prompts]) -> Iterator[Sequences]:
        with self.sampling:
            for batch in batches:
                time.sleep(self.seconds)
                self.order.append(int(batch.ids[0]) // 2)
                yield to_sequences(batch, [Response([7], [-1.0], True)] * 2, self.version)

    def receive(self, version: int) -> None:
        assert self.sampling.acquire(blocking=False), "the weights change while something is sampled"
        self.version = version
        self.sampling.release()


def run(batches: SampledBatches, engines: Engines, first: int, last: int) -> dict[int, int]:
    """Steps ``first`` to ``last`` as the trainer does them. By what version each batch was sampled."""
    versions = {}
    batches.go_on(first - 1)
    for step in range(first, last + 1):
        batch = batches.take(step)
        assert batch.ids.tolist() == prompts(step).ids.tolist()
        versions[step] = int(batch.weight_version[0])
        if batches.are_due(step):
            batches.finish()
            engines.receive(step)
            batches.go_on(step)
    return versions


@given(st.integers(0, 5), st.integers(1, 12))
@settings(max_examples=30)
def test_each_batch_is_sampled_whole_by_the_weights_that_its_number_says(staleness: int, total: int) -> None:
    engines = Engines()
    versions = run(SampledBatches(prompts, engines.sample, staleness, total), engines, 1, total)
    assert engines.order == list(range(1, total + 1))
    for batch, version in versions.items():
        assert version == weights_of(batch, staleness)
        assert min(batch - 1, 1 if staleness else 0) <= batch - 1 - version <= staleness


@given(st.integers(1, 4), st.integers(1, 9), st.data())
@settings(max_examples=20)
def test_a_run_that_goes_on_from_a_checkpoint_samples_as_the_undisturbed_one(
    tmp_path_factory: pytest.TempPathFactory, staleness: int, total: int, data: st.DataObject
) -> None:
    stopped = data.draw(st.integers(0, total))
    folder, engines = tmp_path_factory.mktemp("checkpoint"), Engines()
    before = SampledBatches(prompts, engines.sample, staleness, total)
    versions = run(before, engines, 1, stopped)
    before.save(folder)
    after = SampledBatches(prompts, engines.sample, staleness, total)
    after.load(folder)
    engines.receive(stopped)  # a run that goes on begins with the newest weights
    versions |= run(after, engines, stopped + 1, total)
    assert versions == {batch: weights_of(batch, staleness) for batch in range(1, total + 1)}
    assert engines.order == list(range(1, total + 1))


def test_engines_work_while_the_learner_does() -> None:
    """Four batches of 0.2 s and as many steps of 0.2 s: three steps' time is shared, as none is sampled in the last."""
    engines = Engines(seconds=0.2)
    batches = SampledBatches(prompts, engines.sample, 1, 4)
    overlap, learned = 0.0, 0.0
    batches.go_on(0)
    for step in range(1, 5):
        batches.take(step)
        began = time.monotonic()
        time.sleep(0.2)
        overlap += batches.busy_since(began)
        learned += time.monotonic() - began
        if batches.are_due(step):
            batches.finish()
            batches.go_on(step)
    assert 0.3 < overlap <= learned - 0.1


def test_without_staleness_nothing_is_sampled_ahead_or_saved(tmp_path: Path) -> None:
    engines = Engines()
    batches = SampledBatches(prompts, engines.sample, 0, 3)
    batches.go_on(0)
    batches.take(1)
    batches.save(tmp_path)
    assert engines.order == [1]
    assert not (tmp_path / FILE).exists()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_taken() -> None:
    def fail(batches: Sequence[Prompts]) -> Iterator[Sequences]:
        raise ValueError("no engine")
        yield

    batches = SampledBatches(prompts, fail, 1, 3)
    batches.go_on(0)
    with pytest.raises(ValueError, match="no engine"):
        batches.take(1)
    with pytest.raises(ValueError, match="no engine"):
        batches.finish()
