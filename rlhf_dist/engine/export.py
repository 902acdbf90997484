"""Writing trained models in Hugging Face format."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from safetensors.torch import save_file

from rlhf_dist.engine.averaging import WeightAverage
from rlhf_dist.weights.source import gathered_adapter, gathered_state_dict

if TYPE_CHECKING:
    from peft import LoraConfig

GATHER_BYTES = 512 * 2**20  # under ZeRO-3, parameters gathered at once


def save_all(
    model: Any, average: WeightAverage | None, adapter: LoraConfig | None, folder: Path, tokenizer_path: str
) -> None:
    """:func:`save_pretrained` into ``folder``, and what there is beside it: the average of the weights into
    ``<folder>_ema``, the adapter, as peft reads it, into ``<folder>_adapter``."""
    save_pretrained(model, folder, tokenizer_path)
    if average is not None:
        with average.applied():
            save_pretrained(model, folder.with_name(folder.name + "_ema"), tokenizer_path)
    if adapter is not None:
        _save_adapter(model, adapter, folder.with_name(folder.name + "_adapter"))


def _save_adapter(model: Any, adapter: LoraConfig, folder: Path) -> None:
    state = gathered_adapter(model)
    if dist.get_rank() == 0:
        beside = _beside(folder)
        beside.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, beside / "adapter_model.safetensors")
        adapter.base_model_name_or_path = str(Path(model.config._name_or_path).absolute())
        adapter.save_pretrained(str(beside))
        _put(beside, folder)
    dist.barrier()


def _beside(folder: Path) -> Path:
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    return beside


def _put(beside: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


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

        beside = _beside(folder)
        model.save_pretrained(beside, state_dict=state, safe_serialization=True)
        AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(beside)
        _put(beside, folder)
    dist.barrier()
