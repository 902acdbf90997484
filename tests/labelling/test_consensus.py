"""One ranking of each prompt for the reward model, by the rule that it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.data.comparisons import is_ranking
from rlhf_dist.labelling.consensus import Choice, demonstrations_of, rankings_of
from rlhf_dist.labelling.judgements import Judgement
from tests.labelling.made import ranked, ranking_by

ALL = Choice()


def order(row: dict[str, Any]) -> str:
    """As the tests write rankings."""
    score = {
        text.removeprefix("answer "): -float(rank) for text, rank in zip(row["responses"], row["ranking"], strict=True)
    }
    return ">".join("=".join(sorted(tied)) for tied in ranking_by(score))


def orders(*judgements: Judgement, choice: Choice = ALL) -> list[str]:
    return [order(row) for row in rankings_of(judgements, choice).rows]


def test_one_labellers_ranking_is_kept_with_its_ties() -> None:
    (row,) = rankings_of([ranked("q", "ann", "c>a=b>d")], ALL).rows
    assert order(row) == "c>a=b>d" and row["prompt"] == "q"
    assert row["rule"] == "the one labeller's ranking" and row["labellers"] == ["ann"]


def test_several_labellers_rankings_go_by_mean_rank_and_equal_means_tie() -> None:
    assert orders(ranked("q", "ann", "a>b>c"), ranked("q", "bob", "b>a>c")) == ["a=b>c"]
    assert orders(ranked("q", "ann", "a>b>c"), ranked("q", "bob", "a>b=c")) == ["a>b>c"]  # 1, 2.25, 2.75
    three = [ranked("q", who, said) for who, said in (("ann", "a>b>c"), ("bob", "a>c>b"), ("cay", "b>a>c"))]
    (row,) = rankings_of(three, ALL).rows
    assert order(row) == "a>b>c" and row["rule"] == "mean rank of 3 labellers, equal means tie"
    assert row["contradicted_pairs"] == 2


def test_comparisons_of_two_make_a_ranking_where_they_are_connected_and_several_where_not() -> None:
    chain = [ranked("q", "ann", said, task="compare") for said in ("a>b", "b>c")]
    assert orders(*chain) == ["a>b>c"]
    apart = [ranked("q", "ann", said, task="compare") for said in ("a>b", "d>c")]
    assert sorted(orders(*apart)) == ["a>b", "d>c"]


def test_a_circle_or_two_who_contradict_each_other_leave_nothing_to_learn_and_are_counted() -> None:
    circle = [ranked("q", "ann", said, task="compare") for said in ("a>b", "b>c", "c>a")]
    contrary = [ranked("p", "ann", "a>b"), ranked("p", "bob", "b>a")]
    found = rankings_of(circle + contrary, ALL)
    assert found.rows == [] and found.left_out == {"all answers tie": 2}


def test_skipped_flagged_and_calibration_prompts_are_left_out_unless_they_are_asked_for() -> None:
    skipped = replace(ranked("skipped", "ann", "a>b"), ranking=(), skipped="too hard")
    flagged = [ranked("flagged", "ann", "a>b", flag="broken"), ranked("flagged", "bob", "a>b")]
    known, plain = ranked("known", "ann", "a>b"), ranked("plain", "ann", "a>b")
    judgements = [skipped, *flagged, known, plain]
    choice = Choice(calibration=[known.prompt.id])
    found = rankings_of(judgements, choice)
    assert [row["prompt"] for row in found.rows] == ["plain"]
    assert found.left_out == {"skipped by all": 1, "flagged": 1, "calibrates labellers": 1}
    kept = replace(choice, keep_flagged=True, keep_calibration=True)
    assert [row["prompt"] for row in rankings_of(judgements, kept).rows] == ["flagged", "known", "plain"]


def test_people_count_where_there_are_any_and_others_where_they_are_asked_for() -> None:
    person, judge = ranked("q", "ann", "a>b"), ranked("q", "judge", "b>a", source="model")
    assert orders(person, judge) == ["a>b"]
    assert orders(person, judge, choice=Choice(sources=["model"])) == ["b>a"]
    assert orders(judge) == ["b>a"]


def test_a_chat_stays_a_chat_and_models_stand_beside_their_answers() -> None:
    judged = ranked("q", "ann", "b>a", models={"a": "old", "b": "new"})
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"})
    judged = replace(judged, prompt=replace(judged.prompt, messages=chat, plain=None))
    (row,) = rankings_of([judged], ALL).rows
    assert row["messages"] == list(chat) and "prompt" not in row
    assert dict(zip(row["models"], row["ranking"], strict=True)) == {"old": 2, "new": 1}


def test_demonstrations_become_rows_of_sft() -> None:
    written = replace(ranked("q", "ann", "a>b"), task="demonstrate", ranking=(), answers=(), demonstration="Blue.")
    flagged = replace(written, id="2", flag="no")
    other = replace(written, id="3", prompt=ranked("p", "ann", "a>b").prompt)
    (row,) = demonstrations_of([written, other][:1], ALL)
    assert (row["prompt"], row["response"], row["labeller"]) == ("q", "Blue.", "ann")
    assert [row["prompt"] for row in demonstrations_of([written, flagged, other], ALL)] == ["p"]
    assert rankings_of([written], ALL).left_out == {"only demonstrated": 1}


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_a_row_ranks_by_the_mean_of_the_labellers_ranks(scores: list[list[int]]) -> None:
    """Against the rule computed from ranks themselves; and what is written is a ranking to the reward job."""
    judgements, ranks = [], dict.fromkeys("abcd", 0.0)
    for number, score in enumerate(scores):
        named = dict(zip("abcd", map(float, score), strict=True))
        judgements.append(ranked("q", f"l{number}", ">".join("=".join(tied) for tied in ranking_by(named))))
        for name, value in named.items():
            above = sum(other > value for other in named.values())
            ranks[name] += above + (sum(other == value for other in named.values()) + 1) / 2
    found = rankings_of(judgements, ALL)
    expected = ">".join("=".join(sorted(tied)) for tied in ranking_by({name: -rank for name, rank in ranks.items()}))
    if ">" not in expected:
        assert found.rows == []
    else:
        (row,) = found.rows
        assert order(row) == expected and is_ranking(row["ranking"])
