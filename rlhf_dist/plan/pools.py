"""Which workers live on which devices: the arithmetic behind the placement groups, without a cluster."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_dist.config.parsing import SEPARATE, shared_groups
from rlhf_dist.config.roles import JobConfig, Role, RoleKind, declared_roles, job_roles
from rlhf_dist.config.schema import DPOConfig, PPOConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import UserError


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
class Slot:
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

    def slot(self, role: RoleResources, rank: int) -> Slot:
        """The slot of a role's worker. Workers fill the devices in their order, so equal ranks of roles meet."""
        unit, width = max(role.devices, 1), max(self.width, 1)
        first = rank * unit
        return Slot(first // width, tuple(range(first % width, first % width + role.devices)))

    def resources(self, device: Device) -> list[dict[str, float]]:
        """The Ray resources of each bundle."""
        cpus: Counter[int] = Counter()
        for role in self.roles:
            for rank in range(role.workers):
                cpus[self.slot(role, rank).bundle] += role.cpus  # type: ignore[assignment]
        accelerators = {device.ray_resource: float(self.width)} if device.ray_resource and self.width else {}
        return [{"CPU": cpus[bundle], **accelerators} for bundle in range(self.bundles)]


def role_resources(role: Role, device: Device, cores: int | None = None) -> RoleResources:
    """The resources of a role's workers, `null` entries of the configuration filled in.

    On a CPU device the roles take turns on the same cores, so each worker asks Ray for a token share of one only,
    and may use its part of all of them when its turn comes. Functions and endpoints need no accelerator.

    Args:
        role: its row.
        device: of the run.
        cores: of the machine; None: of this one.
    """
    config, processes = role.config, role.processes_per_worker
    cpus = config.cpus_per_worker
    if cpus is None:
        cpus = 1.0 if device.is_accelerator else 0.1
    threads = config.threads_per_worker
    if threads is None:
        threads = 1 if device.is_accelerator else max(1, (cores or os.cpu_count() or 1) // (role.workers * processes))
    devices = processes if device.is_accelerator and role.kind is not RoleKind.FUNCTION else 0
    return RoleResources(role.name, role.workers, devices, cpus, threads, config.strategy, processes)


def job_pools(config: JobConfig, device: Device) -> list[Pool]:
    """The pools of devices of a job, from its resolved configuration.

    Raises:
        UserError: the key `placement` cannot be read, or what shares devices cannot.
    """
    placement = config.placement if isinstance(config, PPOConfig | DPOConfig) else SEPARATE
    known = [role.name for role in declared_roles(config)]
    return pools([role_resources(role, device) for role in job_roles(config)], placement, device, known)


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
        raise UserError(f"{each}: roles that share devices (placement) must have the same strategy")
    for role in pool.roles:
        if role.devices and pool.width % role.devices:
            raise UserError(
                f"{pool.name}: workers of {role.devices} and of {pool.width} devices cannot share them: make one a "
                "multiple of the other"
            )
    return pool
