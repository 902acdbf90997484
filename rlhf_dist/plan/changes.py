"""The smallest change of a configuration after which it fits."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from rlhf_dist.config.roles import JobConfig
from rlhf_dist.config.schema import RolloutConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.plan.batch_limits import batch_limits
from rlhf_dist.plan.job import RoleModel, job_models
from rlhf_dist.plan.loads import Hardware, PoolLoad, footprints_of, loads_of
from rlhf_dist.plan.pools import job_pools

Setting = bool | int | float | str  # what a key of a role is set to


def smallest_change(
    config: JobConfig, device: Device, hardware: Hardware, models: dict[str, RoleModel], load: PoolLoad
) -> str | None:
    """The first of the changes, the gentlest first, after which this pool fits."""
    names = [load.largest] if load.largest in models else [role.role for role in load.pool.roles if role.role in models]
    for changes in (
        change for name in names for change in _changes(models[name], batch_limits(config).sequence_tokens)
    ):
        changed = copy.deepcopy(config)
        for key, value in changes.items():
            set_key(changed, key, value)
        again = loads_of(
            job_pools(changed, device),
            footprints_of(changed, job_models(changed, device), device, hardware),
            device,
            changed,
        )
        limit = hardware.memory_bytes or 0
        room = max(hardware.devices, sum(pool.devices for pool in job_pools(config, device)))
        same = [other for other in again if {r.role for r in other.pool.roles} == {r.role for r in load.pool.roles}]
        if same and same[0].total <= limit and sum(p.devices for p in job_pools(changed, device)) <= room:
            return " ".join(f"{key}={str(value).lower()}" for key, value in changes.items())
    return None


def _changes(model: RoleModel, longest: int) -> Iterator[dict[str, Setting]]:
    """Settings of a role that take less memory, the gentlest first: speed, then more sharding, then more devices."""
    config, section = model.role.config, model.role.section
    if isinstance(config, RolloutConfig):
        for share in (0.85, 0.8, 0.7, 0.6, 0.5):
            if config.memory_utilization is None or share < config.memory_utilization:
                yield {f"{section}.memory_utilization": share}
        for parts in (2, 4, 8):
            if parts <= config.tensor_parallel or model.facts.heads % parts or config.backend == "hf":
                continue
            engines = config.num_engines * config.tensor_parallel // parts
            if engines:  # as many devices as before
                yield {f"{section}.tensor_parallel": parts, f"{section}.num_engines": engines}
            yield {f"{section}.tensor_parallel": parts}
        return
    gentle: list[dict[str, Setting]] = [{}]
    tokens = config.micro_batch_tokens // 2
    while tokens >= longest:
        gentle.append({f"{section}.micro_batch_tokens": tokens})
        tokens //= 2
    stages = [1, 2, 3] if isinstance(config, TrainedRoleConfig) else [3]
    sharding: list[dict[str, Setting]] = [{}] + [
        {f"{section}.zero_stage": stage} for stage in stages if stage > config.zero_stage
    ]
    checkpointing: list[dict[str, Setting]] = [{}]
    if isinstance(config, TrainedRoleConfig) and not config.model.gradient_checkpointing:
        checkpointing.append({f"{section}.model.gradient_checkpointing": True})
    workers: list[dict[str, Setting]] = [{}] + [
        {f"{section}.num_workers": config.num_workers * factor} for factor in (2, 4, 8, 16)
    ]
    if isinstance(config, TrainedRoleConfig) and config.train_engine == "torch":  # which neither shards nor spreads
        for change in (*sharding[1:], *workers[1:]):
            change[f"{section}.train_engine"] = "auto"
    combined = [w | c | s | g for w in workers for c in checkpointing for s in sharding for g in gentle]
    yield from sorted(combined[1:], key=len)


def set_key(config: object, key: str, value: Setting) -> None:
    """Sets a dotted key of a configuration object, in place."""
    *above, leaf = key.split(".")
    for name in above:
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    setattr(config, leaf, value)
