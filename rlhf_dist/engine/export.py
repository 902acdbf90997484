"""Writing trained models in Hugging Face format."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
from safetensors.torch import save_file

from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.data.hub import hub_reachable
from rlhf_dist.durable import replace_folder, sync_tree
from rlhf_dist.engine.protocol import TrainEngine
from rlhf_dist.weights.source import gathered_adapter, gathered_state_dict

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

GATHER_BYTES = 512 * 2**20  # of sharded parameters, gathered at once


def save_all(engine: TrainEngine, folder: Path, tokenizer_path: str) -> None:
    """:func:`save_pretrained` into ``folder``, and what there is beside it: the average of the weights into
    ``<folder>_ema``, the adapter, as peft reads it, into ``<folder>_adapter``."""
    save_pretrained(engine, folder, tokenizer_path)
    if engine.average is not None:
        with engine.average.applied():
            save_pretrained(engine, folder.with_name(folder.name + "_ema"), tokenizer_path)
    if engine.model.adapter is not None:
        _save_adapter(engine, engine.model.adapter, folder.with_name(folder.name + "_adapter"))


def _save_adapter(engine: TrainEngine, adapter: LoraConfig, folder: Path) -> None:
    model = engine.model.pretrained
    state = gathered_adapter(model, engine.sharding)
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
    sync_tree(beside)
    replace_folder(beside, folder)


def save_pretrained(engine: TrainEngine, folder: Path, tokenizer_path: str) -> None:
    """Gathers the model's weights and writes config, safetensors and tokenizer into ``folder``, whole or not at all.

    A collective: every worker of the role calls it, the first one writes.

    Args:
        engine: of the model.
        folder: replaced where it exists.
        tokenizer_path: where the tokenizer comes from.
    """
    model = engine.model.pretrained
    state = gathered_state_dict(model, GATHER_BYTES, engine.sharding)
    if dist.get_rank() == 0:
        beside = _beside(folder)
        model.save_pretrained(beside, state_dict=state, safe_serialization=True)
        save_tokenizer(tokenizer_path, engine.role.model.trust_remote_code, beside)
        _put(beside, folder)
    dist.barrier()


def save_tokenizer(path: str, trust_remote_code: bool, folder: Path) -> None:
    """Writes the tokenizer of the model at ``path`` into ``folder``."""
    from transformers import AutoTokenizer

    local = Path(path).is_dir() or not hub_reachable()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=local)
    tokenizer.save_pretrained(folder)


def save_description(model: PreTrainedModel, config: ModelConfig, folder: Path) -> None:
    """Writes all files of a Hugging Face model directory but the weights: configurations, code, tokenizer."""
    from transformers.dynamic_module_utils import custom_object_save

    folder.mkdir(parents=True, exist_ok=True)
    if model._auto_class is not None:  # it came with code of its own
        custom_object_save(model, folder, config=model.config)
    model.config.save_pretrained(folder)
    if model.can_generate():
        with suppress(ValueError):  # transformers reads some that it refuses to write
            model.generation_config.save_pretrained(folder)
    with suppress(OSError, ValueError):  # a critic's model may have no tokenizer
        save_tokenizer(config.path, config.trust_remote_code, folder)
