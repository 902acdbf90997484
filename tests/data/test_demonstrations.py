"""Demonstrations: which tokens are prompt, which are the answer, and how it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_dist.data.demonstrations import load_demonstrations
from rlhf_dist.data.holdout import hold_out
from rlhf_dist.errors import UserError
from rlhf_dist.types import Demonstrations
from tests.data.conftest import BOS, EOS, TEMPLATE, Rows, build

Write = Callable[[Rows], str]


def parts(batch: Demonstrations, tokenizer: PreTrainedTokenizerFast) -> list[tuple[str, str]]:
    """(prompt, response) of each row, decoded."""
    found = []
    for row in range(len(batch)):
        one = batch.select([row])
        tokens, cut = one.tokens.tolist(), int(one.prompt_lengths)
        found.append((tokenizer.decode(tokens[:cut]), tokenizer.decode(tokens[cut:])))
    return found


def load(path: str, tokenizer: PreTrainedTokenizerFast, limit: int = 128, truncate: bool = False) -> Demonstrations:
    return load_demonstrations(path, "train", tokenizer, limit, truncate)


def test_a_response_follows_its_prompt_and_ends_once(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "the movie", "response": " was good"}, {"prompt": "a", "response": f" b{EOS}{EOS}"}]
    batch = load(jsonl(rows), plain)
    assert parts(batch, plain) == [(f"{BOS}the movie", f" was good{EOS}"), (f"{BOS}a", f" b{EOS}")]
    assert batch.tokens.tolist().count(plain.eos_token_id) == 2


def test_an_empty_response_is_the_end_token(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    batch = load(jsonl([{"prompt": "a", "response": ""}]), plain)
    assert parts(batch, plain) == [(f"{BOS}a", EOS)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "response": "hello"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    ],
)
def test_a_chat_answer_follows_the_templates_opening_and_ends_once(
    jsonl: Write, chat: PreTrainedTokenizerFast, row: dict[str, object]
) -> None:
    batch = load(jsonl([row]), chat)
    assert parts(batch, chat) == [(f"{BOS}<|turn|>user\nhi{EOS}\n<|turn|>assistant\n", f"hello{EOS}")]


def test_only_the_last_answer_of_a_chat_is_the_response(jsonl: Write, chat: PreTrainedTokenizerFast) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    ((prompt, response),) = parts(load(jsonl([row]), chat), chat)
    assert prompt.endswith(f"assistant\nb{EOS}\n<|turn|>user\nc{EOS}\n<|turn|>assistant\n")
    assert response == f"d{EOS}"


def test_an_answer_is_what_the_template_makes_of_it(jsonl: Write) -> None:
    spaced = build(TEMPLATE.replace("{{ m.content | trim }}", " {{ m.content | trim }}"))
    batch = load(jsonl([{"prompt": "hi", "response": "hello\n"}]), spaced)
    assert parts(batch, spaced)[0][1] == f" hello{EOS}"


def test_a_template_that_ends_a_turn_with_another_token_still_ends_with_the_end_token(jsonl: Write) -> None:
    other = build(TEMPLATE.replace("{{ eos_token }}\n", "<|turn|>"))
    batch = load(jsonl([{"prompt": "hi", "response": answer} for answer in ("hello", f"a{EOS}b")]), other)
    assert [response for _, response in parts(batch, other)] == [f"hello<|turn|>{EOS}", f"a{EOS}b<|turn|>{EOS}"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a"}, "the field 'response' is missing; the row has: prompt"),
        ({"response": "a"}, "the field 'prompt' is missing; the row has: response"),
        ({"prompt": "a", "response": 3}, "the field 'response' is an integer, expected a string"),
        ({"messages": [{"role": "user", "content": "a"}]}, "the last of 'messages' is from 'user'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "'messages' holds only an answer"),
    ],
)
def test_a_malformed_row_is_refused_by_line(
    jsonl: Write, chat: PreTrainedTokenizerFast, row: dict[str, object], said: str
) -> None:
    path = jsonl([{"prompt": "a", "response": "b"}, row])
    with pytest.raises(UserError) as caught:
        load(path, chat)
    assert str(caught.value).startswith(f"{path}:2: {said}")


def test_a_long_example_is_refused_with_the_key_that_cuts_it(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    path = jsonl([{"prompt": "xy", "response": "xyz"}])
    assert len(load(path, plain, limit=7)) == 1
    with pytest.raises(UserError) as caught:
        load(path, plain, limit=6)
    assert str(caught.value).startswith(f"{path}:1: prompt and answer have 7 tokens, more than data.max_tokens=6")
    assert "data.truncate=true" in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "response", "kept"),
    [
        ("xy", "xyzxyzxyz", (f"{BOS}xy", "xyz")),  # the answer loses its end
        ("xyzxyzxyz", "x", ("zxyz", f"x{EOS}")),  # the prompt loses its beginning
        ("xyzxyzxyz", "xyzxyzxyz", ("xyz", "xyz")),  # each keeps half
    ],
)
def test_truncation_keeps_half_of_the_room_for_either_part(
    jsonl: Write, plain: PreTrainedTokenizerFast, prompt: str, response: str, kept: tuple[str, str]
) -> None:
    batch = load(jsonl([{"prompt": prompt, "response": response}]), plain, limit=6, truncate=True)
    assert parts(batch, plain) == [kept]


def test_the_last_rows_are_held_out(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    batch = load(jsonl([{"prompt": text, "response": text} for text in "abc"]), plain)
    train, held_out = hold_out(batch, 1, "rows")
    assert [prompt for prompt, _ in parts(train, plain)] == [f"{BOS}a", f"{BOS}b"]
    assert [prompt for prompt, _ in parts(held_out, plain)] == [f"{BOS}c"]
    with pytest.raises(UserError, match=r"data.eval_count=3 leaves none of the 3 rows of rows"):
        hold_out(batch, 3, "rows")
