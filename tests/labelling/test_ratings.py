"""Ratings of models: the maximum of the likelihood, in the order of the true strengths; none where none is finite."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.preferences import preferences_of
from rlhf_dist.labelling.ratings import Ratings, answers_by_model, ratings_of
from tests.labelling.made import ranked, simulated

ONCE = Bootstrap(1)
QUICK = Bootstrap(60)


def ratings(judgements: list[Judgement], bootstrap: Bootstrap = ONCE) -> Ratings:
    found = ratings_of(preferences_of(judgements), bootstrap)
    assert found is not None
    return found


def game(number: int, order: str, models: dict[str, str], shown: str = "") -> Judgement:
    return ranked(f"q{number}", "ann", order, shown, models=models)


def likeliest(results: list[tuple[int, int, int]], models: int) -> list[float]:
    """Bradley-Terry by plain gradient ascent on the log-likelihood, a tie half a win, as ratings around 1000.

    Args:
        results: the two models, and 1, 0 or -1 for the first one's win, a tie, its loss.
        models: how many.
    """
    logs = np.zeros(models)
    for _ in range(5000):
        up = np.zeros(models)
        for one, other, result in results:
            surprise = (1 + result) / 2 - 1 / (1 + math.exp(logs[other] - logs[one]))
            up[one] += surprise
            up[other] -= surprise
        logs += 0.1 * up
    return list(1000 + 400 * (logs - logs.mean()) / math.log(10))


@pytest.mark.parametrize("with_ties", [True, False])
def test_bradley_terry_is_the_maximum_of_the_likelihood(with_ties: bool) -> None:
    results = [(0, 1, 1), (0, 1, 1), (1, 0, 1), (1, 2, 1), (1, 2, -1), (2, 0, -1), (2, 0, 1), (0, 2, 1), (1, 2, 1)]
    results += [(0, 1, 0), (1, 2, 0), (1, 2, 0)] if with_ties else []
    names = ["old", "new", "other"]
    order = {1: "a>b", 0: "a=b", -1: "b>a"}
    rows = [
        game(n, order[result], {"a": names[one], "b": names[other]}) for n, (one, other, result) in enumerate(results)
    ]
    found = {row.model: row.bradley_terry.value for row in ratings(rows).models}
    assert [found[name] for name in names] == pytest.approx(likeliest(results, 3), abs=1e-3)


@given(st.integers(0, 1000), st.permutations(["a", "b", "c", "d"]))
@settings(max_examples=10, deadline=None)
def test_ratings_stand_in_the_order_of_the_true_strengths_and_their_intervals_hold_these(
    seed: int, names: list[str]
) -> None:
    strengths = dict(zip(names, (0.0, 1.0, 2.0, 3.0), strict=True))
    found = ratings(simulated(strengths, 80, ["ann"], seed, ties=False), QUICK).models
    assert [row.model for row in found] == names[::-1]
    assert [row.elo.value for row in found] == sorted((row.elo.value for row in found), reverse=True)  # type: ignore[type-var]
    for row in found:
        true = 1000 + 400 * (strengths[row.model] - 1.5) / math.log(10)
        assert row.bradley_terry.low is not None and row.bradley_terry.high is not None
        wider = row.bradley_terry.high - row.bradley_terry.low
        assert row.bradley_terry.low - wider < true < row.bradley_terry.high + wider
        assert row.comparisons == 240


def test_two_models_are_as_far_apart_as_the_odds_of_their_wins() -> None:
    """Without ties, and with few or many: fits that go from side to side would not end there."""
    for wins, losses, ties in ((9, 1, 0), (9, 1, 1), (30, 10, 40)):
        said = ["a>b"] * wins + ["b>a"] * losses + ["a=b"] * ties
        rows = [game(n, order, {"a": "x", "b": "y"}) for n, order in enumerate(said)]
        better, worse = ratings(rows).models
        odds = (wins + ties / 2) / (losses + ties / 2)
        assert better.bradley_terry.value is not None and worse.bradley_terry.value is not None
        assert better.bradley_terry.value - worse.bradley_terry.value == pytest.approx(400 * math.log10(odds))


def test_who_is_shown_first_or_judged_first_does_not_move_the_ratings() -> None:
    rows = simulated({"x": 0.0, "y": 1.0, "z": 0.3}, 30)
    turned = [replace(row, answers=row.answers[::-1]) for row in reversed(rows)]
    one, other = ({r.model: r.bradley_terry.value for r in ratings(found).models} for found in (rows, turned))
    assert one == pytest.approx(other)


def test_a_tie_is_half_a_win_and_all_ties_make_all_equal() -> None:
    rows = [game(n, "a=b", {"a": "x", "b": "y"}) for n in range(6)]
    found = ratings(rows, QUICK)
    assert [row.bradley_terry.value for row in found.models] == pytest.approx([1000, 1000])
    assert [row.win_rate.value for row in found.models] == [0.5, 0.5]
    (pair,) = found.pairs
    assert (pair.wins, pair.ties, pair.losses, pair.win_rate.value) == (0, 6, 0, 0.5)


def test_a_model_that_wins_everything_has_no_rating_rather_than_an_infinite_one() -> None:
    rows = [game(n, "a>b>c" if n % 2 else "a>c>b", {"a": "best", "b": "x", "c": "y"}) for n in range(8)]
    found = {row.model: row for row in ratings(rows, QUICK).models}
    assert found["best"].bradley_terry.value is None and found["best"].elo.value is None
    assert found["best"].why == "won every comparison" and found["best"].win_rate.value == 1.0
    assert found["x"].bradley_terry.value == found["y"].bradley_terry.value == pytest.approx(1000)


def test_models_that_never_met_are_in_groups_of_their_own() -> None:
    rows = [game(n, "a>b" if n % 3 else "b>a", {"a": "p", "b": "q"}) for n in range(9)]
    rows += [game(n, "a>b" if n % 3 else "b>a", {"a": "r", "b": "s"}) for n in range(20, 29)]
    found = {row.model: row.group for row in ratings(rows).models}
    assert found["p"] == found["q"] != found["r"] == found["s"]


def test_an_interval_is_open_on_the_side_where_resamples_win_everything() -> None:
    rows = [game(n, "b>a" if n == 0 else "a>b", {"a": "x", "b": "y"}) for n in range(10)]
    found = {row.model: row.bradley_terry for row in ratings(rows, Bootstrap(400)).models}
    assert found["x"].high is None and found["x"].low is not None and found["x"].low > 1000
    assert found["y"].low is None and found["y"].high is not None


def test_intervals_take_prompts_as_a_whole() -> None:
    """Ten labellers who say the same of a prompt are no more evidence than one."""
    alone = simulated({"x": 0.0, "y": 0.7}, 40, ["ann"], 3, ties=False)
    crowd = [replace(row, labeller=f"l{n}", id=f"{row.id}{n}") for row in alone for n in range(10)]
    widths = []
    for rows in (alone, crowd):
        rating = ratings(rows, Bootstrap(400)).models[0].bradley_terry
        assert rating.low is not None and rating.high is not None
        widths.append(rating.high - rating.low)
    assert widths[0] == pytest.approx(widths[1], rel=0.2)


def test_answers_of_one_model_or_of_none_that_is_known_are_no_comparison() -> None:
    rows = [game(1, "a>b", {"a": "x", "b": "x"}), game(2, "a>b", {"a": "x"})]
    assert ratings_of(preferences_of(rows), ONCE) is None


def test_questions_are_averaged_by_model() -> None:
    rows = [
        ranked(
            f"q{n}",
            "ann",
            "a>b",
            models={"a": "x", "b": "y"},
            task="rate",
            ratings={"a": {"overall": 6, "harmful": False}, "b": {"overall": 2 + n % 2, "harmful": n == 0}},
        )
        for n in range(4)
    ]
    found = {(row.question, row.model): row.mean.value for row in answers_by_model(rows, ONCE)}
    assert found == {
        ("overall", "x"): 6.0,
        ("overall", "y"): 2.5,
        ("harmful", "x"): 0.0,
        ("harmful", "y"): 0.25,
    }
