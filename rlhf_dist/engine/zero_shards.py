"""Where DeepSpeed keeps what: of the weights, and of what the optimizer updates, at any ZeRO stage."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from torch import Tensor, nn

from rlhf_dist.engine.shards import Shard, learning
from rlhf_dist.weights.sharding import Sharding

# As DeepSpeed changes and wraps them: a parameter with `ds_shape` and `ds_tensor` under stage 3, and its optimizers.
ZeroParameter: TypeAlias = Any
ZeroOptimizer: TypeAlias = Any


class Zero3Sharding:
    """The weights under ZeRO stage 3: each worker holds a part of every parameter.

    Args:
        engine: what ``deepspeed.initialize`` gave.
        rank: this worker's.
    """

    replicated = False

    def __init__(self, engine: Any, rank: int) -> None:
        self._engine, self._rank = engine, rank

    def full_shape(self, parameter: ZeroParameter) -> tuple[int, ...]:
        """ZeRO keeps it in ds_shape and leaves the parameter itself empty."""
        return tuple(parameter.ds_shape)

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        """The context in which ``parameters`` are whole on every worker."""
        import deepspeed

        context: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(parameters)
        return context

    def local(self, parameter: ZeroParameter) -> Tensor:
        """The shard, padding included."""
        shard: Tensor = parameter.ds_tensor
        return shard

    def local_part(self, parameter: ZeroParameter, tensor: Tensor) -> tuple[int, Tensor]:
        """Where in the flattened parameter the shard begins, and its elements of ``tensor``, without padding."""
        flat = tensor.view(-1)
        start = min(self._rank * flat.numel(), parameter.ds_numel)
        return start, flat[: min(flat.numel(), parameter.ds_numel - start)]

    def forget_gathered(self) -> None:
        """Drops the copies that stage 3 keeps of what it will need next."""
        self._engine.empty_partition_cache()


def optimizer_shards(model: nn.Module, optimizer: ZeroOptimizer, sharding: Sharding) -> dict[str, Shard]:
    """The shards that this worker's optimizer updates, by the parameters' names; there may be none of some.

    Args:
        model: under ZeRO.
        optimizer: what ``deepspeed.initialize`` gave: AdamW itself, or one of DeepSpeed's around it.
        sharding: of the weights.
    """
    found = {name: _shard(parameter, optimizer, sharding) for name, parameter in learning(model)}
    return {name: shard for name, shard in found.items() if shard is not None and shard.count > 0}


def _shard(parameter: ZeroParameter, optimizer: ZeroOptimizer, sharding: Sharding) -> Shard | None:
    if hasattr(parameter, "ds_tensor"):  # stage 3
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, part = sharding.local_part(parameter, parameter.ds_tensor)
        return Shard(start, part.numel(), optimizer.fp32_partitioned_groups_flat[group], offset, False)
    if not hasattr(parameter, "_hp_mapping"):  # no ZeRO
        return Shard.whole(parameter)
    mapping = parameter._hp_mapping
    if mapping is None:  # all of it belongs to others
        return None
    # Stage 1 in bfloat16 is another class of DeepSpeed's than stages 1 and 2 otherwise.
    flat = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_groups_flat_partition
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Shard(here.start, here.numel, flat[mapping.param_group_index], there.start, False)
