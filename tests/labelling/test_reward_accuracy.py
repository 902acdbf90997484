"""The evaluation of a reward model: counts by hand, and what models of known faults must show."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.labelling.estimates import Bootstrap, wilson
from rlhf_dist.labelling.reward_accuracy import RewardAccuracy, ScoredRow, reward_accuracy
from rlhf_dist.labelling.reward_tables import calibration_svg, reward_tables
from rlhf_dist.labelling.tables import html_tables

QUICK = Bootstrap(50)


def row(
    scores: list[float],
    ranks: list[int] | None = None,
    lengths: list[int] | None = None,
    category: str | None = None,
    source: str = "data",
    models: list[str | None] | None = None,
) -> ScoredRow:
    """A row whose first answer is the best one, of answers of one length."""
    return ScoredRow(
        source,
        category,
        ranks or list(range(1, len(scores) + 1)),
        scores,
        lengths or [10] * len(scores),
        models or [None] * len(scores),
    )


def found(rows: list[ScoredRow]) -> RewardAccuracy:
    return reward_accuracy(rows, QUICK)


def test_equal_scores_are_half_right_and_pairs_that_tie_in_the_data_do_not_count() -> None:
    (all_pairs,) = found([row([1.0, 0.0]), row([0.5, 0.5]), row([0.0, 1.0, 2.0], [1, 1, 2])]).accuracies
    assert (all_pairs.rows, all_pairs.pairs, all_pairs.ties) == (3, 4, 1)
    assert all_pairs.accuracy.value == 1.5 / 4


def test_single_pairs_have_wilsons_interval_and_rankings_one_by_rows() -> None:
    single = [row([1.0, 0.0]) for _ in range(8)] + [row([0.0, 1.0]) for _ in range(2)]
    assert found(single).accuracies[0].accuracy == wilson(8, 10)
    whole = [row([4.0, 3.0, 2.0, 1.0]) for _ in range(8)] + [row([1.0, 2.0, 3.0, 4.0]) for _ in range(2)]
    ranked = found(whole).accuracies[0].accuracy
    naive = wilson(48, 60)
    assert ranked.value == naive.value == 0.8
    assert ranked.low is not None and naive.low is not None and ranked.low < naive.low


def test_categories_and_data_sets_have_a_row_each() -> None:
    rows = [row([1.0, 0.0], category="chat"), row([0.0, 1.0], category="code"), row([1.0, 0.0], source="more")]
    shares = {one.of: (one.pairs, one.accuracy.value) for one in found(rows).accuracies}
    assert shares == {"all": (3, 2 / 3), "data": (2, 0.5), "more": (1, 1.0), "chat": (1, 1.0), "code": (1, 0.0)}


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=4), min_size=1, max_size=12))
def test_every_figure_counts_the_same_pairs(scores: list[list[float]]) -> None:
    figures = found([row(given) for given in scores])
    pairs = sum(len(given) * (len(given) - 1) // 2 for given in scores)
    assert figures.accuracies[0].pairs == pairs
    for parts in (figures.margins, figures.calibration, figures.by_length):
        assert sum(part.pairs for part in parts) == pairs
    margins = [given[i] - given[j] for given in scores for i in range(len(given)) for j in range(i + 1, len(given))]
    assert figures.loss == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / pairs)
    errors = [part.pairs * abs(part.predicted - (part.right.value or 0.0)) for part in figures.calibration]
    assert figures.calibration_error == pytest.approx(sum(errors) / pairs)
    for part in figures.calibration:
        assert part.low - 1e-9 <= part.predicted <= part.high + 1e-9


def drawn(count: int, sure: float) -> list[ScoredRow]:
    """Pairs of which the answer with the higher score is better as often as sigmoid(difference / sure) says."""
    generator, rows = random.Random(0), []
    for _ in range(count):
        difference = abs(generator.gauss(0, 2))
        right = generator.random() < 1 / (1 + math.exp(-difference / sure))
        rows.append(row([difference, 0.0] if right else [0.0, difference]))
    return rows


def test_a_calibrated_model_has_no_calibration_error_and_one_that_is_too_sure_has() -> None:
    calibrated, too_sure = found(drawn(4000, 1.0)), found(drawn(4000, 4.0))
    assert calibrated.calibration_error < 0.03 < 0.15 < too_sure.calibration_error
    assert all(part.right.value is not None and part.right.value < part.predicted for part in too_sure.calibration)
    accuracies = [part.right.value for part in calibrated.margins]
    assert accuracies == sorted(accuracies, key=lambda share: share or 0.0)


def test_a_model_that_goes_by_length_is_found_out() -> None:
    generator, rows = random.Random(1), []
    for _ in range(300):
        lengths = [generator.randint(1, 500), generator.randint(1, 500)]
        rows.append(row([length / 100 + 7 * len(rows) for length in lengths], lengths=lengths))
    figures = found(rows)
    shares = {one.of: one.accuracy.value for one in figures.by_length}
    assert shares["the better answer is longer"] == 1.0 and shares["the better answer is shorter"] == 0.0
    assert figures.correlation.value == pytest.approx(1.0)
    assert found([row([1.0, 0.0])]).correlation.value is None


def test_a_favourite_model_is_seen() -> None:
    rows = [row([0.0, 1.0], models=["mine", "theirs"]) for _ in range(9)] + [row([1.0, 0.0], models=["theirs", "mine"])]
    shares = {one.model: (one.pairs, one.wins.value, one.wins_by_score.value) for one in found(rows).models}
    assert shares == {"mine": (10, 0.9, 0.0), "theirs": (10, pytest.approx(0.1), 1.0)}
    assert found([row([0.0, 1.0], models=["mine", "mine"]), row([1.0, 0.0])]).models == []


def test_tables_and_curve_show_the_figures() -> None:
    figures = found(drawn(50, 1.0))
    text = html_tables(reward_tables(figures)) + calibration_svg(figures.calibration)
    assert f"{100 * (figures.accuracies[0].accuracy.value or 0):.1f}%" in text
    assert text.count('<circle cx="') >= len(figures.calibration) and 'aria-label="Calibration curve' in text
