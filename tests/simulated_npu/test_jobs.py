"""Whole jobs on Ray with simulated NPUs, started as a user starts them."""

from __future__ import annotations

import json
import re
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
# A second reward, by a function: what it sees of the node's NPUs it writes down.
SCORE = """
import os, pathlib

def short(prompts, responses):
    pathlib.Path("visible.txt").write_text(repr(os.environ["ASCEND_RT_VISIBLE_DEVICES"]))
    return [-len(response) / 100 for response in responses]
"""
FUNCTION = ["rewards.short.function=score.py:short", "rewards.short.weight=0.5"]


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


def check_only_the_function_left_the_devices_alone(root: Path) -> None:
    """Every worker with a device opened it; the function's saw none, and did not look for one."""
    opened = {log.stem for log in root.glob("runs/ppo/logs/*-?.log") if "has opened a device" in log.read_text()}
    assert {log.stem for log in root.glob("runs/ppo/logs/*-?.log")} - opened == {"reward-short-0"}
    assert (root / "visible.txt").read_text() == "''"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ppo_learns_the_same_on_own_and_on_shared_devices(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    write_reward_model(tmp_path / "reward", tmp_path / "model")
    (tmp_path / "score.py").write_text(SCORE)
    run(
        tmp_path,
        "ppo",
        *PPO,
        *FUNCTION,
        "actor.num_workers=2",
        "actor.zero_stage=2",
        "weights.transport=collective",
        devices=6,
    )
    separate = metrics(tmp_path)
    check_only_the_function_left_the_devices_alone(tmp_path)
    run(
        tmp_path,
        "ppo",
        *PPO,
        *FUNCTION,
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
    check_only_the_function_left_the_devices_alone(tmp_path)
    for worker in ("critic-0", "critic-1"):
        log = (tmp_path / "runs/ppo/logs" / f"{worker}.log").read_text()
        moves = re.findall(r"^on the device: (\w+)", log, re.MULTILINE)
        # In each of the two steps its weights come for the values, and all of it only to train.
        assert moves[:9] == ["none", *["weights", "none", "all", "none"] * 2]
