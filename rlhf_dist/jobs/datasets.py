"""The data sets that several jobs read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_dist.config.schema import ComparisonDataConfig, TextDataConfig
from rlhf_dist.config.schema.data import ExamplesDataConfig
from rlhf_dist.data.comparisons import load_comparisons
from rlhf_dist.data.holdout import R, hold_out
from rlhf_dist.data.pretraining import TextSampler, load_text
from rlhf_dist.types import Comparisons

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf_dist.data.pretraining import TextSampler
    from rlhf_dist.types import Comparisons, Demonstrations


def pretraining_text(
    text: TextDataConfig, tokenizer: PreTrainedTokenizerBase, per_step: float, seed: int
) -> tuple[TextSampler, Demonstrations]:
    """The text that each step learns ``per_step`` examples of (at least one), and what is held out of it."""
    assert text.path is not None, "checked by validate"
    rows = load_text(text.path, text.split, tokenizer, text.max_tokens)
    if text.eval_path is not None:
        held_out = load_text(text.eval_path, text.eval_split, tokenizer, text.max_tokens)
    else:
        rows, held_out = hold_out(rows, text.eval_count, text.path, "pretrain")
    return TextSampler(rows, max(1, round(per_step)), seed), held_out


def with_held_out(load: Callable[[str, str], R], data: ExamplesDataConfig) -> tuple[R, R]:
    """Training and held-out rows: from two files, or the last rows of one."""
    rows = load(data.path, data.split)
    if data.eval_path is not None:
        return rows, load(data.eval_path, data.eval_split)
    return hold_out(rows, data.eval_count, data.path)


def comparisons(data: ComparisonDataConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[Comparisons, Comparisons]:
    """Rankings to learn from, further ones included, and held-out ones."""

    def load(path: str, split: str) -> Comparisons:
        return load_comparisons(path, split, tokenizer, data.max_tokens, data.truncate)

    train, held_out = with_held_out(load, data)
    if data.extra_path is not None:
        train = Comparisons.cat([train, load(data.extra_path, data.split)])
    return train, held_out
