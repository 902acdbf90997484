"""A process reward model: a reward model that scores each step of a response at the token that ends it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_dist.config.schema import RewardSourceConfig
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import Device
from rlhf_dist.engine.scalar import RewardEngine
from rlhf_dist.types import Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"  # what tokenizers write for the first bytes of a character while the last ones are not there
_LONGEST_WINDOW = 64  # tokens decoded at once: a policy out of its mind may write nothing but halves of characters


class ProcessRewardEngine(RewardEngine):
    """One worker's part of a frozen model that scores steps (arXiv 2211.14275, section 2.4; arXiv 2305.20050).

    One forward pass over the whole sequence gives all scores: that of a step is the output at the token that ends it.

    Args:
        config: the role.
        device: this worker's.
        tokenizer_path: turns the response's tokens into the text that `step_separator` is looked for in.
        trust_remote_code: whether the tokenizer may come with code of its own.
    """

    def __init__(
        self, config: RewardSourceConfig, device: Device, tokenizer_path: str, trust_remote_code: bool
    ) -> None:
        super().__init__(config, device)
        self._separator = config.step_separator
        self._tokenizer = load_tokenizer(tokenizer_path, trust_remote_code)

    def scored(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Which response tokens have a score: those that end a step.

        Rows and places are as of :class:`~rlhf_dist.engine.scalar.RewardEngine`.
        """
        texts = [token_texts(self._tokenizer, response) for response in sequences.response_lists()]
        ends = [step_ends(row, self._separator, self._tokenizer.eos_token) for row in texts]
        counts = torch.tensor([len(row) for row in ends], dtype=torch.int64)
        places = torch.tensor([place for row in ends for place in row], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(ends)), counts), places


def step_ends(texts: list[str], separator: str, eos: str) -> list[int]:
    """The tokens that end the steps of a response, ascending.

    A step ends with the first token whose text completes the separator behind it; the last one ends with the response.
    What holds no more than white space and ``eos`` is no step; a response of nothing else is one. Where one token ends
    several steps, the model sees no difference between them: it stands here once.

    Args:
        texts: of each of the response's tokens, 1 or more; see :func:`token_texts`.
        separator: what stands between steps; not empty.
        eos: the end-of-sequence token, as it stands in ``texts``.

    Returns:
        places within the response, at least one.
    """
    text, last = "".join(texts), len(texts) - 1
    characters = list(accumulate(map(len, texts)))  # up to the end of each token
    ends, start = [], 0
    while (found := text.find(separator, start)) >= 0:
        if _says_something(text[start:found], eos):
            ends.append(bisect_left(characters, found + len(separator)))
        start = found + len(separator)
    if _says_something(text[start:], eos) or not ends:
        ends.append(last)
    return sorted(set(ends))


def token_texts(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> list[str]:
    """The text that each token adds to those before it, special tokens written out; joined, they are the whole text.

    A character that several tokens make up stands at the last of them.
    """

    def decode(start: int, end: int) -> str:
        return tokenizer.decode(tokens[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    # A token's text depends on the one before it, whose character it may finish, and with which it may share a space.
    # So it is read together with those before it, back to the last place but one where all characters were whole.
    texts: list[str] = []
    start = whole = known = 0  # tokens, tokens, and how many characters from start on stand in texts
    for end in range(1, len(tokens) + 1):
        text = decode(start, end)
        if text.endswith(_UNFINISHED) and end < len(tokens) and end - start < _LONGEST_WINDOW:
            text = text.rstrip(_UNFINISHED)
            texts.append(text[known:])
            known = max(known, len(text))
            continue
        texts.append(text[known:])
        start, whole = whole, end
        known = len(decode(start, end))
    return texts


def _says_something(text: str, eos: str) -> bool:
    return bool(text.replace(eos, "").strip())
