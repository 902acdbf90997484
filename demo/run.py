"""The demo: supervised fine-tuning, reward model and PPO on movie reviews, one after another.

    python -m demo.run

Each step runs a launcher with a recipe of configs/demo, as anyone would by hand. At the end it prints what PPO was
expected to reach, and what it reached.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    ("1/3 supervised fine-tuning", "launch/sft_llama.py", "configs/demo/sft.yaml"),
    ("2/3 reward model", "launch/reward_llama.py", "configs/demo/reward.yaml"),
    ("3/3 PPO", "launch/ppo_llama.py", "configs/demo/ppo.yaml"),
)


def verdict(summary: dict) -> list[tuple[bool, str]]:
    """What PPO is expected to reach, and whether it did, from the run's summary.json."""
    before, after, kl = summary["before"], summary["after"], summary["kl_sequence_mean"]
    score = after["score_mean"] - before["score_mean"]
    judge = after["judge_mean"] - before["judge_mean"]
    variety = after["distinct_2"] / before["distinct_2"]
    return [
        (score > 0, f"the learned reward rises: {score:+.2f}"),
        (judge >= 0.3, f"VADER, which never saw the training, rises by 0.3 or more: {judge:+.3f}"),
        (kl < 20, f"the KL to the SFT model stays below 20 nats a sequence: {kl:.1f}"),
        (variety >= 0.6, f"the text stays varied, distinct-2 at 60% of the SFT model's or more: {variety:.0%}"),
    ]


def main() -> int:
    """Runs the three steps. Returns the exit code of the first that fails, else 0."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    started = time.monotonic()
    for title, launcher, recipe in STEPS:
        print(f"== {title}: {launcher} --config {recipe}", flush=True)
        command = [sys.executable, str(ROOT / launcher), "--config", recipe, "run.overwrite=true"]
        if launcher.endswith("ppo_llama.py") and find_spec("vllm") is None:
            command.append("rollout.backend=hf")  # Python 3.10 has no vLLM build
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code != 0:
            return code
    summary = json.loads((ROOT / "runs/demo-ppo/summary.json").read_text())
    print()
    for reached, text in verdict(summary):
        print(f"  {'yes' if reached else 'NO '}  {text}")
    print(f"  {time.monotonic() - started:.0f} s for all three steps")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
