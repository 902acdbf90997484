"""Writing trained models in Hugging Face format."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rlhf_dist.engine.averaging import WeightAverage
from rlhf_dist.weights.source import gathered_state_dict

GATHER_BYTES = 512 * 2**20  # under ZeRO-3, parameters gathered at once


def save_with_average(model: Any, average: WeightAverage | None, folder: Path, tokenizer_path: str) -> None:
    """:func:`save_pretrained` into ``folder``, and of the average, where there is one, into ``<folder>_ema``."""
    save_pretrained(model, folder, tokenizer_path)
    if average is not None:
        with average.applied():
            save_pretrained(model, folder.with_name(folder.name + "_ema"), tokenizer_path)


def save_pretrained(model: Any, folder: Path, tokenizer_path: str) -> None:
    """Gathers ``model``'s weights and writes config, safetensors and tokenizer into ``folder``, whole or not at all.

    A collective: every worker of the role calls it, the first one writes.

    Args:
        model: a transformers model, perhaps sharded by ZeRO.
        folder: replaced where it exists.
        tokenizer_path: where the tokenizer comes from.
    """
    state = gathered_state_dict(model, GATHER_BYTES)
    if dist.get_rank() == 0:
        from transformers import AutoTokenizer

        beside = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(beside, ignore_errors=True)
        model.save_pretrained(beside, state_dict=state, safe_serialization=True)
        AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(beside)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    dist.barrier()
