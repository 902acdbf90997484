"""A job as the planner sees it: its roles with their models, whatever launcher it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_dist.config.files import read_recipe
from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import resolve_dpo, resolve_ppo, reward_sources, unsharded_alone, uses_model
from rlhf_dist.config.schema import (
    DPOConfig,
    FrozenRoleConfig,
    ModelRoleConfig,
    PPOConfig,
    RewardModelConfig,
    RolloutConfig,
    SFTConfig,
    TrainedRoleConfig,
)
from rlhf_dist.config.validate import validate_dpo, validate_ppo, validate_reward, validate_sft
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError
from rlhf_dist.plan.extent import Reach
from rlhf_dist.plan.facts import ModelFacts, policy_facts, scalar_facts
from rlhf_dist.plan.footprint import Footprint, engine_footprint, frozen_footprint, trained_footprint
from rlhf_dist.plan.pools import Pool, dpo_pools, ppo_pools, reward_pools, reward_role, sft_pools

JobConfig = PPOConfig | DPOConfig | SFTConfig | RewardModelConfig
# The section that only one kind of job has.
_MARKS: dict[str, type] = {"rollout.": PPOConfig, "dpo.": DPOConfig, "sft.": SFTConfig, "training.": RewardModelConfig}
_SCALAR_ROLES = ("critic", "reward")


@dataclass(frozen=True)
class RoleModel:
    """A role that holds a model.

    Attributes:
        name: of the role.
        section: dotted name of its section in the configuration.
        config: that section.
        facts: of its model.
        beside: how many other roles live on its devices.
    """

    name: str
    section: str
    config: ModelRoleConfig | RolloutConfig
    facts: ModelFacts
    beside: int = 0

    def footprint(self, reach: Reach, device: Device, device_bytes: int | None, bucket_bytes: int = 0) -> Footprint:
        """Bytes of one worker, or of one process of an engine.

        Args:
            reach: the job's largest batches.
            device: of the run.
            device_bytes: of an accelerator; None on a CPU.
            bucket_bytes: in which weights go to engines.
        """
        if isinstance(self.config, RolloutConfig):
            return engine_footprint(self.facts, self.config, reach, device, device_bytes, bucket_bytes, self.beside)
        if isinstance(self.config, TrainedRoleConfig):
            return trained_footprint(self.facts, self.config, reach, device)
        assert isinstance(self.config, FrozenRoleConfig)
        return frozen_footprint(self.facts, self.config, reach, device)


def load_job(argv: Sequence[str], recipe: Path) -> JobConfig:
    """The configuration of whatever job ``recipe`` is for, resolved and validated but for what must be on the disk.

    Args:
        argv: `key=value` of the command line.
        recipe: the file.

    Raises:
        UserError: a mistake in it, or a recipe of no known job.
    """
    keys = {setting.key for setting in read_recipe(recipe)}
    kinds = [kind for mark, kind in _MARKS.items() if any(key.startswith(mark) for key in keys)]
    if len(kinds) != 1:
        raise UserError(f"{recipe}: not a recipe of one job: it has no section, or several, of {', '.join(_MARKS)}")
    config: Any = load_config(kinds[0], ["--config", str(recipe), *argv], recipe)
    if isinstance(config, PPOConfig):
        config = resolve_ppo(config)
        validate_ppo(config, check_paths=False)
    elif isinstance(config, DPOConfig):
        config = resolve_dpo(config)
        validate_dpo(config, check_paths=False)
    elif isinstance(config, SFTConfig):
        validate_sft(config, check_paths=False)
    else:
        validate_reward(config, check_paths=False)
    return config


def job_pools(config: JobConfig, device: Device) -> list[Pool]:
    """The pools of devices of a job."""
    if isinstance(config, PPOConfig):
        return ppo_pools(config, device)
    if isinstance(config, DPOConfig):
        return dpo_pools(config, device)
    return sft_pools(config, device) if isinstance(config, SFTConfig) else reward_pools(config, device)


def model_sections(config: JobConfig) -> dict[str, tuple[str, ModelRoleConfig]]:
    """The roles that may hold a model, engines left out: the dotted name of each one's section, and the section."""
    sections: dict[str, tuple[str, ModelRoleConfig]] = {}
    if isinstance(config, RewardModelConfig):
        sections["reward"] = ("reward", config.reward)
    else:
        sections["actor"] = ("actor", config.actor)
    if isinstance(config, PPOConfig | DPOConfig):
        sections["reference"] = ("reference", config.reference)
    if isinstance(config, PPOConfig):
        sections["critic"] = ("critic", config.critic)
        for name, source in reward_sources(config).items():
            if uses_model(source):
                role = reward_role(name)
                sections[role] = ("reward" if role == "reward" else f"rewards.{name}", source)
    return sections


def job_models(config: JobConfig, device: Device) -> dict[str, RoleModel]:
    """The roles that hold models, by name.

    Raises:
        UserError: a model's config.json cannot be had.
    """
    pool_of = {role.role: pool for pool in job_pools(config, device) for role in pool.roles}
    models = {
        name: _role_model(name, section, role, device)
        for name, (section, role) in model_sections(config).items()
        if name in pool_of
    }
    if isinstance(config, PPOConfig):
        facts = policy_facts(config.actor.model, device.dtype(config.rollout.dtype))
        beside = len(pool_of["rollout"].roles) - 1
        models["rollout"] = RoleModel("rollout", "rollout", config.rollout, facts, beside)
    return models


def _role_model(name: str, section: str, role: ModelRoleConfig, device: Device) -> RoleModel:
    role = unsharded_alone(role, device)
    lora = role.lora if isinstance(role, TrainedRoleConfig) else None
    read = scalar_facts if name.partition("-")[0] in _SCALAR_ROLES else policy_facts
    return RoleModel(name, section, role, read(role.model, device.dtype(role.model.dtype), lora))
