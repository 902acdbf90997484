"""A role's workers, started together and called as one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from rlhf_dist.cluster.calls import collect
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.worker import Rendezvous, Worker
from rlhf_dist.device import Device
from rlhf_dist.models.layout import balanced_shards
from rlhf_dist.types import ragged_indices


class WorkerGroup:
    """The workers of one role.

    Args:
        role: its name, also in Ray's dashboard and in the log files' names.
        placement: where its workers live.
        device: of the run.
        log_dir: for one log file a worker.
        env: environment variables of the worker processes.
        seed: of torch's generators in every worker.
        timeout_s: deadline of starting, and of each collective among the workers.
    """

    def __init__(
        self,
        role: str,
        placement: Placement,
        device: Device,
        log_dir: Path,
        env: dict[str, str],
        seed: int,
        timeout_s: float,
    ) -> None:
        resources = placement.roles[role]
        self.role, self.size, self.device = role, resources.workers, device
        self.seed, self.timeout_s, self.threads = seed, timeout_s, resources.threads
        self.worker_names = [f"{role}-{rank}" for rank in range(self.size)]
        self.logs = [str(log_dir / f"{name}.log") for name in self.worker_names]
        worker_env = device.worker_env(resources.threads) | env
        # Ray's dashboard and `ps` show an actor by its class: one named after the role tells which is which.
        actor_class = ray.remote(type("".join(part.capitalize() for part in role.split("-")), (Worker,), {}))
        self.workers = [
            actor_class.options(
                name=f"{name}", runtime_env={"env_vars": worker_env}, **placement.options(role, rank)
            ).remote(name, log, os.getcwd())
            for rank, (name, log) in enumerate(zip(self.worker_names, self.logs, strict=True))
        ]

    host: str  # address of the first worker's node, known once build() was called

    def build(self, factory: Callable[..., Any], args: Callable[[int], tuple[Any, ...]], collective: bool) -> list[Any]:
        """Asks every worker to make its engine; :func:`wait_built` waits for the answers.

        Args:
            factory: makes an engine, in the worker.
            args: for a rank, the factory's arguments.
            collective: whether the workers form one process group.
        """
        ref = self.workers[0].address.remote()
        self.host, port = collect({ref: self.worker_names[0]}, "starting", self.timeout_s, self._log_of())[ref]
        refs = []
        for rank, worker in enumerate(self.workers):
            at = Rendezvous(self.host, port, rank, self.size, self.timeout_s) if collective else None
            refs.append(worker.build.remote(self.device, self.seed, self.threads, at, factory, args(rank)))
        return refs

    def _log_of(self) -> dict[str, str]:
        return dict(zip(self.worker_names, self.logs, strict=True))

    def kill(self) -> None:
        """Ends all workers at once, whatever they are doing."""
        for worker in self.workers:
            ray.kill(worker)


def wait_built(building: list[tuple[WorkerGroup, list[Any]]], timeout_s: float) -> None:
    """Waits until the engines of several groups are made.

    Raises:
        RunError: one failed or was not ready in time.
        UserError: a worker found a mistake of the user's.
    """
    names = {ref: name for group, refs in building for name, ref in zip(group.worker_names, refs, strict=True)}
    logs = {name: log for group, _ in building for name, log in zip(group.worker_names, group.logs, strict=True)}
    collect(names, "loading", timeout_s, logs)


def reassemble(parts: list[Tensor], lengths: Tensor, outputs: Tensor) -> Tensor:
    """Puts the workers' flat answers back into the batch's order.

    Args:
        parts: of each worker, the values of its rows (:func:`balanced_shards`), flat.
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
