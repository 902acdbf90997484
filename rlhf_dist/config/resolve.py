"""Fills in what one key takes from another."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Literal, TypeVar

from omegaconf import MISSING

from rlhf_dist.config.algorithms import advantage_estimator
from rlhf_dist.config.schema import (
    ClusterConfig,
    DPOConfig,
    ModelRoleConfig,
    PPOConfig,
    RewardSourceConfig,
    TrainedRoleConfig,
)
from rlhf_dist.device import Device

Role = TypeVar("Role", bound=ModelRoleConfig)


def is_given(value: str | None) -> bool:
    """Whether a key without default has got a value."""
    return value is not None and value != MISSING


#: The section `reward`, among the names of the section `rewards`.
MAIN_REWARD = "main"


def cluster_address(cluster: ClusterConfig) -> str | None:
    """The Ray cluster that a run connects to: `cluster.address`, or `RAY_ADDRESS`; None: it starts one of its own."""
    return cluster.address or os.environ.get("RAY_ADDRESS") or None


def reward_sources(config: PPOConfig) -> dict[str, RewardSourceConfig]:
    """All sources of reward by name: :data:`MAIN_REWARD`, and those of `rewards`."""
    return {MAIN_REWARD: config.reward, **config.rewards}


def shares_reference(config: PPOConfig) -> bool:
    """Whether the reference is the actor with its adapter switched off, and needs no workers of its own."""
    return config.actor.lora.rank > 0 and config.reference.model.path == config.actor.model.path


def rollout_correction(config: PPOConfig) -> str:
    """What `ppo.rollout_correction` comes to: samples of older weights are corrected, unless it says otherwise.

    With `ppo.old_logprobs=rollout` nothing is left to correct: the loss takes its ratio from the policy that sampled.
    """
    wanted = config.ppo.rollout_correction
    if wanted != "auto":
        return wanted
    return "truncate" if config.rollout.staleness and config.ppo.old_logprobs == "actor" else "off"


def uses_model(source: RewardSourceConfig) -> bool:
    """Whether a reward model scores, as opposed to a function or an endpoint."""
    return source.function is None and source.endpoint is None


def unsharded_alone(role: Role, device: Device) -> Role:
    """The role as it runs: float32 weights of a single worker are not sharded, whatever its `zero_stage`.

    There is nobody to share with, and ZeRO would only add copies: of the weights where it gathers them, of the
    gradients, of the masters. The training is the same without. (What is bfloat16 has its float32 masters from ZeRO,
    unless it is to be trained by plain torch.)
    """
    torch_alone = isinstance(role, TrainedRoleConfig) and role.train_engine == "torch"
    alone = role.num_workers == 1 and (torch_alone or device.dtype(role.model.dtype).itemsize == 4)
    return replace(role, zero_stage=0) if alone else role


def train_engine_of(role: TrainedRoleConfig, device: Device) -> Literal["torch", "zero"]:
    """Which engine trains the role: what `train_engine` says, where it is not auto.

    auto is plain torch for a single worker with float32 weights, else DeepSpeed ZeRO.

    Args:
        role: as it runs (:func:`unsharded_alone`).
        device: of the run.
    """
    if role.train_engine in ("torch", "zero"):
        return "torch" if role.train_engine == "torch" else "zero"
    alone = role.num_workers == 1 and role.zero_stage == 0
    return "torch" if alone and device.dtype(role.model.dtype).itemsize == 4 else "zero"


def resolve_dpo(config: DPOConfig) -> DPOConfig:
    """A copy of ``config`` whose reference is the actor's model where none is named."""
    full = copy.deepcopy(config)
    if not is_given(full.reference.model.path):
        full.reference.model.path = full.actor.model.path
    return full


def resolve_ppo(config: PPOConfig) -> PPOConfig:
    """A copy of ``config`` with the models that were not named.

    The reference is the actor's model. The critic starts from the reward model, or from the actor's where a
    function rewards. `reward.model.path` stays missing where `reward.function` is given. Whether there is a critic,
    and whether advantages are whitened, follows from the estimator where the configuration leaves it open.
    """
    full = copy.deepcopy(config)
    actor, reward = full.actor.model.path, full.reward.model.path
    if not is_given(full.reference.model.path):
        full.reference.model.path = actor
    if not is_given(full.critic.model.path):
        full.critic.model.path = reward if is_given(reward) else actor
    estimator = advantage_estimator(full.ppo.advantage)
    if full.ppo.use_critic is None:
        full.ppo.use_critic = estimator.needs_critic
    if full.ppo.whiten_advantages is None:
        full.ppo.whiten_advantages = estimator.whitens
    return full
