"""Weights through memory that two processes share: what arrives, what is refused, and what is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from rlhf_dist import hostmemory
from rlhf_dist.device import CPU
from rlhf_dist.errors import RunError
from rlhf_dist.weights.packing import ParamInfo
from rlhf_dist.weights.shared import SharedGroup
from rlhf_dist.weights.transport import Endpoint
from tests.processes import context, process

MEMBERS = ("actor 0", "rollout 0")
TENSORS = [(f"p{number}", torch.arange(500.0) + number) for number in range(8)]
INFOS = [ParamInfo.of(*pair) for pair in TENSORS]
BUCKET = 4096


def listen(timeout_s: float = 20.0) -> SharedGroup:
    return SharedGroup.listen("127.0.0.1", MEMBERS, CPU, BUCKET, timeout_s)


def connected(timeout_s: float = 20.0) -> tuple[SharedGroup, SharedGroup]:
    sender = listen(timeout_s)
    receiver = SharedGroup.dial(sender.endpoint, 1)
    with ThreadPoolExecutor() as pool:
        list(pool.map(SharedGroup.connect, [sender, receiver]))
    return sender, receiver


def stranger(endpoint: Endpoint) -> TCPStore:
    """Somebody who reaches the store of a run."""
    timeout = timedelta(seconds=20)
    return TCPStore(endpoint.host, endpoint.port, is_master=False, timeout=timeout, wait_for_workers=False)


def meet(group: SharedGroup, store: TCPStore) -> None:
    """Plays the partner's presence at a transfer."""
    for rank in range(2):
        store.set(f"transfer/{group._transfers + 1}/{rank}", "")


def test_what_arrives_is_what_was_sent_and_again() -> None:
    sender, receiver = connected()
    with ThreadPoolExecutor() as pool:
        for round_ in range(2):
            sent = [(name, tensor + round_) for name, tensor in TENSORS]
            arrived = pool.submit(lambda: list(receiver.receive(INFOS)))
            sender.send(INFOS, sent)
            got = arrived.result()
            assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(got, sent, strict=True))


def test_nothing_that_a_stranger_writes_into_the_store_is_mapped_or_removed(tmp_path: Path) -> None:
    """Neither a file of the user's, nor memory of another process of his."""
    precious = tmp_path / "thesis.txt"
    precious.write_bytes(b"x" * BUCKET)
    _, receiver = connected()
    theirs = stranger(receiver.endpoint)
    with precious.open("r+b") as file:
        handle = {"pid": os.getpid(), "descriptor": file.fileno(), "nbytes": BUCKET, "path": str(precious)}
        for content in (json.dumps(handle), "0" * 64 + json.dumps(handle), ""):
            meet(receiver, theirs)
            theirs.set(f"{receiver._transfers + 1}/0/handle", content)
            theirs.set(f"{receiver._transfers + 1}/0/filled/0", "")
            with pytest.raises(
                RunError, match=r"rollout 0 found .*\(handle\) was not written by actor 0: another process"
            ):
                list(receiver.receive(INFOS))
    assert precious.read_bytes() == b"x" * BUCKET


def test_what_was_right_for_one_transfer_is_refused_in_the_next() -> None:
    sender, receiver = connected()
    ours = stranger(sender.endpoint)
    meet(sender, ours)
    sender._transfers = 1
    sender._tell("handle", json.dumps({"pid": 1, "descriptor": 1, "nbytes": 1}))
    overheard = ours.get("1/0/handle")
    receiver._transfers = 1
    meet(receiver, ours)
    ours.set("2/0/handle", overheard)
    with pytest.raises(RunError, match="was not written by actor 0"):
        list(receiver.receive(INFOS))


def test_a_signal_is_not_believed_either() -> None:
    """Else a receiver would read a bucket before it is full."""
    sender, receiver = connected(timeout_s=2.0)
    ours = stranger(sender.endpoint)

    def slow() -> Iterator[tuple[str, torch.Tensor]]:
        ours.set("1/0/filled/0", "")
        time.sleep(0.5)
        yield from TENSORS

    with ThreadPoolExecutor() as pool:
        sending = pool.submit(sender.send, INFOS, slow())
        with pytest.raises(RunError, match=r"\(filled/0\) was not written by actor 0"):
            list(receiver.receive(INFOS))
        assert isinstance(sending.exception(), RunError)


