"""What goes into Ray's object store in a step, counted on a real one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import Tensor

from rlhf_dist.cluster.group import Construction, WorkerGroup
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.prometheus import RunGauges
from rlhf_dist.cluster.roles import Actor, Critic, Reference, Reward
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.device import CPU
from rlhf_dist.models.layout import balanced_shards
from rlhf_dist.plan.pools import Pool, RoleResources
from rlhf_dist.rollout.sampling import Response, to_sequences
from rlhf_dist.types import PolicyBatch, Sequences, ValueBatch
from tests.rollout.engines import prompts

pytestmark = pytest.mark.slow

WORKERS = 2


class Scorer:
    """One worker of any of the roles: what it answers are its rows' tokens."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def _mine(self, sequences: Sequences) -> Sequences:
        return sequences.select(balanced_shards(sequences.lengths, WORKERS)[self.rank])

    def logprobs(self, sequences: Sequences) -> Tensor:
        mine = self._mine(sequences)
        return mine.tokens[mine.response_index].float()

    values = token_scores = logprobs

    def train(self, batch: PolicyBatch | ValueBatch, *_: Any) -> int:
        return len(batch)

    def save_checkpoint(self, folder: Path) -> str:
        return str(folder)


@pytest.fixture
def step(tmp_path: Path) -> Iterator[tuple[Scheduler, WorkerGroup]]:
    """A group of two workers that stand for all roles, on a Ray of their own."""
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        pools = [Pool((RoleResources("actor", WORKERS, 0, 0.1, 1, "pack"),))]
        with closing(Placement("step", pools, CPU, 60.0)) as placement, closing(RunGauges("step")) as gauges:
            group = WorkerGroup("step", "actor", placement, tmp_path / "logs", {}, 1, ClusterConfig(), gauges, None)
            scheduler = Scheduler(placement)
            scheduler.build([Construction(group, Scorer, lambda rank: (rank,), collective=False)], 240.0)
            yield scheduler, group
    finally:
        ray.shutdown()
        patch.undo()


def test_a_steps_batches_are_put_into_the_object_store_once_each(
    step: tuple[Scheduler, WorkerGroup], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scheduler, group = step
    put: list[Any] = []
    really = ray.put
    monkeypatch.setattr(ray, "put", lambda value: (put.append(type(value).__name__), really(value))[1])

    actor, critic, reference, reward = Actor(group), Critic(group), Reference(group), Reward(group)
    given = prompts(9)
    sequences = to_sequences(given, [Response([5 + n] * (1 + n % 4), [-0.5] * (1 + n % 4), False) for n in range(9)], 1)
    asked = (
        actor.logprobs(sequences),
        reference.logprobs(sequences),
        critic.values(sequences),
        reward.token_scores(sequences),
    )
    with scheduler.together(60.0) as together:
        results = [together.add(call) for call in asked]
    logprobs, ref_logprobs, values, scores = [result.value for result in results]
    assert put == ["Sequences"]
    expected = sequences.tokens[sequences.response_index].float()
    assert all(torch.equal(answer, expected) for answer in (logprobs, ref_logprobs, values, scores))

    put.clear()
    policy = PolicyBatch(sequences, logprobs, ref_logprobs, values, torch.ones_like(values))
    value = ValueBatch(sequences, values, values)
    training = actor.train(policy, [], None, None), critic.train(value, [], 0.2)  # type: ignore[arg-type]
    assert scheduler.run(*training, timeout_s=60.0) == (9, 9)  # type: ignore[comparison-overlap]
    assert sorted(put) == ["PolicyBatch", "ValueBatch", "list", "list"]

    put.clear()
    saving = scheduler.start(actor.save_checkpoint(tmp_path), 60.0)
    meanwhile = scheduler.start(critic.save_checkpoint(tmp_path / "critic"), 60.0)
    assert meanwhile.wait(60.0) == str(tmp_path / "critic")  # type: ignore[comparison-overlap]
    assert saving.wait(60.0) == str(tmp_path)  # type: ignore[comparison-overlap]
    assert put == []

    held = scheduler.placement.batches
    assert len(held) == 3
    del sequences, policy, value, asked, training, results, together
    gc.collect()
    assert len(held) == 0
