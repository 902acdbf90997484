"""A role's workers, started together and called as one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from torch import Tensor

from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.prometheus import RunGauges
from rlhf_dist.cluster.waiting import Ref
from rlhf_dist.cluster.worker import Rendezvous, Worker
from rlhf_dist.config.parsing import port_range
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.config.secrets import environment
from rlhf_dist.models.layout import balanced_shards
from rlhf_dist.types import ragged_indices


class WorkerGroup:
    """The workers of one role.

    Args:
        run: the run's name.
        role: its name, also in Ray's dashboard and in the log files' names.
        placement: where its workers live, and on what kind of device.
        log_dir: for one log file a worker.
        env: environment variables of the worker processes.
        seed: of torch's generators in every worker.
        cluster: the deadlines of starting and of each collective among the workers; their network and environment.
        gauges: told how many calls the workers have not answered.
        host: address at which the workers listen for one another; None: their nodes' own.
        py_executable: the command by which Ray starts a worker's Python; None: as it started the driver's.
        record: called with a worker's name, what it was asked, when (as `time.time()`), and the seconds to its answer.
    """

    def __init__(
        self,
        run: str,
        role: str,
        placement: Placement,
        log_dir: Path,
        env: dict[str, str],
        seed: int,
        cluster: ClusterConfig,
        gauges: RunGauges,
        host: str | None,
        py_executable: str | None = None,
        record: Callable[[str, str, float, float], None] | None = None,
    ) -> None:
        resources = placement.roles[role]
        self.role, self.size, self.device = role, resources.workers, placement.device_of(role)
        self.seed, self.timeout_s, self.threads = seed, cluster.start_timeout_s, resources.threads
        self.collective_timeout_s = cluster.collective_timeout_s or cluster.call_timeout_s
        self.ports = port_range(cluster.ports)
        self._run, self._gauges, self.batches = run, gauges, placement.batches
        self._record = record
        self.worker_names = [f"{role}-{rank}" for rank in range(self.size)]
        self.logs = [str(log_dir / f"{name}.log") for name in self.worker_names]
        worker_env = self.device.worker_env(resources.threads, cluster.interface) | placement.hidden_env(role)
        worker_env |= env
        runtime_env: dict[str, object] = {"env_vars": worker_env}
        if py_executable is not None:
            runtime_env["py_executable"] = py_executable
        # Ray's dashboard and `ps` show an actor by its class: one named after the role tells which is which.
        actor_class = ray.remote(type("".join(part.capitalize() for part in role.split("-")), (Worker,), {}))
        self.workers = [
            actor_class.options(name=f"{run}/{name}", runtime_env=runtime_env, **placement.options(role, rank)).remote(
                name, log, os.getcwd(), self._visible(placement, rank), host
            )
            for rank, (name, log) in enumerate(zip(self.worker_names, self.logs, strict=True))
        ]
        variables = environment(cluster.env)
        #: What the workers were asked before their engines are made, by Ray's references; who builds waits for it.
        self.prepared: dict[Ref, str] = {}
        if variables:
            asked = [worker.set_environment.remote(variables) for worker in self.workers]
            self.prepared = dict(zip(asked, self.worker_names, strict=True))

    def _visible(self, placement: Placement, rank: int) -> tuple[str, str] | None:
        devices = placement.visible_devices(self.role, rank)
        return None if devices is None else (str(self.device.visible_variable), devices)

    host: str  # address of the first worker's node, known once build() was called

    def import_ahead(self, libraries: Sequence[str]) -> None:
        """Lets the workers import what their engines need, before it is their turn to make them."""
        for worker in self.workers:
            worker.import_ahead.remote(libraries)

    def host_rendezvous(self) -> Ref:
        """Asks the first worker to open the store at which they all meet; its answer is for :meth:`build`."""
        return self.workers[0].host_rendezvous.remote(self.ports, self.timeout_s)

    def build(
        self,
        address: tuple[str, int],
        factory: Callable[..., object],
        args: Callable[[int], tuple[object, ...]],
        collective: bool,
    ) -> list[Ref]:
        """Asks every worker to make its engine; ``Scheduler.build`` waits for the answers.

        Args:
            address: of the store at which the workers meet.
            factory: makes an engine, in the worker.
            args: for a rank, the factory's arguments.
            collective: whether the workers form one process group.
        """
        self.host, port = address
        refs = []
        for rank, worker in enumerate(self.workers):
            at = None
            if collective:
                at = Rendezvous(self.host, port, rank, self.size, self.timeout_s, self.collective_timeout_s)
            refs.append(worker.build.remote(self._run, self.device, self.seed, self.threads, at, factory, args(rank)))
        return refs

    def waiting(self, calls: int) -> None:
        """Notes that so many calls more, or fewer, wait for an answer."""
        self._gauges.waiting(self.role, calls)

    def answered(self, worker: str, method: str, started_at: float) -> None:
        """Notes that a worker has answered now what it was asked then (as `time.time()` counts)."""
        if self._record is not None:
            self._record(worker, method, started_at, time.time() - started_at)

    def log_of(self) -> dict[str, str]:
        """The log file of each worker, by its name."""
        return dict(zip(self.worker_names, self.logs, strict=True))

    def kill(self) -> None:
        """Ends all workers at once, whatever they are doing."""
        for worker in self.workers:
            ray.kill(worker)


@dataclass(frozen=True)
class Construction:
    """A group of workers whose engines are still to be built.

    Attributes:
        libraries: modules that making an engine imports.
        group, factory, args, collective: the group, and the arguments of :meth:`WorkerGroup.build`.
    """

    group: WorkerGroup
    factory: Callable[..., object]
    args: Callable[[int], tuple[object, ...]]
    collective: bool
    libraries: Sequence[str] = ()


def reassemble(parts: list[Tensor], lengths: Tensor, outputs: Tensor) -> Tensor:
    """Puts the workers' flat answers back into the batch's order.

    Args:
        parts: of each worker, the values of its rows (:func:`~rlhf_dist.models.layout.balanced_shards`), flat.
        lengths: ``[B]`` int64, by which the rows were dealt out.
        outputs: ``[B]`` int64, values of each row.

    Returns:
        ``[sum(outputs)]``.
    """
    order = torch.cat(balanced_shards(lengths, len(parts)))
    flat = torch.cat(parts)
    expected = int(outputs.sum())
    if flat.numel() != expected:
        raise RuntimeError(f"workers returned {flat.numel()} values, expected {expected}")
    return flat[ragged_indices(outputs[order], torch.argsort(order))]
