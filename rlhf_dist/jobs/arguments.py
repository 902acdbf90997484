"""The options of `judgements`, `eval-reward`, `judge` and `eval`, apart from what these do: --help takes no time."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlhf_dist.config.commands import Commands
from rlhf_dist.config.schema.roles import DTYPES
from rlhf_dist.device import DEVICES
from rlhf_dist.labelling.sample_request import add_sampling_options


def add_judgements(commands: Commands) -> None:
    """Adds the command `judgements` to the commands of a parser."""
    judgements = commands.add_parser(
        "judgements",
        help="show agreement between labellers, and ratings of the models they judged",
        description="Shows how far labellers agree, their speed and bias, and Elo and Bradley-Terry ratings of the "
        "models they judged; writes one ranking per prompt for the reward model. Judges that are not people are "
        "compared with people.",
    )
    judgements.add_argument("judgements", nargs="+", metavar="FILE", help="files of judgements (.jsonl)")
    judgements.add_argument(
        "--candidates", action="append", default=[], metavar="FILE", help="candidates with known rankings (repeatable)"
    )
    judgements.add_argument("--rankings", type=Path, metavar="OUT", help="write one ranking per prompt (.jsonl)")
    judgements.add_argument("--demonstrations", type=Path, metavar="OUT", help="write demonstrations for SFT (.jsonl)")
    judgements.add_argument("--html", type=Path, metavar="OUT", help="write the tables as a web page")
    judgements.add_argument("--json", type=Path, metavar="OUT", help="write all figures as JSON")
    judgements.add_argument(
        "--source",
        action="append",
        default=[],
        choices=("person", "function", "model", "endpoint"),
        help="whose judgements to write (repeatable; default: people's, or all if there are none)",
    )
    judgements.add_argument("--keep-flagged", action="store_true", help="write flagged prompts, too")
    judgements.add_argument("--keep-calibration", action="store_true", help="write prompts with known rankings, too")
    judgements.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (default 1000)"
    )
    judgements.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap (default 0)")


def add_eval_reward(commands: Commands) -> None:
    """Adds the command `eval-reward` to the commands of a parser."""
    evaluate = commands.add_parser(
        "eval-reward",
        help="evaluate a reward model on preferences",
        description="Scores ranked answers with a reward model: accuracy with intervals, by category and by margin, "
        "calibration and length bias. Reads comparisons as `rlhf-dist reward` does, and rows with prompt, chosen and "
        "rejected (RewardBench). Runs on one device of this machine.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="reward model in Hugging Face format, such as runs/NAME/model")
    evaluate.add_argument(
        "--data", action="append", required=True, metavar="FILE", help=".jsonl, .parquet or hub name (repeatable)"
    )
    evaluate.add_argument("--split", default="train", metavar="NAME", help="split of a hub name (default train)")
    evaluate.add_argument("--category", metavar="FIELD", help="field with the category (default: category or subset)")
    evaluate.add_argument("--html", type=Path, metavar="OUT", help="write tables and curve as a web page")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write all figures as JSON")
    evaluate.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="limit of prompt and answer (default: as many as the model can read)",
    )
    evaluate.add_argument("--truncate", action="store_true", help="cut longer rows instead of refusing them")
    evaluate.add_argument(
        "--device", default="auto", choices=("auto", *DEVICES), help="device to run on (default auto)"
    )
    evaluate.add_argument("--dtype", default="auto", choices=DTYPES, help="data type of the computation (default auto)")
    evaluate.add_argument(
        "--micro-batch-tokens",
        type=int,
        default=16384,
        metavar="N",
        help="most tokens of a forward pass (default 16384)",
    )
    evaluate.add_argument("--resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (default 1000)")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap (default 0)")
    evaluate.add_argument("--trust-remote-code", action="store_true", help="allow code that comes with the model")


def add_judge(commands: Commands) -> None:
    """Adds the command `judge` to the commands of a parser."""
    judge = commands.add_parser(
        "judge",
        help="let a function or a model judge answers in a labeller's place",
        description="Judges the answers of a file of candidates by a function, a reward model or a model behind an "
        "OpenAI-compatible endpoint, and appends the judgements to a file, as labellers do. A second call goes on "
        "where the first one stopped.",
    )
    judge.add_argument("candidates", metavar="CANDIDATES", help="the prompts and their answers (.jsonl, .parquet)")
    judge.add_argument("--out", type=Path, required=True, metavar="FILE", help="judgements go here (.jsonl)")
    judge.add_argument("--split", default="train", metavar="NAME", help="split of a hub name (default train)")
    judge.add_argument("--task", default="rank", choices=("rank", "compare"), help="all answers, or each pair (rank)")
    judge.add_argument("--name", help="the labeller's name (default: of the function or model)")
    judge.add_argument("--model", metavar="NAME", help="with --endpoint: the model's name there")
    _add_judge_options(judge)
    judge.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="with --endpoint: longest reply (default 512)"
    )
    judge.add_argument("--device", default="auto", choices=("auto", *DEVICES), help="of a reward model (default auto)")
    judge.add_argument("--trust-remote-code", action="store_true", help="allow code that comes with the model")


def add_eval(commands: Commands) -> None:
    """Adds the command `eval` to the commands of a parser."""
    evaluate = commands.add_parser(
        "eval",
        help="how often one model's answers are preferred to another's",
        description="Lets two models answer the same prompts, a judge compare the answers, and shows how often the "
        "first model's are preferred, with an interval: as they are, and as if they were equally long. A second call "
        "goes on where the first one stopped.",
    )
    evaluate.add_argument("first", metavar="[NAME=]DIR_A", help="a model, and what it is called")
    evaluate.add_argument("second", metavar="[NAME=]DIR_B", help="the model it is compared with")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="answers, judgements and eval.json")
    add_sampling_options(evaluate)
    _add_judge_options(evaluate)
    evaluate.add_argument("--judge-model", metavar="NAME", help="with --endpoint: the model's name there")
    evaluate.add_argument(
        "--judge-max-tokens", type=int, default=512, metavar="N", help="with --endpoint: longest reply (default 512)"
    )


def _add_judge_options(judge: argparse.ArgumentParser) -> None:
    who = judge.add_mutually_exclusive_group(required=True)
    who.add_argument("--function", metavar="FILE.py:NAME", help="scores: function(prompts, responses) -> scores")
    who.add_argument("--reward-model", metavar="DIR", help="a reward model, such as runs/NAME/model")
    who.add_argument("--endpoint", metavar="URL", help="of chat completions, such as http://localhost:8000/v1")
    judge.add_argument("--token-env", metavar="VAR", help="with --endpoint: environment variable with its token")
    judge.add_argument("--template", metavar="FILE", help="with --endpoint: text with {prompt}, {first} and {second}")
    judge.add_argument(
        "--parallel", type=int, default=8, metavar="N", help="with --endpoint: requests at a time (default 8)"
    )
    judge.add_argument(
        "--retries", type=int, default=3, metavar="N", help="with --endpoint: further tries of a request (default 3)"
    )
    judge.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="seconds for a call or a request (default 120)"
    )
