"""`rlhf-dist COMMAND`, or `python -m rlhf_dist COMMAND`: the training jobs, and what can be done beside them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rlhf_dist.errors import ClusterError, UserError
from rlhf_dist.main import JOBS, launch


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rlhf-dist", description="RLHF training on Ray, vLLM and DeepSpeed.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, job in JOBS.items():  # listed here; main() hands their words on
        commands.add_parser(name, help=f"{job.title} (rlhf-dist {name} --help lists the keys)", add_help=False)
    report = commands.add_parser(
        "report", help="write report.html of a run", description="Writes runs/NAME/report.html."
    )
    report.add_argument("run", type=Path, help="the run's directory, runs/NAME")
    _add_plan(commands)
    _add_export(commands)
    return parser


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="show what a job would take, and whether it fits",
        description="Shows devices, memory and batches of a job, without starting anything or loading a weight. "
        "Exit code 3 where it cannot work. Without --devices-per-node it plans for this machine.",
    )
    plan.add_argument("--config", type=Path, required=True, metavar="FILE", help="a recipe of any launcher")
    plan.add_argument("settings", nargs="*", metavar="key=value", help="as behind a launcher")
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the cluster (1)")
    plan.add_argument("--devices-per-node", type=int, metavar="M", help="accelerators of each; 0 for none")
    plan.add_argument("--device-memory", type=float, metavar="GiB", help="of an accelerator (80), or of a node without")
    plan.add_argument("--suggest", action="store_true", help="search for the fastest plans of a PPO job")


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="make a Hugging Face model of a checkpoint",
        description="Makes a Hugging Face model directory of a checkpoint: of any ZeRO stage and number of workers, an "
        "adapter merged, a reward model with its bias. Needs no accelerator, and host memory for the model once.",
    )
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="runs/NAME/checkpoints/step-N")
    export.add_argument("out", type=Path, metavar="OUT", help="the directory to make")
    export.add_argument("--role", help="whose model (actor, or the only one there is)")
    export.add_argument("--average", action="store_true", help="the moving average of the weights (ema_decay)")
    export.add_argument("--base", type=Path, metavar="DIR", help="where the base of an adapter is, if it was moved")
    export.add_argument("--trust-remote-code", action="store_true", help="run the code that the model comes with")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0; 2 after one line on a user's mistake; 3 where a plan cannot work.

    Each command's module is imported only when it is asked for, so that a mistake, or --help, takes no time.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in JOBS:
        return launch(words[0], words[1:])
    try:
        options = _parser().parse_args(words)
        match options.command:
            case "plan":
                importlib.import_module("rlhf_dist.jobs.plan").run(options)
            case "export":
                importlib.import_module("rlhf_dist.jobs.export").run(options)
            case _:
                print(importlib.import_module("rlhf_dist.controller.report").write_report(options.run))
    except (UserError, ClusterError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
