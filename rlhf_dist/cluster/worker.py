"""What runs inside a Ray actor: one process, holding one worker's part of one role."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import ray

from rlhf_dist.cluster.prometheus import Gauges, watch_memory
from rlhf_dist.device import GLOO_INTERFACE, Device
from rlhf_dist.engine.random_state import mixed_seed
from rlhf_dist.network import interface_of, listening_store
from rlhf_dist.process_memory import release_freed
from rlhf_dist.process_output import redirect_process_output

if TYPE_CHECKING:
    from torch.distributed import Store

    from rlhf_dist.rollout.protocol import RolloutEngine
    from rlhf_dist.types import Sequences


@dataclass(frozen=True)
class Rendezvous:
    """Where the workers of a role meet to form their process group.

    Attributes:
        host: address of the first worker's node.
        port: of the store there.
        rank: this worker's.
        world: number of workers.
        timeout_s: deadline of the meeting, seconds.
        collective_timeout_s: deadline of any collective among them, seconds.
    """

    host: str
    port: int
    rank: int
    world: int
    timeout_s: float
    collective_timeout_s: float


class Worker:
    """The Ray actor's class. ``build`` makes the role's engine, ``call`` runs its methods."""

    def __init__(self, name: str, log: str, folder: str, visible: tuple[str, str] | None, host: str | None) -> None:
        self.name = name
        self.host = host or ray.util.get_node_ip_address()  # where it listens for the others of the run
        self.gauges: Gauges | None = None
        self.store: Store | None = None  # at which the role's workers meet, on the first of them
        if visible is not None:  # before anything looks for devices
            os.environ[visible[0]] = visible[1]
        # Relative paths of the configuration mean the launcher's directory, where this node has it too.
        if os.path.isdir(folder):
            os.chdir(folder)
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        redirect_process_output(Path(log))
        # Gloo would listen at the address of the host's name, which on many hosts is the loopback.
        interface = interface_of(self.host)
        if interface is not None:
            os.environ.setdefault(GLOO_INTERFACE, interface)
        print(f"worker {name}: pid {os.getpid()} on {socket.gethostname()}")

    def set_environment(self, variables: dict[str, str]) -> None:
        """Sets environment variables. They come by a call, as Ray shows those that a process is started with."""
        os.environ.update(variables)

    def import_ahead(self, libraries: Sequence[str]) -> None:
        """Imports modules that :meth:`build` will need; a missing one is reported there."""
        for library in libraries:
            with contextlib.suppress(ImportError):
                importlib.import_module(library)

    def host_rendezvous(self, ports: tuple[int, int] | None, timeout_s: float) -> tuple[str, int]:
        """Opens the store at which the role's workers meet. Returns its address and port."""
        self.store = listening_store(self.host, ports, timeout_s)
        return self.host, self.store.port

    def build(
        self,
        run: str,
        device: Device,
        seed: int,
        threads: int,
        rendezvous: Rendezvous | None,
        factory: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        """Prepares the process (device, threads, process group) and makes the engine: ``factory(*args)``."""
        import torch

        device.set_current()
        self.gauges = watch_memory(run, self.name, device)
        device.seed(seed)  # the same for all workers of a role while they make the same model
        torch.set_num_threads(threads)
        if rendezvous is not None:
            _join_process_group(device, rendezvous, self.store)
        self.engine = factory(*args)
        device.seed(mixed_seed(seed, self.name))  # and each its own for what it draws in training, as dropout does
        release_freed()

    def call(self, method: str, *args: object) -> object:
        """Runs one method of the engine."""
        try:
            return getattr(self.engine, method)(*args)
        finally:
            release_freed()  # the next to work is another role, in the same memory

    def poll(self, most_s: float) -> Sequences:
        """Lets a rollout engine work on its requests. What it freed is kept until it has nothing more to do."""
        finished = cast("RolloutEngine", self.engine).poll(most_s)
        if not len(finished):
            release_freed()
        return finished


def _join_process_group(device: Device, at: Rendezvous, store: Store | None) -> None:
    import torch.distributed as dist

    # DeepSpeed looks for these even where the process group is there already.
    os.environ.update(
        MASTER_ADDR=at.host, MASTER_PORT=str(at.port), RANK=str(at.rank), WORLD_SIZE=str(at.world), LOCAL_RANK="0"
    )
    if store is None:
        meeting = datetime.timedelta(seconds=at.timeout_s)
        store = dist.TCPStore(at.host, at.port, is_master=False, timeout=meeting, wait_for_workers=False)
    timeout = datetime.timedelta(seconds=at.collective_timeout_s)
    dist.init_process_group(device.collective, store=store, rank=at.rank, world_size=at.world, timeout=timeout)
