"""Random numbers of a worker: a seed of its own, and states that a checkpoint keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rlhf_dist.device import Device


def mixed_seed(*parts: object) -> int:
    """A seed that depends on every part; parts that differ in anything give unrelated ones."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def save_random_state(folder: Path, device: Device, rank: int, world: int) -> None:
    """Writes the states of torch's generators, from which all that a training step draws comes."""
    state = {"cpu": torch.get_rng_state()}
    if device.is_accelerator:
        state["device"] = device.module().get_rng_state().cpu()
    save_file(state, folder / _file_name(rank, world))


def load_random_state(folder: Path, device: Device, rank: int, world: int, steps: int) -> None:
    """Restores what :func:`save_random_state` wrote with as many workers on the same kind of device.

    Else this worker is seeded anew, by what it was seeded with before and the number of optimizer steps.
    """
    path = folder / _file_name(rank, world)
    state = load_file(path) if path.exists() else {}
    if state.keys() != ({"cpu", "device"} if device.is_accelerator else {"cpu"}):
        device.seed(mixed_seed(torch.initial_seed(), steps))
        return
    torch.set_rng_state(state["cpu"])
    if device.is_accelerator:
        device.module().set_rng_state(state["device"])


def _file_name(rank: int, world: int) -> str:
    return f"random-{rank:05d}-of-{world:05d}.safetensors"
