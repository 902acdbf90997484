"""Whether a job fits into a cluster, role by role, and the smallest change that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_dist.config.roles import ACTOR, ROLLOUT, JobConfig, Role, RoleKind, job_roles
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import Device
from rlhf_dist.plan.batches import StepBatches, ppo_batches
from rlhf_dist.plan.changes import smallest_change
from rlhf_dist.plan.footprint import Footprint, concurrent_sequences
from rlhf_dist.plan.job import RoleModel, job_models
from rlhf_dist.plan.loads import GIB, Hardware, PoolLoad, footprints_of, loads_of
from rlhf_dist.plan.pools import Pool, job_pools


@dataclass(frozen=True)
class Problem:
    """What cannot work.

    Attributes:
        what: in one line.
        change: the smallest change that makes it work, as `key=value`s; None where there is none.
        certain: whether it is more than an estimate of activations and caches.
    """

    what: str
    change: str | None
    certain: bool = True


@dataclass(frozen=True)
class Plan:
    """What a job takes of a cluster.

    Attributes:
        device: of the run.
        hardware: what there is.
        pools: who lives together.
        models: the roles with a model.
        footprints: bytes of a worker of each of them.
        loads: of each pool's devices.
        batches: of a PPO step; None for other jobs.
        concurrent: sequences that an engine runs at once; None without engines.
        transfer_bytes: of one transfer of weights; 0 without engines.
        problems: what cannot work.
        remarks: what works and wastes.
    """

    device: Device
    hardware: Hardware
    pools: Sequence[Pool]
    models: dict[str, RoleModel]
    footprints: dict[str, Footprint]
    loads: Sequence[PoolLoad]
    batches: StepBatches | None
    concurrent: int | None
    transfer_bytes: int
    problems: Sequence[Problem]
    remarks: Sequence[str]


def make_plan(config: JobConfig, device: Device, hardware: Hardware, fixes: bool = True) -> Plan:
    """The plan of a resolved configuration; without ``fixes`` problems come without a change, and faster.

    Raises:
        UserError: a model's config.json cannot be had.
    """
    pools, models = job_pools(config, device), job_models(config, device)
    footprints = footprints_of(config, models, device, hardware)
    loads = loads_of(pools, footprints, device, config)
    batches = ppo_batches(config) if isinstance(config, PPOConfig) else None
    concurrent = transfer = None
    if isinstance(config, PPOConfig):
        concurrent = concurrent_sequences(models[ROLLOUT].facts, config.rollout, footprints[ROLLOUT].cache)
        transfer = models[ACTOR].facts.parameters * models[ACTOR].facts.itemsize
    problems = [
        *_too_few_devices(config, pools, hardware),
        *_too_little_memory(config, device, hardware, models, loads, fixes),
    ]
    if concurrent == 0 and not any(problem.what.startswith(ROLLOUT) for problem in problems):
        problems.append(
            Problem("rollout: the KV cache is too small for a single sequence", _raise_cache(config, device))
        )
    remarks = _remarks(config, batches, pools, models, footprints, hardware, concurrent)
    return Plan(
        device, hardware, pools, models, footprints, loads, batches, concurrent, transfer or 0, problems, remarks
    )


def _too_few_devices(config: JobConfig, pools: Sequence[Pool], hardware: Hardware) -> Iterator[Problem]:
    if not hardware.devices_per_node:
        return
    rows = {role.name: role for role in job_roles(config)}
    for pool in pools:
        if pool.width > hardware.devices_per_node:
            yield Problem(
                f"{pool.name}: an engine of {pool.width} devices does not fit on a node of {hardware.devices_per_node}",
                f"rollout.tensor_parallel={hardware.devices_per_node}",
            )
        strategy, section = pool.roles[0].strategy, rows[pool.roles[0].role].section
        if strategy == "strict_pack" and pool.devices > hardware.devices_per_node:
            yield Problem(
                f"{pool.name}: {pool.devices} devices do not fit on one node of {hardware.devices_per_node}",
                f"{section}.strategy=pack",
            )
        if strategy == "strict_spread" and pool.bundles > hardware.nodes:
            yield Problem(
                f"{pool.name}: {pool.bundles} nodes are needed, {hardware.nodes} exist",
                f"{section}.strategy=spread",
            )
    wanted = sum(pool.devices for pool in pools)
    if wanted > hardware.devices:
        yield Problem(f"{wanted} devices are needed, {hardware.devices} exist", _fewer_devices(rows, pools, hardware))


def _fewer_devices(rows: dict[str, Role], pools: Sequence[Pool], hardware: Hardware) -> str | None:
    """Sharing, where it helps: the largest pool alone must fit."""
    if len(pools) > 1 and max(pool.devices for pool in pools) <= hardware.devices:
        return "placement=colocated"
    largest = max(pools, key=lambda pool: pool.devices)
    role = max(largest.roles, key=lambda role: role.workers * max(role.devices, 1))
    room = hardware.devices - sum(pool.devices for pool in pools if pool is not largest)
    return f"{rows[role.role].workers_key}={room // max(role.devices, 1)}" if room > 0 else None


def _too_little_memory(
    config: JobConfig,
    device: Device,
    hardware: Hardware,
    models: dict[str, RoleModel],
    loads: Sequence[PoolLoad],
    fixes: bool,
) -> Iterator[Problem]:
    limit = hardware.memory_bytes
    if limit is None:
        return
    for load in loads:
        if load.total > limit:
            where = "a device" if device.is_accelerator else "the node"
            size, room = f"{load.total / GIB:.1f} GiB", f"{limit / GIB:.1f} GiB"
            what = f"{load.pool.name}: {size} on {where} of {room} (most for {load.largest})"
            change = smallest_change(config, device, hardware, models, load) if fixes else None
            yield Problem(what, change, certain=load.certain > limit)


def _raise_cache(config: JobConfig, device: Device) -> str | None:
    assert isinstance(config, PPOConfig)
    if device.is_accelerator:
        return f"rollout.tensor_parallel={config.rollout.tensor_parallel * 2}"
    return f"rollout.memory_gib={config.rollout.memory_gib * 4:g}"


def _remarks(
    config: JobConfig,
    batches: StepBatches | None,
    pools: Sequence[Pool],
    models: dict[str, RoleModel],
    footprints: dict[str, Footprint],
    hardware: Hardware,
    concurrent: int | None,
) -> list[str]:
    remarks = []
    if batches is not None:
        for role, idle in batches.idle_workers.items():
            few = f"a minibatch of {batches.minibatch}"
            remarks.append(f"{role}: {idle} workers have no sequence of {few}: raise ppo.minibatch_size")
        if batches.idle_engines:
            remarks.append(f"rollout: {batches.idle_engines} engines get no prompt: lower rollout.num_engines")
    if batches is not None and concurrent and isinstance(config, PPOConfig):
        each = -(-batches.samples // config.rollout.num_engines)
        if each > concurrent:
            remarks.append(
                f"rollout: an engine has {each} sequences and runs {concurrent} at once, if all have full length"
            )
    for pool in pools if hardware.devices_per_node else ():
        inside = [models[role.role].role for role in pool.roles if role.role in models]
        away = [footprints[role.name] for role in inside if role.kind is not RoleKind.ENGINE]
        if pool.shared and away:
            size = sum(needs.weights + needs.optimizer for needs in away) / GIB
            remarks.append(
                f"{pool.name}: roles that are off their devices take up to {size:.1f} GiB of host memory per device"
            )
    wanted = sum(pool.devices for pool in pools)
    if hardware.devices_per_node and wanted < hardware.devices:
        remarks.append(f"{hardware.devices - wanted} of {hardware.devices} devices are not used")
    return remarks
