"""Pretraining text: what PPO-ptx, and SFT where it is asked to, learn beside their own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_dist.data.encode import Tokens, encode, flatten, lengths_of, opening_tokens
from rlhf_dist.data.records import read_records
from rlhf_dist.data.samplers import EpochSampler
from rlhf_dist.errors import UserError
from rlhf_dist.types import Demonstrations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextSampler:
    """The examples of pretraining text that each step learns, epoch after epoch.

    Args:
        text: all examples.
        count: examples of a step, 1 or more.
        seed: of the shuffling.
    """

    def __init__(self, text: Demonstrations, count: int, seed: int) -> None:
        self.text = text
        self._sampler = EpochSampler(len(text), count, seed)

    def batch(self, step: int) -> Demonstrations:
        """The examples of step number ``step``, from 0."""
        return self.text.select(self._sampler.indices(step))


def load_text(path: str, split: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Demonstrations:
    """The texts of a data set with rows of `text`, see docs/data.md, cut into examples of at most ``max_tokens``.

    Every text begins with the tokenizer's own opening tokens and ends with the end-of-sequence token. An example's
    first token is its prompt, and all others are learned.

    Args:
        path: .jsonl file, .parquet file or hub name.
        split: of a hub name.
        tokenizer: the model's.
        max_tokens: of an example; a longer text makes several.

    Raises:
        UserError: the data is missing, empty or malformed.
    """
    records = read_records(path, split)
    rows = encode(tokenizer, [record.text("text") for record in records])
    opening = opening_tokens(tokenizer)
    pieces: list[Tokens] = []
    for row in rows:
        whole = [*opening, *row, tokenizer.eos_token_id]
        pieces += [whole[start : start + max_tokens] for start in range(0, len(whole), max_tokens)]
    kept = [piece for piece in pieces if len(piece) > 1]
    if not kept:
        raise UserError(f"{path} holds no text of two tokens or more")
    lengths = lengths_of(kept)
    return Demonstrations(flatten(kept), lengths * 0 + 1, lengths - 1)
