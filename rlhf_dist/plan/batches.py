"""How many of what a PPO step holds: samples, minibatches, micro-batches, optimizer steps, bytes moved."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rlhf_dist.algo.minibatches import steps_per_batch
from rlhf_dist.config.roles import job_roles
from rlhf_dist.config.schema import PPOConfig, TrainedRoleConfig


@dataclass(frozen=True)
class StepBatches:
    """The arithmetic of one PPO step.

    Attributes:
        prompts: of a step.
        samples: responses to them.
        longest: tokens of a sequence at most.
        optimizer_steps: of each role that learns.
        minibatch: samples of one optimizer step.
        micro_batches: role that learns -> of one optimizer step on its busiest worker, if all sequences are of full
            length.
        idle_workers: role -> workers that have nothing to do in a minibatch.
        idle_engines: engines without a prompt.
    """

    prompts: int
    samples: int
    longest: int
    optimizer_steps: int
    minibatch: int
    micro_batches: dict[str, int]
    idle_workers: dict[str, int]
    idle_engines: int


def ppo_batches(config: PPOConfig) -> StepBatches:
    """The arithmetic of a resolved PPO configuration."""
    rollout, ppo = config.rollout, config.ppo
    samples = ppo.prompts_per_step * rollout.samples_per_prompt
    longest = rollout.max_prompt_tokens + rollout.max_response_tokens
    optimizer_steps = steps_per_batch(samples, ppo.minibatch_size, ppo.epochs)
    minibatch = ceil(samples / (optimizer_steps // ppo.epochs))
    learning = {role.name: role.config for role in job_roles(config) if isinstance(role.config, TrainedRoleConfig)}
    return StepBatches(
        prompts=ppo.prompts_per_step,
        samples=samples,
        longest=longest,
        optimizer_steps=optimizer_steps,
        minibatch=minibatch,
        micro_batches={name: _micro_batches(minibatch, longest, role) for name, role in learning.items()},
        idle_workers={
            name: role.num_workers - minibatch for name, role in learning.items() if role.num_workers > minibatch
        },
        idle_engines=max(rollout.num_engines - samples, 0),
    )


def _micro_batches(minibatch: int, longest: int, role: TrainedRoleConfig) -> int:
    rows = ceil(minibatch / role.num_workers)
    at_once = max(role.micro_batch_tokens // longest, 1)
    if role.micro_batch_sequences:
        at_once = min(at_once, role.micro_batch_sequences)
    return ceil(rows / at_once)
