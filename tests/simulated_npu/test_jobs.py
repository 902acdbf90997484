"""Whole jobs on Ray with simulated NPUs, started as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulated_npu.process import ROOT, environment
from tests.tiny import write_data, write_model, write_reward_model

PPO = [
    "actor.model.path=model",
    "actor.model.dtype=float32",
    "critic.model.dtype=float32",
    "reference.model.dtype=float32",
    "reward.model.dtype=float32",
    "rollout.dtype=float32",
    "reward.model.path=reward",
    "rollout.backend=hf",
    "rollout.max_prompt_tokens=32",
    "rollout.max_response_tokens=12",
    "data.path=data/prompts.jsonl",
    "data.eval_count=5",
    "ppo.prompts_per_step=7",
    "ppo.minibatch_size=4",
    "ppo.steps=2",
]


def run(root: Path, job: str, *settings: str, devices: int) -> dict:
    """The summary of a job on the tiny model."""
    command = [sys.executable, str(ROOT / f"launch/{job}_llama.py"), f"run.name={job}", "run.device=npu", *settings]
    ended = subprocess.run(
        command, cwd=root, env=environment(devices), capture_output=True, text=True, timeout=600, check=False
    )
    logs = [f"{log.name}:\n{log.read_text()[-3000:]}" for log in root.glob(f"runs/{job}/logs/*")]
    assert ended.returncode == 0, "\n".join([ended.stdout, ended.stderr, *logs])
    return json.loads((root / "runs" / job / "summary.json").read_text())


def metrics(root: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl of the PPO run."""
    return [json.loads(line) for line in (root / "runs/ppo/metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ppo_learns_the_same_on_own_and_on_shared_devices(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    write_reward_model(tmp_path / "reward", tmp_path / "model")
    run(
        tmp_path,
        "ppo",
        *PPO,
        "actor.num_workers=2",
        "actor.zero_stage=2",
        "weights.transport=collective",
        devices=6,
    )
    separate = metrics(tmp_path)
    run(
        tmp_path,
        "ppo",
        *PPO,
        "run.overwrite=true",
        "actor.num_workers=2",
        "actor.zero_stage=3",
        "critic.num_workers=2",
        "reference.zero_stage=3",
        "reference.num_workers=2",
        "rollout.num_engines=2",
        "placement=colocated",
        "weights.verify_every=1",
        devices=2,
    )
    for ours, theirs in zip(metrics(tmp_path), separate, strict=True):
        for name in ("reward/score_mean", "kl/sequence_mean", "loss/policy", "loss/value", "policy/grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-4), (name, ours["step"])
