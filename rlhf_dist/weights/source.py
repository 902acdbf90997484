"""The full weights of a model, however an engine shards it, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from rlhf_dist.models.lora import ADAPTER, adapted_layers, adapter_parameters, is_adapter, merged, plain_name
from rlhf_dist.weights.packing import ParamInfo, dtype_name
from rlhf_dist.weights.sharding import UNSHARDED, Sharding


class WeightSource:
    """A re-iterable stream of a module's full parameters.

    ``metadata()`` says what iteration yields, without moving anything. Iteration yields ``(name, tensor)`` on rank 0,
    where each tensor is an own copy, full and contiguous. On the other ranks it takes part in the gathers and yields
    nothing, or the same where ``all_ranks`` is set. Where the weights are sharded every rank must iterate at the
    same time, and to the end:

        for _ in source: pass

    A tied parameter appears once, under the name it was registered with first: ``lm_head.weight`` does not appear
    where it is the embedding. That is what a checkpoint of such a model holds, and what its loaders expect. Low-rank
    adapters are merged into the weights they adapt, one tensor at a time.
    """

    def __init__(
        self,
        module: nn.Module,
        bucket_bytes: int,
        sharding: Sharding = UNSHARDED,
        dtype: torch.dtype | None = None,
        all_ranks: bool = False,
    ) -> None:
        """
        Args:
            module: a Hugging Face model, bare (not what an engine puts around it): its parameters' names are sent.
            bucket_bytes: most bytes of parameters gathered at once (a larger one goes alone).
            sharding: of its weights.
            dtype: floating-point parameters are converted to it; None leaves them as they are.
            all_ranks: whether every rank yields the tensors.
        """
        self._all_ranks = all_ranks
        self._module, self._sharding = module, sharding
        self._bucket_bytes = bucket_bytes
        self._dtype = dtype

    def metadata(self) -> list[ParamInfo]:
        """Name, dtype as yielded, and full shape of every parameter, in the order of iteration."""
        return [
            ParamInfo(plain_name(name), dtype_name(self._wire_dtype(parameter)), self._sharding.full_shape(parameter))
            for name, parameter in self._base_parameters()
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        keep, adapted = self._all_ranks or _rank() == 0, adapted_layers(self._module)
        for group in self._groups():
            needed = [parameter for _, parameter in group]
            needed += [part for name, _ in group if name in adapted for part in adapter_parameters(adapted[name])]
            with self._sharding.gathered(needed):
                for name, parameter in group if keep else ():
                    yield plain_name(name), self._copy(parameter, adapted.get(name))

    @torch.no_grad()
    def _copy(self, parameter: Tensor, adapted: Any) -> Tensor:
        """An own copy of a gathered parameter, with its adapter merged in where it has one."""
        whole = parameter.detach() if adapted is None else merged(parameter.detach(), adapted)
        return whole.to(self._wire_dtype(parameter), copy=adapted is None).contiguous()

    def _base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the model without adapter, under the names they have with it."""
        return ((name, parameter) for name, parameter in self._module.named_parameters() if not is_adapter(name))

    def _groups(self) -> Iterator[list[tuple[str, nn.Parameter]]]:
        """The parameters in order, in groups of at most bucket_bytes."""
        group: list[tuple[str, nn.Parameter]] = []
        held = 0
        for name, parameter in self._base_parameters():
            size = prod(self._sharding.full_shape(parameter)) * parameter.element_size()
            if group and held + size > self._bucket_bytes:
                yield group
                group, held = [], 0
            group.append((name, parameter))
            held += size
        if group:
            yield group

    def _wire_dtype(self, parameter: Tensor) -> torch.dtype:
        return self._dtype if self._dtype is not None and parameter.is_floating_point() else parameter.dtype


def gathered_state_dict(module: nn.Module, bucket_bytes: int, sharding: Sharding = UNSHARDED) -> dict[str, Tensor]:
    """The module's full state dict in host memory on rank 0, ``{}`` on the other ranks; every rank must call it.

    It has each tied parameter once (see :class:`WeightSource`), and the persistent buffers, in the module's own dtypes.

    Args:
        module: whose parameters and buffers are gathered.
        bucket_bytes: most bytes of weights that are whole on the device at once.
        sharding: how its weights are dealt out over the ranks.
    """
    state = {name: tensor.cpu() for name, tensor in WeightSource(module, bucket_bytes, sharding)}
    if _rank() != 0:
        return {}
    persistent = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if name in persistent:
            state[name] = buffer.detach().to("cpu", copy=True)
    return state


def gathered_adapter(module: nn.Module, sharding: Sharding = UNSHARDED) -> dict[str, Tensor]:
    """The adapter's tensors in host memory on rank 0 under peft's names, ``{}`` on the others; every rank must call it.

    Args:
        module: a model with an adapter.
        sharding: how its weights are dealt out over the ranks.
    """
    state = {}
    for name, parameter in module.named_parameters():
        if is_adapter(name):
            with sharding.gathered([parameter]):
                if _rank() == 0:
                    state[f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}"] = parameter.detach().cpu().clone()
    return state


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
