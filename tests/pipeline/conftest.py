"""Real jobs on real Ray, vLLM and DeepSpeed, started as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlhf_dist.controller.metric_table import unknown_metrics
from tests.tiny import write_data, write_model

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 420


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and what it left."""

    code: int
    output: str
    run: Path

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]

    @property
    def summary(self) -> dict:
        return json.loads((self.run / "summary.json").read_text())


@dataclass(frozen=True)
class Workspace:
    """A folder with a tiny model and tiny data, in which jobs run.

    Attributes:
        root: the folder.
        started: every job's process.
    """

    root: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, job: str, name: str, *settings: str) -> list[str]:
        """The command line of a job on the tiny model and data."""
        common = [f"run.name={name}", "run.overwrite=true", "run.device=cpu", "run.tensorboard=false"]
        return [sys.executable, str(ROOT / f"launch/{job}_llama.py"), *common, *_TINY[job], *settings]

    def start(self, job: str, name: str, *settings: str) -> subprocess.Popen[str]:
        """Starts a job."""
        return self.launch(self.command(job, name, *settings))

    def launch(self, command: list[str]) -> subprocess.Popen[str]:
        """Starts a job's command line, or one around it."""
        env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, job: str, name: str, *settings: str, expect: int = 0) -> Outcome:
        """Runs a job to its end, which must be exit code ``expect``."""
        return self.finish(self.start(job, name, *settings), name, expect)

    def finish(self, process: subprocess.Popen[str], name: str, expect: int) -> Outcome:
        """Waits for a job that was started."""
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == expect, f"exit code {process.returncode}, expected {expect}:\n{output}"
        outcome = Outcome(process.returncode, output, self.root / "runs" / name)
        if (outcome.run / "metrics.jsonl").exists():
            assert unknown_metrics(name for line in outcome.metrics for name in line) == set()
        return outcome


def learned_without_a_critic(outcome: Outcome) -> None:
    """Checks a PPO job whose estimator has none."""
    assert not list((outcome.run / "logs").glob("critic-*"))
    assert (outcome.run / "logs" / "actor-0.log").exists()
    for line in outcome.metrics:
        assert line["policy/grad_norm"] > 0
        assert line["rollout/logprob_gap"] < 1e-4  # also where top-p narrowed the draw
        assert "loss/value" not in line


_TINY = {
    "sft": [
        "actor.model.path=model",
        "data.path=data/sft.jsonl",
        "data.eval_count=8",
        "data.max_tokens=64",
        "sft.batch_size=8",
    ],
    "reward": [
        "reward.model.path=model",
        "data.path=data/comparisons.jsonl",
        "data.eval_count=8",
        "data.max_tokens=64",
        "training.batch_size=8",
    ],
    "dpo": [
        "actor.model.path=runs/sft/model",
        "actor.optim.lr=1e-3",
        "data.path=data/comparisons.jsonl",
        "data.eval_count=8",
        "data.max_tokens=64",
        "dpo.batch_size=8",
    ],
    "ppo": [
        "actor.model.path=model",
        "actor.optim.lr=1e-3",
        "critic.optim.lr=1e-3",
        "reward.model.path=runs/reward/model",
        "data.path=data/prompts.jsonl",
        "data.eval_count=5",
        "rollout.max_prompt_tokens=32",
        "rollout.max_response_tokens=12",
        "rollout.memory_gib=0.25",
        "ppo.prompts_per_step=7",
        "ppo.minibatch_size=4",
        "ppo.steps=2",
        "ppo.kl.coef=0.1",
    ],
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose SFT and reward-model runs are done."""
    place = Workspace(tmp_path_factory.mktemp("pipeline"))
    write_model(place.root / "model", tied=True)
    write_data(place.root / "data")
    place.run("sft", "sft", "actor.optim.lr=1e-3")
    place.run("reward", "reward", "reward.optim.lr=1e-3")
    yield place
    for process in place.started:
        process.kill()  # what a failed test left running; Ray's daemons end with their driver


def wait_for_step(place: Workspace, name: str, process: subprocess.Popen[str], lines: int) -> None:
    """Waits until a run has written so many lines of metrics."""
    metrics = place.root / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no step within 300 s"
        time.sleep(0.2)
