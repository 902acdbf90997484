"""What device.py says without any accelerator."""

from __future__ import annotations

import pytest
import torch

from rlhf_dist.device import CPU, CUDA, DEVICES, NPU, resolve
from rlhf_dist.errors import UserError


def test_an_npu_without_cann_in_the_environment_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    with pytest.raises(UserError, match=r"source CANN's set_env\.sh"):
        NPU.load()


def test_a_shared_buffer_is_the_same_memory_on_both_sides() -> None:
    buffer, handle = CPU.shared_buffer(1024)
    other = CPU.open_shared(handle, torch.device("cpu"))
    buffer.fill_(7)
    assert other.tolist() == [7] * 1024
    CPU.free_shared(handle)
    other.fill_(9)
    assert buffer.tolist() == [9] * 1024


def test_an_interface_is_named_in_every_variable_of_the_devices_collectives() -> None:
    assert CUDA.worker_env(1, "eth0")["NCCL_SOCKET_IFNAME"] == "eth0"
    assert NPU.worker_env(1, "eth0")["HCCL_SOCKET_IFNAME"] == "eth0"
    for device in DEVICES.values():
        assert device.worker_env(1, "eth0")["GLOO_SOCKET_IFNAME"] == "eth0"
        assert "GLOO_SOCKET_IFNAME" not in device.worker_env(1)


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="expected auto, cuda, npu, cpu"):
        resolve("gpu")
