"""metrics.jsonl: one whole line a step, at once, in one order, and no NaN in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlhf_dist.controller.metric_table import PPO, metrics_of
from rlhf_dist.controller.metrics import MetricsWriter
from rlhf_dist.errors import RunError


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(1, {"loss/policy": 0.5})
        assert json.loads(path.read_text()) == {"step": 1, "loss/policy": 0.5}


def test_keys_stand_in_one_order_whatever_the_order_they_came_in(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(1, {"b": 1.0, "a": 2.0})
        writer.write(2, {"a": 2.0, "b": 1.0})
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [["step", "a", "b"]] * 2


def test_tensors_become_numbers_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(3, {"loss/policy": torch.tensor(0.25), "weights/version": 4})
    assert path.read_text() == '{"step": 3, "loss/policy": 0.25, "weights/version": 4}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_not_finite_is_named_and_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer, pytest.raises(RunError, match="step 7: loss/value is"):
        writer.write(7, {"loss/policy": 1.0, "loss/value": value})
    assert path.read_text() == ""


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        with MetricsWriter(path) as writer:
            writer.write(step, {"a": 1.0})
    assert len(path.read_text().splitlines()) == 2


def test_tensorboard_has_the_same_figures_and_a_resumed_run_hides_what_it_repeats(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = tmp_path / "tensorboard"
    with MetricsWriter(tmp_path / "first.jsonl", board) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss/policy": float(step)})
    with MetricsWriter(tmp_path / "second.jsonl", board, resumed_after=1) as writer:
        writer.write(2, {"loss/policy": 20.0})
    events = EventAccumulator(str(board)).Reload().Scalars("loss/policy")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 20.0)]


def test_every_line_of_ppo_holds_what_the_contract_names_and_the_critics_figures_where_there_is_one() -> None:
    with_a_critic = {"loss/value", "value/explained_variance"}
    assert with_a_critic <= set(metrics_of(PPO)) - set(metrics_of(PPO, always=True))
    assert {*metrics_of(PPO, always=True), *with_a_critic} >= {
        "reward/score_mean",
        "reward/total_mean",
        "kl/sequence_mean",
        "loss/policy",
        "loss/value",
        "policy/clip_fraction",
        "policy/entropy",
        "value/explained_variance",
        "response/length_mean",
        "rollout/logprob_gap",
        "weights/version",
        "time/step_s",
        "throughput/tokens_per_s",
    }
