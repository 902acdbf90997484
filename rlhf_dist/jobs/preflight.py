"""The planner's checks before a launch: what cannot fit is said before anything is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_dist.config.resolve import cluster_address
from rlhf_dist.config.roles import JobConfig, job_roles
from rlhf_dist.errors import ClusterError
from rlhf_dist.plan.attention import costly_layouts
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.loads import Hardware
from rlhf_dist.plan.process import DRIVER_BYTES, ENGINE_BYTES, RAY_BYTES

if TYPE_CHECKING:
    from rlhf_dist.device import Device

_MANY = 1 << 20  # of nodes and devices: how many there are, Ray will say
# No worker of a model takes more than so many times its file: float32 state of bfloat16 weights, and activations.
_MOST_OF_FILE = 60


def preflight(config: JobConfig, device: Device) -> None:
    """Passes where the job's memory fits, as far as this machine can tell.

    It knows its own accelerators, and takes the cluster's to be the same; without accelerators it knows the memory of
    a cluster that it starts itself. Models that are small beside the memory are not looked at. What is an estimate
    (activations, caches) is only warned of.

    Raises:
        ClusterError: what does not fit, and the smallest change that makes it fit.
    """
    for cost in costly_layouts(config, device):
        print(f"note: {cost}", file=sys.stderr)
    if device.is_accelerator and not device.count():
        return
    if not device.is_accelerator and cluster_address(config.cluster):
        return
    memory = device.memory_bytes()
    if _all_small(config, device, memory):
        return

    hardware = Hardware(_MANY, _MANY, memory) if device.is_accelerator else Hardware(1, 0, memory)
    try:
        problems = make_plan(config, device, hardware).problems
    except Exception as error:  # an architecture that cannot be planned may well run
        print(
            f"note: the memory could not be planned: {str(error).splitlines()[0] if str(error) else error!r}",
            file=sys.stderr,
        )
        return
    for problem in problems:
        text = problem.what + (f"; the smallest change: {problem.change}" if problem.change else "")
        if problem.certain:
            raise ClusterError(text)
        print(f"note: may not fit: {text}", file=sys.stderr)


def _all_small(config: JobConfig, device: Device, memory: int) -> bool:

    roles = job_roles(config)
    workers = [role.workers for role in roles]
    sizes = [_file_bytes(role.model.path) for role in roles if role.torch_config is not None]
    libraries = 0 if device.is_accelerator else DRIVER_BYTES + RAY_BYTES + ENGINE_BYTES * sum(workers)
    return None not in sizes and sum(size or 0 for size in sizes) * _MOST_OF_FILE * max(workers) + libraries < memory


def _file_bytes(path: str) -> int | None:
    """Bytes of a model's weights on this disk; None where they are elsewhere."""
    files = list(Path(path).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) if files else None
