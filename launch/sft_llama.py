#!/usr/bin/env python3
"""Step 1, supervised fine-tuning: `--help` lists the keys of the configuration.

launch/sft_llama.py [--config FILE] [key=value ...]
"""

import sys

from rlhf_dist.main import launch

if __name__ == "__main__":
    sys.exit(launch("sft", sys.argv[1:]))
