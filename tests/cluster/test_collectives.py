"""The deadlines of a role's workers, on real gloo ranks."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rlhf_dist.cluster.worker import Rendezvous, _join_process_group
from rlhf_dist.device import CPU
from rlhf_dist.network import listening_store
from tests.processes import context, process

LOCAL = "127.0.0.1"


pytestmark = pytest.mark.slow


def _rank(rank: int, ready: Any, port: Any, answers: Any, collective_timeout_s: float, saving_s: float) -> None:
    import torch.distributed as dist

    ready.wait(120)  # a process may be long in starting
    store = None
    if rank == 0:
        store = listening_store(LOCAL, None, 60.0)
        port.put(store.port)
    at = Rendezvous(LOCAL, store.port if store else port.get(), rank, 2, 2.0 if rank else 60.0, collective_timeout_s)
    _join_process_group(CPU, at, store)
    dist.barrier()
    if rank == 0:
        time.sleep(saving_s)
    started = time.monotonic()
    try:
        dist.barrier()
        answers.put((rank, "met", time.monotonic() - started))
    except RuntimeError:
        answers.put((rank, "waited in vain", time.monotonic() - started))
    time.sleep(1)  # the other's answer first: the store goes with its rank


def _meet(collective_timeout_s: float, saving_s: float) -> dict[int, tuple[str, float]]:
    answers = context().Queue()
    shared = context().Barrier(2), context().Queue(), answers
    ranks = [process(_rank, rank, *shared, collective_timeout_s, saving_s) for rank in range(2)]
    for rank in ranks:
        rank.start()
    found = [answers.get(timeout=120) for _ in ranks]
    for rank in ranks:
        rank.join(30)
    return {rank: (what, waited_s) for rank, what, waited_s in found}


def test_a_save_longer_than_the_start_may_take_does_not_end_the_others() -> None:
    what, waited_s = _meet(collective_timeout_s=60.0, saving_s=3.5)[1]
    assert what == "met"
    assert waited_s > 2.0  # the deadline of the start


def test_a_collective_ends_at_its_own_deadline() -> None:
    what, waited_s = _meet(collective_timeout_s=3.0, saving_s=6.0)[1]
    assert what == "waited in vain"
    assert waited_s < 5.5
