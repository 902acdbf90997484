"""Sections of the data sets: which rows each job reads, and which of them are held out (docs/data.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import MISSING

from rlhf_dist.config.schema.define import key

_SOURCE = "a .jsonl or .parquet file, or a name on the Hugging Face hub (docs/data.md)"


def _split() -> Any:
    return key("train", "split of a data set on the hub; not used for files")


def _eval_split() -> Any:
    return key("test", "the same for eval_path")


def _eval_count(default: int) -> Any:
    return key(default, "rows that are held out if eval_path is null", least=1)


def _eval_path(what: str) -> Any:
    return key(None, f"held-out {what}, given like path; null: the last eval_count rows of path")


@dataclass
class PromptDataConfig:
    """Prompts for PPO."""

    path: str = key(MISSING, f"training prompts: {_SOURCE}")
    split: str = _split()
    eval_path: Optional[str] = _eval_path("prompts")
    eval_split: str = _eval_split()
    eval_count: int = _eval_count(128)


@dataclass
class ExamplesDataConfig:
    """Rows of prompts with answers."""

    path: str = key(MISSING, f"examples: {_SOURCE}")
    split: str = _split()
    eval_path: Optional[str] = _eval_path("examples")
    eval_split: str = _eval_split()
    eval_count: int = _eval_count(256)
    max_tokens: int = key(  # a token of prompt and one of answer are the least that can be learned from
        512, "most tokens of prompt and answer together; a longer example is an error, unless truncate is set", least=2
    )
    truncate: bool = key(
        False, "shorten longer examples instead: the end of the answer and the beginning of the prompt are cut off"
    )


@dataclass
class DemonstrationDataConfig(ExamplesDataConfig):
    """Prompts with answers, for SFT."""

    path: str = key(MISSING, f"demonstrations: {_SOURCE}")
    eval_path: Optional[str] = _eval_path("demonstrations")


@dataclass
class ComparisonDataConfig(ExamplesDataConfig):
    """K-way rankings, for the reward model and for DPO."""

    path: str = key(MISSING, f"rankings: {_SOURCE}")
    eval_path: Optional[str] = _eval_path("rankings")
    extra_path: Optional[str] = key(None, "further rankings that are mixed in, given like path; null: none")


@dataclass
class RewardModelDataConfig(ComparisonDataConfig):
    """K-way rankings, for the reward model, and demonstrations to centre it on."""

    demonstrations_path: Optional[str] = key(
        None,
        "demonstrations, given like path, whose mean score is shifted to 0 after training by a bias, as InstructGPT "
        "does before RL; null: no shift",
    )


@dataclass
class TextDataConfig:
    """Pretraining text, for PPO-ptx and for SFT: rows of `text`."""

    path: Optional[str] = key(None, f"pretraining text: {_SOURCE}; null: none")
    split: str = _split()
    max_tokens: int = key(256, "most tokens of an example; a longer text is split into several", least=2)
    eval_path: Optional[str] = key(None, "held-out text, given like path; null: the last eval_count examples of path")
    eval_split: str = _eval_split()
    eval_count: int = key(64, "examples that are held out if eval_path is null", least=1)
