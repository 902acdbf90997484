"""Model FLOPs utilization of optimizer steps under ZeRO, or of forward and backward where DeepSpeed is missing."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_parts.common import GIB, TRAINING_BYTES, Findings, Settings, llama_config, made_model, run_part
from benchmarks.gpu_parts.peak import attained_peak, listed_peak, training_flops

SECONDS = 10.0


def main(settings: Settings, found: Findings) -> None:
    """Trains a Llama for some seconds, after two steps that warm up."""
    from rlhf_dist.types import Demonstrations

    device = settings.device
    device.set_current()
    device.seed(0)
    attained = attained_peak(device, settings.tiny)
    found.figure("a large matrix product", attained / 1e12, "TFLOP/s")
    shape = settings.shape(TRAINING_BYTES)
    config, folder = llama_config(shape), made_model(settings, shape)
    rows, length = (4, 64) if settings.tiny else (16, 1024)
    tokens = torch.randint(3, config.vocab_size, (rows * length,))
    batch = Demonstrations(tokens, torch.ones(rows, dtype=torch.int64), torch.full((rows,), length - 1))
    if importlib.util.find_spec("deepspeed") is not None:
        what, step = "training", optimizer_step(settings, folder, batch, length)
    else:
        what, step = "forward and backward", forward_backward(settings, folder, batch)
        found.note("DeepSpeed is not installed: forward and backward only, without an optimizer's step.")
    first = step()
    step()
    seconds, losses = timed(settings, step)
    # The first token of a row is predicted by nothing, so the head sees one less; its share is left in.
    flops = training_flops(config, rows, length) / seconds
    found.figure(f"{what} of a Llama {shape}, {rows} x {length} tokens a step", rows * length / seconds, "tokens/s")
    found.figure(f"{what}, reached", flops / 1e12, "TFLOP/s")
    card = device.module().get_device_name(0) if device.is_accelerator else ""
    peak = listed_peak(card)
    if peak is None:
        found.note(f"{card or 'This processor'} is not in the table of peaks: MFU is of the product that was measured.")
    else:
        found.note(f"MFU is of {peak / 1e12:g} TFLOP/s, the dense bfloat16 peak of {card} in its data sheet.")
    found.figure(f"MFU of {what}", 100 * flops / (peak or attained), "%")
    if device.is_accelerator:
        found.figure(f"device memory at the most, {what}", device.memory()["device_peak"] / GIB, "GiB")
    found.check(all(torch.isfinite(torch.tensor(losses))), f"the loss became {losses[-1]}")
    if what == "training":
        found.check(losses[-1] < first, f"the loss on the same text did not fall: {first:.4f}, then {losses[-1]:.4f}")


def timed(settings: Settings, step: Callable[[], float]) -> tuple[float, list[float]]:
    """Mean seconds of a step, and the losses."""
    losses: list[float] = []
    settings.device.synchronize()
    started = time.perf_counter()
    while len(losses) < 3 or (not settings.tiny and time.perf_counter() - started < SECONDS):
        losses.append(step())
    settings.device.synchronize()
    return (time.perf_counter() - started) / len(losses), losses


def optimizer_step(settings: Settings, folder: Path, batch: object, length: int) -> Callable[[], float]:
    """One step of SFT by the actor's engine, all of it: micro-batches, gradients, AdamW. Gives the loss."""
    import os

    import torch.distributed as dist

    from rlhf_dist.config.schema import ModelConfig, OptimConfig, TrainedRoleConfig
    from rlhf_dist.engine.policy import ActorEngine

    device = settings.device
    os.environ.update(DS_ACCELERATOR=device.name, MASTER_ADDR="127.0.0.1", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ["MASTER_PORT"] = str(store.port)
    dist.init_process_group(device.collective, store=store, rank=0, world_size=1)
    role = TrainedRoleConfig(
        model=ModelConfig(path=str(folder)), micro_batch_tokens=4 * length, optim=OptimConfig(lr=1e-4, warmup_steps=0)
    )
    engine = ActorEngine(role, device, 1.0, 1000)
    return lambda: engine.fit(batch, None).loss  # type: ignore[arg-type]


def forward_backward(settings: Settings, folder: Path, batch: object) -> Callable[[], float]:
    """One forward and backward by the policy model, four rows at a time. Gives the loss."""
    from rlhf_dist.config.schema import ModelConfig
    from rlhf_dist.models.language import load_policy
    from rlhf_dist.models.layout import lay_out, micro_batches

    place = settings.device.torch_device()
    model = load_policy(ModelConfig(path=str(folder)), settings.device).to(place)

    def step() -> float:
        total, model_batch = 0.0, batch
        model.zero_grad()
        lengths = model_batch.lengths  # type: ignore[attr-defined]
        for rows in micro_batches(lengths, 4 * int(lengths[0])):
            part = model_batch.select(rows)  # type: ignore[attr-defined]
            laid = lay_out(part.tokens, part.lengths, "right", place)
            count = int(part.response_lengths.sum())
            loss, _, _ = model(laid, part.tokens, part.response_lengths, 1.0, lambda of, _, n=count: -of / n)
            loss.backward()
            total += float(loss)
        return total * 4 / len(lengths)

    return step


if __name__ == "__main__":
    sys.exit(run_part(main))
