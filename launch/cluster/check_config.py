#!/usr/bin/env python3
"""Reads a recipe and settings as a launcher would, and ends with exit code 2 and one line where there is a mistake.

check_config.py FILE [key=value ...]

What must be on the disk (models, data, the run's folder) is left to the launcher.
"""

import sys
from pathlib import Path

from rlhf_dist.errors import UserError
from rlhf_dist.plan.job import load_job


def main(recipe: str, *settings: str) -> int:
    """Returns the exit code."""
    try:
        load_job(settings, Path(recipe))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
