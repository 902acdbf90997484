"""Decides which calls run at the same time and which one after another, from the devices that roles have or share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, overload

from rlhf_dist.cluster.calls import Call, StartedCall, run_calls
from rlhf_dist.cluster.device_sharing import Residents
from rlhf_dist.cluster.group import Construction
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.waiting import Ref, wait_for_all

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class Result(Generic[T]):
    """The result of a call made by :meth:`Scheduler.together`, available after its block."""

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self._values: list[T] = []

    def set(self, value: T) -> None:
        """Stores the result; called once by the scheduler."""
        self._values.append(value)

    @property
    def value(self) -> T:
        """The call's result. RuntimeError before it is there."""
        if not self._values:
            raise RuntimeError(f"{self.call.method} was not run yet: its result is there after the block")
        return self._values[0]


class Together:
    """Calls to be made at the same time, if their roles have their own devices."""

    def __init__(self) -> None:
        self.results: list[Result[Any]] = []

    def add(self, call: Call[T]) -> Result[T]:
        """Adds a call. Returns the holder of its result."""
        result = Result(call)
        self.results.append(result)
        return result


class Scheduler:
    """Runs calls on the roles of a run, and builds their engines.

    Roles that share devices are brought onto them for their calls, as far as a call needs it, and wait in host
    memory otherwise.

    Args:
        placement: where the roles live.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.residents = Residents(placement.sharing)

    @overload
    def run(self, call: Call[A], /, *, timeout_s: float) -> A: ...

    @overload
    def run(self, call: Call[A], second: Call[B], /, *, timeout_s: float) -> tuple[A, B]: ...

    def run(self, *calls: Call[Any], timeout_s: float) -> Any:
        """The result of a call, or the two of two.

        Calls are made at once where each role has its own devices, else one after another.

        Raises:
            RunError: a worker died or failed, or a wave of calls had no answer within ``timeout_s`` seconds.
            UserError: a worker found a mistake of the user's.
            ClusterError: a worker's place is gone.
        """
        with self.together(timeout_s) as together:
            results = [together.add(call) for call in calls]
        return results[0].value if len(results) == 1 else tuple(result.value for result in results)

    @contextmanager
    def together(self, timeout_s: float) -> Iterator[Together]:
        """Runs what is added in the block when the block is left; as :meth:`run`, for any number of calls."""
        together = Together()
        yield together
        results = together.results
        for wave in self.placement.waves([result.call.group.role for result in results]):
            now = [results[index] for index in wave]
            self._bring([result.call for result in now], timeout_s)
            for result, value in zip(now, run_calls([result.call for result in now], timeout_s), strict=True):
                result.set(value)

    def start(self, call: Call[T], timeout_s: float) -> StartedCall[T]:
        """Starts a call without waiting for its end, so that others can be started and waited for in the meantime.

        Where its role shares devices with one that is at work, the call starts after that; ``timeout_s`` is for that.
        """
        self._bring([call], timeout_s)
        return call.start()

    def _bring(self, calls: Sequence[Call[Any]], timeout_s: float) -> None:
        wanted = {call.group: self.residents.at_least(call.group, call.needs) for call in calls}
        self.residents.bring(wanted, timeout_s)

    def build(self, constructions: Sequence[Construction], timeout_s: float) -> None:
        """Makes the engines of several groups: all at once, but those that share devices one after another.

        Raises:
            RunError: one failed or was not ready in time.
            UserError: a worker found a mistake of the user's.
        """
        waves = self.placement.building_waves([construction.group.role for construction in constructions])
        if len(waves) > 1:  # the imports need no device: nobody waits for a turn to do them
            for construction in constructions:
                construction.group.import_ahead(construction.libraries)
        for wave in waves:
            now = [constructions[index] for index in wave]
            self.residents.vacate([construction.group.role for construction in now], timeout_s)
            logs = {name: log for making in now for name, log in making.group.log_of().items()}
            prepared = {ref: name for making in now for ref, name in making.group.prepared.items()}
            wait_for_all(prepared, "starting", timeout_s, logs)
            hosts = {making.group.host_rendezvous(): making.group.worker_names[0] for making in now}
            addresses = wait_for_all(hosts, "starting", timeout_s, logs)
            names: dict[Ref, str] = {}
            for making, ref in zip(now, hosts, strict=True):
                refs = making.group.build(addresses[ref], making.factory, making.args, making.collective)
                names |= zip(refs, making.group.worker_names, strict=True)
            wait_for_all(names, "loading", timeout_s, logs)
            for making in now:
                self.residents.admit(making.group)
