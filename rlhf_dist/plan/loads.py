"""What lies on the devices of each pool at the worst moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_dist.config.roles import ACTOR, ROLLOUT, JobConfig
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import Device
from rlhf_dist.plan.batch_limits import batch_limits
from rlhf_dist.plan.footprint import Footprint
from rlhf_dist.plan.job import RoleModel
from rlhf_dist.plan.pools import Pool
from rlhf_dist.plan.process import DRIVER_BYTES, RAY_BYTES, TEXT_REWARD_BYTES

GIB = 2**30
# Memory of an accelerator that a process takes before it has a model: the device's context and libraries.
CONTEXT_BYTES = int(0.7 * GIB)


@dataclass(frozen=True)
class Hardware:
    """The cluster that a plan is made for.

    Attributes:
        nodes: how many.
        devices_per_node: accelerators of each; 0 where the nodes have none.
        memory_bytes: of an accelerator, or of a node without any; None where it is not known.
    """

    nodes: int
    devices_per_node: int
    memory_bytes: int | None

    @property
    def devices(self) -> int:
        """Accelerators of the cluster."""
        return self.nodes * self.devices_per_node


@dataclass(frozen=True)
class PoolLoad:
    """What lies on one device of a pool at the worst moment (on a CPU: on the one node, of all pools).

    Attributes:
        pool: whose devices.
        total: bytes.
        largest: what takes them: the name of a role, or in words what several roles do together.
        certain: bytes of them that are no estimate.
    """

    pool: Pool
    total: int
    largest: str
    certain: int


def footprints_of(
    config: JobConfig, models: dict[str, RoleModel], device: Device, hardware: Hardware
) -> dict[str, Footprint]:
    """The bytes of a worker of each role with a model."""
    device_bytes = hardware.memory_bytes if hardware.devices_per_node else None
    bucket = config.weights.bucket_mb * 2**20 if isinstance(config, PPOConfig) else 0
    limits = batch_limits(config)
    return {name: model.footprint(limits, device, device_bytes, bucket) for name, model in models.items()}


def loads_of(
    pools: Sequence[Pool], footprints: dict[str, Footprint], device: Device, config: JobConfig
) -> list[PoolLoad]:
    """What each pool's devices hold; without accelerators, what the node holds."""
    if not device.is_accelerator:
        return [_node_load(pools, footprints)]
    loads = []
    for pool in pools:
        inside = {role.role: footprints[role.role] for role in pool.roles if role.role in footprints}
        if not inside:
            continue
        worst = max(inside, key=lambda name: inside[name].total)
        moments = {worst: inside[worst].total}
        if {ACTOR, ROLLOUT} <= inside.keys() and isinstance(config, PPOConfig):
            bucket = 2 * config.weights.bucket_mb * 2**20
            moments["the transfer of weights"] = inside[ACTOR].weights + inside[ROLLOUT].weights + bucket
        largest = max(moments, key=lambda name: moments[name])
        certain = max(needs.certain for needs in inside.values())
        loads.append(PoolLoad(pool, moments[largest] + CONTEXT_BYTES * len(pool.roles), largest, certain))
    return loads


def _node_load(pools: Sequence[Pool], footprints: dict[str, Footprint]) -> PoolLoad:
    """On a CPU all roles share a node's memory, and take turns: only one is above what it has at rest at a time."""
    roles = [role for pool in pools for role in pool.roles]
    total, highest, certain = DRIVER_BYTES + RAY_BYTES, 0, 0
    for role in roles:
        processes = role.workers * role.processes
        needs = footprints.get(role.role, Footprint(weights=0, process=TEXT_REWARD_BYTES))
        total += needs.resting * processes
        certain += (needs.process + needs.certain) * processes
        highest = max(highest, (needs.total - needs.resting) * processes)
    return PoolLoad(Pool(tuple(roles)), total + highest, "all roles together", certain)
