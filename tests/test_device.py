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


def test_a_machine_without_a_devices_libraries_has_none_of_it_and_can_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert NPU.count() == 0
    monkeypatch.setenv("ASCEND_HOME_PATH", "/nowhere")
    assert NPU.count() == 0


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


def test_a_group_over_nccl_waits_for_its_collectives_and_the_process_own_groups_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's CPU build has no such group: a stand-in that reads the environment when the real one does."""
    import os
    from datetime import timedelta

    class Group:
        Options = type("Options", (), {})

        def __init__(self, store: object, rank: int, size: int, options: object) -> None:
            self.blocks, self.timeout = os.environ.get("TORCH_NCCL_BLOCKING_WAIT"), options._timeout  # type: ignore

    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", Group, raising=False)
    for own in (None, "0"):
        monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
        if own is not None:
            monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", own)
        made = CUDA.process_group(torch.distributed.HashStore(), 0, 1, timedelta(seconds=7))
        assert (made.blocks, made.timeout) == ("1", timedelta(seconds=7))
        assert os.environ.get("TORCH_NCCL_BLOCKING_WAIT") == own


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="expected auto, cuda, npu, cpu"):
        resolve("gpu")


def test_flash_attention_is_taken_where_it_is_installed_and_can_work(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = set[str]()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    assert CUDA.attention("auto", "auto") == "sdpa"
    for package in ("flash_attn", "kernels"):
        installed = {package}
        assert CUDA.attention("auto", "auto") == CUDA.attention("auto", "bfloat16") == "flash_attention_2"
        assert CUDA.attention("auto", "float32") == "sdpa"  # which the kernel does not know
        assert CPU.attention("auto", "bfloat16") == NPU.attention("auto", "auto") == "sdpa"
        assert CUDA.attention("eager", "auto") == "eager"


def test_a_process_can_be_kept_from_seeing_devices() -> None:
    assert CUDA.nothing_visible() == {"CUDA_VISIBLE_DEVICES": ""}
    assert NPU.nothing_visible() == {"ASCEND_RT_VISIBLE_DEVICES": ""}
    assert CPU.nothing_visible() == {}
