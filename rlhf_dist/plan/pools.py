"""Which workers live on which devices: the arithmetic behind the placement groups, without a cluster."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_dist.config.parsing import shared_groups
from rlhf_dist.config.resolve import MAIN_REWARD, reward_sources, shares_reference, uses_model
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig, WorkerConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError

PPO_ROLES = ("actor", "critic", "reward", "reference", "rollout")


@dataclass(frozen=True)
class RoleResources:
    """What one role asks of the cluster.

    Attributes:
        role: its name.
        workers: how many.
        devices: accelerators of each worker; 0 where there are none, or none is needed.
        processes: of each worker that hold a part of its model.
        cpus: Ray CPUs of each worker.
        threads: CPU threads of each worker.
        strategy: Ray's placement strategy, in lower case.
    """

    role: str
    workers: int
    devices: int
    cpus: float
    threads: int
    strategy: str
    processes: int = 1


@dataclass(frozen=True)
class Seat:
    """Where one worker sits: a bundle of its pool, and which of the bundle's devices are its."""

    bundle: int
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """Devices, and the roles that live on them, in turns where they are several.

    A bundle is what one node must have as a whole: one device, or as many as the widest worker takes.
    """

    roles: tuple[RoleResources, ...]

    @property
    def name(self) -> str:
        """The roles' names."""
        return "+".join(role.role for role in self.roles)

    @property
    def shared(self) -> bool:
        """Whether roles take turns here."""
        return len(self.roles) > 1

    @property
    def width(self) -> int:
        """Devices of a bundle, 0 without accelerators."""
        return max(role.devices for role in self.roles)

    @property
    def bundles(self) -> int:
        """How many bundles hold the workers of any one role."""
        return max(-(-role.workers * max(role.devices, 1) // max(self.width, 1)) for role in self.roles)

    @property
    def devices(self) -> int:
        """Accelerators of the pool."""
        return self.bundles * self.width

    def seat(self, role: RoleResources, rank: int) -> Seat:
        """The seat of a role's worker. Workers fill the devices in their order, so equal ranks of roles meet."""
        unit, width = max(role.devices, 1), max(self.width, 1)
        first = rank * unit
        return Seat(first // width, tuple(range(first % width, first % width + role.devices)))

    def resources(self, device: Device) -> list[dict[str, float]]:
        """The Ray resources of each bundle."""
        cpus: Counter[int] = Counter()
        for role in self.roles:
            for rank in range(role.workers):
                cpus[self.seat(role, rank).bundle] += role.cpus  # type: ignore[assignment]
        accelerators = {device.ray_resource: float(self.width)} if device.ray_resource and self.width else {}
        return [{"CPU": cpus[bundle], **accelerators} for bundle in range(self.bundles)]


def role_resources(
    role: str, workers: int, config: WorkerConfig, device: Device, devices: int = 1, cores: int | None = None
) -> RoleResources:
    """The resources of a role's workers, `null` entries of the configuration filled in.

    On a CPU device the roles take turns on the same cores, so each worker asks Ray for a token share of one only,
    and may use its part of all of them when its turn comes.

    Args:
        role: its name.
        workers: how many.
        config: the role's section.
        device: of the run.
        devices: accelerators of a worker, where there are any.
        cores: of the machine; None: of this one.
    """
    cpus = config.cpus_per_worker
    if cpus is None:
        cpus = 1.0 if device.is_accelerator else 0.1
    threads = config.threads_per_worker
    if threads is None:
        threads = 1 if device.is_accelerator else max(1, (cores or os.cpu_count() or 1) // (workers * max(devices, 1)))
    own = devices if device.is_accelerator else 0
    return RoleResources(role, workers, own, cpus, threads, config.strategy, max(devices, 1))


def reward_role(name: str) -> str:
    """What the workers of a source of reward are called."""
    return "reward" if name == MAIN_REWARD else f"reward-{name}"


def ppo_resources(config: PPOConfig, device: Device) -> list[RoleResources]:
    """The roles of a resolved PPO configuration."""
    rollout = config.rollout
    roles = [role_resources("actor", config.actor.num_workers, config.actor, device)]
    if config.ppo.use_critic:
        roles.append(role_resources("critic", config.critic.num_workers, config.critic, device))
    for name, source in reward_sources(config).items():
        devices = 1 if uses_model(source) else 0  # functions and endpoints need no accelerator
        roles.append(role_resources(reward_role(name), source.num_workers, source, device, devices))
    if not shares_reference(config):
        roles.append(role_resources("reference", config.reference.num_workers, config.reference, device))
    roles.append(role_resources("rollout", rollout.num_engines, rollout, device, rollout.tensor_parallel))
    return roles


def ppo_pools(config: PPOConfig, device: Device) -> list[Pool]:
    """The pools of a resolved PPO configuration.

    Raises:
        UserError: the key `placement` cannot be read, or what shares devices cannot.
    """
    return pools(ppo_resources(config, device), config.placement, device, PPO_ROLES)


def dpo_pools(config: DPOConfig, device: Device) -> list[Pool]:
    """The pools of a resolved DPO configuration."""
    roles = [
        role_resources("actor", config.actor.num_workers, config.actor, device),
        role_resources("reference", config.reference.num_workers, config.reference, device),
    ]
    return pools(roles, config.placement, device)


def sft_pools(config: SFTConfig, device: Device) -> list[Pool]:
    """The one pool of SFT."""
    return [Pool((role_resources("actor", config.actor.num_workers, config.actor, device),))]


def reward_pools(config: RewardModelConfig, device: Device) -> list[Pool]:
    """The one pool of reward-model training."""
    return [Pool((role_resources("reward", config.reward.num_workers, config.reward, device),))]


def pools(roles: Sequence[RoleResources], placement: str, device: Device, known: Sequence[str] = ()) -> list[Pool]:
    """The pools that `placement` asks for. Roles that need no accelerator stay by themselves where there are some."""
    by_name = {role.role: role for role in roles}
    found = []
    for group in shared_groups(placement, by_name, known):
        members = [by_name[name] for name in group]
        idle = [role for role in members if device.is_accelerator and role.devices == 0]
        found += [Pool((role,)) for role in idle]
        sharing = tuple(role for role in members if role not in idle)
        if sharing:
            found.append(_checked(Pool(sharing)))
    return found


def _checked(pool: Pool) -> Pool:
    strategies = {role.role: role.strategy for role in pool.roles}
    if len(set(strategies.values())) > 1:
        each = ", ".join(f"{role}.strategy={strategy}" for role, strategy in strategies.items())
        raise UserError(f"{each}: roles that share devices (placement) must have the same")
    for role in pool.roles:
        if role.devices and pool.width % role.devices:
            raise UserError(
                f"{pool.name}: workers of {role.devices} and of {pool.width} devices cannot share them: make one a "
                "multiple of the other"
            )
    return pool
