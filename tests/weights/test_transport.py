"""Broadcast of named tensors between members, and what is said when one does not come."""

import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rlhf_dist.device import CPU
from rlhf_dist.errors import RunError
from rlhf_dist.weights.transport import BroadcastGroup, ParamInfo
from tests.processes import context, process

MEMBERS = ("actor 0", "rollout 0", "rollout 1")


def tensors(seed):
    """Mixed dtypes, odd sizes, a scalar, an empty one, a non-contiguous one, NaNs with payloads."""
    generator = torch.Generator().manual_seed(seed)
    odd = torch.randn(7, 3, generator=generator)
    nans = torch.randint(-(2**31), 2**31 - 1, (33,), generator=generator, dtype=torch.int32).view(torch.float32)
    return [
        ("odd", odd),
        ("half", odd.to(torch.bfloat16)[:5]),
        ("scalar", torch.tensor(3.25)),
        ("empty", torch.empty(0, 4)),
        ("transposed", torch.randn(5, 9, generator=generator).T),
        ("large", torch.randn(1001, generator=generator)),
        ("long", torch.arange(11)),
        ("flags", torch.tensor([True, False, True])),
        ("nans", nans),
    ]


def manifest(pairs):
    return [ParamInfo.of(name, tensor) for name, tensor in pairs]


def same_bits(left, right):
    return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))


def listen(members=MEMBERS, bucket_bytes=256, timeout_s=20.0):
    return BroadcastGroup.listen("127.0.0.1", members, CPU, bucket_bytes, timeout_s)


def connected(members=MEMBERS, **options):
    """A group whose members live in threads of this process."""
    sender = listen(members, **options)
    receivers = [BroadcastGroup.dial(sender.endpoint, rank) for rank in range(1, len(members))]
    with ThreadPoolExecutor() as pool:
        list(pool.map(BroadcastGroup.connect, [sender, *receivers]))
    return sender, receivers


def receiving_process(endpoint, rank, rounds, queue):
    torch.set_num_threads(1)
    group = BroadcastGroup.dial(endpoint, rank)
    group.connect()
    for seed in range(rounds):
        expected = tensors(seed)
        got = list(group.receive(manifest(expected)))
        names = [name for name, _ in got] == [name for name, _ in expected]
        bits = all(same_bits(a, b) and a.shape == b.shape for (_, a), (_, b) in zip(got, expected, strict=True))
        queue.put((rank, seed, names and bits))
    group.close()


def test_two_other_processes_receive_every_tensor_bit_for_bit_and_again():
    queue = context().Queue()
    sender = listen(timeout_s=60.0)
    workers = [process(receiving_process, sender.endpoint, rank, 2, queue) for rank in (1, 2)]
    for worker in workers:
        worker.start()
    sender.connect()
    for seed in range(2):
        sender.send(manifest(tensors(seed)), tensors(seed))
    results = sorted(queue.get(timeout=60) for _ in range(4))
    for worker in workers:
        worker.join(timeout=30)
    sender.close()
    assert results == [(1, 0, True), (1, 1, True), (2, 0, True), (2, 1, True)]


@pytest.mark.parametrize("bucket_bytes", [1, 100, 4096, 1 << 20])
def test_the_bucket_size_does_not_change_what_arrives(bucket_bytes):
    sender, (receiver,) = connected(MEMBERS[:2], bucket_bytes=bucket_bytes)
    sent = tensors(3)
    with ThreadPoolExecutor() as pool:
        arrived = pool.submit(lambda: list(receiver.receive(manifest(sent))))
        sender.send(manifest(sent), iter(sent))
        got = arrived.result()
    assert all(a == b and same_bits(x, y) for (a, x), (b, y) in zip(got, sent, strict=True))


def test_received_tensors_do_not_change_when_the_next_bucket_comes():
    sender, (receiver,) = connected(MEMBERS[:2], bucket_bytes=64)
    sent = [(f"p{i}", torch.full((16,), float(i))) for i in range(8)]
    with ThreadPoolExecutor() as pool:
        done = pool.submit(sender.send, manifest(sent), sent)
        kept = dict(receiver.receive(manifest(sent)))
        done.result()
    assert all(torch.equal(kept[name], tensor) for name, tensor in sent)


def test_a_member_that_never_joins_is_named_at_the_deadline():
    sender = listen(timeout_s=1.5)
    present = BroadcastGroup.dial(sender.endpoint, 1)
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(present.connect)
        with pytest.raises(RunError, match=r"waited up to 1\.5 s for rollout 1$"):
            sender.connect()
        with pytest.raises(RunError, match=r"rollout 0 waited .* for rollout 1$"):
            waiting.result()
    assert time.monotonic() - started < 10


def test_a_member_that_does_not_receive_is_named_and_nothing_is_sent():
    sender, (ready, _) = connected(timeout_s=2.0)
    sent = tensors(0)
    taken = threading.Event()

    def source():
        taken.set()
        yield from sent

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: list(ready.receive(manifest(sent))))
        with pytest.raises(RunError, match=r"\(transfer\): actor 0 waited up to 2 s for rollout 1$"):
            sender.send(manifest(sent), source())
        with pytest.raises(RunError, match=r"rollout 0 waited .* for rollout 1$"):
            waiting.result()
    assert not taken.is_set()


def test_a_receiver_without_a_sender_says_where_it_looked():
    sender = listen(MEMBERS[:2], timeout_s=1.0)
    endpoint = sender.endpoint
    sender.close()
    with pytest.raises(RunError, match=rf"rollout 0 cannot reach actor 0 at 127.0.0.1:{endpoint.port}"):
        BroadcastGroup.dial(endpoint, 1)


def dying_process(endpoint):
    group = BroadcastGroup.dial(endpoint, 2)
    group.connect()
    info = [ParamInfo("p", "float32", (1 << 20,))] * 8
    next(group.receive(info))
    os._exit(0)


def test_a_member_that_dies_in_a_transfer_is_named():
    sender = listen(timeout_s=30.0, bucket_bytes=1 << 22)
    worker = process(dying_process, sender.endpoint)
    worker.start()
    other = BroadcastGroup.dial(sender.endpoint, 1)
    sent = [("p", torch.randn(1 << 20))] * 8
    with ThreadPoolExecutor() as pool:
        joined = pool.submit(other.connect)
        sender.connect()
        joined.result()
        started = time.monotonic()
        waiting = pool.submit(lambda: list(other.receive(manifest(sent))))
        errors = [pool.submit(sender.send, manifest(sent), sent).exception(), waiting.exception()]
    assert all(error is None or isinstance(error, RunError) for error in errors)
    assert any(re.search(r"interrupted at .* rollout 1", str(error)) for error in errors), errors
    assert time.monotonic() - started < 20, "the others should not wait for their deadline"
    worker.join(timeout=10)


def test_a_tensor_that_was_not_announced_is_refused():
    sender, (receiver,) = connected(MEMBERS[:2], timeout_s=2.0)
    announced = [ParamInfo("a", "float32", (2,))]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: list(receiver.receive(announced)))
        with pytest.raises(ValueError, match=r"announced ParamInfo.*'a'.*got.*'b'"):
            sender.send(announced, [("b", torch.zeros(2))])
        assert isinstance(waiting.exception(), RunError)
    with pytest.raises(RuntimeError, match="broken group cannot be used again"):
        sender.send(announced, [])
