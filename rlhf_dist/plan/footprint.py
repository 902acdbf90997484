"""Bytes that each worker of a role takes on its device. benchmarks/memory.py holds the prediction against the truth.

The formulas of weights, gradients and optimizer states are those of ZeRO (Rajbhandari et al., arXiv 1910.02054,
section 5) as DeepSpeed keeps them under the settings of `rlhf_dist.engine.zero_settings`: AdamW with two float32
moments, float32 gradients, float32 masters of what is bfloat16 or sharded by stage 1 or 2. Plain torch keeps the same
for its one worker, unsharded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rlhf_dist.config.resolve import train_engine_of
from rlhf_dist.config.schema import FrozenRoleConfig, ModelRoleConfig, RolloutConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.models.heads import CHUNK_ROWS, chunk_rows, tile_columns
from rlhf_dist.plan.batch_limits import BatchLimits
from rlhf_dist.plan.facts import ModelFacts
from rlhf_dist.plan.process import ENGINE_BYTES, FRAGMENTATION, TRAINER_BYTES, ZERO_BYTES, zero_bucket, zero_sub_group
from rlhf_dist.plan.share import memory_share

_FLOAT32 = 4
_MOMENTS = 2
# Live tensors of a layer at the same time, as multiples of its widest one: the inputs and outputs of a product.
_TRANSIENTS = 3
_LIVE_PARAMETERS = 1_000_000_000  # that ZeRO-3 keeps gathered from forward to backward, DeepSpeed's default


@dataclass(frozen=True)
class Footprint:
    """Bytes of one worker (or of one process of an engine) on its device.

    Attributes:
        weights: as the worker holds them: its shards, where they are sharded.
        gradients: at the end of a backward pass.
        optimizer: moments, and float32 masters where there are some.
        buffers: of ZeRO: the bucket in which gradients are reduced, gathered layers; of AdamW what it needs beside
            activations; of an engine, what a transfer of weights passes through.
        activations: of the largest micro-batch, the head's logits included.
        cache: of keys and values.
        process: on a CPU, of the process before it has a model.
        loading: what the process has at most while it loads the model.
        freed: of the gradients, what is freed between two steps.
        fragmentation: on a CPU, what the allocator holds between blocks while a role learns, or an engine is loaded.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    activations: int = 0
    cache: int = 0
    process: int = 0
    loading: int = 0
    freed: int = 0
    fragmentation: int = 0

    @property
    def state(self) -> int:
        """What stays between two steps, and the gradients: the part that is predicted exactly."""
        return self.weights + self.gradients + self.optimizer

    @property
    def resting(self) -> int:
        """What the process keeps while other roles are at work."""
        return self.process + self.state - self.freed + self.cache

    @property
    def total(self) -> int:
        """All of it, at its highest."""
        working = self.freed + self.buffers + self.activations + self.fragmentation
        return max(self.resting + working, self.process + self.loading)

    @property
    def certain(self) -> int:
        """What is sure to be there: activations, buffers and caches are estimates, or take what is left."""
        return self.state


def trained_footprint(facts: ModelFacts, role: TrainedRoleConfig, limits: BatchLimits, device: Device) -> Footprint:
    """The bytes of one worker of a role that learns.

    Args:
        facts: of its model.
        role: its section.
        limits: the job's largest batches.
        device: of the run.
    """
    workers, stage, half = role.num_workers, role.zero_stage, facts.itemsize < _FLOAT32
    by_torch = train_engine_of(role, device) == "torch"
    plain = stage == 0 and not half  # nothing is sharded, and float32 weights are their own masters
    learning = ceil(facts.learning / (1 if plain else workers))
    weights = facts.parameters * facts.itemsize // (workers if stage == 3 else 1)
    if plain or by_torch:  # which accumulates in float32 alone
        gradients = facts.learning * _FLOAT32
    elif stage <= 1 and half:
        gradients = facts.learning * (facts.itemsize + _FLOAT32)  # in bfloat16, and accumulated in float32
    else:
        gradients = learning * _FLOAT32
    masters = 0 if plain or (stage == 3 and not half) else learning * _FLOAT32
    average = facts.learning * _FLOAT32 // (workers if stage == 3 else 1) if role.ema_decay else 0
    activations = _training_activations(facts, role, limits, device)
    backward = activations + _zero_buffers(facts, role, device, training=True)
    buffers = max(backward, _step_bytes(facts, role, device, learning)) - activations
    return Footprint(
        weights=weights,
        gradients=gradients,
        optimizer=learning * _MOMENTS * _FLOAT32 + masters,
        buffers=max(buffers, 0) + (0 if device.is_accelerator else average),
        activations=activations,
        process=_process_bytes(facts, role, device),
        loading=_loading_bytes(facts, role),
        freed=0 if stage == 3 else gradients,
        # The head's tensors have the same sizes in every micro-batch, so that one finds the other's place free.
        fragmentation=_fragmentation(device, buffers + activations - _learned_head_bytes(facts, role, limits, device)),
    )


