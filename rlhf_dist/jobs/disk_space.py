"""Is there room on the disk for what a run will save? Said before anything is started, as far as it can be known."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_dist.config.resolve import is_given
from rlhf_dist.config.roles import JobConfig, job_roles, result_role
from rlhf_dist.config.schema import TrainedRoleConfig
from rlhf_dist.errors import UserError

if TYPE_CHECKING:
    from rlhf_dist.device import Device

_MOMENTS = 8  # bytes a parameter: two of AdamW, float32
_WEIGHT = 4  # bytes of a parameter in a checkpoint: float32
_GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes of what a run saves: its model (with the average of its weights, where it keeps one), and a checkpoint."""

    model: int
    checkpoint: int


def check_room(folder: Path, config: JobConfig, device: Device) -> None:
    """Passes where `run.dir` has room for the model; says it in a line where it has none for the checkpoints.

    Args:
        folder: the run's, which is there.
        config: of the job.
        device: whose number formats the model is in.

    Raises:
        UserError: less is free than the model alone takes.
    """
    need = _need(config, device)
    if need is None:
        return
    free = shutil.disk_usage(folder).free
    where = f"run.dir={config.run.dir}: {_size(free)} free"
    if free < need.model:
        raise UserError(f"{where}, but the model alone needs {_size(need.model)}: choose another run.dir, or make room")
    copies = config.run.keep_checkpoints + 1  # the oldest goes when the newest is there
    wanted = need.model + copies * need.checkpoint
    if free < wanted:
        print(
            f"note: {where}, but the model ({_size(need.model)}) and {copies} checkpoints of {_size(need.checkpoint)} "
            f"need about {_size(wanted)}: saving may fail",
            file=sys.stderr,
        )


def _need(config: JobConfig, device: Device) -> Need | None:
    """About; None where a model is not on this disk, so that its size is not known."""
    learning = {role.name: role.config for role in job_roles(config) if isinstance(role.config, TrainedRoleConfig)}
    counts = {name: _parameters(role) for name, role in learning.items()}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(known) < len(counts):
        return None
    return _sum(learning, result_role(config).name, known, device)


def _sum(roles: Mapping[str, TrainedRoleConfig], result: str, counts: Mapping[str, int], device: Device) -> Need:
    copies = 2 if roles[result].ema_decay else 1
    model = copies * counts[result] * device.dtype(roles[result].model.dtype).itemsize
    checkpoint = 0
    for name, role in roles.items():
        if not role.lora.rank:  # an adapter is small beside its model
            checkpoint += counts[name] * (_WEIGHT + _MOMENTS + (_WEIGHT if role.ema_decay else 0))
    return Need(model, checkpoint)


def _parameters(role: TrainedRoleConfig) -> int | None:
    """Of the model of ``role``, read off its files' headers; None where they are not on this disk."""
    from safetensors import SafetensorError

    if not is_given(role.model.path):
        return None
    files = sorted(Path(role.model.path).glob("*.safetensors"))
    try:
        return sum(_elements(file) for file in files) if files else None
    except (OSError, SafetensorError):
        return None  # whoever loads it will say what is wrong with it


def _elements(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB / 10 else f"{count / 2**20:.1f} MiB"
