"""Responses of several turns, with a sampler that writes what it is told and a tokenizer of real words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rlhf_dist.controller.turns import Environment, converse
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.sampling import Response, to_sequences
from rlhf_dist.types import Prompts, Sequences
from tests.tiny import write_tokenizer

EOS = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def prompts(tokenizer: Any, *texts: str) -> Prompts:
    rows = [tokenizer(text)["input_ids"] for text in texts]
    count = torch.arange(len(rows))
    return Prompts(
        torch.tensor([token for row in rows for token in row]),
        torch.tensor([len(row) for row in rows]),
        count + 7,
        count,
    )


class Sampler:
    """Writes " good" and, but for where ``cut`` says otherwise, an end; remembers what it was asked."""

    def __init__(self, tokenizer: Any, cut: tuple[int, ...] = ()) -> None:
        self.tokens, self.cut = tokenizer(" good", add_special_tokens=False)["input_ids"], cut
        self.asked: list[Prompts] = []

    def __call__(self, asked: Prompts, most: int) -> Sequences:
        self.asked.append(asked)
        ends = [row not in self.cut for row in asked.rows.tolist()]
        rows = [self.tokens + [EOS] * end for end in ends]
        return to_sequences(
            asked, [Response(row, [-0.5] * len(row), end) for row, end in zip(rows, ends, strict=True)], 3
        )


def environment(tokenizer: Any, reply: Any, **changes: Any) -> Environment:
    limits = {"max_turns": 3, "turn_tokens": 6, "context": 60, "timeout_s": 60.0}
    return Environment("env", reply, tokenizer, **limits | changes)


def test_replies_stand_between_the_turns_and_are_masked(tokenizer: Any) -> None:
    seen = []

    def reply(asked: list[str], responses: list[str]) -> list[str | None]:
        seen.append((asked, responses))
        return [" is bad" if prompt == "the film" else None for prompt in asked]

    sampler = Sampler(tokenizer, cut=(2,))
    given = prompts(tokenizer, "the film", "a movie", "the plot")
    sequences = converse(given, sampler, environment(tokenizer, reply))
    good, bad = sampler.tokens, tokenizer(" is bad", add_special_tokens=False)["input_ids"]
    turn = [*good, EOS]
    assert sequences.response_lists() == [turn + bad + turn + bad + turn, turn, good]
    first = [True] * len(turn) + [False] * len(bad)
    assert sequences.loss_mask.tolist() == first * 2 + [True] * (2 * len(turn) + len(good))
    assert sequences.prompt_lists() == given.token_lists()
    assert sequences.finished.tolist() == [True, True, False]  # the third was cut off, and is not replied to
    assert sequences.rollout_logprobs[~sequences.loss_mask].abs().max() == 0
    assert seen[0] == (["the film", "a movie"], [" good", " good"])
    assert seen[1][1] == [" good is bad good"]
    assert [len(asked) for asked in sampler.asked] == [3, 1, 1]
    ids = [number for asked in sampler.asked for number in asked.ids.tolist()]
    assert len(set(ids)) == len(ids)  # every turn draws random numbers of its own


def test_a_talk_ends_where_no_room_is_left_for_a_turn(tokenizer: Any) -> None:
    sampler = Sampler(tokenizer)
    given = prompts(tokenizer, "the film")
    room = int(given.lengths[0]) + len(sampler.tokens) + 1 + 2 + 5
    sequences = converse(given, sampler, environment(tokenizer, lambda p, r: [" is bad"], context=room))
    assert sequences.loss_mask.all()
    assert sequences.finished.tolist() == [True]


@pytest.mark.parametrize(
    "reply,said",
    [
        (lambda p, r: [], "returned 0 replies to 1 responses"),
        (lambda p, r: 1 / 0, "failed on 1 responses, the first of them ' good': ZeroDivisionError: division by zero"),
        (
            lambda p, r: time.sleep(9),
            "returned no replies to 1 responses within 0.2 s (ppo.function_timeout_s), the first",
        ),
        (lambda p, r: (time.sleep(9) for _ in r), "within 0.2 s"),
        (lambda p, r: [7], "replied to ' good' with 7: expected a string or None"),
        (lambda p, r: ["\ud800"], "replied to ' good' with '\\ud800': expected a string or None"),
    ],
)
def test_an_environment_that_fails_or_hangs_is_named(tokenizer: Any, reply: Any, said: str) -> None:
    with pytest.raises(RunError, match=r"^environment env ") as caught:
        converse(prompts(tokenizer, "the film"), Sampler(tokenizer), environment(tokenizer, reply, timeout_s=0.2))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
