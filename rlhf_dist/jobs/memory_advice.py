"""When the machine's memory has run out: the smallest change after which the job takes less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlhf_dist.config.roles import JobConfig, RoleKind, job_roles
from rlhf_dist.errors import MemoryRanOut, RunError
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.loads import Hardware

if TYPE_CHECKING:
    from rlhf_dist.device import Device

_LESS = 0.9  # of what was planned or there: a change that saves less would run out again


@contextmanager
def memory_advice(config: JobConfig, device: Device) -> Iterator[None]:
    """Where a worker is killed for its memory inside the block, adds to the line what can be done.

    Raises:
        RunError: in the place of :class:`MemoryRanOut`.
    """
    try:
        yield
    except MemoryRanOut as error:
        raise RunError(f"{error}; {_advice(config, device, error)}", error.detail) from error


def _advice(config: JobConfig, device: Device, error: MemoryRanOut) -> str:
    change = None if device.is_accelerator else _planned_change(config, device, error.total)
    if change is not None:
        return f"the smallest change: {change}"
    rows = {role.name: role for role in job_roles(config)}
    for role in (rows[name] for name in error.roles if name in rows):
        key = role.section
        if role.kind is RoleKind.ENGINE:
            return f"{role.name} takes most: lower {key}.memory_gib, {key}.max_batch or {role.workers_key}"
        if role.torch_config is not None:
            return (
                f"{role.name} takes most: lower {key}.micro_batch_tokens, raise {key}.zero_stage, or spread it over "
                f"more nodes ({role.workers_key})"
            )
    return "give the node more memory, or the job more nodes"


def _planned_change(config: JobConfig, device: Device, total: int) -> str | None:
    """The planner's smallest change, where it has one: its estimate has proved too low, so it is asked for less."""
    try:
        planned = max(load.total for load in make_plan(config, device, Hardware(1, 0, None)).loads)
        memory = int(_LESS * min(planned, total))
        changes = [problem.change for problem in make_plan(config, device, Hardware(1, 0, memory)).problems]
    except Exception:  # an architecture that cannot be planned has run all the same, and the error must be told
        return None
    return next((change for change in changes if change is not None), None)
