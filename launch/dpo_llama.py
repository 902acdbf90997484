#!/usr/bin/env python3
"""DPO, direct preference optimization: `--help` lists the keys of the configuration.

launch/dpo_llama.py [--config FILE] [key=value ...]
"""

import sys

from rlhf_dist.main import launch

if __name__ == "__main__":
    sys.exit(launch("dpo", sys.argv[1:]))
