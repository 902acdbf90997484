"""The facts of device.py, on a real device."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, HashStore

from rlhf_dist.device import detect, resolve

GIB = 1 << 30


def test_the_device_is_found_and_has_memory(device) -> None:
    device.set_current()
    assert resolve(device.name) is device
    if device.is_accelerator:
        assert detect() is device
        assert device.count() >= 1
        assert device.torch_device() == torch.device(device.name, device.module().current_device())
    assert GIB < device.memory_bytes() < 4096 * GIB


def test_memory_is_counted_and_given_back(device, needs_accelerator) -> None:
    device.set_current()
    device.empty_cache()
    before, free = device.memory(), device.module().mem_get_info()[0]
    held = torch.empty(GIB // 4, dtype=torch.uint8, device=device.torch_device())
    assert device.memory()["device_allocated"] - before["device_allocated"] == held.numel()
    assert device.memory()["device_peak"] >= before["device_allocated"] + held.numel()
    del held
    device.empty_cache()
    assert device.memory()["device_allocated"] == before["device_allocated"]
    assert device.module().mem_get_info()[0] > free - GIB // 8


def test_a_seed_draws_the_same_numbers(device) -> None:
    draws = []
    for seed in (1, 1, 2):
        device.seed(seed)
        draws.append(torch.rand(100, device=device.torch_device()).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_a_group_beside_the_default_one_broadcasts(device) -> None:
    """Of one rank: what it takes to be built, and that it moves bytes of any length."""
    device.set_current()
    group = device.process_group(HashStore(), 0, 1, timedelta(seconds=60))
    sent = torch.arange(7, dtype=torch.uint8, device=device.torch_device())
    options = BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    group.broadcast([sent], options).wait()
    device.synchronize()
    assert sent.tolist() == list(range(7))
    group.shutdown()


def test_the_default_dtype_multiplies(device) -> None:
    place, dtype = device.torch_device(), device.dtype("auto")
    left = torch.eye(64, device=place, dtype=dtype) * 2
    right = torch.arange(64 * 64, device=place).remainder(128).view(64, 64).to(dtype)
    assert torch.equal(left @ right, right * 2)
