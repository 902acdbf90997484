#!/usr/bin/env python3
"""Step 3, PPO: `--help` lists the keys of the configuration.

launch/ppo_llama.py [--config FILE] [key=value ...]
"""

import sys
from pathlib import Path

from rlhf_dist.main import launch

if __name__ == "__main__":
    sys.exit(launch("ppo", sys.argv[1:], Path(__file__).resolve().parent.parent / "configs" / "ppo_llama.yaml"))
