"""Weights from one process to another: over NCCL between two devices, by CUDA IPC and through the host on one."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu_parts.pair import pair, visible_device
from rlhf_dist.device import CPU, CUDA
from rlhf_dist.errors import RunError
from rlhf_dist.weights.groups import TransferPlan
from rlhf_dist.weights.packing import ParamInfo
from tests.weights.test_transport import manifest, same_bits, tensors

ROUNDS = 3


def on(place, seed):
    """Mixed dtypes, odd sizes, an empty one, a transposed one, NaNs with payloads, and one of several buckets."""
    large = torch.randn(100_001, generator=torch.Generator().manual_seed(seed))
    return [(name, tensor.to(place)) for name, tensor in [*tensors(seed), ("largest", large)]]


def exchange(device, group, sends):
    """Several transfers: the names of what did not arrive bit for bit, and the device's bytes after each."""
    wrong, held, place = [], [], device.torch_device()
    for seed in range(ROUNDS):
        wanted = on(torch.device("cpu"), seed)
        if sends:
            group.send(manifest(wanted), on(place, seed))
        else:
            wrong += not_received(group, wanted)
        device.synchronize()
        device.empty_cache()
        held.append(device.memory().get("device_allocated", 0))
    return wrong, held


def not_received(group, wanted):
    got = dict(group.receive(manifest(wanted)))
    assert list(got) == [name for name, _ in wanted]
    return [
        name for name, tensor in wanted if got[name].shape != tensor.shape or not same_bits(got[name].cpu(), tensor)
    ]


def check(device, transport, cards):
    """Every transfer arrives bit for bit, and leaves nothing on the device, on either side."""
    for wrong, held in pair(device, transport, cards, 4096, exchange, 60.0):
        assert not wrong
        assert len(set(held)) == 1, f"bytes after each transfer: {held}"


def test_a_collective_carries_weights_between_devices(device, needs_two) -> None:
    check(device, "collective", (0, 1))


def test_two_processes_of_one_device_share_its_memory(device) -> None:
    check(device, "shared", (0, 0))


def test_weights_go_through_host_memory(device) -> None:
    check(device, "host", (0, 0))


def test_the_handle_of_a_shared_buffer_survives_a_message(device) -> None:
    """It travels as JSON."""
    device.set_current()
    buffer, handle = device.shared_buffer(1000)
    try:
        assert buffer.numel() == 1000 and buffer.dtype == torch.uint8
        assert json.loads(json.dumps(handle)) == handle
    finally:
        device.free_shared(handle)


@pytest.mark.parametrize("transport", ["collective", "shared"])
def test_a_receiver_that_does_not_come_is_named(device, transport) -> None:
    device.set_current()
    group = TransferPlan(transport, ("actor 0", "rollout 0"), 4096, 3.0, None).listen("127.0.0.1", device)
    with pytest.raises(RunError, match="waited up to 3 s for rollout 0"):
        group.connect()
    group.close()


def leaves(device, group, sends):
    """The receiver ends without a word after the first bucket; the sender says what it was told, and when."""
    import os
    import time

    infos = [ParamInfo(f"p{number}", "float32", (1 << 20,)) for number in range(8)]
    if not sends:
        next(group.receive(infos))
        os._exit(0)
    started = time.monotonic()
    try:
        group.send(infos, [(info.name, torch.ones(1 << 20, device=device.torch_device())) for info in infos])
    except RunError as error:
        return str(error), time.monotonic() - started
    return "it was sent", 0.0


def test_a_receiver_that_dies_in_a_transfer_is_named_and_the_sender_lives(device, needs_two) -> None:
    """NCCL's own watchdog would end the sender's process instead."""
    cards = (0, 1) if device.is_accelerator else (0, 0)
    (said, seconds), nothing = pair(device, "collective", cards, 1 << 22, leaves, 10.0)
    assert "interrupted at actor 0; members that had not finished it: rollout 0" in said
    assert seconds < 20 and nothing is None


def test_a_process_is_shown_a_device_by_its_number_among_those_that_this_one_sees(monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_device(CUDA, 1), visible_device(CPU, 1)] == ["1", None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7a")
    assert visible_device(CUDA, 1) == "GPU-7a"
