"""Warnings: none of a healthy run, and of each sickness the one that names it, with figure, step and threshold."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.controller import warning_signs as rules
from rlhf_dist.controller.warning_signs import WarningSign, warning_signs
from tests.controller.curves_of_runs import Figures, healthy_step

STEPS = 60
HEALTHY = {"before": {"score_mean": -0.7, "distinct_2": 0.89}, "after": {"score_mean": 2.3, "distinct_2": 0.61}}
REPEATS = {"before": {"score_mean": -0.7, "distinct_2": 0.89}, "after": {"score_mean": 3.9, "distinct_2": 0.2}}


def _rows(change: Callable[[int, Figures], Figures], seed: int = 1) -> list[dict[str, float]]:
    draw = random.Random(seed)
    return [
        {"step": step} | change(step, healthy_step(step, STEPS, lambda: draw.uniform(-1, 1)))
        for step in range(1, STEPS + 1)
    ]


def _after(step: int, key: str, value: float) -> Callable[[int, Figures], Figures]:
    """A run whose figure ``key`` is ``value`` from ``step`` on."""
    return lambda now, figures: figures | ({key: value} if now >= step else {})


def _only(rows: list[dict[str, float]], summary: dict | None = None) -> WarningSign:
    (sign,) = warning_signs(rows, summary)
    return sign


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_raises_none_at_any_of_its_steps(seed: int) -> None:
    rows = _rows(lambda _, figures: figures, seed)
    assert warning_signs(rows, HEALTHY) == []
    assert all(warning_signs(rows[:end]) == [] for end in range(len(rows)))


@pytest.mark.parametrize(
    ("key", "value", "title", "step", "figure"),
    [
        ("kl/sequence_mean", 40.0, "The policy leaves the reference", 31, "above 0.5"),
        ("policy/entropy", 0.2, "The entropy collapses", 34, "policy/entropy is 0.2 nats a token, below 0.6"),
        ("response/finished", 0.3, "Answers are cut off", 33, "response/finished is 30%, below 50%"),
        ("response/length_mean", 60.0, "The score rises with the length", 32, "60 tokens, above 36"),
        ("value/explained_variance", -0.2, "The critic explains nothing", 37, "is -0.20 after 60 steps, below 0.05"),
        ("rollout/logprob_gap", 0.3, "Engine and trainer are apart", 30, "0.3 nats a token, above 0.05"),
    ],
)
def test_each_sickness_raises_its_warning_with_figure_step_and_threshold(
    key: str, value: float, title: str, step: int, figure: str
) -> None:
    sign = _only(_rows(_after(30, key, value)), HEALTHY)
    assert sign.title == title and figure in sign.figure and key in sign.figure
    assert abs(sign.step - step) <= 1


def test_repetition_is_seen_in_evaluations_on_the_way_and_in_the_summary() -> None:
    rows = _rows(lambda _, figures: figures)
    assert _only(rows, REPEATS).title == "The score rises with repetition"
    assert _only(rows, REPEATS).step == STEPS
    for step, left in ((10, 0.85), (30, 0.4), (50, 0.3)):
        rows[step - 1]["eval/distinct_2"] = left
    assert _only(rows).step == 30


def test_length_and_repetition_without_a_rising_score_are_no_sign_of_a_reward_that_pays_for_them() -> None:
    rows = _rows(lambda now, figures: figures | {"reward/score_mean": 0.1, "response/length_mean": 10.0 + now})
    summary = {"before": {"score_mean": 1.0, "distinct_2": 0.9}, "after": {"score_mean": 1.0, "distinct_2": 0.2}}
    assert warning_signs(rows, summary) == []


def test_what_has_passed_is_not_warned_of() -> None:
    rows = _rows(lambda now, figures: figures | ({"response/finished": 0.1} if now < 20 else {}))
    assert warning_signs(rows, HEALTHY) == []


def test_a_critic_has_time_to_learn() -> None:
    rows = _rows(lambda _, figures: figures | {"value/explained_variance": -1.0})
    assert warning_signs(rows[: rules.CRITIC_STEPS - 1]) == []
    assert _only(rows).title == "The critic explains nothing"


def test_jobs_without_these_figures_raise_none() -> None:
    assert warning_signs([{"step": step, "loss/sft": 2.0} for step in range(1, 30)], {"before": {}, "after": {}}) == []


def _every_sign() -> Iterator[WarningSign]:
    keys = {"kl/sequence_mean": 40.0, "policy/entropy": 0.2, "response/finished": 0.3, "response/length_mean": 60.0}
    keys |= {"value/explained_variance": -0.2, "rollout/logprob_gap": 0.3}
    for key, value in keys.items():
        yield _only(_rows(_after(30, key, value)), HEALTHY)
    yield _only(_rows(lambda _, figures: figures), REPEATS)


def test_the_advice_names_keys_that_there_are() -> None:
    known = schema_keys(PPOConfig)
    named = {
        key.rstrip(".")
        for sign in _every_sign()
        for key in re.findall(r"\b(?:ppo|actor|critic|rollout|weights|run)\.[a-z_.]+", sign.advice)
    }
    assert len(named) > 10 and named <= known.keys()


def test_the_page_on_reports_lists_every_rule() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    assert all(f"| {sign.title} |" in page for sign in _every_sign())
