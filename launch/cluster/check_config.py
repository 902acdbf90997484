#!/usr/bin/env python3
"""Checks a recipe and settings as a launcher would. A mistake is one line and exit code 2.

    check_config.py FILE [key=value ...]

Whether models, data and the run's folder exist is left to the launcher.
"""

import sys
from pathlib import Path

from rlhf_dist.errors import UserError
from rlhf_dist.plan.job import load_job


def main(recipe: str, *settings: str) -> int:
    """Returns the exit code."""
    if recipe in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        load_job(settings, Path(recipe))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
