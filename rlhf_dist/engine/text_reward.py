"""Rewards that read text: the common part of functions and endpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rlhf_dist.algo.rewards import at_last_tokens
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.errors import RunError
from rlhf_dist.models.layout import balanced_shards
from rlhf_dist.types import Residency, Sequences

_SHOWN = 120  # characters of a prompt or response in a message


class TextScorer(Protocol):
    """Scores responses to prompts, both as texts."""

    name: str

    def score(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        """One score a response, in order. RunError where it cannot be had."""
        ...


class TextReward:
    """One worker's share of the scoring by a :class:`TextScorer`.

    Args:
        scorer: scores the texts.
        tokenizer_path: turns tokens back into texts, special tokens left out.
        trust_remote_code: whether the tokenizer may come with code of its own.
        rank: this worker's.
        world: number of workers.
    """

    def __init__(self, scorer: TextScorer, tokenizer_path: str, trust_remote_code: bool, rank: int, world: int) -> None:
        self.scorer, self.tokenizer = scorer, load_tokenizer(tokenizer_path, trust_remote_code)
        self.rank, self.world = rank, world

    def token_scores(self, sequences: Sequences) -> Tensor:
        """This worker's rows' scores, each at its response's last token, flat, float32.

        Raises:
            RunError: the scorer failed, gave another number of scores, or one that is no finite number; the text
                names the scorer and the sample.
        """
        mine = sequences.select(balanced_shards(sequences.lengths, self.world)[self.rank])
        if len(mine) == 0:
            return torch.zeros(0)
        decode = self.tokenizer.batch_decode
        prompts = decode(mine.prompt_lists(), skip_special_tokens=True)
        responses = decode(mine.response_lists(), skip_special_tokens=True)
        scores = torch.tensor(check_scores(self.scorer, prompts, responses))
        return at_last_tokens(scores, mine.response_lengths)

    def reside(self, to: Residency) -> None:
        """It holds nothing on a device."""


def check_scores(scorer: TextScorer, prompts: list[str], responses: list[str]) -> list[float]:
    """The scorer's answer as finite floats, one a response. RunError as in :meth:`TextReward.token_scores`."""
    scores = list(scorer.score(prompts, responses))
    if len(scores) != len(responses):
        raise RunError(
            f"{scorer.name} returned {len(scores)} scores for {len(responses)} responses, the first of them to "
            f"{sample_text(prompts[0], responses[0])}"
        )
    checked = []
    for score, prompt, response in zip(scores, prompts, responses, strict=True):
        number = _number(score)
        if number is None or not math.isfinite(number):
            raise RunError(
                f"{scorer.name} returned {_shown(score)} for {sample_text(prompt, response)}: expected a finite number"
            )
        checked.append(number)
    return checked


def sample_text(prompt: str, response: str) -> str:
    """A sample as a message shows it."""
    return f"prompt {_short(prompt)}, response {_short(response)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _number(score: object) -> float | None:
    if isinstance(score, bool | str | bytes):
        return None
    try:
        return float(score)  # type: ignore[arg-type]
    except Exception:  # 10**400, a list, a tensor of two numbers, a class of the user's: each has an error of its own
        return None


def _shown(score: object) -> str:
    try:
        text = " ".join(repr(score).split())
    except Exception:  # Python writes no integer of more than 4,300 digits
        return f"an unprintable {type(score).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
