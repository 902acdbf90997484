"""Runs made up for the tests of reports: metrics, samples and configurations as a PPO run writes them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf_dist.controller.metrics import MetricsWriter
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_json_atomic, write_text_atomic

Figures = dict[str, float]


def healthy_step(step: int, steps: int, noise: Callable[[], float]) -> Figures:
    """The figures of a step of a run that learns as the demo does: 7 nats of KL, variety kept, nothing cut off."""
    done = step / steps
    score = -0.6 + 2.6 / (1 + math.exp(-8 * (done - 0.55))) + 0.12 * noise()
    kl = 7.0 / (1 + math.exp(-9 * (done - 0.6))) * (1 + 0.08 * noise())
    return {
        "reward/score_mean": score,
        "reward/score_std": 1.1,
        "reward/total_mean": score - 0.1 * kl,
        "kl/sequence_mean": kl,
        "kl/coef": 0.1,
        "response/length_mean": 24 + 3 * done + noise(),
        "response/finished": 0.93 + 0.03 * noise(),
        "policy/entropy": 3.1 - 0.9 * done + 0.05 * noise(),
        "policy/clip_fraction": 0.08 + 0.01 * noise(),
        "loss/policy": -0.02 + 0.004 * noise(),
        "loss/value": 0.4 - 0.2 * done + 0.01 * noise(),
        "value/explained_variance": -0.4 + 0.95 * min(1.0, 2 * done) + 0.03 * noise(),
        "rollout/logprob_gap": 3e-7 * (2 + noise()),
        "weights/version": float(step),
        "throughput/tokens_per_s": 2100 + 40 * noise(),
        "time/step_s": 5.0,
        "time/rollout_s": 2.0,
        "time/train_s": 2.5,
    }


def write_run(
    folder: Path,
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    steps: int = 26,
    change: Callable[[int, Figures], Figures] = lambda step, figures: figures,
    evaluated: Mapping[str, tuple[float, float]] | None = None,
) -> RunDir:
    """Writes a finished run.

    Args:
        folder: where runs are kept.
        name: of the run.
        settings: sections of its config.yaml beside `run`.
        seed: `run.seed`, which its figures' noise depends on too.
        steps: of the run.
        change: makes of a healthy step's figures those of this run.
        evaluated: before and after of summary.json, by the figure; None: a healthy run's.
    """
    run = RunDir(folder / name)
    config = {"run": {"name": name, "dir": str(folder), "seed": seed}, "ppo": {"steps": steps}} | dict(settings or {})
    write_text_atomic(run.config, yaml.safe_dump(config))
    draw = random.Random(seed)
    with MetricsWriter(run.metrics) as writer:
        for step in range(1, steps + 1):
            writer.write(step, change(step, healthy_step(step, steps, lambda: draw.uniform(-1, 1))))
    figures = evaluated or {"score_mean": (-0.7, 2.3), "judge_mean": (0.15, 0.65), "distinct_2": (0.89, 0.61)}
    parts = {part: {key: pair[i] for key, pair in figures.items()} for i, part in enumerate(("before", "after"))}
    write_json_atomic(run.summary, parts | {"kl_sequence_mean": 7.5, "wall_s": 130.0, "tokens": 100_000})
    return run


def sample(step: int, prompt: str, response: str, score: float = 0.5) -> dict[str, object]:
    """A line of samples.jsonl."""
    return {
        "step": step,
        "prompt": prompt,
        "response": response,
        "score": score,
        "kl": 1.0,
        "judge": None,
        "finished": True,
    }
