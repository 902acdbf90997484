"""Seconds of a PPO step by a simple model of the hardware: good for ranking plans, not for promising times.

Work that computes runs at a share of the device's peak; sampling is bound by reading weights and cache from memory
(one pass over both for each token); collectives and transfers are bound by the link. Phases add up; within a phase,
pools work side by side and roles of a pool one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from rlhf_dist.config.roles import ACTOR, ROLLOUT, RoleKind
from rlhf_dist.config.schema import PPOConfig, TrainedRoleConfig
from rlhf_dist.plan.batches import ppo_batches
from rlhf_dist.plan.footprint import Footprint, cache_bytes_per_token, concurrent_sequences
from rlhf_dist.plan.job import RoleModel
from rlhf_dist.plan.pools import Pool


@dataclass(frozen=True)
class Speeds:
    """What one device can do. The defaults are what programs reach on a data-centre accelerator of 2024."""

    flops: float = 300e12  # a second, of matrix products in bfloat16, reached
    memory: float = 2e12  # bytes a second, of device memory
    link: float = 50e9  # bytes a second, between devices of a node or of neighbouring ones
    host: float = 20e9  # bytes a second, between device and host memory
    launch: float = 0.004  # seconds of one decoding step that nothing makes shorter


def step_seconds(
    config: PPOConfig,
    pools: Sequence[Pool],
    models: dict[str, RoleModel],
    footprints: dict[str, Footprint],
    speeds: Speeds,
) -> dict[str, float]:
    """Seconds of each phase of a step: rollout, score, train, sync, move (on and off shared devices).

    Args:
        config: resolved.
        pools: who shares devices with whom.
        models: the roles with a model, by name.
        footprints: bytes of a worker of each of them.
        speeds: of one device.
    """
    tokens = ppo_batches(config).samples * (config.rollout.max_prompt_tokens + config.rollout.max_response_tokens)
    score, train, move = [], [], []
    for pool in pools:
        inside = [models[role.role] for role in pool.roles if role.role in models]
        inside = [model for model in inside if model.role.kind is not RoleKind.ENGINE]
        score.append(sum(_forward(model, tokens, speeds) for model in inside))
        train.append(sum(_training(model, tokens, config, speeds) for model in inside))
        if pool.shared:
            # Each role comes and goes twice a step at most: to score, and to train. Gradients are gone by then.
            moved = (footprints[model.role.name] for model in inside)
            move.append(sum(4 * (needs.weights + needs.optimizer) for needs in moved) / speeds.host)
    bytes_sent = models[ACTOR].facts.parameters * models[ACTOR].facts.itemsize
    return {
        "rollout": _sampling(config, models[ROLLOUT], footprints[ROLLOUT].cache, speeds),
        "score": max(score),
        "train": max(train),
        "sync": bytes_sent / speeds.link,
        "move": max(move, default=0.0),
    }


def _sampling(config: PPOConfig, model: RoleModel, cache: int, speeds: Speeds) -> float:
    rollout, facts = config.rollout, model.facts
    each = ceil(ppo_batches(config).samples / rollout.num_engines)
    at_once = max(min(concurrent_sequences(facts, rollout, cache), each), 1)
    weights = facts.parameters * facts.itemsize / rollout.tensor_parallel
    context = rollout.max_prompt_tokens + rollout.max_response_tokens / 2
    read = (weights + at_once * context * cache_bytes_per_token(facts, rollout.tensor_parallel)) / speeds.memory
    compute = 2 * facts.parameters * at_once / rollout.tensor_parallel / speeds.flops
    # Two all-reduces a layer under tensor parallelism, each of a token's hidden state.
    reduce = 2 * facts.layers * at_once * facts.hidden * facts.itemsize / speeds.link * (rollout.tensor_parallel > 1)
    decoding = rollout.max_response_tokens * (max(read, compute) + reduce + speeds.launch)
    prefill = 2 * facts.parameters * at_once * rollout.max_prompt_tokens / rollout.tensor_parallel / speeds.flops
    return ceil(each / at_once) * (decoding + prefill)


def _forward(model: RoleModel, tokens: int, speeds: Speeds) -> float:
    role, facts = model.role.torch_config, model.facts
    assert role is not None
    return 2 * facts.parameters * tokens / role.num_workers / speeds.flops + _gathers(model, tokens, 1, speeds)


def _training(model: RoleModel, tokens: int, config: PPOConfig, speeds: Speeds) -> float:
    role, facts = model.role.config, model.facts
    if not isinstance(role, TrainedRoleConfig):
        return 0.0
    passes = 8 if role.model.gradient_checkpointing else 6
    compute = passes * facts.parameters * tokens * config.ppo.epochs / role.num_workers / speeds.flops
    reduce = 0.0
    if role.num_workers > 1:
        reduce = ppo_batches(config).optimizer_steps * 2 * facts.learning * facts.itemsize / speeds.link
    return compute + reduce + _gathers(model, tokens * config.ppo.epochs, 2, speeds)


def _gathers(model: RoleModel, tokens: int, each: int, speeds: Speeds) -> float:
    """Seconds in which ZeRO-3 gathers the weights, ``each`` times a micro-batch."""
    role, facts = model.role.torch_config, model.facts
    assert role is not None
    if role.zero_stage != 3 or role.num_workers == 1:
        return 0.0
    micro_batches = ceil(tokens / role.num_workers / role.micro_batch_tokens)
    return micro_batches * each * facts.parameters * facts.itemsize / speeds.link
