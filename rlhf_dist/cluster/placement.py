"""Where workers live: placement groups, and the check that the cluster can hold them at all."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from rlhf_dist.cluster.calls import Call, run_calls
from rlhf_dist.config.schema import WorkerConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import ClusterError


@dataclass(frozen=True)
class RoleResources:
    """What one role asks of the cluster.

    Attributes:
        role: its name.
        workers: how many.
        bundle: Ray resources of each worker.
        threads: CPU threads of each worker.
    """

    role: str
    workers: int
    bundle: dict[str, float]
    threads: int


def role_resources(role: str, workers: int, config: WorkerConfig, device: Device) -> RoleResources:
    """The resources of a role's workers, `null` entries of the configuration filled in.

    On a CPU device the roles take turns on the same cores, so each worker asks Ray for a token share of one only,
    and may use its part of all of them when its turn comes.
    """
    cpus = config.cpus_per_worker
    if cpus is None:
        cpus = 1.0 if device.is_accelerator else 0.1
    threads = config.threads_per_worker
    if threads is None:
        threads = 1 if device.is_accelerator else max(1, (os.cpu_count() or 1) // workers)
    bundle = {"CPU": cpus}
    if device.ray_resource is not None:
        bundle[device.ray_resource] = 1.0
    return RoleResources(role, workers, bundle, threads)


class Placement:
    """The placement groups of a run's roles, one group a role.

    Args:
        roles: what each asks for.
        device: of the run.
        timeout_s: how long to wait for the cluster to give it.

    Raises:
        ClusterError: the cluster cannot hold the roles; the text says what is wanted, there, and free.
    """

    def __init__(self, roles: Sequence[RoleResources], device: Device, timeout_s: float) -> None:
        self.concurrent = device.is_accelerator  # on CPU roles share the cores, and gain nothing by running at once
        self.roles = {role.role: role for role in roles}
        self._groups: dict[str, PlacementGroup] = {}
        _check_total(roles)
        deadline = time.monotonic() + timeout_s
        for role in roles:
            group = placement_group([dict(role.bundle)] * role.workers, strategy="PACK", name=role.role)
            self._groups[role.role] = group
        for name, group in self._groups.items():
            if not group.wait(max(deadline - time.monotonic(), 0.01)):
                text = f"role {name} got no place within {timeout_s:g} s: {_table(roles)}"
                self.close()
                raise ClusterError(text)

    def options(self, role: str, rank: int) -> dict[str, Any]:
        """Ray's options for worker ``rank`` of ``role``: its bundle and its resources."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = dict(self.roles[role].bundle)
        return {
            "num_cpus": bundle.pop("CPU"),
            "num_gpus": bundle.pop("GPU", 0),
            "resources": bundle,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._groups[role], rank),
        }

    def run(self, *calls: Call[Any], timeout_s: float) -> list[Any]:
        """Runs calls on several roles: at once where each has its own devices, else one after another."""
        if self.concurrent:
            return run_calls(calls, timeout_s)
        return [run_calls([call], timeout_s)[0] for call in calls]

    def close(self) -> None:
        """Gives the places back."""
        for group in self._groups.values():
            remove_placement_group(group)
        self._groups = {}


def _wanted(roles: Sequence[RoleResources]) -> Counter[str]:
    wanted: Counter[str] = Counter()
    for role in roles:
        for name, amount in role.bundle.items():
            wanted[name] += amount * role.workers  # type: ignore[assignment]
    return wanted


def _check_total(roles: Sequence[RoleResources]) -> None:
    """Fails at once where even the empty cluster would be too small, as no waiting would help."""
    present = ray.cluster_resources()
    for name, amount in _wanted(roles).items():
        if amount > present.get(name, 0.0) + 1e-6:
            raise ClusterError(f"the cluster has too little {name}: {_table(roles)}")


def _table(roles: Sequence[RoleResources]) -> str:
    present, free = ray.cluster_resources(), ray.available_resources()
    parts = [
        f"{name} wanted {amount:g}, present {present.get(name, 0.0):g}, free {free.get(name, 0.0):g}"
        for name, amount in sorted(_wanted(roles).items())
    ]
    each = ", ".join(f"{role.role} {role.workers} x {role.bundle}" for role in roles)
    return f"{'; '.join(parts)} ({each})"
