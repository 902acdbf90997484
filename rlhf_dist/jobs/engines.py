"""The rollout engines of a job, made by the library that `rollout.backend` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rlhf_dist.cluster.group import Construction, WorkerGroup
from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.choose import TRANSFORMERS
from rlhf_dist.errors import UserError
from rlhf_dist.plan.batch_limits import BatchLimits
from rlhf_dist.plan.facts import cache_elements
from rlhf_dist.rollout.hf_engine import HFEngine
from rlhf_dist.rollout.sampling import engine_seed
from rlhf_dist.rollout.vllm_engine import VLLMEngine, engine_env

_VLLM = ("vllm.entrypoints.llm",)


def engine_variables(rollout: RolloutConfig, device: Device) -> dict[str, str]:
    """Environment variables that the processes of the engines must be started with."""
    return engine_env(device) if rollout.backend == "vllm" else {}


def with_reachable_cache(
    rollout: RolloutConfig, model: ModelConfig, limits: BatchLimits, device: Device
) -> RolloutConfig:
    """The section `rollout`, whose cache on a CPU is no larger than the job's sequences can fill."""
    if device.is_accelerator or rollout.backend != "vllm":
        return rollout
    per_token = cache_elements(model.path, model.trust_remote_code) * device.dtype(rollout.dtype).itemsize
    return replace(rollout, memory_gib=min(rollout.memory_gib, limits.cache_bytes(rollout, per_token) / 2**30))


def rollout_engines(
    rollout: RolloutConfig,
    model: ModelConfig,
    group: WorkerGroup,
    colocated_roles: int,
    stop_tokens: Sequence[int],
    seed: int,
) -> Construction:
    """The engines that workers are to make.

    Args:
        rollout: the section.
        model: whose architecture and first weights.
        group: the workers, started with :func:`engine_variables`.
        colocated_roles: how many other roles live on their devices.
        stop_tokens: token ids that end a response.
        seed: of the job; each engine has a seed of its own, for what is drawn without one.
    """
    arguments = (model, rollout, group.device, list(stop_tokens))
    match rollout.backend:
        case "vllm":
            engine = partial(VLLMEngine, colocated_roles=colocated_roles)
            return Construction(group, engine, lambda rank: (*arguments, engine_seed(seed, rank)), False, _VLLM)
        case "hf":
            return Construction(group, HFEngine, lambda _: arguments, False, TRANSFORMERS)
        case other:
            raise UserError(f"rollout.backend={other!r}: expected vllm or hf")
