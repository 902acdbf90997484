"""Stores that processes meet at, and the network between them."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil

from rlhf_dist.errors import RunError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOOPBACK = "127.0.0.1"  # where the processes of a run on one machine meet
_BACKLOG = 4096  # connections that wait to be taken, as the system allows them: all workers come at once


def listening_store(host: str, ports: tuple[int, int] | None, timeout_s: float) -> TCPStore:
    """A store that listens at ``host`` alone, at a free port of the range ``ports`` (first, last) where one is given.

    Torch's store has no authentication, and by itself listens on all interfaces: so the socket is made here. The port
    is never free in between: who asked for it has it.

    Args:
        host: an address of this node, IPv4 or IPv6.
        ports: None for any.
        timeout_s: deadline of whoever waits at the store, seconds.

    Raises:
        RunError: all ports of the range are taken, or this node has no such address.
    """
    from torch.distributed import TCPStore

    if ports is None:
        listener = _listener(host, [0])
    else:
        first, last = ports
        # In random order, so that workers that start at once do not collide.
        listener = _listener(host, random.sample(range(first, last + 1), last - first + 1))
    if listener is None:
        raise RunError(f"no port {_range(ports)} is free on {socket.gethostname()}: widen cluster.ports")
    port = listener.getsockname()[1]
    timeout = timedelta(seconds=timeout_s)
    return TCPStore(
        host,
        port,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),  # the store closes it
    )


def interface_of(address: str) -> str | None:
    """The network interface of this node that has ``address``; None where there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if address in (found.address.partition("%")[0] for found in addresses):
            return name
    return None


def _listener(host: str, ports: Iterable[int]) -> socket.socket | None:
    """A socket that listens at ``host`` and the first free one of ``ports``; None where none is free."""
    for port in ports:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise _no_such_address(host, error) from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise _no_such_address(host, error) from error
    return None


def _no_such_address(host: str, error: OSError) -> RunError:
    return RunError(f"{socket.gethostname()} cannot listen at {host}, by which Ray knows it: {error.strerror or error}")


def _range(ports: tuple[int, int] | None) -> str:
    return "" if ports is None else f"from {ports[0]} to {ports[1]}"
