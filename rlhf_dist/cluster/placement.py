"""Where workers live: Ray placement groups, and which roles have devices of their own."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlhf_dist.cluster.capacity import Bundle, Wanted, can_never_fit, hardest_first, nodes, table
from rlhf_dist.cluster.object_store import Batches
from rlhf_dist.device import CPU, Device
from rlhf_dist.errors import ClusterError
from rlhf_dist.plan.pools import Pool


@dataclass
class _PlacedPool:
    """A pool with its placement group.

    Attributes:
        pool: who lives there.
        group: Ray's.
        order: the group's bundles in the order in which they are used: node by node.
        holders: of a shared pool's accelerators, an actor for each bundle.
        visible: what each bundle's devices are called on their node.
    """

    pool: Pool
    group: PlacementGroup
    order: list[int] = field(default_factory=list)
    holders: list[Any] = field(default_factory=list)
    visible: list[list[str]] = field(default_factory=list)


class _DeviceHolder:
    """Holds a bundle's accelerators in Ray's books, for roles that share them.

    Ray hands a device to one actor, or in fractions to several of which one cannot say who gets which. So a holder
    takes the whole bundle, and the workers beside it are told which of its devices are theirs.
    """

    def devices(self, variable: str) -> list[str]:
        """What Ray lets this process see."""
        return os.environ[variable].split(",")


class Placement:
    """The placement groups of a run, one for each pool of devices.

    Args:
        run: the run's name.
        pools: the roles that share devices.
        device: of the run.
        timeout_s: how long to wait for the cluster to give it.

    Raises:
        ClusterError: the cluster cannot hold the roles; the text says what is wanted, there, and free.
    """

    def __init__(self, run: str, pools: Sequence[Pool], device: Device, timeout_s: float) -> None:
        self.run_name, self.device = run, device
        self.roles = {role.role: role for pool in pools for role in pool.roles}
        self.batches = Batches()
        self.sharing = [[role.role for role in pool.roles] for pool in pools]  # names of roles that share devices
        self._where = {role.role: number for number, pool in enumerate(pools) for role in pool.roles}
        self._placed: dict[int, _PlacedPool] = {}  # by the pool's number
        wanted = {pool.name: Wanted(pool.resources(device), pool.roles[0].strategy) for pool in pools}
        cluster = nodes()
        problem = can_never_fit(wanted, cluster)
        if problem is not None:
            raise ClusterError(f"{problem}\n  {table(wanted, cluster)}")
        try:
            self._take(pools, wanted, timeout_s)
        except BaseException:
            self.close()
            raise

    def _take(self, pools: Sequence[Pool], wanted: dict[str, Wanted], timeout_s: float) -> None:
        """Asks for one group after another, the hardest to place first, and for none before it has those before it.

        Ray puts each group where the most is free. Asked for all at once, or for the narrow ones first, it would leave
        a little on every node, and on none the room that a wide bundle needs.
        """
        deadline = time.monotonic() + timeout_s
        by_name = {pool.name: number for number, pool in enumerate(pools)}
        for name in hardest_first(wanted):
            want, pool = wanted[name], pools[by_name[name]]
            group = placement_group(
                list(map(dict, want.bundles)), strategy=want.strategy.upper(), name=f"{self.run_name}/{name}"
            )
            self._placed[by_name[name]] = placed = _PlacedPool(pool, group)
            if not group.wait(max(deadline - time.monotonic(), 0.01)):
                raise ClusterError(
                    f"no place for {name} ({want.strategy}) within {timeout_s:g} s\n  "
                    + table(wanted, nodes(self._own()))
                )
            placed.order = _by_node(group)
        for placed in self._placed.values():
            if placed.pool.shared and placed.pool.width:
                self._hold_devices(placed, max(deadline - time.monotonic(), 30.0))

    def _own(self) -> list[tuple[str, Bundle]]:
        """What this run has got: nodes' ids, each with a bundle."""
        tables = [placement_group_table(placed.group) for placed in self._placed.values()]
        return [
            (table["bundles_to_node_id"][number], bundle)
            for table in tables
            if table["state"] == "CREATED"
            for number, bundle in table["bundles"].items()
        ]

    def _hold_devices(self, placed: _PlacedPool, timeout_s: float) -> None:
        """Takes a shared pool's accelerators, and learns what they are called."""
        holder = ray.remote(_DeviceHolder)
        for bundle in placed.order:
            options = _options(placed, bundle, 0.0, {str(self.device.ray_resource): float(placed.pool.width)})
            name = f"{self.run_name}/{placed.pool.name}/holder-{len(placed.holders)}"
            placed.holders.append(holder.options(name=name, **options).remote())
        asked = [holder.devices.remote(self.device.visible_variable) for holder in placed.holders]
        try:
            placed.visible = ray.get(asked, timeout=timeout_s)
        except GetTimeoutError as error:
            raise ClusterError(f"the devices of {placed.pool.name} did not answer within {timeout_s:g} s") from error

    def options(self, role: str, rank: int) -> dict[str, object]:
        """Ray's options for worker ``rank`` of ``role``: its bundle and its resources."""
        placed, resources = self._placed_pool(role), self.roles[role]
        own = {str(self.device.ray_resource): float(resources.devices)} if resources.devices else {}
        bundle = placed.order[placed.pool.slot(resources, rank).bundle]
        return _options(placed, bundle, resources.cpus, {} if placed.holders else own)

    def visible_devices(self, role: str, rank: int) -> str | None:
        """What the worker must set its visible-devices variable to; None where Ray does so."""
        placed = self._placed_pool(role)
        if not placed.holders:
            return None
        slot = placed.pool.slot(self.roles[role], rank)
        return ",".join(placed.visible[slot.bundle][index] for index in slot.devices)

    def device_of(self, role: str) -> Device:
        """What the workers of ``role`` compute on: the run's device, or the CPU where they have none of their own."""
        return self.device if self.roles[role].devices else CPU

    def hidden_env(self, role: str) -> dict[str, str]:
        """What keeps the accelerators of a node out of sight of workers that have none: Ray leaves them visible."""
        return {} if self.roles[role].devices else self.device.nothing_visible()

    def beside(self, role: str) -> int:
        """How many other roles live on the devices of ``role``."""
        return len(self._placed_pool(role).pool.roles) - 1

    def roles_by_node(self) -> dict[str, set[str]]:
        """Ray's ids of the nodes that the run has places on, with the roles that live there."""
        found: dict[str, set[str]] = {}
        for placed in self._placed.values():
            node_of = placement_group_table(placed.group)["bundles_to_node_id"]
            for role in placed.pool.roles:
                for rank in range(role.workers):
                    node = node_of[placed.order[placed.pool.slot(role, rank).bundle]]
                    found.setdefault(node, set()).add(role.role)
        return found

    def same_slots(self, one: str, other: str) -> bool:
        """Whether two roles share devices, process by process: the same ones, in the same order."""
        here, there = self.roles[one], self.roles[other]
        same_size = here.workers * here.processes == there.workers * there.processes
        return same_size and self.shares_devices(one, other)

    def shares_devices(self, one: str, other: str) -> bool:
        """Whether two roles live in the same pool."""
        return self._where[one] == self._where[other]

    def waves(self, roles: Sequence[str]) -> list[list[int]]:
        """Which of ``roles`` (by index) may be at work at the same time, wave after wave.

        Without accelerators all roles share the cores, and gain nothing by running at once.
        """
        lanes: dict[int, list[int]] = {}
        for index, role in enumerate(roles):
            lanes.setdefault(self._where[role] if self.device.is_accelerator else 0, []).append(index)
        return _side_by_side(lanes)

    def building_waves(self, roles: Sequence[str]) -> list[list[int]]:
        """The same as :meth:`waves` for loading models, which even roles without accelerators do at once."""
        lanes: dict[int, list[int]] = {}
        for index, role in enumerate(roles):
            lanes.setdefault(self._where[role], []).append(index)
        return _side_by_side(lanes)

    def close(self) -> None:
        """Gives the places back."""
        for placed in self._placed.values():
            remove_placement_group(placed.group)
        self._placed = {}

    def _placed_pool(self, role: str) -> _PlacedPool:
        return self._placed[self._where[role]]


def _side_by_side(lanes: dict[int, list[int]]) -> list[list[int]]:
    """The first of every lane, then the second of every lane, and so on."""
    return [[index for index in wave if index is not None] for wave in itertools.zip_longest(*lanes.values())]


def _options(placed: _PlacedPool, bundle: int, cpus: float, accelerators: dict[str, float]) -> dict[str, object]:
    accelerators = dict(accelerators)
    return {
        "num_cpus": cpus,
        "num_gpus": accelerators.pop("GPU", 0),
        "resources": accelerators,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(placed.group, bundle),
    }


def _by_node(group: PlacementGroup) -> list[int]:
    """The bundles of a group, those of a node together: neighbouring ranks then talk inside a node."""
    node_of: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return sorted(node_of, key=lambda bundle: (node_of[bundle], bundle))
