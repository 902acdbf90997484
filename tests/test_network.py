"""Stores that processes meet at, and the network between them."""

from __future__ import annotations

import socket

import pytest

from rlhf_dist.errors import RunError
from rlhf_dist.network import interface_of, listening_store


def test_a_store_listens_in_the_range_and_says_where_it_is_full() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=r"widen cluster\.ports"):
            listening_store("127.0.0.1", (port, port), 5.0)
    store = listening_store("127.0.0.1", (port, port), 5.0)
    assert store.port == port


def test_an_interface_is_found_by_its_address() -> None:
    name = interface_of("127.0.0.1")
    assert name in {name for _, name in socket.if_nameindex()}
    assert interface_of("203.0.113.1") is None
