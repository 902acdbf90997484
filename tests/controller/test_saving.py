"""When a checkpoint is due, and which one is the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_dist.config.schema import RunConfig
from rlhf_dist.controller.checkpoints import Checkpoint
from rlhf_dist.controller.saving import STATE_FILE, Best, SavePolicy
from rlhf_dist.errors import UserError

MINUTE = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def checkpoint(folder: Path, step: int, **figures: float) -> Checkpoint:
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    (path / STATE_FILE).write_text(json.dumps({"figures": {name.replace("__", "/"): v for name, v in figures.items()}}))
    return Checkpoint(step, path)


def test_by_default_a_checkpoint_is_due_every_thirty_minutes() -> None:
    clock = Clock()
    policy = SavePolicy(RunConfig(name="x"), clock)
    due = []
    for step in range(1, 101):
        clock.now += 4 * MINUTE
        if policy.is_due(step, {}, list):
            due.append(step)
            clock.now += 10 * MINUTE  # what saving takes does not count
            policy.tried()
    assert due == list(range(8, 101, 8))


def test_minutes_and_steps_count_side_by_side() -> None:
    clock = Clock()
    policy = SavePolicy(RunConfig(name="x", save_every=5, save_every_minutes=10), clock)
    due = []
    for step in range(1, 13):
        clock.now += 4 * MINUTE
        if policy.is_due(step, {}, list):
            due.append(step)
            policy.tried()
    assert due == [3, 5, 8, 10]


def test_zero_turns_both_off() -> None:
    clock = Clock()
    policy = SavePolicy(RunConfig(name="x", save_every_minutes=0), clock)
    clock.now += 1e9
    assert not any(policy.is_due(step, {}, list) for step in range(1, 100))


def test_the_best_of_the_checkpoints_is_found_from_what_is_on_the_disk(tmp_path: Path) -> None:
    there = [
        checkpoint(tmp_path, 1, reward__score_mean=0.5, eval__loss=3.0),
        checkpoint(tmp_path, 2, reward__score_mean=0.9),
        checkpoint(tmp_path, 3, reward__score_mean=0.9, eval__loss=2.0),
        checkpoint(tmp_path, 4, reward__score_mean=0.1),
    ]

    def best(keep_best: str) -> int | None:
        wanted = Best.of(keep_best)
        assert wanted is not None
        found = wanted.checkpoint(there)
        return found.step if found else None

    assert best("reward/score_mean") == 3  # the newer one of equals
    assert best("-reward/score_mean") == 4
    assert best("-eval/loss") == 3
    assert best("eval/loss") == 1
    assert best("eval/accuracy") is None
    assert Best.of(None) is None


def test_an_evaluation_that_is_the_best_yet_is_saved_at_once(tmp_path: Path) -> None:
    policy = SavePolicy(RunConfig(name="x", keep_best="-eval/loss"), Clock())
    there: list[Checkpoint] = []
    assert policy.is_due(1, {"eval/loss": 3.0}, lambda: there)
    there.append(checkpoint(tmp_path, 1, eval__loss=3.0))
    assert not policy.is_due(2, {"loss/sft": 1.0}, lambda: there)
    assert not policy.is_due(3, {"eval/loss": 3.0}, lambda: there)
    assert policy.is_due(4, {"eval/loss": 2.9}, lambda: there)


def test_a_figure_of_every_step_makes_no_checkpoints_of_its_own(tmp_path: Path) -> None:
    policy = SavePolicy(RunConfig(name="x", keep_best="reward/score_mean"), Clock())
    assert not policy.is_due(1, {"reward/score_mean": 1.0}, list)


def test_a_figure_that_there_is_not_is_named_with_the_nearest() -> None:
    wanted = Best.of("-reward/score_men")
    assert wanted is not None
    with pytest.raises(UserError, match=r"run\.keep_best=-reward/score_men: .* \(did you mean reward/score_mean"):
        wanted.check_name(["reward/score_mean", "kl/sequence_mean"])
    wanted = Best.of("kl/sequence_mean")
    assert wanted is not None
    wanted.check_name(["reward/score_mean", "kl/sequence_mean"])
