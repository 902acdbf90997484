"""Bytes that each worker of a role takes on its device. benchmarks/memory.py holds the prediction against the truth.

The formulas of weights, gradients and optimizer states are those of ZeRO (Rajbhandari et al., arXiv 1910.02054,
section 5) as DeepSpeed keeps them under the settings of `rlhf_dist.engine.zero`: AdamW with two float32 moments,
float32 gradients, float32 masters wherever the weights are sharded or bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rlhf_dist.config.schema import FrozenRole, ModelRole, RolloutConfig, TrainedRole
from rlhf_dist.models.heads import CHUNK_ROWS
from rlhf_dist.plan.facts import ModelFacts

REDUCE_BUCKET = 50_000_000  # elements, of rlhf_dist.engine.zero
PREFETCH = 50_000_000  # elements that ZeRO-3 gathers ahead, DeepSpeed's default
_FLOAT32 = 4
_MOMENTS = 2
# Live tensors of a layer at the same time, as multiples of its widest one: the inputs and outputs of a product.
_TRANSIENTS = 3


@dataclass(frozen=True)
class Footprint:
    """Bytes of one worker (or of one process of an engine) on its device.

    Attributes:
        weights: as the worker holds them: its shards, where they are sharded.
        gradients: at the end of a backward pass.
        optimizer: moments, and float32 masters where there are some.
        buffers: of ZeRO: the bucket in which gradients are reduced, gathered layers.
        activations: of the largest micro-batch, the head's logits included.
        cache: of keys and values.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    activations: int = 0
    cache: int = 0

    @property
    def state(self) -> int:
        """What stays between two steps, and the gradients: the part that is predicted exactly."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it, at its highest."""
        return self.state + self.buffers + self.activations + self.cache

    @property
    def certain(self) -> int:
        """What is sure to be there: activations, buffers and caches are estimates, or take what is left."""
        return self.state


def trained_footprint(facts: ModelFacts, role: TrainedRole, longest: int) -> Footprint:
    """A worker of a role that learns.

    Args:
        facts: of its model.
        role: its section.
        longest: tokens of the longest sequence: a micro-batch holds at least one.
    """
    workers, stage, half = role.num_workers, role.zero_stage, facts.itemsize < _FLOAT32
    plain = stage == 0 and not half  # DeepSpeed's ZeRO is not in play: no masters, nothing is sharded
    shards = 1 if plain else workers
    learning = ceil(facts.learning / shards)
    weights = facts.parameters * facts.itemsize // (workers if stage == 3 else 1)
    if plain:
        gradients = facts.learning * _FLOAT32
    elif stage <= 1 and half:
        gradients = facts.learning * (facts.itemsize + _FLOAT32)  # in bfloat16, and accumulated in float32
    else:
        gradients = learning * _FLOAT32
    masters = 0 if plain else learning * _FLOAT32
    return Footprint(
        weights=weights,
        gradients=gradients,
        optimizer=learning * _MOMENTS * _FLOAT32 + masters,
        buffers=_zero_buffers(facts, role, training=True),
        activations=_training_activations(facts, role, longest),
    )


def frozen_footprint(facts: ModelFacts, role: FrozenRole, longest: int) -> Footprint:
    """A worker of a role that only runs forward."""
    weights = facts.parameters * facts.itemsize // (role.num_workers if role.zero_stage == 3 else 1)
    tokens = _micro_batch_tokens(role, longest)
    return Footprint(
        weights=weights,
        buffers=_zero_buffers(facts, role, training=False),
        activations=tokens * _layer_bytes(facts) + _head_bytes(facts),
    )


def engine_footprint(facts: ModelFacts, rollout: RolloutConfig, device_bytes: int | None) -> Footprint:
    """A process of a rollout engine. What of the device is not weights becomes cache, up to `memory_utilization`.

    Args:
        facts: of its model in the engine's dtype.
        rollout: the section.
        device_bytes: of an accelerator; None on a CPU, where the cache has its own key.
    """
    weights = facts.parameters * facts.itemsize // rollout.tensor_parallel
    rows, longest = min(rollout.max_batch, 256), rollout.max_prompt_tokens + rollout.max_response_tokens
    activations = rows * facts.vocabulary * _FLOAT32 + rollout.max_prompt_tokens * _layer_bytes(facts)
    if rollout.backend == "hf":  # which takes what its batch needs
        cache = rollout.max_batch * longest * cache_bytes_per_token(facts, 1)
    elif device_bytes is None:
        cache = int(rollout.memory_gib * 2**30)
    else:
        cache = max(int(device_bytes * rollout.memory_utilization) - weights - activations, 0)
    return Footprint(weights=weights, activations=activations, cache=cache)


def cache_bytes_per_token(facts: ModelFacts, tensor_parallel: int) -> int:
    """Bytes of keys and values of one token on each of an engine's devices; heads are dealt out, or doubled."""
    share = max(facts.kv_heads // tensor_parallel, 1) / facts.kv_heads
    return int(facts.kv_per_token * facts.itemsize * share)


def concurrent_sequences(facts: ModelFacts, rollout: RolloutConfig, cache: int) -> int:
    """How many sequences of full length an engine's cache holds at once, at most `rollout.max_batch`."""
    if rollout.backend == "hf":
        return rollout.max_batch
    tokens = rollout.max_prompt_tokens + rollout.max_response_tokens
    blocks = ceil(tokens / rollout.block_size) * rollout.block_size
    return min(cache // max(cache_bytes_per_token(facts, rollout.tensor_parallel) * blocks, 1), rollout.max_batch)


def _zero_buffers(facts: ModelFacts, role: ModelRole, training: bool) -> int:
    if role.zero_stage == 3:
        gathered = min(facts.parameters, 2 * facts.largest + PREFETCH)
        return (gathered + (REDUCE_BUCKET if training else 0)) * facts.itemsize
    if not training or (role.zero_stage == 0 and facts.itemsize == _FLOAT32) or role.num_workers == 1:
        return 0
    return min(facts.learning, REDUCE_BUCKET) * facts.itemsize


def _training_activations(facts: ModelFacts, role: TrainedRole, longest: int) -> int:
    tokens = _micro_batch_tokens(role, longest)
    if role.model.gradient_checkpointing:
        one_layer = facts.kept_per_token / max(facts.layers, 1)
        kept = facts.kept_checkpointed + one_layer
    else:
        kept = facts.kept_per_token
    return int(tokens * (kept + _layer_bytes(facts))) + _head_bytes(facts) + facts.vocabulary * facts.hidden * _FLOAT32


def _micro_batch_tokens(role: ModelRole, longest: int) -> int:
    """Tokens of the largest micro-batch, if all sequences are of full length."""
    tokens = max(role.micro_batch_tokens, longest)
    return min(tokens, role.micro_batch_sequences * longest) if role.micro_batch_sequences else tokens


def _layer_bytes(facts: ModelFacts) -> int:
    """Bytes per token that live only while a layer computes."""
    return int(_TRANSIENTS * facts.kept_per_token / max(facts.layers, 1) / 4)


def _head_bytes(facts: ModelFacts) -> int:
    """The logits of a chunk of rows, in float32, and two like it (see rlhf_dist.models.heads)."""
    return 3 * CHUNK_ROWS * facts.vocabulary * _FLOAT32
