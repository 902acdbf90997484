"""Preferences to evaluate on: RewardBench's rows and our comparisons come to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.data.preferences import RankedAnswers, load_preferences
from rlhf_dist.errors import UserError
from tests.tiny import write_jsonl


def load(tmp_path: Path, row: dict[str, Any], category: str | None = None) -> RankedAnswers:
    (found,) = load_preferences(str(write_jsonl(tmp_path / "data.jsonl", [row])), "train", category)
    return found


PAIR = {"prompt": "A colour?", "chosen": "Blue.", "rejected": "Seven."}


def test_a_row_of_rewardbench_is_read_with_its_subset_and_models(tmp_path: Path) -> None:
    row = load(tmp_path, PAIR | {"subset": "easy", "chosen_model": "a", "rejected_model": "b", "id": 3})
    assert (row.prompt.plain, row.responses, row.ranks) == ("A colour?", ["Blue.", "Seven."], [1, 2])
    assert (row.category, row.models) == ("easy", ["a", "b"])


def test_several_rejected_answers_are_each_worse_than_the_chosen_one(tmp_path: Path) -> None:
    row = load(tmp_path, PAIR | {"chosen": ["Blue."], "rejected": ["Seven.", "Eight."]})
    assert (row.responses, row.ranks) == (["Blue.", "Seven.", "Eight."], [1, 2, 2])


def test_conversations_differ_in_their_last_message(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "A colour?"}]
    chats = {
        name: [*asked, {"role": "assistant", "content": text}]
        for name, text in (("chosen", "Blue."), ("rejected", "7"))
    }
    row = load(tmp_path, chats)
    assert (row.prompt.messages, row.responses, row.ranks) == (asked, ["Blue.", "7"], [1, 2])
    assert load(tmp_path, PAIR | {"prompt": asked}).prompt.messages == asked


def test_our_comparisons_are_read_with_their_ties(tmp_path: Path) -> None:
    given = {"prompt": "A colour?", "responses": ["a", "b", "c"], "ranking": [2, 1, 2]}
    row = load(tmp_path, given | {"models": ["x", None, "y"], "category": "colours", "topic": "t"}, "topic")
    assert (row.responses, row.ranks, row.models, row.category) == (["a", "b", "c"], [2, 1, 2], ["x", None, "y"], "t")
    assert load(tmp_path, given).category is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p", "chosen": "a"}, "the field 'rejected' is missing"),
        ({"prompt": "p", "chosen": ["a"], "rejected": []}, "the list 'rejected' is empty"),
        ({"prompt": "p", "chosen": ["a"], "rejected": [1]}, "entry 1 of 'rejected' is an integer"),
        ({"prompt": "p", "chosen": "a", "rejected": 1}, "the field 'rejected' is an integer"),
        ({"prompt": "p", "text": "a"}, "the field 'responses' is missing"),
        (
            {"chosen": [{"role": "user", "content": "q"}], "rejected": [{"role": "user", "content": "q"}]},
            "must end with an answer",
        ),
        (
            {
                name: [{"role": "user", "content": name}, {"role": "assistant", "content": "a"}]
                for name in ("chosen", "rejected")
            },
            "differ before their last message",
        ),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=r"data\.jsonl:1.*" + says):
        load(tmp_path, row)