def frozen_footprint(facts: ModelFacts, role: FrozenRoleConfig, limits: BatchLimits, device: Device) -> Footprint:
    """The bytes of one worker of a role that only runs forward; arguments as of :func:`trained_footprint`."""
    weights = facts.parameters * facts.itemsize // (role.num_workers if role.zero_stage == 3 else 1)
    tokens = limits.micro_batch_tokens(role, limits.score_sequences)
    buffers = _zero_buffers(facts, role, device, training=False)
    activations = tokens * _layer_bytes(facts) + _head_bytes(facts, limits, tokens, device)
    return Footprint(
        weights=weights,
        buffers=buffers,
        activations=activations,
        process=_process_bytes(facts, role, device),
        loading=_loading_bytes(facts, role),
    )


def engine_footprint(
    facts: ModelFacts,
    rollout: RolloutConfig,
    limits: BatchLimits,
    device: Device,
    device_bytes: int | None,
    bucket_bytes: int = 0,
    colocated_roles: int = 0,
) -> Footprint:
    """The bytes of one process of a rollout engine.

    What `memory_utilization` leaves beside the weights becomes cache.

    Args:
        facts: of its model in the engine's dtype.
        rollout: the section.
        limits: the job's largest batches.
        device: of the run.
        device_bytes: of an accelerator; None on a CPU, where the cache has its own key.
        bucket_bytes: in which weights come.
        colocated_roles: how many other roles live on its devices.
    """
    weights = facts.parameters * facts.itemsize // rollout.tensor_parallel
    rows, longest = min(rollout.max_batch, 256), rollout.max_prompt_tokens + rollout.max_response_tokens
    activations = rows * facts.vocabulary * _FLOAT32 + rollout.max_prompt_tokens * _layer_bytes(facts)
    process = buffers = 0
    if rollout.backend == "hf":  # which takes what its batch needs
        cache = rollout.max_batch * longest * cache_bytes_per_token(facts, 1)
    elif device_bytes is None:
        rows = min(rows, limits.engine_sequences)
        activations = rows * facts.vocabulary * _FLOAT32 + rollout.max_prompt_tokens * rows * _layer_bytes(facts)
        cache = min(int(rollout.memory_gib * 2**30), limits.cache_bytes(rollout, cache_bytes_per_token(facts, 1)))
    else:
        cache = max(int(device_bytes * memory_share(rollout, device_bytes, colocated_roles)) - weights - activations, 0)
    if not device.is_accelerator:
        process = ENGINE_BYTES if rollout.backend == "vllm" else TRAINER_BYTES
        # vLLM packs the weights of linear layers, and of a tied head too, whose embedding stays as it is.
        weights += facts.tied * facts.itemsize // rollout.tensor_parallel
        # While weights come: the bucket and the next one, the layer that is loaded from it, and its packed copy.
        bucket = min(max(bucket_bytes, facts.largest_parameter * facts.itemsize), facts.parameters * facts.itemsize)
        buffers = 2 * bucket + 2 * facts.largest_parameter * facts.itemsize
    return Footprint(
        weights=weights,
        buffers=buffers,
        activations=activations,
        cache=cache,
        process=process,
        loading=weights + facts.largest * facts.itemsize,
        fragmentation=_fragmentation(device, buffers + activations),
    )


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


def _loading_bytes(facts: ModelFacts, role: ModelRoleConfig) -> int:
    """Stage 3 shards one parameter after the other while it loads."""
    if role.zero_stage == 3:
        return facts.parameters * facts.itemsize // role.num_workers + facts.largest_parameter * facts.itemsize
    return facts.parameters * facts.itemsize


