"""Calls of an engine's method on every worker of a group: typed, started, waited for with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray

from rlhf_dist.cluster.group import WorkerGroup
from rlhf_dist.cluster.waiting import Ref, wait_for_all
from rlhf_dist.types import Residency

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E")
P = ParamSpec("P")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One method call on every worker of a group, not yet made. See :func:`call_all` and :func:`call_each`.

    Attributes:
        group: the workers to call.
        method: name of the engine's method.
        args: for each worker its arguments.
        combine: the workers' answers, in rank order, to the call's result.
        needs: how much of the role must be on its device, where roles share devices.
    """

    group: WorkerGroup
    method: str
    args: Sequence[tuple[object, ...]]
    combine: Callable[[list[Any]], T]
    needs: Residency = "all"

    def start(self) -> StartedCall[T]:
        """Makes the call, wherever the role is at present; ``Scheduler.start`` brings it onto its devices first."""
        workers = zip(self.group.workers, self.args, strict=True)
        started = StartedCall(self, [worker.call.remote(self.method, *args) for worker, args in workers])
        self.group.waiting(self.group.size)
        return started


@dataclass(frozen=True)
class StartedCall(Generic[T]):
    """A call that the workers are at work on, or will be when they have done what they were asked before.

    Attributes:
        call: what was asked.
        refs: Ray's reference of each worker's answer, in rank order.
        started_at: seconds as `time.time()` counts them.
    """

    call: Call[T]
    refs: list[Ref]
    started_at: float = field(default_factory=time.time)

    def wait(self, timeout_s: float) -> T:
        """The result. To wait for several calls and stop at the first failure, use :func:`wait_for_calls`.

        Raises:
            RunError: a worker died or failed, or the deadline passed; the text names the workers waited for.
            UserError: a worker found a mistake of the user's.
            ClusterError: a worker's place is gone.
        """
        return self.combine(wait_for_calls([self], timeout_s))

    def combine(self, answers: Mapping[Ref, Any]) -> T:
        """The result, of all answers by their references."""
        return self.call.combine([answers[ref] for ref in self.refs])

    def cancel(self) -> None:
        """Takes the call back from the workers that have not begun it. Its result must not be waited for then."""
        for ref in self.refs:
            ray.cancel(ref)
        self.call.group.waiting(-self.call.group.size)


def call_all(group: WorkerGroup, method: Callable[Concatenate[E, P], R], *args: P.args, **kwargs: P.kwargs) -> Call[R]:
    """The same call on every worker; the first one's answer counts, as all give the same.

    Args:
        group: the workers to call.
        method: of the engine's class, as ``ActorEngine.fit``: mypy checks the arguments by it. It is sent by its name.
        args: its arguments.
        kwargs: none; calls go by position.
    """
    assert not kwargs, "calls go by position"
    return Call(group, method.__name__, same_args(group, *args), _first)


def call_each(
    group: WorkerGroup,
    method: Callable[Concatenate[E, P], R],
    args: Sequence[tuple[object, ...]],
    combine: Callable[[list[R]], T],
) -> Call[T]:
    """A call with different arguments for each worker; ``combine`` makes one result of the answers."""
    return Call(group, method.__name__, args, combine)


def same_args(group: WorkerGroup, *args: object) -> list[tuple[object, ...]]:
    """The same arguments for every worker; a batch that several calls take is in the object store once for all."""
    shared = tuple(group.batches.put(arg) for arg in args)
    return [shared] * group.size


def run_calls(calls: Sequence[Call[T]], timeout_s: float) -> list[T]:
    """Makes all calls at once and waits for every answer; errors as in :meth:`StartedCall.wait`."""
    started = [call.start() for call in calls]
    answers = wait_for_calls(started, timeout_s)
    return [one.combine(answers) for one in started]


def wait_for_calls(started: Sequence[StartedCall[Any]], timeout_s: float) -> dict[Ref, Any]:
    """Waits for every answer of several calls together; the first failure ends it.

    Returns:
        all answers by their references, for :meth:`StartedCall.combine`. Errors as in :meth:`StartedCall.wait`.
    """
    of = {ref: one for one in started for ref in one.refs}
    names = {ref: name for one in started for ref, name in zip(one.refs, one.call.group.worker_names, strict=True)}
    logs = {name: log for one in started for name, log in one.call.group.log_of().items()}
    what = "/".join(one.call.method for one in started)

    def answered(ref: Ref) -> None:
        call = of[ref].call
        call.group.waiting(-1)
        call.group.answered(names[ref], call.method, of[ref].started_at)

    return wait_for_all(names, what, timeout_s, logs, answered)


def nothing(_: list[None]) -> None:
    """Combines the answers of workers that have nothing to say."""


def _first(answers: list[R]) -> R:
    return answers[0]
