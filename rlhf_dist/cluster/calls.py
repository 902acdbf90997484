"""Calling worker groups, and waiting for them with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ray
from ray.exceptions import RayError

from rlhf_dist.cluster.failures import call_failure, tails
from rlhf_dist.errors import RunError
from rlhf_dist.types import Residency

if TYPE_CHECKING:
    from rlhf_dist.cluster.group import WorkerGroup

T = TypeVar("T")

_LEAST_FETCH_S = 30.0  # to fetch an answer that came at the last moment


@dataclass(frozen=True)
class Call(Generic[T]):
    """One method call on every worker of a group, not yet made.

    Attributes:
        group: whose workers.
        method: name of the engine's method.
        args: for each worker its arguments.
        combine: the workers' answers, in rank order, to the call's result.
        needs: how much of the role must be on its device, where roles share devices.
    """

    group: WorkerGroup
    method: str
    args: Sequence[tuple[Any, ...]]
    combine: Callable[[list[Any]], T]
    needs: Residency = "all"


def same_args(group: WorkerGroup, *args: Any) -> list[tuple[Any, ...]]:
    """The same arguments for every worker; a batch that several calls take is in the object store once for all."""
    shared = tuple(group.batches.put(arg) for arg in args)
    return [shared] * group.size


def run_calls(calls: Sequence[Call[Any]], timeout_s: float) -> list[Any]:
    """Makes all calls at once and waits for every answer.

    Raises:
        RunError: a worker died or failed, or the deadline passed; the text names the workers waited for.
        UserError: a worker found a mistake of the user's.
        ClusterError: a worker's place is gone.
    """
    waiting: dict[Any, tuple[int, int]] = {}
    for c, call in enumerate(calls):
        for w, (worker, args) in enumerate(zip(call.group.workers, call.args, strict=True)):
            waiting[worker.call.remote(call.method, *args)] = (c, w)
        call.group.waiting(call.group.size)
    answers = collect(
        {ref: calls[c].group.worker_names[w] for ref, (c, w) in waiting.items()},
        "/".join(call.method for call in calls),
        timeout_s,
        {name: log for call in calls for name, log in zip(call.group.worker_names, call.group.logs, strict=True)},
        answered=lambda ref: calls[waiting[ref][0]].group.waiting(-1),
    )
    parts: list[list[Any]] = [[None] * call.group.size for call in calls]
    for ref, (c, w) in waiting.items():
        parts[c][w] = answers[ref]
    return [call.combine(part) for call, part in zip(calls, parts, strict=True)]


def collect(
    names: dict[Any, str],
    what: str,
    timeout_s: float,
    logs: dict[str, str],
    answered: Callable[[Any], None] = lambda ref: None,
) -> dict[Any, Any]:
    """Waits for all references; the first failure ends the waiting, whoever else is still at work.

    Args:
        names: for each reference, the worker that owes it.
        what: was asked of them, for messages.
        timeout_s: seconds to wait for all of them together.
        logs: each worker's log file.
        answered: called with each reference once its answer is there.
    """
    deadline = time.monotonic() + timeout_s
    pending, answers = list(names), {}
    while pending:
        left = deadline - time.monotonic()
        done, pending = ray.wait(pending, num_returns=1, timeout=max(left, 0.0))
        if not done:
            late = ", ".join(sorted(names[ref] for ref in pending))
            raise RunError(f"{what}: no answer from {late} within {timeout_s:g} s", tails(late.split(", "), logs))
        for ref in done:
            left = max(deadline - time.monotonic(), _LEAST_FETCH_S)
            answers[ref] = _get(ref, names[ref], what, left, logs)
            answered(ref)
    return answers


def _get(ref: Any, name: str, what: str, timeout_s: float, logs: dict[str, str]) -> Any:
    """The answer, which is there already, from wherever it is."""
    try:
        return ray.get(ref, timeout=timeout_s)
    except RayError as error:
        raise call_failure(error, name, what, logs) from error
