#!/usr/bin/env python3
"""Reads the configuration as a launcher would, and prints the run's folder; a mistake ends it with exit code 2.

run_folder.py launch/ppo_llama.py [--config FILE] [key=value ...]
"""

import sys
from pathlib import Path

from rlhf_dist.config import schema
from rlhf_dist.config.load import load_config
from rlhf_dist.errors import UserError

KINDS = {
    "ppo_llama": schema.PPOConfig,
    "sft_llama": schema.SFTConfig,
    "reward_llama": schema.RewardConfig,
    "dpo_llama": schema.DPOConfig,
}
ROOT = Path(__file__).resolve().parents[2]


def main(launcher: str, *argv: str) -> int:
    """Returns the exit code."""
    name = Path(launcher).stem
    if name not in KINDS:
        print(f"{launcher}: expected one of {', '.join(f'launch/{known}.py' for known in KINDS)}", file=sys.stderr)
        return 2
    try:
        config = load_config(KINDS[name], argv, ROOT / "configs" / f"{name}.yaml")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(Path(config.run.dir) / config.run.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
