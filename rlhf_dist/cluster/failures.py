"""Turns Ray's exceptions into errors for the user: one line with the worker, the reason, and what can be done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.exceptions import (
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    AuthenticationError,
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from rlhf_dist.cluster.worker_memory import Seen, last_seen, ran_out
from rlhf_dist.errors import ClusterError, MemoryRanOut, RunError, UserError
from rlhf_dist.process_output import tail

TOKEN_HELP = "set RAY_AUTH_MODE=token, with the cluster's token in RAY_AUTH_TOKEN or in ~/.ray/auth_token"
_NO_PLACE = (ActorUnschedulableError, TaskUnschedulableError, ActorPlacementGroupRemoved, TaskPlacementGroupRemoved)
_NODE = re.compile(r"Memory on the node \(IP: ([^,]+),[^)]*\) was \S+ used / ([\d.]+)GB limit")
_KILLED = re.compile(r"pid=(\d+), actual memory used")
GIB = 2**30


def call_failure(error: RayError, name: str, what: str, logs: Mapping[str, str]) -> Exception:
    """The error for the user when a call to one worker fails.

    Args:
        error: Ray's.
        name: of the worker.
        what: the name of the call.
        logs: each worker's log file; those of the run's other workers are the roles whose memory is told.

    Returns:
        RunError, or UserError or ClusterError where it is the user's or the cluster's.
    """
    if isinstance(error, RayTaskError):
        return _task_failure(error, name, what, logs)
    if isinstance(error, OutOfMemoryError):
        return _memory_failure(error, name, what, logs)
    if isinstance(error, RayActorError | WorkerCrashedError):
        return _death(error, name, what, logs)
    return ray_failure(error, f"worker {name} in {what}")


def ray_failure(error: RayError, who: str) -> Exception:
    """The error for the user for any other exception of Ray; ``who`` is the part of the run that met it."""
    kind, detail = type(error).__name__, str(error)
    if isinstance(error, AuthenticationError):
        return UserError(f"{who}: the Ray cluster refuses its token ({kind}): {TOKEN_HELP}")
    if isinstance(error, _NO_PLACE):
        return ClusterError(
            f"{who}: its place in the cluster is gone, probably because a node was lost ({kind}): {_line(detail)}"
        )
    if isinstance(error, OutOfDiskError):
        return RunError(
            f"{who}: the object store, and the disk that it spills to, are full ({kind}): make room on the disk "
            "of Ray's "
            "temporary folder (/tmp/ray), or raise cluster.object_store_gib",
            detail,
        )
    if isinstance(error, ObjectStoreFullError):
        return RunError(f"{who}: the object store is full ({kind}): raise cluster.object_store_gib", detail)
    if isinstance(error, ObjectLostError):
        return RunError(f"{who}: data was lost with the node or process that held it ({kind})", detail)
    if isinstance(error, GetTimeoutError):
        return RunError(f"{who}: the answer did not arrive in time ({kind})", detail)
    if isinstance(error, RuntimeEnvSetupError):
        return RunError(f"{who}: Ray could not set up its runtime environment ({kind}): {_line(detail, 1)}", detail)
    return RunError(f"{who}: {kind}: {_line(detail)}", detail)


def tails(workers: Sequence[str], logs: Mapping[str, str]) -> str:
    """The last lines of the workers' logs."""
    return "\n".join(f"--- last lines of {name} ({logs[name]})\n{tail(Path(logs[name]), 15)}" for name in workers)


def _task_failure(error: RayTaskError, name: str, what: str, logs: Mapping[str, str]) -> Exception:
    """The worker's method raised something."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(cause, UserError | ClusterError | RunError):
        return cause
    if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
        return call_failure(cause, name, what, logs)
    text = f"worker {name} failed in {what}: {type(cause).__name__}: {cause}"
    return RunError(text.splitlines()[0], str(error))


def _death(error: RayError, name: str, what: str, logs: Mapping[str, str]) -> Exception:
    """The worker's process is gone: killed, crashed, or its class could not be made."""
    if getattr(error, "actor_init_failed", False):
        return RunError(f"worker {name} failed in {what}: {_line(str(error), -1)}", str(error))
    seen = last_seen()
    if name in seen and ran_out(seen[name]):
        return _told(name, what, seen, seen[name].node, seen[name].total, (), logs)
    return RunError(f"worker {name} died during {what} (its log: {logs[name]})", tails([name], logs))


def _memory_failure(error: OutOfMemoryError, name: str, what: str, logs: Mapping[str, str]) -> Exception:
    """Ray has killed the worker, since the node's memory was about to run out."""
    text, seen = str(error), last_seen()
    found = _NODE.search(text)
    node = found[1] if found else seen[name].node if name in seen else "?"
    total = int(float(found[2]) * GIB) if found else seen[name].total if name in seen else 0
    pids = {int(pid) for pid in _KILLED.findall(text)}
    others = sorted(who for who, at in seen.items() if at.node == node and at.pid in pids and who != name)
    return _told(name, what, seen, node, total, others, logs)


def _told(
    name: str,
    what: str,
    seen: Mapping[str, Seen],
    node: str,
    total: int,
    others: Sequence[str],
    logs: Mapping[str, str],
) -> MemoryRanOut:
    roles: dict[str, list[int]] = {}
    for who, at in seen.items():
        if at.node == node:
            roles.setdefault(who.rpartition("-")[0], []).append(at.pss)
    largest = sorted(roles.items(), key=lambda role: -sum(role[1]))
    took = ", ".join(f"{role} {' + '.join(_gib(size) for size in sizes)}" for role, sizes in largest)
    killed = f"worker {name} was" if not others else f"workers {', '.join([name, *others])} were"
    took_text = f"; last known memory of its roles, in GiB: {took}" if took else ""
    return MemoryRanOut(
        f"{killed} killed during {what}, because node {node} ran out of its {_gib(total)} GiB of memory{took_text}",
        tails([name], logs) if name in logs else "",
        {role: sum(sizes) for role, sizes in largest},
        total,
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def _line(text: str, number: int = 0) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return lines[number if number < len(lines) else 0]
