#!/usr/bin/env python3
"""The planner's memory, tensor by tensor: bytes of weights, gradients and optimizer states, predicted and measured.

    benchmarks/memory_tensors.py [--out FILE] [MODEL ...]

Trains each model (a directory in Hugging Face format; without one, the demo's base and two made here) for two steps
under ZeRO 0 to 3, in float32 and bfloat16, with 1 and 2 workers, with and without LoRA, and counts the storages of all
tensors that the process holds: before the optimizer's second step, when gradients are there, and what of them are
weights and optimizer states. Prints a table, and writes it as Markdown to FILE. Exit code 1 where a prediction is off
by more than 10%.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from rlhf_dist.config.schema import ModelConfig, TrainedRoleConfig  # noqa: E402
from rlhf_dist.device import CPU, detect  # noqa: E402

LIMIT = 0.10
KINDS = ("weights", "gradients", "optimizer")


@dataclass(frozen=True)
class Case:
    """One way to train a model."""

    model: str
    dtype: str
    stage: int
    lora: int

    def role(self, workers: int) -> TrainedRoleConfig:
        """The role's section."""
        role = TrainedRoleConfig(num_workers=workers, zero_stage=self.stage)
        role.model = ModelConfig(path=self.model, dtype=self.dtype)
        role.lora.rank = self.lora
        return role


def measured(case: Case, workers: int) -> dict[str, int]:
    """Bytes of each kind in this process, the bucket of ZeRO-3 left out."""
    from rlhf_dist.engine.offload import device_storages
    from rlhf_dist.engine.policy import ActorEngine
    from rlhf_dist.engine.zero_settings import buckets
    from rlhf_dist.types import Demonstrations

    device = detect()
    before = {
        storage._cdata: storage for storage in device_storages(device.name)
    }  # held, so that no number comes again
    engine = ActorEngine(case.role(workers), device, 1.0, 10)
    taken: list[dict[int, int]] = []
    runner: Any = engine.runner
    step = runner._apply

    def look_and_step() -> float:
        taken.append({storage._cdata: storage.nbytes() for storage in device_storages(device.name)})
        return step()

    runner._apply = look_and_step  # type: ignore[method-assign]
    rows = 2 * workers
    batch = Demonstrations(
        torch.randint(3, 200, (rows * 8,)), torch.full((rows,), 4, dtype=torch.int64), torch.full((rows,), 4)
    )
    for _ in range(2):
        engine.fit(batch, None)
    everything = taken[1]
    weights = _storages(runner._weights())
    inner = runner.adamw
    states = [value for state in inner.state.values() for value in state.values() if torch.is_tensor(value)]
    masters = [parameter for group in inner.param_groups for parameter in group["params"]]
    masters += _nested_tensors(getattr(getattr(runner, "optimizer", None), "fp32_partitioned_groups_flat", []))
    optimizer = {key: size for key, size in _storages([*states, *masters]).items() if key not in weights}
    learning = sum(
        prod(runner.sharding.full_shape(parameter))
        for parameter in engine.policy.parameters()
        if parameter.requires_grad
    )
    bucket = buckets(device, learning)["reduce_bucket_size"] * itemsize_of(case) if case.stage == 3 else -1
    rest = [key for key, size in everything.items() if size != bucket]
    rest = [key for key in rest if key not in weights and key not in optimizer and key not in before]
    return {
        "weights": sum(weights.values()),
        "gradients": sum(everything[key] for key in rest),
        "optimizer": sum(optimizer.values()),
    }


def itemsize_of(case: Case) -> int:
    """Bytes of an element of the weights."""
    return int(getattr(torch, case.dtype).itemsize)


def _storages(tensors: Any) -> dict[int, int]:
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}


def _nested_tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested lists."""
    if torch.is_tensor(value):
        return [value]
    return [tensor for part in value for tensor in _nested_tensors(part)] if isinstance(value, list | tuple) else []


def predicted(case: Case, workers: int) -> dict[str, int]:
    """The same by formula."""
    from rlhf_dist.plan.batch_limits import BatchLimits
    from rlhf_dist.plan.facts import policy_facts
    from rlhf_dist.plan.footprint import trained_footprint

    role = case.role(workers)
    facts = policy_facts(role.model, getattr(torch, case.dtype), role.lora)
    return {kind: asdict(trained_footprint(facts, role, BatchLimits(4), detect()))[kind] for kind in KINDS}


def worker(rank: int, workers: int, port: int, cases: list[Case], results: Any) -> None:
    """One rank: measures all cases one after another."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_RANK="0"
    )
    import torch.distributed as dist

    device = detect()
    os.environ["DS_ACCELERATOR"] = device.name
    torch.set_num_threads(1)
    device.set_current()
    dist.init_process_group(device.collective, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    for case in cases:
        found = measured(case, workers)
        if rank == 0:
            results.put((case, workers, found))
    dist.barrier()
    dist.destroy_process_group()


def make_models(folder: Path) -> list[str]:
    """Two small Llamas with random weights, one with tied embeddings and one without."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made = []
    for name, tied, width, layers in (("tied-6M", True, 256, 6), ("untied-11M", False, 320, 6)):
        config = LlamaConfig(
            vocab_size=4096,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        made.append(str(folder / name))
    return made


def run(models: list[str]) -> list[tuple[Case, int, dict[str, int]]]:
    """All cases on 1 worker and, where the device has as many, on 2."""
    cases = [
        Case(model, dtype, stage, lora)
        for model in models
        for dtype in ("float32", "bfloat16")
        for stage in range(4)
        for lora in (0, 8)
    ]
    device = detect()
    rows = []
    for workers in (1, 2) if device is CPU or device.count() > 1 else (1,):
        context = torch.multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        results = context.SimpleQueue()
        processes = [
            context.Process(target=worker, args=(rank, workers, port, cases, results)) for rank in range(workers)
        ]
        for process in processes:
            process.start()
        for _ in cases:
            rows.append(results.get())
            print(f"{len(rows)} cases measured", end="\r", file=sys.stderr)
        for process in processes:
            process.join()
    return rows


def table(rows: list[tuple[Case, int, dict[str, int]]]) -> tuple[str, float]:
    """The table as Markdown, and the largest relative error of a total."""
    lines = [
        "| model | dtype | ZeRO | LoRA | workers | weights | gradients | optimizer | predicted | measured | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for case, workers, found in rows:
        expected = predicted(case, workers)
        total, truth = sum(expected.values()), sum(found.values())
        error = total / truth - 1
        worst = max(worst, abs(error))
        parts = " | ".join(f"{expected[kind] / 2**20:.1f} / {found[kind] / 2**20:.1f}" for kind in KINDS)
        lines.append(
            f"| {Path(case.model).name} | {case.dtype} | {case.stage} | {case.lora or '-'} | {workers} | {parts} "
            f"| {total / 2**20:.1f} | {truth / 2**20:.1f} | {error:+.1%} |"
        )
    return "\n".join(lines), worst


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table to FILE (Markdown)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or [str(ROOT / "demo/base"), *make_models(Path(folder))]
        text, worst = table(run(models))
    head = (
        f"Bytes of one worker in MiB, predicted / measured, by `benchmarks/memory_tensors.py` on {detect().name} with "
        f"torch {torch.__version__}. Largest error of a total: {worst:.1%}.\n\n"
    )
    print(head + text)
    if options.out is not None:
        options.out.write_text("# Predicted and measured memory\n\n" + head + text + "\n")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
