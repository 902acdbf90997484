"""The words of `rlhf-dist label`, apart from what they do, so that --help and a mistake take no time."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlhf_dist.config.commands import Commands
from rlhf_dist.network import LOOPBACK


def add_label(commands: Commands) -> None:
    """Adds the command `label` to the commands of a parser."""
    label = commands.add_parser(
        "label",
        help="serve a web page on which people judge the answers of models",
        description="Serves a web page on which people rank, compare or rate answers, or write answers themselves. It "
        "prints a secret link for each labeller, and one for you, the operator, which shows everybody's progress. Each "
        "judgement is on the disk before the next task is shown, so you can stop with Ctrl-C and start again at any "
        "time. See docs/labelling.md.",
    )
    label.add_argument("candidates", metavar="CANDIDATES", help="prompts with their answers (.jsonl, .parquet)")
    label.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file that the judgements are appended to (.jsonl)"
    )
    label.add_argument(
        "--task",
        default="rank",
        metavar="TASK",
        help="rank: put all answers in order (default); compare: answers two at a time; rate: questions about each "
        "answer, then the order of all; demonstrate: write an answer",
    )
    label.add_argument("--labellers", metavar="NAMES", help="their names, such as ann,bob (default: your user name)")
    label.add_argument("--guidelines", type=Path, metavar="FILE", help="Markdown file to show beside the task")
    label.add_argument(
        "--questions", type=Path, metavar="FILE", help="YAML file of what rate asks (default: InstructGPT's)"
    )
    _add_dealing(label)
    _add_place(label)


def _add_dealing(label: argparse.ArgumentParser) -> None:
    dealing = label.add_argument_group("who judges what")
    dealing.add_argument(
        "--shared",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the prompts that every labeller judges, to measure agreement (default 0.1)",
    )
    dealing.add_argument(
        "--known",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of a labeller's tasks that have a known ranking, if there are such prompts (default 0.05)",
    )
    dealing.add_argument(
        "--lease",
        type=float,
        default=30.0,
        metavar="MINUTES",
        help="time without a sign of life from its labeller after which a task goes to another (default 30)",
    )
    dealing.add_argument("--all-pairs", action="store_true", help="with --task compare: compare every pair of answers")
    dealing.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed for the choice and order of what is shown (default 0)"
    )


def _add_place(label: argparse.ArgumentParser) -> None:
    place = label.add_argument_group("where the page is")
    place.add_argument(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help=f"address to listen on (default {LOOPBACK}, this machine alone; 0.0.0.0 lets others in)",
    )
    place.add_argument(
        "--port", type=int, default=0, metavar="N", help="port (default 0: a free one, and the same at the next start)"
    )
    place.add_argument(
        "--url", metavar="URL", help="address that browsers use, if there is a proxy: https://label.example.org"
    )
