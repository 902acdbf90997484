"""Low-rank adapters (Hu et al., arXiv 2106.09685) inside a transformers model, by peft.

The adapter is put into the model in place, so that the model keeps its class. Base weights are frozen; a scalar model's
head is new for its task and learns in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.config.schema import AdapterConfig
from rlhf_dist.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

ADAPTER = "default"  # peft's name of the adapter in the model
_BASE, _MARKS = ".base_layer", (".lora_A.", ".lora_B.")


def add_adapter(model: PreTrainedModel, settings: AdapterConfig, head: str | None) -> LoraConfig:
    """Puts a fresh adapter into ``model``: A is random, B is 0, so the model computes what it did.

    Args:
        model: a transformers model; the linear layers of its backbone are adapted.
        settings: the role's section `lora`, with a rank above 0.
        head: name of a parameter's module that learns in full; None for none.

    Returns:
        peft's configuration of the adapter, to be saved with it.

    Raises:
        UserError: `targets` names a layer that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model.base_model, settings.targets),
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
    )
    inject_adapter_in_model(config, model.base_model, ADAPTER)
    for name, parameter in model.named_parameters():
        learns = is_adapter(name) or (head is not None and name.startswith(f"{head}."))
        parameter.requires_grad_(learns)
    return config


def _targets(backbone: nn.Module, wanted: str) -> list[str]:
    """The names of the layers to adapt: those that ``wanted`` lists, or all linear ones."""
    there = sorted({name.rpartition(".")[2] for name, part in backbone.named_modules() if isinstance(part, nn.Linear)})
    if wanted == "all-linear":
        return there
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in there:
            raise UserError(f"lora.targets={wanted}: the model has no linear layer {name}{suggest(name, there)}")
    return names


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return any(mark in name for mark in _MARKS)


def plain_name(name: str) -> str:
    """The name that a base parameter has in the model without adapter."""
    return name.replace(f"{_BASE}.", ".")


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers by the names of their base weights, as ``named_parameters`` gives these; maybe none."""
    return {f"{name}{_BASE}.weight": part for name, part in model.named_modules() if hasattr(part, "lora_A") and name}


def adapter_parameters(layer: Any) -> list[nn.Parameter]:
    """A and B of an adapted layer."""
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


def merged(weight: Tensor, layer: Any) -> Tensor:
    """W + scale * B A: a new tensor of the dtype and shape of ``weight`` ``[out, in]``, added up in float32."""
    return (weight.float() + layer.get_delta_weight(ADAPTER).float()).to(weight.dtype)


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Within it the model computes what its base does. For forward passes without gradient only."""
    layers: list[Any] = [part for part in model.modules() if hasattr(part, "lora_A")]
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters() would also freeze the parameters that the optimizer holds
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
