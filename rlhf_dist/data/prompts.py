"""The prompts of PPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_dist.data.chat import read_prompt
from rlhf_dist.data.encode import encode_prompts, flatten, lengths_of, require_tokens
from rlhf_dist.data.holdout import held_out_rows
from rlhf_dist.data.records import read_records
from rlhf_dist.types import Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptSet:
    """All prompts of a data set, tokenized.

    Attributes:
        prompts: one row a prompt; its ``rows`` count from 0 in this set.
        texts: the prompts as a reader wants to see them, without a chat template's marks; ``texts[row]``.
        source: where they come from, for messages.
    """

    prompts: Prompts
    texts: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Tensor | Sequence[int], first_id: int) -> Prompts:
        """The prompts of ``rows`` ([N] int64; a row may come twice), as samples ``first_id``, ``first_id + 1``, ..."""
        picked = self.prompts.select(rows)
        return replace(picked, ids=torch.arange(first_id, first_id + len(picked), dtype=torch.int64))

    def split_off(self, count: int) -> tuple[PromptSet, PromptSet]:
        """All but the last ``count`` prompts, and these; both count their rows from 0.

        Raises:
            UserError: nothing would be left to train on.
        """
        kept, held_out = held_out_rows(len(self), count, self.source)
        return self._part(kept), self._part(held_out)

    def _part(self, rows: Tensor) -> PromptSet:
        prompts = self.select(rows, 0)
        texts = tuple(self.texts[row] for row in rows.tolist())
        return PromptSet(replace(prompts, rows=torch.arange(len(prompts))), texts, self.source)


def load_prompts(path: str, split: str, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int) -> PromptSet:
    """The prompts of a data set with rows of `prompt` (text) or `messages` (chat), see docs/data.md.

    Args:
        path: .jsonl file, .parquet file or hub name.
        split: of a hub name.
        tokenizer: its chat template is applied where it has one.
        max_prompt_tokens: most tokens of a prompt, template and special tokens included.

    Raises:
        UserError: the data is missing, empty or malformed, or a prompt is too long.
    """
    prompts = [read_prompt(record) for record in read_records(path, split)]
    _, rows = encode_prompts(tokenizer, prompts)
    require_tokens(prompts, rows)
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) > max_prompt_tokens:
            raise prompt.record.error(
                f"the prompt has {len(row)} tokens, more than rollout.max_prompt_tokens={max_prompt_tokens}: "
                "shorten it or raise the limit"
            )
    count = torch.arange(len(rows), dtype=torch.int64)
    tokens = Prompts(flatten(rows), lengths_of(rows), ids=count, rows=count)
    return PromptSet(tokens, tuple(prompt.text for prompt in prompts), path)
