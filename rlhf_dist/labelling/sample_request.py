"""What `rlhf-dist sample` was asked for: checked before torch is imported, so that a mistake is said at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_dist.config.commands import Commands
from rlhf_dist.config.paths import check_model_path
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.data.chat import ChatPrompt, read_prompt
from rlhf_dist.data.records import read_records
from rlhf_dist.device import DEVICES
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.candidates import Prompt
from rlhf_dist.labelling.sampling import SampleSettings, check_models


@dataclass(frozen=True)
class SampleRequest:
    """What is to be sampled.

    Attributes:
        models: their names and paths, in the order in which they are sampled from.
        prompts: to be answered; none stands twice.
        texts: the same, as their models read them.
        repeated: how many prompts of the file stood there before, and were left out.
        settings: of the sampling.
        out: the file to write.
        overwrite: whether to begin anew.
        engines, tensor_parallel: of each model.
        batch: answers that an engine writes at once; None: what fits the device.
        device: of the engines, as `run.device`.
        trust_remote_code: run the code that models come with.
        cluster: where the engines run.
    """

    models: tuple[tuple[str, str], ...]
    prompts: tuple[Prompt, ...]
    texts: tuple[ChatPrompt, ...]
    repeated: int
    settings: SampleSettings
    out: Path
    overwrite: bool
    engines: int
    tensor_parallel: int
    batch: int | None
    device: str
    trust_remote_code: bool
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def add_sample(commands: Commands) -> None:
    """Adds the command and its options."""
    sample = commands.add_parser(
        "sample",
        help="sample answers to prompts from models, for people to judge",
        description="Samples answers to each prompt from one or several models, and writes them to the file that "
        "`rlhf-dist label` shows to labellers. If it is stopped, the same command continues where it was. See "
        "docs/sampling.md.",
    )
    sample.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="model to sample from, and the name for it in the file (repeatable; default name: the directory's)",
    )
    sample.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="file to write")
    sample.add_argument(
        "--k",
        type=int,
        default=4,
        metavar="N",
        help="answers to each prompt, from all models together (default 4; InstructGPT has 4 to 9)",
    )
    sample.add_argument(
        "--redraws", type=int, default=4, metavar="N", help="times that a duplicate answer is sampled again (default 4)"
    )
    sample.add_argument("--overwrite", action="store_true", help="start over if the file exists")
    add_sampling_options(sample)


def add_sampling_options(sample: argparse.ArgumentParser) -> None:
    """Adds what to sample, how and on what: the options of all commands that do."""
    add = sample.add_argument
    add("--prompts", required=True, metavar="FILE", help=".jsonl or .parquet file, or data set of the hub")
    add("--split", default="train", metavar="NAME", help="split of a data set of the hub (default train)")
    add("--limit", type=int, metavar="N", help="use the first N prompts only")
    add("--temperature", type=float, default=1.0, metavar="T", help="sampling temperature (default 1.0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest tokens up to this mass (default 1)")
    add("--top-k", type=int, default=0, metavar="N", help="keep the N likeliest tokens (default 0: all)")
    add("--max-tokens", type=int, default=256, metavar="N", help="longest answer, in tokens (default 256)")
    add("--seed", type=int, default=1, metavar="N", help="seed of the sampling (default 1)")
    add("--backend", choices=("vllm", "hf"), default="vllm", help="vLLM, or plain transformers (default vllm)")
    add("--engines", type=int, default=1, metavar="N", help="engines of each model (default 1)")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="devices of each engine (default 1)")
    add("--batch", type=int, metavar="N", help="answers that an engine writes at once (default 256; on a CPU 64)")
    add("--device", choices=("auto", *DEVICES), default="auto", help="device to run on (default auto)")
    add("--trust-remote-code", action="store_true", help="allow code that comes with a model")


def sample_request(options: argparse.Namespace) -> SampleRequest:
    """What the options ask for, the prompts read.

    Raises:
        UserError: a mistake in the options, a model directory that is not there, or a malformed file of prompts.
    """
    _check_numbers(options)
    models = tuple(named_model(text) for text in options.model)
    check_models([name for name, _ in models], options.k, options.temperature)
    for _, path in models:
        check_model_path(path, "--model")
    prompts, texts, repeated = _prompts(options.prompts, options.split, options.limit)
    settings = SampleSettings(
        options.k,
        options.temperature,
        options.top_p,
        options.top_k,
        options.max_tokens,
        options.seed,
        options.backend,
        options.redraws,
    )
    return SampleRequest(
        models,
        prompts,
        texts,
        repeated,
        settings,
        options.out,
        options.overwrite,
        options.engines,
        options.tensor_parallel,
        options.batch,
        options.device,
        options.trust_remote_code,
    )


def eval_request(options: argparse.Namespace) -> SampleRequest:
    """What `rlhf-dist eval` asks for: one answer of each of two models to each prompt. UserError as above.

    An answer that both models give is not drawn again: it is a tie.
    """
    models = [options.first, options.second]
    given = {"model": models, "k": len(models), "redraws": 0, "out": options.out / "candidates.jsonl"}
    return sample_request(argparse.Namespace(**{**vars(options), **given, "overwrite": False}))


def named_model(text: str) -> tuple[str, str]:
    """Name and path of `NAME=DIR` or `DIR`, which is called after its directory, and `runs/NAME/model` after the run.

    Raises:
        UserError: the name or the path is empty.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return _name_of(text), text
    if not name or not path:
        raise UserError(f"--model {text}: expected DIR or NAME=DIR")
    return name, path


def _name_of(path: str) -> str:
    folder = Path(path).absolute()
    is_of_run = folder.name == "model" and (folder.parent / "config.yaml").is_file()
    return folder.parent.name if is_of_run else folder.name


def _check_numbers(options: argparse.Namespace) -> None:
    least = {"k": 2, "limit": 1, "max_tokens": 1, "top_k": 0, "redraws": 0, "seed": 0}
    least |= {"engines": 1, "tensor_parallel": 1, "batch": 1, "temperature": 0}
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and not value >= smallest:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {smallest} or more")
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top-p {options.top_p}: expected more than 0, at most 1")
    if options.seed >= 10**18 or options.temperature == float("inf"):
        name = "seed" if options.seed >= 10**18 else "temperature"
        raise UserError(f"--{name} {getattr(options, name)} is too large")
    if options.backend == "hf" and options.tensor_parallel > 1:
        raise UserError("--tensor-parallel needs --backend vllm: plain transformers runs on one device")


def _prompts(path: str, split: str, limit: int | None) -> tuple[tuple[Prompt, ...], tuple[ChatPrompt, ...], int]:
    """The prompts of a file that stand there for the first time, as such and as their models read them; and how many
    others there are.
    """
    found: dict[str, tuple[Prompt, ChatPrompt]] = {}
    repeated = 0
    for record in read_records(path, split):
        if limit is not None and len(found) == limit:
            break
        prompt = Prompt.read(record)
        repeated += prompt.id in found
        found.setdefault(prompt.id, (prompt, read_prompt(record)))
    prompts: Sequence[tuple[Prompt, ChatPrompt]] = list(found.values())
    return tuple(prompt for prompt, _ in prompts), tuple(text for _, text in prompts), repeated
