"""What each worker was last seen to take of its node's memory, kept where it outlives the worker.

A worker that is killed for its memory can say nothing any more. So each notes every few seconds in the cluster's
key-value store what it takes, and the driver reads it there when one is gone.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

from rlhf_dist.process_memory import pss_bytes

_STORE = b"rlhf_dist_memory"
_VMSTAT = Path("/proc/vmstat")
# Below this share of free memory a process that ends by SIGKILL was most likely ended by the kernel.
_SCARCE = 0.03


@dataclass(frozen=True)
class Seen:
    """A worker's memory at one moment.

    Attributes:
        node: address of its node.
        pid: of its process.
        pss: bytes that it takes, child processes included.
        available: bytes that the node had left.
        total: bytes of the node's memory.
        killed: processes that the node's kernel had ended for want of memory, since it was started.
    """

    node: str
    pid: int
    pss: int
    available: int
    total: int
    killed: int


def note_memory(worker: str) -> int:
    """Notes what this process, which is ``worker``, takes now. Returns its PSS in bytes."""
    memory = psutil.virtual_memory()
    node, pid = ray.util.get_node_ip_address(), os.getpid()
    seen = Seen(node, pid, pss_bytes(pid), memory.available, memory.total, kernel_kills())
    _internal_kv_put(_prefix() + worker.encode(), json.dumps(asdict(seen)).encode(), namespace=_STORE)
    return seen.pss


def last_seen() -> dict[str, Seen]:
    """What this run's workers noted last, by their names; empty where the cluster does not answer."""
    found: dict[str, Seen] = {}
    with suppress(Exception):  # this is told beside an error, and must not replace it
        for key in _internal_kv_list(_prefix(), namespace=_STORE):
            text = _internal_kv_get(key, namespace=_STORE)
            if text is not None:
                found[key[len(_prefix()) :].decode()] = Seen(**json.loads(text))
    return found


def forget_memory() -> None:
    """Removes the run's notes from the cluster."""
    with suppress(Exception):  # the cluster may be gone
        _internal_kv_del(_prefix(), del_by_prefix=True, namespace=_STORE)


def ran_out(seen: Seen) -> bool:
    """Whether a process that was seen so, and is gone without a word, was ended for want of memory.

    The kernel says so where the driver is on the same node; elsewhere it is concluded from what was left.
    """
    if seen.node == ray.util.get_node_ip_address() and kernel_kills() > seen.killed:
        return True
    return seen.available < _SCARCE * seen.total


def kernel_kills() -> int:
    """Processes that this machine's kernel has ended for want of memory since it was started."""
    try:
        lines = _VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _prefix() -> bytes:
    return f"{ray.get_runtime_context().namespace}/".encode()
