"""The roles of a job: one row for each, made of a resolved configuration.

Validation, placement, the planner, the checks before a launch and the wiring of a job read the same rows. A new role is
a section in `schema/`, a row here, and what the wiring binds to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlhf_dist.config.resolve import MAIN_REWARD, reward_sources, shares_reference, uses_model
from rlhf_dist.config.schema import (
    DPOConfig,
    ModelConfig,
    ModelRoleConfig,
    PPOConfig,
    RewardModelConfig,
    RolloutConfig,
    SFTConfig,
    TrainedRoleConfig,
)

JobConfig = PPOConfig | DPOConfig | SFTConfig | RewardModelConfig

ACTOR, CRITIC, REWARD, REFERENCE, ROLLOUT = "actor", "critic", "reward", "reference", "rollout"


class RoleKind(Enum):
    """What the workers of a role hold."""

    POLICY = "policy"  # a causal language model, in torch
    SCALAR = "scalar"  # a language model with one output in the head's place, in torch
    ENGINE = "engine"  # a causal language model that samples, whose weights come from the actor
    FUNCTION = "function"  # no model: a function of the user's, or a client of an HTTP endpoint


@dataclass(frozen=True)
class Role:
    """A role of a job.

    Attributes:
        name: what it is called in `placement`, in checkpoints and logs, and what its workers are named after.
        section: dotted name of its section in the configuration.
        config: that section.
        kind: what its workers hold.
        model: what they load; of a function, the model whose tokenizer it reads.
        model_key: dotted key of that model's path.
        has_workers: whether this run starts workers for it; false for a critic that the advantage estimator does
            without, and for a reference that is the actor with its adapter switched off.
    """

    name: str
    section: str
    config: ModelRoleConfig | RolloutConfig
    kind: RoleKind
    model: ModelConfig
    model_key: str
    has_workers: bool = True

    @property
    def learns(self) -> bool:
        """Whether an optimizer moves its weights."""
        return isinstance(self.config, TrainedRoleConfig)

    @property
    def torch_config(self) -> ModelRoleConfig | None:
        """The section of a role that holds its model in torch; None of engines and functions."""
        return None if self.kind is RoleKind.FUNCTION or isinstance(self.config, RolloutConfig) else self.config

    @property
    def workers(self) -> int:
        """How many workers it has."""
        if not self.has_workers:
            return 0
        return self.config.num_engines if isinstance(self.config, RolloutConfig) else self.config.num_workers

    @property
    def workers_key(self) -> str:
        """The dotted key that says how many workers it has."""
        return f"{self.section}.{'num_engines' if isinstance(self.config, RolloutConfig) else 'num_workers'}"

    @property
    def processes_per_worker(self) -> int:
        """Processes of each worker that hold a part of its model, each on a device of its own."""
        return self.config.tensor_parallel if isinstance(self.config, RolloutConfig) else 1


def job_roles(config: JobConfig) -> tuple[Role, ...]:
    """The roles that a run has workers for, each in one row.

    Args:
        config: of a job, resolved (`resolve_ppo`, `resolve_dpo`).
    """
    return tuple(role for role in declared_roles(config) if role.has_workers)


def declared_roles(config: JobConfig) -> tuple[Role, ...]:
    """All roles that a resolved configuration has a section for, also those that the run does without."""
    if isinstance(config, PPOConfig):
        return _ppo_roles(config)
    if isinstance(config, DPOConfig):
        actor, reference = config.actor, config.reference
        return _in_torch(ACTOR, actor, RoleKind.POLICY), _in_torch(REFERENCE, reference, RoleKind.POLICY)
    if isinstance(config, SFTConfig):
        return (_in_torch(ACTOR, config.actor, RoleKind.POLICY),)
    return (_in_torch(REWARD, config.reward, RoleKind.SCALAR),)


def result_role(config: JobConfig) -> Role:
    """The role whose model is what the run is for: the first one that learns."""
    return next(role for role in job_roles(config) if role.learns)


def reward_role(source: str) -> str:
    """The name of the role of a source of reward, as :func:`~rlhf_dist.config.resolve.reward_sources` calls it."""
    return REWARD if source == MAIN_REWARD else f"{REWARD}-{source}"


def reward_section(source: str) -> str:
    """The section's dotted name of a source of reward, as :func:`~rlhf_dist.config.resolve.reward_sources` calls it."""
    return REWARD if source == MAIN_REWARD else f"rewards.{source}"


def _ppo_roles(config: PPOConfig) -> tuple[Role, ...]:
    actor = _in_torch(ACTOR, config.actor, RoleKind.POLICY)
    critic = _in_torch(CRITIC, config.critic, RoleKind.SCALAR, has_workers=bool(config.ppo.use_critic))
    rewards = [_reward(config, source, actor) for source in reward_sources(config)]
    own_reference = not shares_reference(config)
    reference = _in_torch(REFERENCE, config.reference, RoleKind.POLICY, has_workers=own_reference)
    rollout = Role(ROLLOUT, ROLLOUT, config.rollout, RoleKind.ENGINE, actor.model, actor.model_key)
    return actor, critic, *rewards, reference, rollout


def _reward(config: PPOConfig, source: str, actor: Role) -> Role:
    name, section, settings = reward_role(source), reward_section(source), reward_sources(config)[source]
    if uses_model(settings):
        return Role(name, section, settings, RoleKind.SCALAR, settings.model, f"{section}.model.path")
    return Role(name, section, settings, RoleKind.FUNCTION, actor.model, actor.model_key)


def _in_torch(name: str, section: ModelRoleConfig, kind: RoleKind, has_workers: bool = True) -> Role:
    """The row of a role that is called as its section."""
    return Role(name, name, section, kind, section.model, f"{name}.model.path", has_workers)