def _step_bytes(facts: ModelFacts, role: TrainedRoleConfig, device: Device, learning: int) -> int:
    """What AdamW needs while it updates, beside what stays, where ZeRO has flattened what it updates into one tensor.

    That is a copy of the gradients, and, where AdamW is not one fused kernel, the root of the second moments and what
    it is divided into, each as large.
    """
    if train_engine_of(role, device) == "torch" or (role.zero_stage == 0 and facts.itemsize == _FLOAT32):
        return 0
    if role.zero_stage == 3:  # by sub-groups, each of which ends with the parameter that fills it
        learning = min(learning, zero_sub_group(device) + facts.largest_parameter // role.num_workers)
    return learning * _FLOAT32 * (1 if device.fused_adamw else 3)


def _process_bytes(facts: ModelFacts, role: ModelRoleConfig, device: Device) -> int:
    if device.is_accelerator:
        return 0
    if isinstance(role, TrainedRoleConfig):
        by_zero = train_engine_of(role, device) == "zero" and role.zero_stage > 0
    else:
        by_zero = role.zero_stage == 3
    return TRAINER_BYTES + (ZERO_BYTES if by_zero else 0)


def _fragmentation(device: Device, working: int) -> int:
    """On an accelerator what is left of it has to do."""
    return 0 if device.is_accelerator else int(working * FRAGMENTATION)


def _zero_buffers(facts: ModelFacts, role: ModelRoleConfig, device: Device, training: bool) -> int:
    bucket = min(facts.learning, zero_bucket(device))
    if role.zero_stage == 3:
        gathered = min(facts.parameters, max(_LIVE_PARAMETERS, 2 * facts.largest))
        # Copies of a parameter while it is gathered, and of its gradient while gloo reduces it.
        copies = 0 if device.is_accelerator else facts.largest_parameter * (2 if training else 1)
        return (gathered + copies + (bucket if training else 0)) * facts.itemsize
    if not training or (role.zero_stage == 0 and facts.itemsize == _FLOAT32) or role.num_workers == 1:
        return 0
    # One fills while the other is reduced; on a CPU, the other is the flat copy that DeepSpeed reduces.
    buckets = 2 * bucket * facts.itemsize
    if role.zero_stage == 1 and facts.itemsize == _FLOAT32 and not device.is_accelerator:
        # The parameters' own gradients stay until the step, beside the worker's share of their mean.
        buckets += facts.learning * _FLOAT32 * (role.num_workers - 1) // role.num_workers
    return buckets


def _training_activations(facts: ModelFacts, role: TrainedRoleConfig, limits: BatchLimits, device: Device) -> int:
    learned, scored = (
        limits.micro_batch_tokens(role, limits.train_sequences),
        limits.micro_batch_tokens(role, limits.score_sequences),
    )
    if role.model.gradient_checkpointing:
        one_layer = facts.kept_per_token / max(facts.layers, 1)
        kept = facts.kept_checkpointed + one_layer
    else:
        kept = facts.kept_per_token
    learning = int(learned * (kept + _layer_bytes(facts))) + _learned_head_bytes(facts, role, limits, device)
    return max(learning, scored * _layer_bytes(facts) + _head_bytes(facts, limits, scored, device))


def _layer_bytes(facts: ModelFacts) -> int:
    """Bytes per token that live only while a layer computes."""
    return int(_TRANSIENTS * facts.kept_per_token / max(facts.layers, 1) / 4)


def _predicted(limits: BatchLimits, tokens: int) -> int:
    """How many of a micro-batch's tokens the head predicts."""
    return ceil(tokens * limits.predicted_tokens / limits.sequence_tokens)


def _learned_head_bytes(facts: ModelFacts, role: TrainedRoleConfig, limits: BatchLimits, device: Device) -> int:
    """Of a micro-batch that is learned from: a tile, the exponentials that are kept until the gradient is made of
    them, and the gradient of the head's weight."""
    tokens = limits.micro_batch_tokens(role, limits.train_sequences)
    exponentials = min(chunk_rows(device.name, facts.outputs), _predicted(limits, tokens)) * facts.outputs
    gradient = facts.outputs * facts.hidden
    return _head_bytes(facts, limits, tokens, device) + (exponentials + gradient) * _FLOAT32


def _head_bytes(facts: ModelFacts, limits: BatchLimits, tokens: int, device: Device) -> int:
    """The logits of a tile, in the weights' dtype and in float32 (see rlhf_dist.models.heads)."""
    columns = min(facts.outputs, tile_columns(device.name, facts.outputs))
    return min(CHUNK_ROWS, _predicted(limits, tokens)) * columns * (_FLOAT32 + facts.itemsize)
