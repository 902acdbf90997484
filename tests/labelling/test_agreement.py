"""Agreement between labellers, against textbook formulas, and as it must be whatever the data."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_dist.labelling.agreement import (
    _alpha_of,
    _Coincidences,
    alpha,
    alphas,
    among_people,
    between_labellers,
    rated_ranks,
    with_known,
    with_people,
)
from rlhf_dist.labelling.bias import biases, wins_by_position
from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.judgements import Judgement, Source
from rlhf_dist.labelling.preferences import Labeller, known_signs, preferences_of, signs_by_labeller
from tests.labelling.made import ranked, ranking_by, simulated

QUICK = Bootstrap(50)
ONCE = Bootstrap(1)


def signs(judgements: list[Judgement]) -> dict:
    return signs_by_labeller(preferences_of(judgements))


def textbook_alpha(units: list[list[float]], level: str) -> float:
    """Krippendorff (2018), section 12.3, with sums over pairs of values: slow, and plainly what the text says."""
    units = [unit for unit in units if len(unit) > 1]
    coincidences: Counter = Counter()
    for unit in units:
        for one, other in permutations(range(len(unit)), 2):
            coincidences[unit[one], unit[other]] += 1 / (len(unit) - 1)
    totals: Counter = Counter()
    for (value, _), weight in coincidences.items():
        totals[value] += weight
    count = sum(totals.values())

    def distance(one: float, other: float) -> float:
        if level == "nominal":
            return float(one != other)
        low, high = min(one, other), max(one, other)
        between = sum(n for value, n in totals.items() if low <= value <= high)
        return (between - (totals[one] + totals[other]) / 2) ** 2

    observed = sum(weight * distance(*pair) for pair, weight in coincidences.items())
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in totals for b in totals if a != b)
    return 1 - (count - 1) * observed / expected


@st.composite
def tables(draw: st.DrawFn) -> list[list[float | None]]:
    raters = draw(st.integers(2, 4))
    values = st.none() | st.integers(1, 4).map(float)
    return draw(st.lists(st.lists(values, min_size=raters, max_size=raters), min_size=2, max_size=12))


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@given(table=tables())
@settings(max_examples=60, deadline=None)
def test_alpha_is_the_textbooks_and_that_of_a_resample_is_made_of_its_prompts(
    level: str, table: list[list[float | None]]
) -> None:
    rated = {
        Labeller(f"labeller {rater}"): {
            (f"prompt {unit}", "answer"): row[rater] for unit, row in enumerate(table) if row[rater] is not None
        }
        for rater in range(len(table[0]))
    }
    units = [[value for value in row if value is not None] for row in table]
    shared = [unit for unit in units if len(unit) > 1]
    found = alpha("x", "people", level, rated, ONCE)  # type: ignore[arg-type]
    if not shared:
        assert found is None
    elif len({value for unit in shared for value in unit}) == 1:
        assert found is not None and found.alpha.value is None
    else:
        assert found is not None and found.alpha.value == pytest.approx(textbook_alpha(units, level))
        full = np.array(
            [[np.nan if v is None else v for v in row] for row in table if sum(v is not None for v in row) > 1]
        )
        weights = np.array([2.0, *[1.0] * (len(shared) - 1)])
        resampled = _Coincidences.of(full, np.arange(len(full))).alphas(weights[None], level)[0]  # type: ignore[arg-type]
        assert resampled == pytest.approx(textbook_alpha([shared[0], *units], level))


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    """Content Analysis, section 12.3.2: four observers, twelve units, values missing."""
    data = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    rated = {
        Labeller(str(n)): {(str(u), ""): float(v) for u, v in enumerate(row.split()) if v != "."}
        for n, row in enumerate(data)
    }
    found = {level: alpha("x", "people", level, rated, ONCE) for level in ("nominal", "ordinal")}  # type: ignore[arg-type]
    assert found["nominal"].alpha.value == pytest.approx(0.743, abs=5e-4)  # type: ignore[union-attr]
    assert found["ordinal"].alpha.value == pytest.approx(0.815, abs=5e-4)  # type: ignore[union-attr]


def test_an_answer_that_was_shown_alone_has_no_rank() -> None:
    alone = [ranked(f"q{n}", who, "a", task="rate") for n in range(6) for who in ("ann", "bob")]
    assert rated_ranks(alone) == {} and alphas(alone, preferences_of(alone), QUICK) == []


def test_alpha_without_variation_in_a_resample_has_no_value() -> None:
    assert np.isnan(_alpha_of(np.array([[4.0, 0.0], [0.0, 0.0]]), "nominal"))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=7))
@settings(max_examples=60, deadline=None)
def test_tau_is_scipys_tau_b(scores: list[tuple[int, int]]) -> None:
    names = "abcdefg"[: len(scores)]
    both = []
    for who, column in (("ann", 0), ("bob", 1)):
        score = {name: float(row[column]) for name, row in zip(names, scores, strict=True)}
        both.append(ranked("q", who, ">".join("=".join(tied) for tied in ranking_by(score))))
    (row,) = between_labellers(signs(both), ONCE)
    expected = stats.kendalltau(*zip(*scores, strict=True)).statistic
    assert row.tau.value == (None if np.isnan(expected) else pytest.approx(expected))


def test_agreement_counts_pairs_that_both_order_and_says_how_many_one_ties() -> None:
    (row,) = between_labellers(signs([ranked("q", "ann", "a>b>c"), ranked("q", "bob", "b>a=c")]), ONCE)
    assert (row.prompts, row.pairs, row.tied_by_one) == (1, 3, 1)
    assert row.agreement.value == 0.5 and row.agreement.count == 2


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_labellers_who_say_the_same_agree_wholly_and_those_who_say_the_reverse_not_at_all(seed: int) -> None:
    one = simulated({"x": 0.0, "y": 0.5, "z": 1.0}, 8, ["ann"], seed, ties=False)
    same = [replace(j, labeller="bob", id=j.id + "b") for j in one]
    reverse = [replace(j, labeller="cay", id=j.id + "c", ranking=j.ranking[::-1]) for j in one]
    rows = {frozenset((row.one, row.other)): row for row in between_labellers(signs(one + same + reverse), QUICK)}
    alike, contrary = rows[frozenset(("ann", "bob"))], rows[frozenset(("ann", "cay"))]
    assert alike.agreement.value == alike.tau.value == 1.0
    assert contrary.agreement.value == 0.0 and contrary.tau.value == -1.0
    ranks = alpha("rank", "people", "ordinal", rated_ranks(one + same), QUICK)
    assert ranks is not None and ranks.alpha.value == pytest.approx(1.0)


@given(st.permutations(["ann", "bob", "cay"]), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_other_names_or_another_order_change_no_figure(names: list[str], seed: int) -> None:
    rows = simulated({"x": 0.0, "y": 1.0, "z": 0.5}, 7, ["ann", "bob", "cay"], seed)
    renamed = [replace(row, labeller=names[["ann", "bob", "cay"].index(row.labeller)]) for row in rows]
    random.Random(seed).shuffle(renamed)
    before, after = among_people(signs(rows), ONCE), among_people(signs(renamed), ONCE)
    assert before is not None and after is not None
    assert (before.pairs, before.tied_by_one, before.prompts) == (after.pairs, after.tied_by_one, after.prompts)
    assert before.tau.value == pytest.approx(after.tau.value)
    assert before.agreement.value == pytest.approx(after.agreement.value)
    figures = [[row.alpha.value for row in alphas(found, preferences_of(found), ONCE)] for found in (rows, renamed)]
    assert figures[0] == pytest.approx(figures[1])


def test_judges_are_compared_with_people_and_not_counted_among_them() -> None:
    people = simulated({"x": 0.0, "y": 3.0}, 30, ["ann", "bob"], 1, ties=False)
    contrary = [
        replace(row, labeller="judge", source="endpoint", id=row.id + "!", ranking=row.ranking[::-1])
        for row in people
        if row.labeller == "ann"
    ]
    (row,) = with_people(signs(people + contrary), QUICK)
    assert row.one == "judge (endpoint)" and row.other == "people" and row.pairs == 60
    assert row.agreement.value is not None and row.agreement.value < 0.2
    assert among_people(signs(people + contrary), QUICK) == among_people(signs(people), QUICK)
    groups = Counter((row.of, row.who) for row in alphas(people + contrary, preferences_of(people + contrary), QUICK))
    assert groups == {("rank", "people"): 1, ("rank", "all"): 1}


def test_labellers_are_compared_with_the_known_rankings() -> None:
    judgements = [
        ranked("known", "ann", "a>b>c"),
        ranked("known", "bob", "c>a>b"),
        ranked("other", "ann", "a>b"),
    ]
    known = known_signs(judgements, {judgements[0].prompt.id: (("a",), ("b", "c"))})
    rows = {row.one: row for row in with_known(signs(judgements), known, ONCE)}
    assert (rows["ann"].agreement.value, rows["ann"].prompts, rows["ann"].pairs) == (1.0, 1, 3)
    assert rows["bob"].agreement.value == 0.5


def test_what_was_said_last_of_a_pair_counts() -> None:
    said = [ranked("q", "ann", "a>b"), ranked("q", "ann", "b>a"), ranked("q", "bob", "b>a")]
    (row,) = between_labellers(signs(said), ONCE)
    assert row.agreement.value == 1.0 and row.pairs == 1


def test_comparisons_of_two_are_one_rating_of_preference_with_its_strength() -> None:
    said = [
        ranked(f"q{n}", who, order, shown, task="compare", strength=strength)
        for n in range(6)
        for who, order, shown, strength in (
            ("ann", "a>b" if n % 2 else "b>a", "ab", 3),
            ("bob", "a>b" if n % 2 else "b>a", "ba", 3),
        )
    ]
    (row,) = alphas(said, preferences_of(said), QUICK)
    assert (row.of, row.level, row.units, row.alpha.value) == ("preference between two", "ordinal", 6, pytest.approx(1))


@given(st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_a_labeller_blind_to_place_and_length_shows_no_bias(seed: int) -> None:
    """At 95% some intervals miss: those of 99.9% do not, in any of these examples."""
    rows = simulated({"one": 0.0, "another": 0.0, "a third": 0.0}, 80, ["ann"], seed)
    (bias,) = biases(preferences_of(rows), Bootstrap(200))
    for share in (bias.earlier, bias.longer):
        assert share.low is not None and share.high is not None
        wider = 0.7 * (share.high - share.low)
        assert share.low - wider < 0.5 < share.high + wider


def test_a_labeller_who_takes_the_first_or_the_longest_is_found_out() -> None:
    generator, first, longest = random.Random(0), [], []
    for number in range(40):
        texts = {name: "x" * generator.randint(1, 1000) for name in "abc"}
        shown = "".join(generator.sample("abc", 3))
        first.append(ranked(f"q{number}", "ann", ">".join(shown), shown, texts=texts))
        by_length = sorted(texts, key=lambda name: -len(texts[name]))
        longest.append(ranked(f"q{number}", "ann", ">".join(by_length), shown, texts=texts))
    (bias,) = biases(preferences_of(first), QUICK)
    assert bias.earlier.value == 1.0 and bias.earlier.low is not None and bias.earlier.low > 0.9
    assert bias.longer.low is not None and bias.longer.low < 0.5
    assert [row.best.value for row in wins_by_position(first, QUICK)] == [1.0, 0.0, 0.0]
    (bias,) = biases(preferences_of(longest), QUICK)
    assert bias.longer.value == 1.0
    assert bias.earlier.low is not None and bias.earlier.low < 0.5


@pytest.mark.parametrize("source", ["function", "model"])
def test_judges_that_score_each_answer_by_itself_have_no_bias_by_position(source: Source) -> None:
    """Their answers stand in the order of the file, which says nothing."""
    people = [ranked(f"q{number}", "ann", "a>b", "ab" if number % 2 else "ba") for number in range(6)]
    judge = [ranked(f"q{number}", "judge", "a>b", "ab", source=source) for number in range(6)]
    together, ann, other = biases(preferences_of([*people, *judge]), QUICK)
    assert (ann.earlier.value, ann.earlier.count) == (together.earlier.value, together.earlier.count) == (0.5, 6)
    assert (other.earlier.value, other.earlier.count, other.longer.count) == (None, 0, 0)
    assert [row.best.value for row in wins_by_position([*people, *judge], QUICK)] == [0.5, 0.5]


def test_an_answer_that_ties_for_the_best_has_a_share_of_it() -> None:
    rows = wins_by_position([ranked("q", "ann", "a=b>c", "cab")], ONCE)
    assert [(row.shown, row.position, row.best.value) for row in rows] == [(3, 1, 0.0), (3, 2, 0.5), (3, 3, 0.5)]


def test_all_pairs_of_a_ranking_are_preferences() -> None:
    found = {(one.earlier.id, one.later.id): one.sign for one in preferences_of([ranked("q", "ann", "b>a=c", "cba")])}
    assert found == {("c", "b"): -1, ("c", "a"): 0, ("b", "a"): 1}
    assert len(found) == len(list(combinations("abc", 2)))
