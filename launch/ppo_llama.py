#!/usr/bin/env python3
"""Step 3, PPO: `--help` lists the keys of the configuration.

launch/ppo_llama.py [--config FILE] [key=value ...]
"""

import sys

from rlhf_dist.main import launch

if __name__ == "__main__":
    sys.exit(launch("ppo", sys.argv[1:]))
