"""`rlhf-dist COMMAND`, or `python -m rlhf_dist COMMAND`: the training jobs, and what can be done beside them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_dist.config.commands import CommandParser, Commands
from rlhf_dist.errors import ClusterError, UserError
from rlhf_dist.jobs.arguments import add_eval, add_eval_reward, add_judge, add_judgements
from rlhf_dist.labelling.arguments import add_label
from rlhf_dist.labelling.formats.convert import add_convert
from rlhf_dist.labelling.sample_request import add_sample
from rlhf_dist.main import JOBS, evaluate, guarded, launch, sample


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="rlhf-dist",
        description="Distributed RLHF training of language models on Ray, vLLM and DeepSpeed.",
        epilog="rlhf-dist COMMAND --help shows the options of a command; of sft, reward, ppo and dpo it lists all "
        "configuration keys.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, job in JOBS.items():  # for the list and the completion; main() hands their words on
        commands.add_parser(name, help=job.title).add_argument("--config")
    _add_report(commands)
    _add_diff(commands)
    _add_plan(commands)
    _add_export(commands)
    add_sample(commands)
    add_judge(commands)
    add_eval(commands)
    add_convert(commands)
    add_label(commands)
    add_judgements(commands)
    add_eval_reward(commands)
    commands.add_parser(
        "completion",
        help="print the script for completion in bash",
        description="Prints a script that completes commands, options and configuration keys in bash. To use it, put "
        "this line into ~/.bashrc: source <(rlhf-dist completion)",
    )
    return parser


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="write the report of a run, or of several on the same axes",
        description="Of one run, writes runs/NAME/report.html. Of several, writes one page with their curves on the "
        "same axes, runs that differ only in run.seed as a band, and what differs between the configurations.",
    )
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run, runs/NAME")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page to write (runs/NAME/report.html of one run; runs-report.html of several)",
    )


def _add_diff(commands: Commands) -> None:
    diff = commands.add_parser(
        "diff",
        help="find the first step in which two runs part",
        description="Shows the first step, phase and figure in which two runs differ by more than equal runs do, and "
        "what differed before it: configuration, data, versions. Exit code 0 if the runs are equal, 1 if they part.",
    )
    diff.add_argument("first", type=Path, metavar="RUN_A", help="directory of a run, runs/NAME")
    diff.add_argument("second", type=Path, metavar="RUN_B", help="directory of the other run")
    diff.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="relative difference that counts as noise (default 1e-4, or 2e-2 for runs in bfloat16; 0: none does)",
    )


def _add_plan(commands: Commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="show what a job needs, and whether it fits",
        description="Shows the devices, memory and batches that a job needs, without starting anything or loading "
        "weights. Plans for this machine, or, with --devices-per-node, for a cluster elsewhere. Exit code 3 if the job "
        "cannot run.",
    )
    plan.add_argument("--config", type=Path, required=True, metavar="FILE", help="recipe of any job (YAML)")
    plan.add_argument("settings", nargs="*", metavar="key=value", help="settings on top of the recipe")
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes (default 1)")
    plan.add_argument("--devices-per-node", type=int, metavar="M", help="accelerators on each node; 0 for none")
    plan.add_argument(
        "--device-memory",
        type=float,
        metavar="GiB",
        help="memory of an accelerator (default 80), or of a node without accelerators",
    )
    plan.add_argument("--suggest", action="store_true", help="search for the fastest layouts of a PPO job")


def _add_export(commands: Commands) -> None:
    export = commands.add_parser(
        "export",
        help="turn a checkpoint into a Hugging Face model",
        description="Writes the model of a checkpoint, made at any ZeRO stage and with any number of workers, as a "
        "Hugging Face directory. A LoRA adapter is merged into its base; a reward model keeps its bias. Needs no "
        "accelerator, and host memory for one copy of the model.",
    )
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="runs/NAME/checkpoints/step-N")
    export.add_argument("out", type=Path, metavar="OUT", help="directory to create")
    export.add_argument("--role", help="role whose model is exported (default: actor, or the only one)")
    export.add_argument("--average", action="store_true", help="export the moving average of the weights (ema_decay)")
    export.add_argument("--base", type=Path, metavar="DIR", help="base model of the adapter, if it was moved")
    export.add_argument("--trust-remote-code", action="store_true", help="allow code that comes with the model")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    return next(dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction))


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
            case "completion":
                parsers = _commands(_parser())
                schemas = {name: job.schema for name, job in JOBS.items()} | {"plan": JOBS["ppo"].schema}
                print(importlib.import_module("rlhf_dist.jobs.completion").completion_script(parsers, schemas))
            case "diff":
                code: int = importlib.import_module("rlhf_dist.controller.run_diff").run(options)
                return code
            case "export":
                importlib.import_module("rlhf_dist.jobs.export").run(options)
            case "judgements":
                importlib.import_module("rlhf_dist.jobs.judgements").run(options)
            case "label":
                importlib.import_module("rlhf_dist.labelling.command").run(options)
            case "eval-reward":
                importlib.import_module("rlhf_dist.jobs.eval_reward").run(options)
            case "convert":
                importlib.import_module("rlhf_dist.labelling.formats.convert").run(options)
            case "judge":
                return guarded(
                    lambda: importlib.import_module("rlhf_dist.jobs.judge").run(options),
                    "what stands in the file is kept",
                )
            case "sample":
                return sample(options)
            case "eval":
                return evaluate(options)
            case _:
                print(importlib.import_module("rlhf_dist.controller.comparison").report(options.runs, options.out))
    except (UserError, ClusterError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
