"""Stores that processes meet at, and the network between them."""

from __future__ import annotations

import random
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil

from rlhf_dist.errors import RunError

if TYPE_CHECKING:
    from torch.distributed import TCPStore


def listening_store(host: str, ports: tuple[int, int] | None, timeout_s: float) -> TCPStore:
    """A store that listens on this node, at a free port of the range ``ports`` (first, last) where one is given.

    The port is never free in between: who asked for it has it.

    Raises:
        RunError: all ports of the range are taken.
    """
    from torch.distributed import DistNetworkError, TCPStore

    timeout = timedelta(seconds=timeout_s)
    if ports is None:
        return TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False)
    first, last = ports
    for port in random.sample(range(first, last + 1), last - first + 1):  # workers that start at once do not collide
        if _is_taken(port):
            continue
        try:
            return TCPStore(host, port, is_master=True, timeout=timeout, wait_for_workers=False)
        except DistNetworkError:  # another one was faster
            continue
    raise RunError(f"no port from {first} to {last} is free on {socket.gethostname()}: widen cluster.ports")


def interface_of(address: str) -> str | None:
    """The network interface of this node that has ``address``; None where there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if address in (found.address.partition("%")[0] for found in addresses):
            return name
    return None


def _is_taken(port: int) -> bool:
    """Looked up first, as torch prints a warning of many lines for each port that it fails to listen at."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
