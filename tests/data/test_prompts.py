"""Prompts: tokens, texts, selection, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rlhf_dist.data.prompts import PromptSet, load_prompts
from rlhf_dist.errors import UserError
from tests.data.conftest import BOS, EOS, Rows, build

Write = Callable[[Rows], str]
CHAT = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]


@pytest.fixture
def four(jsonl: Write, plain: PreTrainedTokenizerFast) -> PromptSet:
    return load_prompts(jsonl([{"prompt": text} for text in ("a", "the movie", "b c", "good")]), "train", plain, 32)


def refusal(path: str, tokenizer: PreTrainedTokenizerFast, limit: int = 64) -> str:
    with pytest.raises(UserError) as caught:
        load_prompts(path, "train", tokenizer, limit)
    return str(caught.value)


def test_a_plain_prompt_begins_with_the_tokenizers_special_tokens(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    (row,) = load_prompts(jsonl([{"prompt": "the movie"}]), "train", plain, 32).prompts.token_lists()
    assert row == plain("the movie")["input_ids"]
    assert row[0] == plain.bos_token_id


def test_a_prompt_never_ends_with_the_end_token(jsonl: Write) -> None:
    closing = build(closes=True)
    assert closing("a")["input_ids"][-1] == closing.eos_token_id
    (row,) = load_prompts(jsonl([{"prompt": "the movie"}]), "train", closing, 32).prompts.token_lists()
    assert closing.decode(row) == f"{BOS}the movie"


def test_a_plain_prompt_becomes_a_users_message_where_there_is_a_template(
    jsonl: Write, chat: PreTrainedTokenizerFast
) -> None:
    loaded = load_prompts(jsonl([{"prompt": "hi"}]), "train", chat, 64)
    (row,) = loaded.prompts.token_lists()
    assert chat.decode(row) == f"{BOS}<|turn|>user\nhi{EOS}\n<|turn|>assistant\n"
    assert loaded.texts == ("hi",)


def test_messages_are_rendered_by_the_template_up_to_the_answer(jsonl: Write, chat: PreTrainedTokenizerFast) -> None:
    loaded = load_prompts(jsonl([{"messages": CHAT}]), "train", chat, 64)
    (row,) = loaded.prompts.token_lists()
    assert chat.decode(row) == f"{BOS}<|turn|>system\nbe kind{EOS}\n<|turn|>user\nhi{EOS}\n<|turn|>assistant\n"
    assert loaded.texts == ("system: be kind\nuser: hi",)


def test_messages_without_a_template_are_refused(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    path = jsonl([{"prompt": "a"}, {"messages": CHAT}])
    assert refusal(path, plain).startswith(f"{path}:2: 'messages' need a chat template, and the tokenizer has none")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "the list 'messages' is empty"),
        (["hi"], "message 1 is a string, expected an object with role and content"),
        ([{"role": "user"}], "message 1: the field 'content' is missing; the row has: role"),
        ([{"role": "usr", "content": "a"}], "message 1: role 'usr' is none of system, user, assistant, tool"),
        ([{"role": "assistant", "content": "a"}], "the last of 'messages' is the assistant's"),
        ("hi", "the field 'messages' is a string, expected a list"),
    ],
)
def test_malformed_messages_are_refused_by_line(
    jsonl: Write, chat: PreTrainedTokenizerFast, messages: object, said: str
) -> None:
    path = jsonl([{"messages": messages}])
    assert refusal(path, chat).startswith(f"{path}:1: {said}")


def test_what_a_template_raises_is_one_line(jsonl: Write) -> None:
    picky = build("{{ raise_exception('roles must\nalternate') }}")
    path = jsonl([{"prompt": "a"}])
    assert refusal(path, picky) == f"{path}:1: the chat template refuses the messages: roles must"


def test_a_long_prompt_names_its_place_its_tokens_and_the_limit(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    path = jsonl([{"prompt": "a"}, {"prompt": "xyzxyz"}])
    said = refusal(path, plain, 6)
    assert said.startswith(f"{path}:2: the prompt has 7 tokens, more than rollout.max_prompt_tokens=6")
    assert len(load_prompts(path, "train", plain, 7)) == 2


def test_an_empty_prompt_is_what_the_tokenizer_puts_before_it(jsonl: Write, plain: PreTrainedTokenizerFast) -> None:
    loaded = load_prompts(jsonl([{"prompt": ""}]), "train", plain, 8)
    assert loaded.prompts.token_lists() == [[plain.bos_token_id]]


def test_a_prompt_without_any_token_is_refused(jsonl: Write) -> None:
    bare = build()
    bare.backend_tokenizer.post_processor = None
    path = jsonl([{"prompt": ""}])
    assert refusal(path, bare).startswith(f"{path}:1: the prompt is empty")


def test_selected_prompts_get_sample_numbers_of_their_own(four: PromptSet) -> None:
    picked = four.select([2, 0, 2], first_id=40)
    assert picked.ids.tolist() == [40, 41, 42]
    assert picked.rows.tolist() == [2, 0, 2]
    lists = four.prompts.token_lists()
    assert picked.token_lists() == [lists[2], lists[0], lists[2]]
    assert picked.ids.dtype == picked.rows.dtype == picked.tokens.dtype == torch.int64


def test_the_held_out_prompts_are_the_last_ones_and_count_from_zero(four: PromptSet) -> None:
    kept, held_out = four.split_off(1)
    assert kept.texts == ("a", "the movie", "b c")
    assert held_out.texts == ("good",)
    picked = held_out.select([0], first_id=0)
    assert picked.rows.tolist() == [0]
    assert picked.token_lists() == [four.prompts.token_lists()[3]]


def test_holding_out_everything_is_refused(four: PromptSet) -> None:
    with pytest.raises(UserError, match=r"data.eval_count=4 leaves none of the 4 rows of .*rows.jsonl"):
        four.split_off(4)
