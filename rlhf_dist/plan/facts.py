"""What a model weighs and what its passes keep, read off its architecture on the meta device: no weight is loaded."""

from __future__ import annotations

import functools
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_dist.config.schema import AdapterConfig, ModelConfig
from rlhf_dist.data.hub import from_hub
from rlhf_dist.errors import UserError
from rlhf_dist.models.lora import add_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "rlhf_dist_plan"  # the name under which transformers finds the stand-in for attention kernels
_PROBE_TOKENS = 256


@dataclass(frozen=True)
class ModelFacts:
    """One model, in numbers that do not depend on how it is placed.

    Attributes:
        parameters: all of them.
        learning: those that an optimizer moves: all, or an adapter's.
        largest: parameters of the largest piece that ZeRO-3 gathers at once: a layer, or the embedding.
        largest_parameter: elements of the largest parameter.
        tied: elements of a head that is tied to the embedding; 0 where it has its own weights, or there is none.
        layers: of the backbone.
        hidden: its width.
        vocabulary: tokens.
        outputs: of the head: all tokens, or the one of a scalar model.
        kv_per_token: elements of keys and values that one token adds to the cache, all layers.
        heads: of attention; tensor parallelism must divide them.
        kv_heads: heads of keys; tensor parallelism divides what it can of them.
        kept_per_token: bytes per element of the dtype x elements, that a forward pass keeps for the backward pass, per
            token, attention by a fused kernel: bytes in the dtype of the probe.
        kept_checkpointed: the same with gradient checkpointing.
        itemsize: bytes of an element of the weights.
    """

    parameters: int
    learning: int
    largest: int
    largest_parameter: int
    tied: int
    layers: int
    hidden: int
    vocabulary: int
    outputs: int
    kv_per_token: int
    heads: int
    kv_heads: int
    kept_per_token: float
    kept_checkpointed: float
    itemsize: int


def policy_facts(config: ModelConfig, dtype: torch.dtype, lora: AdapterConfig | None = None) -> ModelFacts:
    """The facts of a causal language model. See :func:`scalar_facts`."""
    return _facts(_key(config), dtype, "policy", *_adapter(lora))


def scalar_facts(config: ModelConfig, dtype: torch.dtype, lora: AdapterConfig | None = None) -> ModelFacts:
    """The facts of a model with one output in the head's place.

    Raises:
        UserError: the model's configuration is not here, and no hub gives it.
    """
    return _facts(_key(config), dtype, "scalar", *_adapter(lora))


def _key(config: ModelConfig) -> tuple[str, bool]:
    return config.path, config.trust_remote_code


def _adapter(lora: AdapterConfig | None) -> tuple[int, str]:
    return (lora.rank, lora.targets) if lora is not None and lora.rank else (0, "")


@functools.lru_cache(maxsize=64)
def _facts(model: tuple[str, bool], dtype: torch.dtype, kind: str, rank: int, targets: str) -> ModelFacts:
    config = _architecture(*model)
    _register_attention()
    built = _build(config, dtype, kind, model[1], checkpointing=False)
    kept = _kept_bytes(built, dtype)
    checkpointed = _kept_bytes(_build(config, dtype, kind, model[1], checkpointing=True), dtype)
    if rank:
        add_adapter(built, AdapterConfig(rank=rank, targets=targets), head="score" if kind == "scalar" else None)
    sizes = [parameter.numel() for parameter in built.parameters()]
    text = config.get_text_config()
    return ModelFacts(
        parameters=sum(sizes),
        learning=sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad),
        largest=_largest_piece(built),
        largest_parameter=max(sizes),
        tied=_tied_elements(built),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        outputs=1 if kind == "scalar" else text.vocab_size,
        kv_per_token=_kv_per_token(text),
        heads=text.num_attention_heads,
        kv_heads=_kv_heads(text),
        kept_per_token=kept / _PROBE_TOKENS,
        kept_checkpointed=checkpointed / _PROBE_TOKENS,
        itemsize=dtype.itemsize,
    )


def cache_elements(path: str, trust_remote_code: bool) -> int:
    """Elements of keys and values that one token adds to a model's cache, read from its config.json alone.

    Raises:
        UserError: it is not here, and no hub gives it.
    """
    return _kv_per_token(_architecture(path, trust_remote_code).get_text_config())


def _kv_heads(text: Any) -> int:
    return getattr(text, "num_key_value_heads", None) or text.num_attention_heads


def _kv_per_token(text: Any) -> int:
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * _kv_heads(text) * head_size


def _architecture(path: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    def load() -> Any:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)

    try:
        return load() if Path(path).is_dir() else from_hub(path, "configuration", load)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path}: its config.json cannot be read ({first}); a folder with that file is enough"
        ) from error


def _build(config: Any, dtype: torch.dtype, kind: str, trust_remote_code: bool, checkpointing: bool) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto: Any = AutoModelForCausalLM
    if kind == "scalar":
        auto, config.num_labels = AutoModelForSequenceClassification, 1
    with torch.device("meta"):
        model = auto.from_config(
            config, dtype=dtype, attn_implementation=ATTENTION, trust_remote_code=trust_remote_code
        ).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _kept_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Bytes that the backbone's forward pass of one sequence keeps for the backward pass."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    tokens = torch.zeros(1, _PROBE_TOKENS, dtype=torch.int64, device="meta")
    mask = torch.ones(1, 1, _PROBE_TOKENS, _PROBE_TOKENS, dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)
        kept.pop(mask.untyped_storage()._cdata, None)
        total = sum(storage.nbytes() for storage in kept.values())
    del output
    gc.collect()
    return total


def _tied_elements(model: PreTrainedModel) -> int:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return embedding.weight.numel() if head is not None and head.weight is embedding.weight else 0


def _largest_piece(model: nn.Module) -> int:
    """Parameters of the largest layer of the backbone, or of the largest embedding."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    blocks = [block for part in lists for block in part]
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    sizes += [parameter.numel() for parameter in model.parameters()]
    return max(sizes)


def _register_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)


class _FusedAttention(torch.autograd.Function):
    """What a fused attention kernel keeps: queries, keys, values, the output, and a number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        raise RuntimeError("only a forward pass is planned")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object
) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query, key, value).transpose(1, 2).contiguous(), None
