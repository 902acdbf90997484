"""Responses of several turns, with a sampler that writes what it is told and a tokenizer of real words."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rlhf_dist.controller.turns import Environment, converse
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.sampling import Response, to_sequences
from rlhf_dist.types import Prompts, Sequences
from tests.tiny import write_tokenizer

EOS = 2
OPTIONS = SamplingOptions(temperature=1.0, max_tokens=6, seed=1)


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
    """A stream that writes " good" and, but for where ``cut`` says otherwise, an end; remembers what it was asked.

    It answers the requests of one addition together, but those of prompts that are ``slow`` after all others.
    """

    def __init__(self, tokenizer: Any, cut: tuple[int, ...] = (), slow: tuple[int, ...] = ()) -> None:
        self.tokens, self.cut, self.slow = tokenizer(" good", add_special_tokens=False)["input_ids"], cut, slow
        self.asked: list[Prompts] = []
        self.open: list[Prompts] = []

    def __len__(self) -> int:
        return sum(map(len, self.open))

    def add(self, prompts: Prompts, options: SamplingOptions) -> None:
        assert options == OPTIONS
        self.asked.append(prompts)
        late = torch.tensor([row in self.slow for row in prompts.rows.tolist()])
        parts = [prompts.select(torch.nonzero(which).flatten()) for which in (~late, late)]
        self.open = [part for part in (parts[0], *self.open, parts[1]) if len(part)]

    def take(self, most_s: float) -> Sequences | None:
        if most_s < math.inf and all(row in self.slow for row in self.open[0].rows.tolist()):
            time.sleep(most_s)
            return None
        asked = self.open.pop(0)
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
    sequences = converse(given, sampler, OPTIONS, environment(tokenizer, reply))
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
    sequences = converse(given, sampler, OPTIONS, environment(tokenizer, lambda p, r: [" is bad"], context=room))
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
        converse(
            prompts(tokenizer, "the film"), Sampler(tokenizer), OPTIONS, environment(tokenizer, reply, timeout_s=0.2)
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sample_goes_on_while_others_are_still_in_their_first_turn(tokenizer: Any) -> None:
    sampler = Sampler(tokenizer, slow=(0,))
    given = prompts(tokenizer, "the film", "a movie")
    sequences = converse(given, sampler, OPTIONS, environment(tokenizer, lambda p, r: [" is bad"] * len(r)))
    assert [asked.rows.tolist() for asked in sampler.asked] == [[0, 1], [1], [1], [0], [0]]
    assert len(set(map(tuple, sequences.response_lists()))) == 1  # and what they are does not depend on that


def test_a_slow_reply_of_a_coroutine_holds_up_no_other_sample(tokenizer: Any) -> None:
    """The first prompt's reply comes when the second's talk has come to its end."""
    done = []

    async def reply(asked: list[str], responses: list[str]) -> list[str | None]:
        while asked == ["the film"] and len(done) < 2:
            await asyncio.sleep(0.01)
        done.extend(asked)
        return [" is bad"] * len(asked)

    given = prompts(tokenizer, "the film", "a movie")
    sequences = converse(given, Sampler(tokenizer), OPTIONS, environment(tokenizer, reply))
    assert done == ["a movie"] * 2 + ["the film"] * 2
    assert len(set(map(tuple, sequences.response_lists()))) == 1


async def hang(asked: list[str], responses: list[str]) -> list[str | None]:
    await asyncio.sleep(9)
    return [None]


async def fail(asked: list[str], responses: list[str]) -> list[str | None]:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    "reply,said", [(hang, "returned no replies to 1 responses within 0.2 s"), (fail, "ZeroDivisionError: division by")]
)
def test_a_coroutine_that_fails_or_hangs_is_named(tokenizer: Any, reply: Any, said: str) -> None:
    env = environment(tokenizer, reply, timeout_s=0.2)
    with pytest.raises(RunError, match=r"^environment env ") as caught:
        converse(prompts(tokenizer, "the film"), Sampler(tokenizer), OPTIONS, env)
    assert said in str(caught.value)
