"""RewardBench's scores: the published aggregation, by hand and by a slow counterpart."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from rlhf_dist.labelling.rewardbench import SECTIONS, SUBSETS_2, BenchRow, BenchScores, bench_scores, ties_score

ROWS = 2985  # of RewardBench's split `filtered`


def pair(subset: str, right: bool) -> BenchRow:
    return BenchRow(subset, "7", [1.0 if right else -1.0], [0.0])


def the(scores: list[BenchScores], name: str) -> BenchScores:
    (found,) = [one for one in scores if one.name == name]
    return found


def test_the_weights_are_the_numbers_of_rows_but_for_math_which_counts_as_much_as_code() -> None:
    weights = {subset: count for subsets in SECTIONS.values() for subset, count in subsets.items()}
    assert sum(weights.values()) - weights["math-prm"] + 447 == ROWS
    assert weights["math-prm"] == sum(count for subset, count in weights.items() if subset.startswith("hep-"))


def test_a_section_is_the_mean_of_its_subsets_weighted_by_their_rows() -> None:
    generator = random.Random(0)
    rows, rights = [], {}
    for subsets in SECTIONS.values():
        for subset, count in subsets.items():
            count = 447 if subset == "math-prm" else count
            rights[subset] = generator.randint(0, count)
            rows += [pair(subset, number < rights[subset]) for number in range(count)]
    generator.shuffle(rows)
    found = the(bench_scores(rows), "RewardBench")
    chat = Fraction(sum(rights[subset] for subset in SECTIONS["Chat"]), 100 + 95 + 95 + 28 + 40)
    code = Fraction(sum(right for subset, right in rights.items() if subset.startswith("hep-")), 6 * 164)
    by_name = {part.name: part.score for part in found.parts}
    assert list(by_name) == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    assert by_name["Chat"] == pytest.approx(float(chat))
    assert by_name["Reasoning"] == pytest.approx(float(Fraction(rights["math-prm"], 447) + code) / 2)
    assert found.score == pytest.approx(sum(by_name.values()) / 4)
    assert sum(part.rows for part in found.parts) == ROWS


def test_equal_scores_are_wrong_on_rewardbench() -> None:
    found = the(bench_scores([BenchRow("donotanswer", "", [1.0], [1.0])]), "RewardBench")
    assert [part.score for part in found.parts] == [None, None, 0.0, None]


def test_a_part_of_the_data_gives_sections_with_the_published_weights_and_no_score_of_the_whole() -> None:
    rows = [pair("alpacaeval-easy", True), pair("mt-bench-easy", False), pair("mt-bench-easy", False)]
    found = the(bench_scores(rows), "RewardBench")
    assert found.parts[0].score == pytest.approx(100 / 128)
    assert found.parts[0].missing == ["alpacaeval-length", "alpacaeval-hard", "mt-bench-med"]
    assert found.score is None


def test_best_of_four_shares_the_point_among_equal_scores() -> None:
    def row(*scores: float) -> BenchRow:
        return BenchRow("Focus", "3", scores[:1], scores[1:])

    rows = [row(3, 1, 2, 0), row(2, 2, 1, 2), row(1, 2, 0, 0)]
    found = the(bench_scores(rows), "RewardBench 2")
    assert {part.name: part.score for part in found.parts}["Focus"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found.score is None


def test_the_score_of_the_second_benchmark_is_the_mean_of_its_six_subsets() -> None:
    rows = [BenchRow(subset, "", [1.0], [0.0, 0.0, 0.0]) for subset in SUBSETS_2[:-1]]
    rows[0] = BenchRow(SUBSETS_2[0], "", [0.0], [1.0, 0.0, 0.0])
    rows += [BenchRow("Ties", "ref:0", [5.0], [0.0]), BenchRow("Ties", "tied:0", [5.0, 4.0], [0.0])]
    found = the(bench_scores(rows), "RewardBench 2")
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * 0.9950547536867305  # tanh(4 / 1 - 1)
    assert found.score == pytest.approx((0 + 4 + ties) / 6)


@pytest.mark.parametrize(
    ("tied", "ref", "score"),
    [
        # wrong answers above a right one: no accuracy, and no margin
        (([1.0, 0.0], [0.5]), ([0.0], [1.0]), 0.01 * -0.9640275800758169),  # tanh(-1 / 1 - 1)
        # right above wrong, but right ones further apart than that
        (([9.0, 1.0], [0.0]), ([9.0], [0.0]), 0.6 + 0.01 * -0.7039056039366212),  # tanh(1 / 8 - 1)
        # the tied row passes, the reference's gap is too narrow
        (([5.0, 4.0], [0.0]), ([0.5], [0.0]), 0.8 + 0.01 * -0.46211715726000973),  # tanh(0.5 / 1 - 1)
        # right answers that score the same
        (([5.0, 5.0], [0.0]), ([1.0], [0.0]), 1.01),
        (([5.0, 5.0], [5.0]), ([1.0], [1.0]), 0.0),
    ],
)
def test_ties_by_hand(
    tied: tuple[list[float], list[float]], ref: tuple[list[float], list[float]], score: float
) -> None:
    rows = [BenchRow("Ties", "tied:12", *tied), BenchRow("Ties", "ref:12", *ref)]
    assert ties_score(rows) == pytest.approx(score, abs=1e-12)


def test_ties_without_their_reference_have_no_score() -> None:
    assert ties_score([BenchRow("Ties", "tied:1", [1.0, 1.0], [0.0])]) is None
    found = the(bench_scores([BenchRow("Ties", "tied:1", [1.0, 1.0], [0.0])]), "RewardBench 2")
    assert found.parts[-1].score is None and "Ties" in found.parts[-1].missing


def test_other_data_sets_categories_are_not_taken_for_the_benchmarks() -> None:
    ours = [
        BenchRow("Safety", "", [1.0], [0.0]),
        BenchRow("Math", "", [1.0], [0.0, 0.0]),
        BenchRow("chat", "", [1], [0]),
    ]
    assert bench_scores([*ours, BenchRow("Ties", "1", [1.0], [0.0]), BenchRow("math-prm", "", [1.0], [0.0] * 3)]) == []
