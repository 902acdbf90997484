"""One rank of a model that learns, leaves its device between its steps, and comes back."""

from __future__ import annotations

import gc

import torch

from rlhf_dist.config.schema import ModelConfig, TrainedRoleConfig
from rlhf_dist.device import DEVICES, Device
from rlhf_dist.engine.offload import device_storages
from rlhf_dist.engine.policy import ActorEngine
from tests.engine.test_zero import text


def work(rank: int, folder: str, stage: int, dtype: str, device_name: str) -> None:
    """Trains twice, once without leaving: the losses must be the same, and the memory where it should be."""
    device = DEVICES[device_name]
    stayed, left = (losses(device, folder, stage, dtype, leaves) for leaves in (False, True))
    assert left == stayed


def losses(device: Device, folder: str, stage: int, dtype: str, leaves: bool) -> list[float]:
    """Of three optimizer steps."""
    torch.manual_seed(0)
    role = TrainedRoleConfig(model=ModelConfig(path=folder, dtype=dtype), zero_stage=stage, ema_decay=0.6)
    role.optim.lr = 1e-3
    engine, seen = ActorEngine(role, device, 1.0, 10), []
    for number in range(3):
        seen.append(engine.fit(text(), None).loss)
        if leaves:
            leave_and_return(device, engine, twice=number == 1)
    return seen


def leave_and_return(device: Device, engine: ActorEngine, twice: bool) -> None:
    """Wholly away, back for the weights, away again where ``twice``, and all back."""
    gc.collect()
    held = sum(storage.nbytes() for storage in device_storages(device.name))
    taken = device.memory().get("device_allocated", 0)
    engine.reside("none")
    if device.is_accelerator:
        assert sum(storage.nbytes() for storage in device_storages(device.name)) == 0
        freed = taken - device.memory()["device_allocated"]
        assert freed >= held, f"{freed} bytes were freed of {held} that tensors held"
    engine.reside("weights")
    engine.reside("none" if twice else "weights")
    engine.reside("all")
    more = device.memory().get("device_allocated", 0) - taken
    assert more < 2**20, f"back again it takes {more} bytes more"
