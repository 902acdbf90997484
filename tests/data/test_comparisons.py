"""Comparisons: sequences, ranks, ties, and what is no ranking."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import product

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rlhf_dist.data.comparisons import is_ranking, load_comparisons
from rlhf_dist.errors import UserError
from rlhf_dist.types import Comparisons
from tests.data.conftest import BOS, EOS, Rows, build

Write = Callable[[Rows], str]


def row(ranking: object, responses: object = None, prompt: str = "a") -> dict[str, object]:
    answers = [f" {letter}" for letter in "bcdefghi"[: len(ranking)]] if isinstance(ranking, list) else []
    return {"prompt": prompt, "responses": answers if responses is None else responses, "ranking": ranking}


def load(path: str, tokenizer: PreTrainedTokenizerFast, limit: int = 64, truncate: bool = False) -> Comparisons:
    return load_comparisons(path, "train", tokenizer, limit, truncate)


def texts(batch: Comparisons, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [tokenizer.decode(part) for part in torch.split(batch.tokens, batch.token_counts.tolist())]


def test_each_answer_is_a_sequence_of_prompt_answer_and_end(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    batch = load(jsonl([row([2, 1]), row([3, 1, 2], prompt="the movie")]), plain)
    assert texts(batch, plain) == [
        *(f"{BOS}a {letter}{EOS}" for letter in "bc"),
        *(f"{BOS}the movie {letter}{EOS}" for letter in "bcd"),
    ]
    assert batch.ranks.tolist() == [2, 1, 3, 1, 2]
    assert batch.answers.tolist() == [2, 3]
    assert texts(batch.select([1]), plain) == texts(batch, plain)[2:]


def test_a_prompt_may_be_empty(jsonl: Write) -> None:
    bare = build()
    bare.backend_tokenizer.post_processor = None
    batch = load(jsonl([row([1, 2], ["x", "y"], prompt="")]), bare)
    assert texts(batch, bare) == [f"x{EOS}", f"y{EOS}"]


def test_answers_follow_the_chat_template(jsonl: Write, chat: PreTrainedTokenizerFast) -> None:
    batch = load(jsonl([row([1, 2], ["b", "c"])]), chat)
    opening = f"{BOS}<|turn|>user\na{EOS}\n<|turn|>assistant\n"
    assert texts(batch, chat) == [f"{opening}b{EOS}", f"{opening}c{EOS}"]


def test_the_rankings_are_those_that_sorting_answers_can_give() -> None:
    qualities = list(product(range(4), repeat=4))
    dense = {tuple(1 + len({o for o in q if o > x}) for x in q) for q in qualities}
    competition = {tuple(1 + sum(o > x for o in q) for x in q) for q in qualities}
    for ranks in product(range(6), repeat=4):
        assert is_ranking(list(ranks)) == (ranks in dense | competition), ranks


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row([1, 3]), "'ranking' [1, 3] is not a permutation of 1..2"),
        (row([0, 1]), "'ranking' [0, 1] is not a permutation of 1..2"),
        (row([1, 2], [" b", " c", " d"]), "'ranking' has 2 entries for 3 responses"),
        (row([1]), "a comparison needs 2 or more 'responses', there are 1"),
        (row([1, "2"]), "entry 2 of 'ranking' is a string, expected an integer"),
        (row([1, True]), "entry 2 of 'ranking' is true or false, expected an integer"),
        (row([1, 2.0]), "entry 2 of 'ranking' is a number, expected an integer"),
        (row([1, 2], [" b", None]), "entry 2 of 'responses' is null, expected a string"),
        (row("1, 2"), "the field 'ranking' is a string, expected a list"),
        ({"prompt": "a", "responses": [" b", " c"]}, "the field 'ranking' is missing; the row has: prompt, responses"),
    ],
)
def test_what_is_no_comparison_is_refused_by_line(
    jsonl: Write, plain: PreTrainedTokenizerFast, bad: dict[str, object], said: str
) -> None:
    path = jsonl([row([1, 2]), bad])
    with pytest.raises(UserError) as caught:
        load(path, plain)
    assert str(caught.value).startswith(f"{path}:2: {said}")


def test_rows_that_are_one_tie_are_left_out_and_counted(
    jsonl: Write, plain: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    path = jsonl([row([1, 1]), row([1, 2, 2]), row([1, 1, 1])])
    with caplog.at_level(logging.WARNING):
        batch = load(path, plain)
    assert batch.answers.tolist() == [3]
    assert caplog.messages == [f"{path}: 2 of 3 rows skipped, because all their answers tie"]


def test_nothing_but_ties_is_refused(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="all answers tie in every row, so there is no pair to train on"):
        load(jsonl([row([1, 1])]), plain)


def test_the_longest_answer_decides_whether_a_row_fits(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    path = jsonl([row([1, 2], ["x", "xyzxyz"], prompt="xyz")])
    with pytest.raises(UserError, match=r":1: prompt and answer have 11 tokens, more than data.max_tokens=8"):
        load(path, plain, limit=8)
    assert texts(load(path, plain, limit=8, truncate=True), plain) == [f"{BOS}xyzx{EOS}", f"{BOS}xyzxyzx"[:10]]