def test_the_secret_is_another_one_each_time_and_stands_in_no_message() -> None:
    groups = listen(), listen()
    one, other = (group.endpoint for group in groups)
    assert one.secret != other.secret and len(one.secret) == 64
    assert one.secret not in repr(one)
    receiver = SharedGroup.dial(one, 1)
    forger = SharedGroup.dial(replace(one, secret=other.secret), 1)
    assert receiver._code("handle", "") != forger._code("handle", "")


# --- the memory itself ---


@pytest.mark.parametrize("kind", ["file", "unsealed", "other size", "closed", "no process"])
def test_only_memory_that_was_shared_is_opened(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * 100)
        file.flush()
        buffer, handle = hostmemory.share(100)
        other = os.memfd_create("other", os.MFD_ALLOW_SEALING)
        os.truncate(other, 100)
        planted = {
            "file": handle | {"descriptor": file.fileno()},
            "unsealed": handle | {"descriptor": other},
            "other size": handle | {"nbytes": 99},
            "closed": handle | {"descriptor": 1023},
            "no process": handle | {"pid": 2**22 + 1},
        }[kind]
        with pytest.raises(RunError, match=r"was not opened|cannot be opened"):
            hostmemory.open_shared(planted)
        os.close(other)
        hostmemory.release(handle)
    assert (tmp_path / "file").read_bytes() == b"x" * 100 and len(buffer) == 100


def test_shared_memory_cannot_be_cut_and_ends_with_its_users() -> None:
    _, handle = hostmemory.share(1 << 20)
    for size in (0, 1 << 21):
        with pytest.raises(PermissionError):
            os.ftruncate(handle["descriptor"], size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(handle["descriptor"], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    hostmemory.release(handle)
    with pytest.raises(RunError, match="cannot be opened"):
        hostmemory.open_shared(handle)


def _send(connection: Any) -> None:
    group = listen(60.0)
    connection.send(group.endpoint)
    group.connect()
    connection.send("connected")
    for _ in range(10000):
        group.send(INFOS, TENSORS)


def _receive(endpoint: Endpoint) -> None:
    group = SharedGroup.dial(endpoint, 1)
    group.connect()
    for _ in range(10000):
        for _ in group.receive(INFOS):
            pass


def _names() -> set[str]:
    """Everything of ours in the folders in which shared memory has names, but for the sockets of other runs."""
    there = [path for folder in ("/dev/shm", "/tmp") for path in Path(folder).iterdir() if "rlhf" in path.name]
    return {str(path) for path in there if not path.name.startswith("rlhf-dist-")}


def _holders(pids: list[int]) -> list[int]:
    """Which of the processes still hold our memory."""
    found = []
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue
        found += [pid] if re.search(r"memfd:rlhf_dist", maps) else []
    return found


def test_a_kill_at_any_moment_leaves_nothing() -> None:
    """Twelve times, either side first: neither a name in shared memory nor anybody who holds some."""
    before, chance, held = _names(), random.Random(0), 0
    for number in range(12):
        ours, theirs = context().Pipe()
        sender = process(_send, theirs)
        sender.start()
        receiver = process(_receive, ours.recv())
        receiver.start()
        assert ours.poll(60) and ours.recv() == "connected"
        pids = [int(one.pid or 0) for one in (sender, receiver)]
        time.sleep(chance.uniform(0.0, 0.1))
        held += bool(_holders(pids))
        for one in (sender, receiver) if number % 2 else (receiver, sender):
            one.kill()  # does nothing to one that has noticed the death of the other, and ended
            one.join(30)
        assert _holders(pids) == []
    assert _names() <= before
    assert held, "no process was ever seen to hold shared memory: the kills came at the wrong moments"
