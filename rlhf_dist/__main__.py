"""`python -m rlhf_dist COMMAND`: what can be done beside the training jobs themselves."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rlhf_dist.errors import ClusterError, UserError


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


def _export(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from rlhf_dist.jobs.export import export

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    export(options.checkpoint, options.out, options.role, options.average, options.base, options.trust_remote_code)
    print(options.out)


def _plan(options: argparse.Namespace) -> None:
    from rlhf_dist.jobs.plan import run_plan

    run_plan(
        options.config,
        options.settings,
        options.nodes,
        options.devices_per_node,
        options.device_memory,
        options.suggest,
    )


def _report(run: Path) -> None:
    from rlhf_dist.controller.report import write_report

    print(write_report(run))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0; 2 after one line on a user's mistake; 3 where a plan cannot work."""
    try:
        options = _parser().parse_args(arguments)
        match options.command:
            case "plan":
                _plan(options)
            case "export":
                _export(options)
            case _:
                _report(options.run)
    except (UserError, ClusterError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
