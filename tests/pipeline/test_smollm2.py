"""A real instruct model through the whole PPO step: SmolLM2-135M, with its chat template and a function as reward."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT
from tests.tiny import write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_two_ppo_steps_on_smollm2(tmp_path: Path) -> None:
    fetched = subprocess.run([sys.executable, "-m", "demo.smollm2"], cwd=ROOT, capture_output=True, text=True)
    assert fetched.returncode == 0, fetched.stderr
    prompts = [{"prompt": f"Say something nice about {thing}."} for thing in ("tea", "rain", "jazz")]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    (tmp_path / "score.py").write_text(
        "def nice(prompts, responses):\n    return [float(r.lower().count('e')) / 10 for r in responses]\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "launch/ppo_llama.py"),
            f"--config={ROOT / 'configs/demo/smollm2.yaml'}",
            "run.name=smollm2",
            f"actor.model.path={ROOT / 'demo/smollm2'}",
            "reward.function=score.py:nice",
            "judge=null",
            "data.path=prompts.jsonl",
            "data.eval_path=prompts.jsonl",
            "rollout.max_response_tokens=12",
            "ppo.prompts_per_step=3",
            "ppo.minibatch_size=3",
            "ppo.steps=2",
        ],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "runs/smollm2/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["rollout/logprob_gap"] < 1e-3 for line in lines)
    assert abs(lines[1]["kl/sequence_mean"]) > abs(lines[0]["kl/sequence_mean"])
