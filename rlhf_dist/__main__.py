"""`rlhf-dist COMMAND`, or `python -m rlhf_dist COMMAND`: the training jobs, and what can be done beside them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from rlhf_dist.config.commands import CommandParser
from rlhf_dist.errors import ClusterError, UserError
from rlhf_dist.jobs.arguments import (
    add_completion,
    add_diff,
    add_eval,
    add_eval_reward,
    add_export,
    add_judge,
    add_judgements,
    add_plan,
    add_report,
)
from rlhf_dist.jobs.completion import completion_script
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
    add_report(commands)
    add_diff(commands)
    add_plan(commands)
    add_export(commands)
    add_sample(commands)
    add_judge(commands)
    add_eval(commands)
    add_convert(commands)
    add_label(commands)
    add_judgements(commands)
    add_eval_reward(commands)
    add_completion(commands)
    return parser


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
                print(completion_script(parsers, schemas, options.shell))
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
