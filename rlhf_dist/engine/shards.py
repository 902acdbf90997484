"""Which part of each parameter a worker holds: of the weights, and of what the optimizer updates, at any ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Shard:
    """Elements ``[start, start + count)`` of a flattened parameter, as this worker's optimizer updates them.

    Attributes:
        start: of the parameter's elements.
        count: how many.
        owner: the tensor that the optimizer updates, float32, and its states' key: the parameter, or a flat
            tensor of many.
        offset: where in ``owner`` they begin.
        replicated: whether every worker holds the same.
    """

    start: int
    count: int
    owner: Tensor
    offset: int
    replicated: bool

    def of(self, tensor: Tensor) -> Tensor:
        """The elements in ``tensor``, which is ``owner`` or one of its states: a view ``[count]``."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.count]


def learning(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of ``model`` that learn, by name; a tied one once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def local(parameter: Any) -> Tensor:
    """What this worker holds of a parameter: its shard under stage 3, padding included, else all of it."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data


def local_part(parameter: Any, tensor: Tensor, rank: int) -> tuple[int, Tensor]:
    """Where in the flattened parameter the elements begin that this worker holds, and they themselves.

    Args:
        parameter: of the model.
        tensor: of the shape of :func:`local`.
        rank: this worker's.

    Returns:
        the number of the first element, and a view ``[n]`` of ``tensor`` without padding; n may be 0.
    """
    flat = tensor.view(-1)
    if not hasattr(parameter, "ds_tensor"):
        return 0, flat
    start = min(rank * flat.numel(), parameter.ds_numel)
    return start, flat[: min(flat.numel(), parameter.ds_numel - start)]


def optimizer_shards(model: nn.Module, optimizer: Any, rank: int) -> dict[str, Shard]:
    """The shards that this worker's optimizer updates, by the parameters' names; there may be none of some.

    Args:
        model: under ZeRO.
        optimizer: what ``deepspeed.initialize`` gave: AdamW itself, or one of DeepSpeed's around it.
        rank: this worker's.
    """
    found = {name: _shard(parameter, optimizer, rank) for name, parameter in learning(model)}
    return {name: shard for name, shard in found.items() if shard is not None and shard.count > 0}


def _shard(parameter: Any, optimizer: Any, rank: int) -> Shard | None:
    if hasattr(parameter, "ds_tensor"):  # stage 3
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, part = local_part(parameter, parameter.ds_tensor, rank)
        return Shard(start, part.numel(), optimizer.fp32_partitioned_groups_flat[group], offset, False)
    if not hasattr(parameter, "_hp_mapping"):  # no ZeRO
        return Shard(0, parameter.numel(), parameter, 0, True)
    mapping = parameter._hp_mapping
    if mapping is None:  # all of it belongs to others
        return None
    # Stage 1 in bfloat16 is another class of DeepSpeed's than stages 1 and 2 otherwise.
    flat = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_groups_flat_partition
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Shard(here.start, here.numel, flat[mapping.param_group_index], there.start, False)
