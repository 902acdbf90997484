"""The words of `rlhf-dist label`, apart from what they do, so that --help and a mistake take no time."""

from __future__ import annotations

from pathlib import Path

from rlhf_dist.config.commands import Commands
from rlhf_dist.network import LOOPBACK


def add_label(commands: Commands) -> None:
    """Adds the command `label` to the commands of a parser."""
    label = commands.add_parser(
        "label",
        help="a web page at which people judge the answers of models",
        description="Starts a web server with a page at which people rank, compare or rate answers, or write answers "
        "themselves. It prints one secret link for each labeller, and one for you, the operator, with the progress of "
        "all. Every judgement is on the disk before the next task is shown; stop with Ctrl-C and start again at will.",
    )
    label.add_argument("candidates", metavar="CANDIDATES", help="the prompts and their answers (.jsonl, .parquet)")
    label.add_argument("--out", type=Path, required=True, metavar="FILE", help="judgements go here (.jsonl)")
    label.add_argument(
        "--task",
        default="rank",
        metavar="TASK",
        help="rank: put all answers in order (the default); compare: two at a time; rate: questions about each "
        "answer, then the order of all; demonstrate: write the answer",
    )
    label.add_argument("--labellers", metavar="NAMES", help="such as ann,bob: a link for each (your user name)")
    label.add_argument("--guidelines", type=Path, metavar="FILE", help="Markdown that is shown beside the task")
    label.add_argument("--questions", type=Path, metavar="FILE", help="YAML: what rate asks (InstructGPT's questions)")
    dealing = label.add_argument_group("who judges what")
    dealing.add_argument(
        "--shared",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the prompts that every labeller judges, to see how well they agree (0.1)",
    )
    dealing.add_argument(
        "--known",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of a labeller's tasks that are prompts with a known ranking, if there are any (0.05)",
    )
    dealing.add_argument(
        "--lease", type=float, default=30.0, metavar="MINUTES", help="without a sign of life, a task goes on (30)"
    )
    dealing.add_argument("--all-pairs", action="store_true", help="compare: each answer with each other one")
    dealing.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn and mixed (0)")
    place = label.add_argument_group("where the page is")
    place.add_argument(
        "--host", default=LOOPBACK, metavar="ADDRESS", help="where to listen: 0.0.0.0 lets others in (this machine)"
    )
    place.add_argument("--port", type=int, default=0, metavar="N", help="0 chooses, and keeps it at the next start (0)")
    place.add_argument("--url", metavar="URL", help="how browsers reach it through a proxy: https://label.example.org")
