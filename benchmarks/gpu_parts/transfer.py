"""Seconds that a Llama's weights need from one process to another, by each transport that the machine has."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_parts.common import FROZEN_BYTES, GIB, Findings, Settings, llama_config, run_part
from benchmarks.gpu_parts.pair import pair
from rlhf_dist.device import Device
from rlhf_dist.weights.packing import ParamInfo

if TYPE_CHECKING:
    from rlhf_dist.weights.transport import TransferGroup

DEADLINE_S = 45.0
BUCKET_BYTES = 256 * 2**20
ROUNDS = 4  # the first is checked bit for bit, and not timed


def manifest(shape: str, dtype: torch.dtype) -> list[ParamInfo]:
    """Name, dtype and shape of each weight."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(llama_config(shape))
    return [ParamInfo.of(name, parameter.to(dtype)) for name, parameter in model.named_parameters()]


def content(number: int, info: ParamInfo, place: torch.device) -> torch.Tensor:
    """The values of a weight: random, and the same in both processes."""
    generator = torch.Generator(place).manual_seed(number)
    return torch.randn(info.shape, generator=generator, device=place).to(info.torch_dtype)


def exchange(infos: list[ParamInfo], device: Device, group: TransferGroup, sends: bool) -> dict[str, Any]:
    """One process' part of several transfers."""
    place = device.torch_device()
    weights = [(info.name, content(number, info, place)) for number, info in enumerate(infos)]
    return send(group, infos, weights) if sends else receive(device, group, infos, dict(weights))


def send(group: TransferGroup, infos: list[ParamInfo], weights: list[tuple[str, torch.Tensor]]) -> dict[str, Any]:
    """Sends several times. Gives the seconds of each."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        group.send(infos, weights)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def receive(
    device: Device, group: TransferGroup, infos: list[ParamInfo], wanted: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Receives as often, into weights that it holds. Gives what came wrong, and the bytes it took beside them."""
    own = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    wrong: list[str] = []
    before = 0
    for number in range(ROUNDS):
        for name, tensor in group.receive(infos):
            own[name].copy_(tensor)
        del tensor
        if number == 0:
            wrong = [name for name, should in wanted.items() if not torch.equal(should, own[name])]
            wanted.clear()
            before = device.memory().get("device_allocated", 0)
            if device.is_accelerator:
                device.module().reset_peak_memory_stats()
    after = device.memory()
    return {
        "wrong": wrong,
        "beside": after.get("device_peak", 0) - before,
        "left": after.get("device_allocated", 0) - before,
    }


def ways(device: Device) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """Each transport, what carries it here, and the cards of sender and receiver; None where there are too few."""
    here = device.is_accelerator
    yield "collective", device.collective, (0, 1) if not here or device.count() > 1 else None
    yield "shared", "CUDA IPC" if here else "shared memory", (0, 0)
    yield "host", "host memory, gloo", (0, 0)


def main(settings: Settings, found: Findings) -> None:
    """Measures each way that the machine has."""
    shape, device = settings.shape(4 * FROZEN_BYTES), settings.device
    infos = manifest(shape, device.dtype("auto"))
    size = sum(info.nbytes for info in infos)
    found.note(f"The weights of a Llama {shape}: {size / GIB:.3g} GiB, in buckets of {BUCKET_BYTES >> 20} MiB.")
    for transport, carrier, cards in ways(device):
        what = f"{transport} ({carrier})"
        if cards is None:
            found.note(f"{what}: skipped, needs two CUDA devices")
            continue
        try:
            sent, received = pair(device, transport, cards, BUCKET_BYTES, partial(exchange, infos), DEADLINE_S)
        except RuntimeError as error:
            found.check(False, f"{what}: {error}")
            continue
        seconds = statistics.median(sent["seconds"][1:])
        found.figure(what, seconds, "s")
        found.figure(f"{what}, rate", size / seconds / GIB, "GiB/s")
        if device.is_accelerator:
            found.figure(f"{what}, receiver's memory beside its weights", received["beside"] / GIB, "GiB")
            found.check(received["left"] < 2**20, f"{what}: {received['left']} bytes stay with the receiver")
        wrong = received["wrong"]
        found.check(not wrong, f"{what}: {len(wrong)} weights arrived changed: {', '.join(wrong[:1])}")


if __name__ == "__main__":
    sys.exit(run_part(main))
