"""Fills in what one key takes from another."""

from __future__ import annotations

import copy

from omegaconf import MISSING

from rlhf_dist.config.schema import PPOConfig


def is_given(value: str | None) -> bool:
    """Whether a key without default has got a value."""
    return value is not None and value != MISSING


def resolve_ppo(config: PPOConfig) -> PPOConfig:
    """A copy of ``config`` with the models that were not named.

    The reference is the actor's model. The critic starts from the reward model, or from the actor's where a
    function rewards. `reward.model.path` stays missing where `reward.function` is given.
    """
    full = copy.deepcopy(config)
    actor, reward = full.actor.model.path, full.reward.model.path
    if not is_given(full.reference.model.path):
        full.reference.model.path = actor
    if not is_given(full.critic.model.path):
        full.critic.model.path = reward if is_given(reward) else actor
    return full
