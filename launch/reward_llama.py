#!/usr/bin/env python3
"""Step 2, the reward model: `--help` lists the keys of the configuration.

launch/reward_llama.py [--config FILE] [key=value ...]
"""

import sys

from rlhf_dist.main import launch

if __name__ == "__main__":
    sys.exit(launch("reward", sys.argv[1:]))
