"""`python -m rlhf_dist COMMAND`: what can be done beside the training jobs themselves."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlhf_dist.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (--help shows what there is)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rlhf_dist", description="RLHF training on Ray, vLLM and DeepSpeed: the tools beside it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    report = commands.add_parser(
        "report", help="write report.html of a run", description="Writes runs/NAME/report.html."
    )
    report.add_argument("run", type=Path, help="the run's directory, runs/NAME")
    return parser


def _report(run: Path) -> None:
    from rlhf_dist.controller.report import write_report

    print(write_report(run))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, or 2 after one line on a mistake of the user's."""
    try:
        options = _parser().parse_args(arguments)
        _report(options.run)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
