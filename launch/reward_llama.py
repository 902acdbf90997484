#!/usr/bin/env python3
"""Step 2, the reward model: `--help` lists the keys of the configuration.

launch/reward_llama.py [--config FILE] [key=value ...]
"""

import sys
from pathlib import Path

from rlhf_dist.main import launch

if __name__ == "__main__":
    sys.exit(launch("reward", sys.argv[1:], Path(__file__).resolve().parent.parent / "configs" / "reward_llama.yaml"))
