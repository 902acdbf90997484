"""rlhf_dist's PPO step beside a hand-written loop that does the same work (benchmarks/bare), in turn.

The work, R: a 17M Llama (vocabulary 49,152) as all four models, 64 prompts of 16 to 24 tokens, 64 response tokens each,
one minibatch, micro-batches of 8 sequences, float32, one worker a role, one engine. Both run for a few steps, one after
the other, several times; the medians of a round make its ratio, and the median of the rounds' ratios counts: a machine
that is slower for a while is so for both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BARE = ROOT / "benchmarks" / "bare"
WORK = ROOT / "build" / "bare"  # the model, the tokenizer and the prompts
PROMPTS = "prompts.jsonl"  # the same prompts as the bare loop's, as rlhf_dist reads them

# A phase of rlhf_dist's step, and the parts of the bare loop that do the same.
PHASES = {
    "rollout": ("generate",),
    "score": ("actor_logprobs", "ref_logprobs", "critic_values", "reward_scores"),
    "advantage": ("gae",),
    "train": ("train_actor", "train_critic"),
    "sync": ("weight_sync",),
    "step": ("wall",),
}
TIMEOUT_S = 1800.0

Seconds: TypeAlias = "dict[str, float]"  # medians, by phase


def recipe(work: Path) -> list[str]:
    """Work R as arguments of `rlhf-dist ppo`."""
    model = work / "llama20m"
    roles = ("actor", "critic", "reference", "reward")
    return [
        *(f"{role}.model.path={model}" for role in roles),
        *(f"{role}.micro_batch_sequences=8" for role in roles),
        f"data.path={work / PROMPTS}",
        "data.eval_count=8",
        "rollout.max_prompt_tokens=32",
        "rollout.max_response_tokens=64",
        "ppo.prompts_per_step=64",
        "ppo.minibatch_size=64",
        "actor.optim.lr=1e-6",
        "critic.optim.lr=9e-6",
        "run.tensorboard=false",
    ]


def write_prompts(work: Path) -> None:
    """Writes the bare loop's prompts with the name that rlhf_dist's data have for their field."""
    rows = [json.loads(line)["input"] for line in (work / "prompts_16_24.jsonl").read_text().splitlines()]
    (work / PROMPTS).write_text("".join(json.dumps({"prompt": text}) + "\n" for text in rows))


def environment(work: Path, threads: int) -> dict[str, str]:
    """What the bare loop is to be run with."""
    return os.environ | {
        "BARE": str(work),
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": "8589934592",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
    }


def bare_seconds(output: str) -> Seconds:
    """The medians of each phase, from what the bare loop printed: the first step does not count."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"step"')]
    return {
        phase: statistics.median(sum(line[part] for part in parts) for line in lines[1:])
        for phase, parts in PHASES.items()
    }


def our_seconds(result: dict[str, Any]) -> Seconds:
    """The same from what `benchmarks/throughput.py --json` wrote."""
    return {phase: result["phases"][phase]["seconds"]["median"] for phase in PHASES}


def run_bare(steps: int, work: Path, threads: int) -> Seconds:
    """Runs the bare loop."""
    command = [sys.executable, "loop.py", "--steps", str(steps), "--fuse"]
    return bare_seconds(_output(command, BARE, environment(work, threads)))


def run_ours(steps: int, work: Path, job: list[str]) -> Seconds:
    """Runs rlhf_dist, with the arguments ``job`` on top of work R."""
    figures = work / "ours.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), "--steps", str(steps)]
    _output([*command, "--json", str(figures), *recipe(work), *job], ROOT, dict(os.environ))
    return our_seconds(json.loads(figures.read_text()))


def _output(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    variables = variables | {"PYTHONPATH": f"{ROOT}:{variables.get('PYTHONPATH', '')}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise SystemExit(f"{Path(command[1]).name} ended with {done.returncode}:\n{tail}")
    return done.stdout


def compare(bare: Callable[[], Seconds], ours: Callable[[], Seconds], rounds: int) -> list[tuple[Seconds, Seconds]]:
    """Runs both in turn; whoever came second in one round comes first in the next."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second, first = ours(), bare()
        else:
            first, second = bare(), ours()
        pairs.append((first, second))
        print(f"round {number + 1}: bare {first['step']:.2f} s, rlhf_dist {second['step']:.2f} s", flush=True)
    return pairs


def summarize(pairs: list[tuple[Seconds, Seconds]]) -> dict[str, dict[str, float]]:
    """By phase: median seconds of both, and the median, least and largest of the rounds' ratios."""
    result = {}
    for phase in PHASES:
        ratios = [ours[phase] / max(bare[phase], 1e-9) for bare, ours in pairs]
        result[phase] = {
            "bare_s": statistics.median(bare[phase] for bare, _ in pairs),
            "ours_s": statistics.median(ours[phase] for _, ours in pairs),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return result


def show(summary: dict[str, dict[str, float]], rounds: int, console: Console) -> None:
    """The comparison as a table."""
    table = Table(title=f"work R, medians of {rounds} rounds, seconds a step")
    for title in ("phase", "bare loop", "rlhf_dist", "ratio", "min - max"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    for phase, row in summary.items():
        table.add_row(
            "end to end" if phase == "step" else phase,
            f"{row['bare_s']:.3f}",
            f"{row['ours_s']:.3f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_min']:.2f} - {row['ratio_max']:.2f}",
        )
    console.print(table)


def commit() -> str:
    """The commit that is measured, with "+" where files differ from it; "unknown" outside of a checkout."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--match=", "--abbrev=12"]
    done = subprocess.run(asked, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def beside_bare(rounds: int, steps: int, job: list[str], threads: int, console: Console) -> dict[str, Any]:
    """Makes the work where it is missing, runs both, and shows how they compare.

    Args:
        rounds: how often both run.
        steps: of each run; the first does not count.
        job: arguments of rlhf_dist's on top of work R.
        threads: of the bare loop.
        console: to write to.

    Returns:
        the figures, to be kept as JSON.
    """
    _output([sys.executable, "workload.py"], BARE, environment(WORK, threads))
    write_prompts(WORK)
    pairs = compare(lambda: run_bare(steps, WORK, threads), lambda: run_ours(steps, WORK, job), rounds)
    summary = summarize(pairs)
    show(summary, rounds, console)
    return {
        "commit": commit(),
        "arguments": job,
        "steps": steps - 1,
        "phases": summary,
        "rounds": [{"bare": bare, "ours": ours} for bare, ours in pairs],
    }
