"""What runs inside a Ray actor: one process, holding one worker's part of one role."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from rlhf_dist.chatter import redirect_process_output
from rlhf_dist.device import Device


@dataclass(frozen=True)
class Rendezvous:
    """Where the workers of a role meet to form their process group.

    Attributes:
        host: address of the first worker's node.
        port: free TCP port there.
        rank: this worker's.
        world: number of workers.
        timeout_s: deadline of any collective among them, seconds.
    """

    host: str
    port: int
    rank: int
    world: int
    timeout_s: float


class Worker:
    """The Ray actor's class. ``build`` makes the role's engine, ``call`` runs its methods."""

    def __init__(self, name: str, log: str, folder: str) -> None:
        self.name = name
        # Relative paths of the configuration mean the launcher's directory, where this node has it too.
        if os.path.isdir(folder):
            os.chdir(folder)
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        redirect_process_output(Path(log))
        print(f"worker {name}: pid {os.getpid()} on {socket.gethostname()}")

    def address(self) -> tuple[str, int]:
        """This node's address, and a TCP port that is free on it."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def build(
        self,
        device: Device,
        seed: int,
        threads: int,
        rendezvous: Rendezvous | None,
        factory: Callable[..., Any],
        args: Any,
    ) -> None:
        """Prepares the process (device, threads, process group) and makes the engine: ``factory(*args)``."""
        import torch

        device.set_current()
        device.seed(seed)
        torch.set_num_threads(threads)
        if rendezvous is not None:
            _join_process_group(device, rendezvous)
        self.engine = factory(*args)

    def call(self, method: str, *args: Any) -> Any:
        """Runs one method of the engine."""
        return getattr(self.engine, method)(*args)


def _join_process_group(device: Device, at: Rendezvous) -> None:
    import torch.distributed as dist

    # DeepSpeed looks for these even where the process group is there already.
    os.environ.update(
        MASTER_ADDR=at.host, MASTER_PORT=str(at.port), RANK=str(at.rank), WORLD_SIZE=str(at.world), LOCAL_RANK="0"
    )
    dist.init_process_group(
        device.collective,
        init_method=f"tcp://{at.host}:{at.port}",
        rank=at.rank,
        world_size=at.world,
        timeout=datetime.timedelta(seconds=at.timeout_s),
    )
