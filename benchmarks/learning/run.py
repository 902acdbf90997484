#!/usr/bin/env python3
"""Do the algorithms learn? The reward-KL frontier on the demo's task, and what happens when one goes too far.

    benchmarks/learning/run.py [--seeds N] [--steps N] [--only NAME ...] [--out DIR]

Trains the demo's SFT model by PPO, PPO-ptx, GRPO, RLOO and REINFORCE++ with several seeds, each on the same number of
samples, and evaluates it on the held-out prompts along the way: the learned reward, the lexicon scorer VADER (which
no training sees), the KL to the SFT model, distinct-2 and the loss on held-out pretraining text. A last run, with a
small KL coefficient and more steps, goes on until the learned reward and VADER part (arXiv 2210.10760).

A run that is done is not done again. At the end it writes learning.json, learning.md and learning.png into DIR.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES = 64  # of a step, whatever the algorithm
GROUP = 4  # samples a prompt, of those that compare them
_GROUPED = [f"rollout.samples_per_prompt={GROUP}", f"ppo.prompts_per_step={SAMPLES // GROUP}"]
ALGORITHMS: dict[str, list[str]] = {
    "PPO": [],
    "PPO-ptx": ["ppo.pretrain_coef=0.25"],
    "GRPO": ["ppo.advantage=grpo", "ppo.aggregation=sequence-mean", *_GROUPED],
    "RLOO": ["ppo.advantage=rloo", *_GROUPED],
    "REINFORCE++": ["ppo.advantage=reinforce++"],
}
COMMON = [
    f"ppo.prompts_per_step={SAMPLES}",
    "ppo.minibatch_size=16",
    "run.samples_every=0",
    "run.tensorboard=false",
    "pretrain.path=demo/data/text_train.jsonl",
    "pretrain.eval_path=demo/data/text_eval.jsonl",
    "pretrain.max_tokens=64",
]
TOO_FAR = ["ppo.kl.coef=0.01", "actor.optim.lr=3e-4"]
FIGURES = ("score_mean", "judge_mean", "kl_sequence_mean", "distinct_2", "pretrain_loss")


def launch(launcher: str, recipe: str, *settings: str) -> None:
    """Runs one job to its end. SystemExit with its code where it fails."""
    command = [sys.executable, str(ROOT / "launch" / launcher), "--config", recipe, "run.overwrite=true", *settings]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def make_models() -> None:
    """The demo's data, SFT model and reward model, where they are not there yet."""
    if not (ROOT / "demo/data/text_eval.jsonl").exists():
        subprocess.run([sys.executable, "-m", "demo.prepare"], cwd=ROOT, check=True)
    for step, launcher in (("sft", "sft_llama.py"), ("reward", "reward_llama.py")):
        if not (ROOT / f"runs/demo-{step}/model/config.json").exists():
            launch(launcher, f"configs/demo/{step}.yaml")


def train(name: str, settings: list[str], seed: int, steps: int, every: int) -> list[dict[str, float]]:
    """One run; gives its evaluations in order, the one before training included."""
    run = f"learning-{name.lower()}-{seed}".replace("+", "p")
    folder = ROOT / "runs" / run
    if not (folder / "summary.json").exists():
        schedule = [f"run.name={run}", f"run.seed={seed}", f"ppo.steps={steps}", f"run.eval_every={every}"]
        launch("ppo_llama.py", "configs/demo/ppo.yaml", *COMMON, *settings, *schedule)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    first = {"step": 0, **{key: summary["before"].get(key, 0.0) for key in FIGURES}, "kl_sequence_mean": 0.0}
    between = [
        {"step": line["step"], **{key: line[f"eval/{key}"] for key in FIGURES}}
        for line in lines
        if "eval/judge_mean" in line
    ]
    last = {**summary["after"], "kl_sequence_mean": summary["kl_sequence_mean"]}
    return [first, *between, {"step": lines[-1]["step"], **{key: last[key] for key in FIGURES}}]


def table(results: dict[str, list[list[dict[str, float]]]]) -> str:
    """The last evaluation of each algorithm, mean and standard deviation over seeds, as Markdown."""
    heads = ("learned reward", "VADER", "KL, nats", "distinct-2", "pretraining loss")
    lines = [f"| algorithm | seeds | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for name, runs in results.items():
        cells = []
        for key in FIGURES:
            values = [run[-1][key] for run in runs]
            cells.append(f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else ""))
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    first = next(iter(results.values()))[0][0]
    cells = [f"{first[key]:.3f}" for key in FIGURES]
    return "\n".join([*lines, f"| (SFT model) | | {' | '.join(cells)} |"]) + "\n"


def plot(results: dict[str, list[list[dict[str, float]]]], too_far: list[dict[str, float]], path: Path) -> None:
    """VADER against KL of all runs, and learned reward and VADER against KL of the one that goes too far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    frontier, over = figure.subplots(1, 2)
    for number, (name, runs) in enumerate(results.items()):
        for seed, run in enumerate(runs):
            kl, judge = ([point[key] for point in run] for key in ("kl_sequence_mean", "judge_mean"))
            frontier.plot(kl, judge, f"C{number}-", marker=".", alpha=0.7, label=name if seed == 0 else None)
    frontier.set(xlabel="KL to the SFT model, nats a sequence", ylabel="VADER, mean compound", title="Frontier")
    frontier.legend()
    kl = [point["kl_sequence_mean"] for point in too_far]
    over.plot(kl, [point["judge_mean"] for point in too_far], "C3-", marker=".", label="VADER")
    over.plot(kl, [point["distinct_2"] for point in too_far], "C2--", marker=".", label="distinct-2")
    other = over.twinx()
    other.plot(kl, [point["score_mean"] for point in too_far], "C0-", marker=".", label="learned reward (right)")
    over.set(xlabel="KL to the SFT model, nats a sequence", title="Over-optimisation, KL coefficient 0.01")
    handles = [*over.get_lines(), *other.get_lines()]
    over.legend(handles, [handle.get_label() for handle in handles])
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> int:
    """Reads the command line, trains what is missing, writes table and picture. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each algorithm (default %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=24, help="of each run; the one that goes too far has three times as many"
    )
    parser.add_argument("--only", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(argv)
    make_models()
    every = max(options.steps // 4, 1)
    results: dict[str, list[list[dict[str, float]]]] = {name: [] for name in options.only}
    for seed in range(1, options.seeds + 1):  # seed by seed, so that an early stop leaves whole rows
        for name in options.only:
            results[name].append(train(name, ALGORITHMS[name], seed, options.steps, every))
    too_far = train("too-far", TOO_FAR, 1, 3 * options.steps, every)
    options.out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {"samples_per_step": SAMPLES, "steps": options.steps, "runs": results, "too_far": too_far}
    (options.out / "learning.json").write_text(json.dumps(kept, indent=1) + "\n")
    (options.out / "learning.md").write_text(table(results))
    plot(results, too_far, options.out / "learning.png")
    print(table(results))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
