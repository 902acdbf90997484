"""Stores that processes meet at, and the network between them."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from rlhf_dist.errors import RunError
from rlhf_dist.network import interface_of, listening_store


def test_a_store_listens_in_the_range_and_says_where_it_is_full() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=r"widen cluster\.ports"):
            listening_store("127.0.0.1", (port, port), 5.0)
    store = listening_store("127.0.0.1", (port, port), 5.0)
    assert store.port == port


@pytest.mark.parametrize(
    ("host", "elsewhere"), [("127.0.0.1", "127.0.0.2"), ("127.0.0.3", "127.0.0.1"), ("::1", "127.0.0.1")]
)
@pytest.mark.parametrize("ports", [None, (20000, 60000)], ids=["any", "range"])
def test_a_store_listens_at_its_own_address_alone(host: str, elsewhere: str, ports: tuple[int, int] | None) -> None:
    """All of 127/8 is this machine: a store that listens on every interface answers at each."""
    if host == "::1" and interface_of(host) is None:
        host, elsewhere = "127.0.0.4", "127.0.0.1"
    store = listening_store(host, ports, 5.0)
    store.set("key", "value")
    other = TCPStore(host, store.port, is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False)
    assert other.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((elsewhere, store.port), timeout=5)


def test_an_address_that_this_node_has_not_is_named() -> None:
    with pytest.raises(RunError, match=r"cannot listen at 203\.0\.113\.1, by which Ray knows it: "):
        listening_store("203.0.113.1", None, 5.0)


def test_an_interface_is_found_by_its_address() -> None:
    name = interface_of("127.0.0.1")
    assert name in {name for _, name in socket.if_nameindex()}
    assert interface_of("203.0.113.1") is None
