"""Sampling answers for labellers: rollout engines on Ray, one model after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from rlhf_dist.cluster.fork_server import ForkServer
from rlhf_dist.cluster.group import WorkerGroup
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.prometheus import RunGauges
from rlhf_dist.cluster.roles import Rollout
from rlhf_dist.cluster.sample_stream import SampleStream
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.cluster.session import ray_session
from rlhf_dist.cluster.shared_folder import check_sharing
from rlhf_dist.config.model_files import check_context
from rlhf_dist.config.roles import ROLLOUT, Role, RoleKind
from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.controller.signals import StopSignal
from rlhf_dist.controller.trainer import writing
from rlhf_dist.data.encode import encode_prompts, flatten, lengths_of, require_tokens
from rlhf_dist.data.fingerprint import model_fingerprint
from rlhf_dist.data.tokenizer import load_tokenizer, stop_tokens
from rlhf_dist.device import Device, resolve
from rlhf_dist.errors import StoppedByUser
from rlhf_dist.jobs.engines import engine_variables, rollout_engines, with_reachable_cache
from rlhf_dist.jobs.progress import Progress
from rlhf_dist.labelling.sample_file import SampleFile
from rlhf_dist.labelling.sample_request import SampleRequest
from rlhf_dist.labelling.sampling import Draw, Drawn, SampledModel, draw_distinct
from rlhf_dist.plan.batch_limits import BatchLimits
from rlhf_dist.plan.pools import Pool, role_resources
from rlhf_dist.process_output import redirect_output
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.types import Prompts

_BATCH, _BATCH_ON_CPU = 256, 64  # answers that an engine writes at once


@dataclass(frozen=True)
class _Reader:
    """A model with the prompts that it has yet to answer, as it reads them.

    Attributes:
        number: among the models, from 0.
        model: the model.
        rows: the numbers of the prompts.
        prompts: the same, tokenized, in this order.
        tokenizer: the model's.
    """

    number: int
    model: SampledModel
    rows: list[int]
    prompts: Prompts
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Place:
    """Where the engines run.

    Attributes:
        request: what is sampled.
        device: of the engines.
        logs: the directory of their log files.
        gauges: for Prometheus.
        listen_address: at which workers listen for one another; None: their nodes' own addresses.
        py_executable: the command by which Ray starts a worker's Python; None: its own.
    """

    request: SampleRequest
    device: Device
    logs: Path
    gauges: RunGauges
    listen_address: str | None
    py_executable: str | None


def run(request: SampleRequest, forks: ForkServer | None) -> None:
    """Samples what is not there yet, and says what came of it.

    Args:
        request: what to sample.
        forks: starts worker processes quickly; None: Ray starts them.

    Raises:
        UserError: a mistake in the request, or the file was sampled otherwise.
        ClusterError: the cluster cannot hold the engines.
        RunError: an engine failed, or the disk is full.
        StoppedByUser: Ctrl-C; the prompts that were answered are kept.
    """
    device = resolve(request.device)
    models = [SampledModel(name, path, _version(path), model_fingerprint(path)) for name, path in request.models]
    with SampleFile(request.out, request.settings, models, request.prompts, request.overwrite) as file:
        readers = [_reader(request, file, number) for number in range(len(models)) if file.pending(number)]
        if not readers:
            print(f"{request.out} is finished: nothing is left to do")
        drawn_again = _sample(request, device, file, readers, forks) if readers else 0
        print(_outcome(request, file, drawn_again))


def _version(path: str) -> int | None:
    """The last step of the run whose final model this is; None for any other model."""
    folder = Path(path).absolute()
    run_dir = RunDir(folder.parent)
    is_of_run = folder.name == "model" and run_dir.config.is_file() and run_dir.summary.is_file()
    return run_dir.last_step() if is_of_run else None


def _reader(request: SampleRequest, file: SampleFile, number: int) -> _Reader:
    model, rows = file.models[number], file.pending(number)
    tokenizer = load_tokenizer(model.path, request.trust_remote_code)
    texts = [request.texts[row] for row in rows]
    _, tokens = encode_prompts(tokenizer, texts)
    require_tokens(texts, tokens)
    count = torch.arange(len(rows), dtype=torch.int64)
    prompts = Prompts(flatten(tokens), lengths_of(tokens), ids=count, rows=count)
    limits = {"the longest prompt": int(prompts.lengths.max()), "--max-tokens": request.settings.max_tokens}
    check_context(model.path, "--model", limits)
    return _Reader(number, model, rows, prompts, tokenizer)


def _sample(
    request: SampleRequest, device: Device, file: SampleFile, readers: Sequence[_Reader], forks: ForkServer | None
) -> int:
    """Lets each model answer what it has not. Returns how many draws stood in for duplicates."""
    logs = request.out.absolute().with_suffix(".logs")
    shutil.rmtree(logs, ignore_errors=True)
    drawn_again = 0
    with (
        redirect_output(logs / "driver.log") as terminal,
        Progress(terminal) as progress,
        ray_session(request.cluster, "sample") as listen_address,
        StopSignal(progress.stopping) as stop,
        closing(RunGauges("sample")) as gauges,
    ):
        executable = forks.py_executable if forks is not None else None
        place = _Place(request, device, logs, gauges, listen_address, executable)
        for reader in readers:
            progress.begin(reader.model.name, len(reader.rows), len(request.prompts) - len(reader.rows))
            with _engines(place, reader) as draw:
                for batch in _batches(request, device, reader, file):
                    drawn_again += _answer(file, reader, batch, draw)
                    progress.advance(len(batch))
                    if stop.wanted:
                        raise StoppedByUser(
                            f"stopped: {file.whole} of {len(request.prompts)} prompts are whole in {request.out}; "
                            "the same command goes on"
                        )
    shutil.rmtree(logs, ignore_errors=True)
    return drawn_again


def _batches(request: SampleRequest, device: Device, reader: _Reader, file: SampleFile) -> Iterator[list[int]]:
    """The places of the reader's prompts, so many at a time that all engines are full."""
    answers = max(file.wanted(reader.number, row).count for row in reader.rows)
    size = max(request.engines * _batch(request, device) // answers, 1)
    places = list(range(len(reader.rows)))
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _batch(request: SampleRequest, device: Device) -> int:
    return request.batch or (_BATCH if device.is_accelerator else _BATCH_ON_CPU)


def _answer(file: SampleFile, reader: _Reader, places: Sequence[int], draw: Callable[[Prompts], list[Drawn]]) -> int:
    """Lets a model answer some prompts, and keeps the answers. Returns how many draws stood in for duplicates."""

    def drawn(draws: Sequence[Draw]) -> list[Drawn]:
        prompts = reader.prompts.select([places[one.prompt] for one in draws])
        return draw(replace(prompts, ids=torch.tensor([one.sample for one in draws], dtype=torch.int64)))

    rows = [reader.rows[place] for place in places]
    wanted = [file.wanted(reader.number, row) for row in rows]
    answered = draw_distinct(wanted, reader.model, file.settings, drawn)
    with writing(file.out):
        file.add(reader.number, dict(zip(rows, answered.answers, strict=True)))
    return answered.drawn_again


@contextmanager
def _engines(place: _Place, reader: _Reader) -> Iterator[Callable[[Prompts], list[Drawn]]]:
    """Starts the engines of a model; they end with the block. Yields what lets them answer prompts."""
    request, settings = place.request, place.request.settings
    model = ModelConfig(path=reader.model.path, trust_remote_code=request.trust_remote_code)
    rollout = _rollout(request, reader, place.device)
    name = f"sample-{reader.number}"
    role = Role(ROLLOUT, ROLLOUT, rollout, RoleKind.ENGINE, model, "--model")
    pools = [Pool((role_resources(role, place.device),))]
    cluster, options = (
        request.cluster,
        SamplingOptions(settings.temperature, settings.max_tokens, settings.seed, settings.top_p, settings.top_k),
    )
    with closing(Placement(name, pools, place.device, cluster.placement_timeout_s)) as placement:
        nodes = {node: ["--model"] for node in placement.roles_by_node()}
        check_sharing(nodes, place.logs, {"--model": model.path})
        group = WorkerGroup(
            name,
            ROLLOUT,
            placement,
            place.logs / reader.model.name.replace("/", "_"),
            engine_variables(rollout, place.device),
            settings.seed,
            cluster,
            place.gauges,
            place.listen_address,
            place.py_executable,
        )
        scheduler = Scheduler(placement)
        stream = SampleStream(Rollout(group), scheduler, cluster.call_timeout_s)
        stops = stop_tokens(model.path, reader.tokenizer)
        making = rollout_engines(rollout, model, group, 0, stops, settings.seed)

        def draw(prompts: Prompts) -> list[Drawn]:
            sequences = stream.sample(prompts, options)
            responses = sequences.response_lists()
            texts = reader.tokenizer.batch_decode(responses, skip_special_tokens=True)
            ended = sequences.finished.tolist()
            return [Drawn(*row) for row in zip(texts, map(len, responses), ended, strict=True)]

        try:
            scheduler.build([making], cluster.start_timeout_s)
            yield draw
        finally:
            group.kill()


def _rollout(request: SampleRequest, reader: _Reader, device: Device) -> RolloutConfig:
    """The engines of a model: their context is the longest prompt with the longest answer."""
    settings, batch = request.settings, _batch(request, device)
    longest = int(reader.prompts.lengths.max())
    rollout = RolloutConfig(
        backend=settings.backend,
        num_engines=request.engines,
        tensor_parallel=request.tensor_parallel,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_response_tokens=settings.max_tokens,
        max_prompt_tokens=longest,
        samples_per_prompt=settings.answers,
        max_batch=batch,
    )
    limits = BatchLimits(longest + settings.max_tokens, engine_sequences=batch)
    model = ModelConfig(path=reader.model.path, trust_remote_code=request.trust_remote_code)
    return with_reachable_cache(rollout, model, limits, device)


def _outcome(request: SampleRequest, file: SampleFile, drawn_again: int) -> str:
    """What the user is told at the end."""
    lines = [f"{request.out}: {file.whole} prompts, {request.settings.answers} answers wanted to each"]
    if request.repeated:
        lines.append(f"{request.repeated} prompts stood in the file before, and were left out")
    if drawn_again:
        lines.append(f"{drawn_again} draws stood in for duplicates")
    if short := file.short:
        missing = sum(file.settings.answers - count for count in short)
        lines.append(
            f"{missing} answers are missing, as each of {request.settings.redraws} more draws was a duplicate too: "
            f"{len(short)} prompts have fewer than {file.settings.answers}, the least {min(short)} "
            "(a higher --temperature makes answers differ)"
        )
    return "\n".join(lines)
