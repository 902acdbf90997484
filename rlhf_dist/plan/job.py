"""A job as the planner sees it: its roles with their models, whatever launcher it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_dist.config.files import read_recipe
from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import resolve_dpo, resolve_ppo, unsharded_alone
from rlhf_dist.config.roles import JobConfig, Role, RoleKind, job_roles
from rlhf_dist.config.schema import (
    DPOConfig,
    FrozenRoleConfig,
    PPOConfig,
    RewardModelConfig,
    RolloutConfig,
    SFTConfig,
    TrainedRoleConfig,
)
from rlhf_dist.config.validate import validate_dpo, validate_ppo, validate_reward, validate_sft
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError
from rlhf_dist.plan.batch_limits import BatchLimits
from rlhf_dist.plan.facts import ModelFacts, policy_facts, scalar_facts
from rlhf_dist.plan.footprint import Footprint, engine_footprint, frozen_footprint, trained_footprint
from rlhf_dist.plan.pools import job_pools

# The section that only one kind of job has.
_KINDS: dict[str, type[JobConfig]] = {
    "rollout.": PPOConfig,
    "dpo.": DPOConfig,
    "sft.": SFTConfig,
    "training.": RewardModelConfig,
}


@dataclass(frozen=True)
class RoleModel:
    """A role that holds a model.

    Attributes:
        role: its row, with the section as it runs.
        facts: of its model.
        colocated_roles: how many other roles live on its devices.
    """

    role: Role
    facts: ModelFacts
    colocated_roles: int = 0

    def footprint(
        self, limits: BatchLimits, device: Device, device_bytes: int | None, bucket_bytes: int = 0
    ) -> Footprint:
        """Bytes of one worker, or of one process of an engine.

        Args:
            limits: the job's largest batches.
            device: of the run.
            device_bytes: of an accelerator; None on a CPU.
            bucket_bytes: in which weights go to engines.
        """
        config = self.role.config
        if isinstance(config, RolloutConfig):
            return engine_footprint(
                self.facts, config, limits, device, device_bytes, bucket_bytes, self.colocated_roles
            )
        if isinstance(config, TrainedRoleConfig):
            return trained_footprint(self.facts, config, limits, device)
        assert isinstance(config, FrozenRoleConfig)
        return frozen_footprint(self.facts, config, limits, device)


def load_job(argv: Sequence[str], recipe: Path) -> JobConfig:
    """The configuration of whatever job ``recipe`` is for, resolved and validated but for what must be on the disk.

    Args:
        argv: `key=value` of the command line.
        recipe: the file.

    Raises:
        UserError: a mistake in it, or a recipe of no known job.
    """
    keys = {setting.key for setting in read_recipe(recipe)}
    kinds = [kind for section, kind in _KINDS.items() if any(key.startswith(section) for key in keys)]
    if len(kinds) != 1:
        raise UserError(
            f"{recipe}: not the recipe of a single job: expected exactly one of the sections {', '.join(_KINDS)}"
        )
    config: JobConfig = load_config(kinds[0], ["--config", str(recipe), *argv], recipe)
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


def job_models(config: JobConfig, device: Device) -> dict[str, RoleModel]:
    """The roles that hold models, by name.

    Raises:
        UserError: a model's config.json cannot be had.
    """
    neighbours = {role.role: len(pool.roles) - 1 for pool in job_pools(config, device) for role in pool.roles}
    return {
        role.name: _role_model(role, device, neighbours[role.name])
        for role in job_roles(config)
        if role.kind is not RoleKind.FUNCTION
    }


def _role_model(role: Role, device: Device, colocated_roles: int) -> RoleModel:
    if role.torch_config is not None:
        role = replace(role, config=unsharded_alone(role.torch_config, device))
    section = role.config
    lora = section.lora if isinstance(section, TrainedRoleConfig) else None
    dtype = section.dtype if isinstance(section, RolloutConfig) else role.model.dtype
    read = scalar_facts if role.kind is RoleKind.SCALAR else policy_facts
    return RoleModel(role, read(role.model, device.dtype(dtype), lora), colocated_roles)
