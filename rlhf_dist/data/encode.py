"""Texts to token ids, many at once, and lists of them to one flat tensor."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlhf_dist.data.chat import ChatPrompt, has_template, render_answer, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = list[int]
_CHUNK = 4096  # texts of one tokenizer call: bounds the memory its offsets and masks take
_PROBE = "a"


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[ChatPrompt]) -> tuple[list[str], list[Tokens]]:
    """The rendered text and the token ids of each prompt.

    A chat template writes the special tokens itself. Without one, the tokenizer's own stand at the start (such as
    the beginning-of-sequence token) and none at the end, as the response follows there.

    Raises:
        UserError: a prompt cannot be rendered.
    """
    texts = [render_prompt(tokenizer, prompt) for prompt in prompts]
    opening = [] if has_template(tokenizer) else opening_tokens(tokenizer)
    return texts, [opening + row for row in encode(tokenizer, texts)]


def require_tokens(prompts: Sequence[ChatPrompt], rows: Sequence[Tokens]) -> None:
    """Passes where every prompt has a token: the first one of a response is predicted from it.

    Raises:
        UserError: one has none.
    """
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise prompt.record.error("the prompt is empty, and the tokenizer adds no token before it")


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[ChatPrompt], rendered: Sequence[str], answers: Sequence[str]
) -> list[Tokens]:
    """The token ids of each answer as it follows its prompt, with the end-of-sequence token once, at the end."""
    eos = tokenizer.eos_token_id
    texts = [render_answer(tokenizer, *row) for row in zip(prompts, rendered, answers, strict=True)]
    rows = encode(tokenizer, texts)
    for row in rows:
        while row and row[-1] == eos:
            row.pop()
        row.append(eos)
    return rows


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    """The token ids of each text, without special tokens around them."""
    rows: list[Tokens] = []
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        rows += tokenizer(chunk, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return rows


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The special tokens that the tokenizer puts before a text."""
    around = tokenizer(_PROBE, return_attention_mask=False)["input_ids"]
    (bare,) = encode(tokenizer, [_PROBE])
    for start in range(len(around) - len(bare) + 1):
        if around[start : start + len(bare)] == bare:
            return list(around[:start])
    return []


def flatten(rows: Iterable[Sequence[int]]) -> Tensor:
    """``[T]`` int64: all numbers of all rows, one after another."""
    return torch.from_numpy(np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64))


def lengths_of(rows: Iterable[Sequence[int]]) -> Tensor:
    """``[B]`` int64: the length of each row."""
    return torch.tensor([len(row) for row in rows], dtype=torch.int64)
