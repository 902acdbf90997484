"""The options of the commands beside the training jobs, apart from what these do: --help takes no time.

Those of `sample`, `label` and `convert` stand in `rlhf_dist.labelling`, whose other entry points share them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlhf_dist.config.commands import Commands
from rlhf_dist.config.schema.roles import DTYPES
from rlhf_dist.device import DEVICES
from rlhf_dist.jobs.completion import SHELLS
from rlhf_dist.labelling.sample_request import add_sampling_options


def add_report(commands: Commands) -> None:
    """Adds the command `report` to the commands of a parser."""
    report = commands.add_parser(
        "report",
        help="write the report of a run, or of several on the same axes",
        description="Writes the report of a run: curves, samples, warnings and the configuration on one page. Given "
        "several runs, writes a page with their curves on the same axes (runs that differ only in run.seed as a band) "
        "and what differs between their configurations.",
    )
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run, such as runs/NAME")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="page to write (default: report.html in the run's directory; runs-report.html here for several runs)",
    )


def add_diff(commands: Commands) -> None:
    """Adds the command `diff` to the commands of a parser."""
    diff = commands.add_parser(
        "diff",
        help="find the first step at which two runs differ",
        description="Shows the first step, phase and figure in which two runs differ by more than repeated runs do, "
        "and what differed before it: configuration, data, versions. Exit code 0 if the runs are equal, 1 if not.",
    )
    diff.add_argument("first", type=Path, metavar="RUN_A", help="directory of a run, such as runs/NAME")
    diff.add_argument("second", type=Path, metavar="RUN_B", help="directory of the other run")
    diff.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest relative difference that counts as noise (default 1e-4; 2e-2 for runs in bfloat16)",
    )


def add_plan(commands: Commands) -> None:
    """Adds the command `plan` to the commands of a parser."""
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


def add_export(commands: Commands) -> None:
    """Adds the command `export` to the commands of a parser."""
    export = commands.add_parser(
        "export",
        help="turn a checkpoint into a Hugging Face model",
        description="Writes the model of a checkpoint, made at any ZeRO stage and with any number of workers, as a "
        "Hugging Face directory. A LoRA adapter is merged into its base; a reward model keeps its bias. Needs no "
        "accelerator, and host memory for one copy of the model.",
    )
    export.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="its directory: runs/NAME/checkpoints/step-N"
    )
    export.add_argument("out", type=Path, metavar="OUT", help="directory to create")
    export.add_argument("--role", help="role whose model is exported (default: actor, or the only one)")
    export.add_argument("--average", action="store_true", help="export the moving average of the weights (ema_decay)")
    export.add_argument("--base", type=Path, metavar="DIR", help="base model of the adapter, if it was moved")
    export.add_argument("--trust-remote-code", action="store_true", help="allow code that comes with the model")


def add_completion(commands: Commands) -> None:
    """Adds the command `completion` to the commands of a parser."""
    completion = commands.add_parser(
        "completion",
        help="print the script for completion in bash, zsh or fish",
        description="Prints a script that completes commands, options, configuration keys and their values. In "
        "~/.bashrc: source <(rlhf-dist completion). In ~/.zshrc: source <(rlhf-dist completion zsh). In "
        "~/.config/fish/config.fish: rlhf-dist completion fish | source",
    )
    completion.add_argument("shell", nargs="?", choices=SHELLS, default="bash", help="whose script (default bash)")


def add_judgements(commands: Commands) -> None:
    """Adds the command `judgements` to the commands of a parser."""
    judgements = commands.add_parser(
        "judgements",
        help="show how far labellers agree, and how the models they judged rate",
        description="Shows how far labellers agree, their speed and bias, and Elo and Bradley-Terry ratings of the "
        "models they judged. Judges that are not people are compared with people. Can write one ranking per prompt, "
        "which `rlhf-dist reward` trains on. See docs/judgements.md.",
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
        help="whose judgements --rankings and --demonstrations use (repeatable; default: people's, else all)",
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
        description="Scores ranked answers with a reward model, and shows its accuracy with intervals, by category "
        "and by margin, its calibration and its length bias; of RewardBench and RewardBench 2 the leaderboard's scores "
        "too. Reads comparisons as `rlhf-dist reward` does, and rows with prompt, chosen and rejected. Runs on one "
        "device of this machine. See docs/judgements.md.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="reward model in Hugging Face format, such as runs/NAME/model")
    evaluate.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="FILE",
        help=".jsonl, .parquet or data set of the hub (repeatable)",
    )
    evaluate.add_argument(
        "--split", default="train", metavar="NAME", help="split of a data set of the hub (default train)"
    )
    evaluate.add_argument("--category", metavar="FIELD", help="field with the category (default: category or subset)")
    evaluate.add_argument("--html", type=Path, metavar="OUT", help="write tables and curve as a web page")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write all figures as JSON")
    evaluate.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="limit for prompt and answer together (default: as many as the model can read)",
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
        help="let a function or a model judge answers in people's place",
        description="Judges the answers in a file by a function, a reward model or a model behind an OpenAI-compatible "
        "endpoint, and appends the judgements to a file, as `rlhf-dist label` does. If it is stopped, the same command "
        "continues where it was. See docs/sampling.md.",
    )
    judge.add_argument("candidates", metavar="CANDIDATES", help="prompts with their answers (.jsonl, .parquet)")
    judge.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file that the judgements are appended to (.jsonl)"
    )
    judge.add_argument(
        "--split", default="train", metavar="NAME", help="split of a data set of the hub (default train)"
    )
    judge.add_argument(
        "--task",
        default="rank",
        choices=("rank", "compare"),
        help="rank all answers, or compare each pair (default rank)",
    )
    judge.add_argument("--name", help="name of the judge (default: that of the function or the model)")
    judge.add_argument("--model", metavar="NAME", help="with --endpoint: name of the model to ask")
    _add_judge_options(judge)
    judge.add_argument(
        "--max-tokens",
        type=int,
        default=512,
        metavar="N",
        help="with --endpoint: longest reply, in tokens (default 512)",
    )
    judge.add_argument(
        "--device", default="auto", choices=("auto", *DEVICES), help="device of a reward model (default auto)"
    )
    judge.add_argument("--trust-remote-code", action="store_true", help="allow code that comes with the model")


def add_eval(commands: Commands) -> None:
    """Adds the command `eval` to the commands of a parser."""
    evaluate = commands.add_parser(
        "eval",
        help="measure how often one model's answers are preferred to another's",
        description="Samples answers to the same prompts from two models, has a judge compare them, and shows how "
        "often the first model's answers are preferred, with an interval: as they are, and at equal length. If it is "
        "stopped, the same command continues where it was. See docs/sampling.md.",
    )
    evaluate.add_argument("first", metavar="[NAME=]DIR_A", help="model, and a name for it (default: the directory's)")
    evaluate.add_argument("second", metavar="[NAME=]DIR_B", help="model to compare it with")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for the results")
    add_sampling_options(evaluate)
    _add_judge_options(evaluate)
    evaluate.add_argument("--judge-model", metavar="NAME", help="with --endpoint: name of the model to ask")
    evaluate.add_argument(
        "--judge-max-tokens",
        type=int,
        default=512,
        metavar="N",
        help="with --endpoint: longest reply, in tokens (default 512)",
    )


def _add_judge_options(judge: argparse.ArgumentParser) -> None:
    who = judge.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--function", metavar="FILE.py:NAME", help="function(prompts, responses) -> scores, higher is better"
    )
    who.add_argument("--reward-model", metavar="DIR", help="reward model, such as runs/NAME/model")
    who.add_argument("--endpoint", metavar="URL", help="API that a model answers at: http://localhost:8000/v1")
    judge.add_argument("--token-env", metavar="VAR", help="with --endpoint: environment variable that holds its token")
    judge.add_argument("--template", metavar="FILE", help="with --endpoint: question, with {prompt}, {first}, {second}")
    judge.add_argument(
        "--parallel", type=int, default=8, metavar="N", help="with --endpoint: requests at the same time (default 8)"
    )
    judge.add_argument(
        "--retries", type=int, default=3, metavar="N", help="with --endpoint: retries of a failed request (default 3)"
    )
    judge.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds that a call or request may take (default 120)",
    )
