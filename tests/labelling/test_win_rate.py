"""Win rates of two models, plain and at equal length, against what they are by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt
from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.preferences import Labeller, Preference
from rlhf_dist.labelling.win_rate import WinRate, length_controlled, win_rate

BOOTSTRAP = Bootstrap(resamples=200)
JUDGE = Labeller("judge", "function")


def prompt(name: str) -> Prompt:
    return Prompt(name, ({"role": "user", "content": name},), name)


def compared(results: list[tuple[int, int, int]]) -> WinRate:
    """Of (sign for the new model, its answer's length, the old one's length), shown in either order."""
    preferences, rows = [], []
    for number, (sign, length, other) in enumerate(results):
        new, old = Answer("n", "n" * length, "new"), Answer("o", "o" * other, "old")
        shown, seen = ((new, old), sign) if number % 2 else ((old, new), -sign)
        preferences.append(Preference(f"p{number}", JUDGE, *shown, seen, None))
        rows.append(Candidates(prompt(f"p{number}"), (old, new)))
    return win_rate("new", "old", preferences, rows, BOOTSTRAP)


def test_wins_ties_and_losses_are_counted_whatever_was_shown_first() -> None:
    found = compared([(1, 5, 5)] * 6 + [(0, 5, 5)] * 2 + [(-1, 5, 5)] * 2)
    assert (found.wins, found.ties, found.losses) == (6, 2, 2)
    assert found.plain.value == pytest.approx(0.7)
    assert found.length_controlled.value == pytest.approx(0.7, abs=1e-3), "equally long answers need no control"
    assert found.plain.low is not None and found.plain.low < 0.7 < (found.plain.high or 0)


def test_an_answer_that_both_gave_is_a_tie() -> None:
    rows = [Candidates(prompt("same"), (Answer("x", "yes", "old"),))]
    found = win_rate("new", "old", [], rows, BOOTSTRAP)
    assert (found.wins, found.ties, found.losses) == (0, 1, 0) and found.plain.value == 0.5
    assert found.length == found.other_length == 3


def test_what_a_judge_likes_for_its_length_alone_is_no_win_at_equal_length() -> None:
    rng = np.random.default_rng(0)
    results = []
    for _ in range(600):
        length, other = int(rng.integers(60, 200)), int(rng.integers(20, 160))
        chance = 1 / (1 + np.exp(-(length - other) / 15))
        results.append((1 if rng.random() < chance else -1, length, other))
    found = compared(results)
    assert found.plain.value is not None and found.plain.value > 0.65
    assert found.length_controlled.value == pytest.approx(0.5, abs=0.08)
    assert found.length > found.other_length


def test_a_better_model_stays_better_at_equal_length() -> None:
    rng = np.random.default_rng(1)
    results = [
        (1 if rng.random() < 0.8 else -1, int(rng.integers(10, 90)), int(rng.integers(10, 90))) for _ in range(400)
    ]
    found = compared(results)
    assert found.length_controlled.value == pytest.approx(found.plain.value, abs=0.03)
    assert found.length_controlled.low is not None and found.length_controlled.low > 0.7


def test_a_model_that_wins_everything_has_a_win_rate_of_one() -> None:
    found = compared([(1, 9, 5), (1, 5, 9)] * 5)
    assert found.plain.value == 1.0 and found.length_controlled.value == pytest.approx(1.0)


def test_the_regression_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(2)
    won = {str(n): (float(rng.integers(0, 3)) / 2, float(rng.integers(-40, 60))) for n in range(60)}
    results, differences = np.array(list(won.values())).T
    lengths = np.tanh(differences / differences.std())
    best = _best(np.linspace(-3, 3, 301), results, lengths)
    assert length_controlled(won, BOOTSTRAP).value == pytest.approx(1 / (1 + np.exp(-best)), abs=0.006)


def _best(grid: np.ndarray, results: np.ndarray, lengths: np.ndarray) -> float:
    a, b = np.meshgrid(grid, grid, indexing="ij")
    logits = a[..., None] + b[..., None] * lengths
    likelihood = -(results * np.logaddexp(0, -logits) + (1 - results) * np.logaddexp(0, logits)).sum(-1)
    return float(grid[np.unravel_index(likelihood.argmax(), likelihood.shape)[0]])


@given(
    st.lists(st.tuples(st.sampled_from([1, 0, -1]), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=20)
)
def test_seen_from_the_other_model_the_win_rates_are_the_rest(results: list[tuple[int, int, int]]) -> None:
    there = compared(results)
    back = compared([(-sign, other, length) for sign, length, other in results])
    for one, other in ((there.plain, back.plain), (there.length_controlled, back.length_controlled)):
        assert one.value is not None and other.value is not None
        assert one.value + other.value == pytest.approx(1.0, abs=1e-6)
