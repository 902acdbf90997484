"""What a role that learns keeps to go on from: the same files whatever the engine, ZeRO stage and number of workers.

A role's folder holds, by the parameters' names and in pieces (:mod:`rlhf_dist.engine.fragments`): the weights as they
are trained (float32), AdamW's two moments and its step, the moving average where there is one; each worker's random
states; `model/`, the Hugging Face files without the weights; and `state.json`, which says what all that belongs to.
What does not learn is not in it: under an adapter the base's weights stay those of `model.path`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlhf_dist.config.schema import AdapterConfig
from rlhf_dist.engine.export import save_description
from rlhf_dist.engine.fragments import Fragments, write_fragments
from rlhf_dist.engine.protocol import TrainEngine
from rlhf_dist.engine.random_state import load_random_state, save_random_state
from rlhf_dist.engine.shards import Shard, learning
from rlhf_dist.errors import UserError
from rlhf_dist.models.language import ScalarModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMAT = 1
STATE, MODEL = "state.json", "model"
WEIGHTS, AVERAGE, STEP, BUFFERS, MOMENTS = "weights", "average", "step", "buffers", ("exp_avg", "exp_avg_sq")
_SAMPLES, _SAMPLE_BYTES = 16, 65536


@dataclass(frozen=True)
class RoleState:
    """`state.json` of a role.

    Attributes:
        format: of the folder.
        auto_class: transformers' class that loads such a model.
        path: `model.path`.
        fingerprint: of the weights there, where some of them do not learn and are not in the checkpoint; else None.
        trust_remote_code: whether the model comes with code of its own.
        lora: the adapter's settings; rank 0: none.
        score_bias: of a scalar model; else 0.
        parameters: of each one that learns, the shape and the dtype in the model, in the model's order.
        has_average: whether a moving average is there.
        steps_taken: optimizer steps so far, by which the learning rate goes.
        world: number of workers that wrote it.
        zero_stage: under which it was written; 0 by an engine that does not shard.
    """

    format: int
    auto_class: str
    path: str
    fingerprint: str | None
    trust_remote_code: bool
    lora: AdapterConfig
    score_bias: float
    parameters: dict[str, tuple[list[int], str]]
    has_average: bool
    steps_taken: int
    world: int
    zero_stage: int

    @property
    def numels(self) -> dict[str, int]:
        """Number of elements of each parameter."""
        return {name: prod(shape) for name, (shape, _) in self.parameters.items()}

    @classmethod
    def read(cls, folder: Path) -> RoleState:
        """UserError where ``folder`` is no role's part of a checkpoint, or of another format."""
        try:
            fields = json.loads((folder / STATE).read_text(encoding="utf-8"))
            if fields["format"] != FORMAT:
                raise UserError(f"{folder} has format {fields['format']}, this version reads format {FORMAT}")
            return cls(**{**fields, "lora": AdapterConfig(**fields["lora"])})
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} is not a role's folder of a checkpoint, or an older version wrote it: it has no {STATE}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / STATE} is damaged: {error}") from error


def state_of(engine: TrainEngine) -> RoleState:
    """What `state.json` of this role says now."""
    role, model = engine.role, engine.model
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    return RoleState(
        format=FORMAT,
        auto_class=model.auto_class,
        path=str(Path(role.model.path).absolute()) if Path(role.model.path).is_dir() else role.model.path,
        fingerprint=fingerprint(role.model.path, model.pretrained.config) if frozen else None,
        trust_remote_code=role.model.trust_remote_code,
        lora=AdapterConfig(**asdict(role.lora)),
        score_bias=model.bias if isinstance(model, ScalarModel) else 0.0,
        parameters={
            name: (list(engine.sharding.full_shape(parameter)), str(parameter.dtype).removeprefix("torch."))
            for name, parameter in learning(model.pretrained)
        },
        has_average=engine.average is not None,
        steps_taken=engine.steps_taken,
        world=engine.world,
        zero_stage=engine.role.zero_stage,
    )


def fingerprint(path: str, config: PretrainedConfig) -> str:
    """Tells a model's weights from another's: of a directory's files, samples from all over them; else the commit."""
    digest = hashlib.sha256(str(getattr(config, "_commit_hash", None)).encode())
    for file in sorted(Path(path).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for sample in range(_SAMPLES):
                opened.seek(max(size - _SAMPLE_BYTES, 0) * sample // (_SAMPLES - 1))
                digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def save(engine: TrainEngine, folder: Path) -> None:
    """Writes this worker's part into ``folder``; no worker waits for another.

    At most :data:`~rlhf_dist.engine.fragments.FILE_BYTES` are copied to host memory at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world, adamw = engine.rank, engine.world, engine.adamw
    shards = engine.optimizer_shards()
    # What all hold alike is dealt out by the parameters' numbers.
    mine = {name: number % world == rank for number, (name, _) in enumerate(learning(engine.model.pretrained))}

    def parts(tensor_of: Callable[[Tensor], Tensor | None]) -> Iterator[tuple[str, int, Tensor]]:
        for name, shard in shards.items():
            tensor = tensor_of(shard.owner)
            if tensor is not None and (mine[name] or not shard.replicated):
                yield name, shard.start, shard.of(tensor)

    def write(kind: str, what: Iterator[tuple[str, int, Tensor]]) -> None:
        write_fragments(folder, kind, rank, world, what)

    def state(owner: Tensor, key: str) -> Tensor | None:
        return adamw.state[owner][key] if adamw.state.get(owner) else None  # none before the first step

    write(WEIGHTS, parts(lambda owner: owner))
    for moment in MOMENTS:
        write(moment, parts(lambda owner, key=moment: state(owner, key)))  # type: ignore[misc]
    steps = ((name, state(shard.owner, STEP)) for name, shard in shards.items())
    write(STEP, ((name, 0, step.reshape(1).float().clone()) for name, step in steps if step is not None))
    if engine.average is not None:
        sharded = not engine.sharding.replicated
        write(AVERAGE, (part for part in engine.average.parts() if sharded or mine[part[0]]))
    save_random_state(folder, engine.device, rank, world)
    if rank == 0:
        write(BUFFERS, ((name, 0, buffer.view(-1)) for name, buffer in persistent_buffers(engine.model.pretrained)))
        save_description(engine.model.pretrained, engine.role.model, folder / MODEL)
        text = json.dumps(asdict(state_of(engine)), indent=1, allow_nan=False)
        (folder / STATE).write_text(text + "\n", encoding="utf-8")


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers of ``model`` that its files hold, by name."""
    kept = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def load(engine: TrainEngine, folder: Path) -> None:
    """Loads what :func:`save` wrote, with any number of workers and at any ZeRO stage.

    Raises:
        UserError: it is not of this model, or damaged; nothing has been changed then.
    """
    saved = RoleState.read(folder)
    _compare(saved, state_of(engine), folder)
    weights, moments, steps, average, buffers = (
        Fragments(folder, WEIGHTS),
        {key: Fragments(folder, key) for key in MOMENTS},
        Fragments(folder, STEP),
        Fragments(folder, AVERAGE),
        Fragments(folder, BUFFERS),
    )
    weights.check(saved.numels)
    if steps.names:
        steps.check(dict.fromkeys(saved.parameters, 1))
        for fragments in moments.values():
            fragments.check(saved.numels)
    if engine.average is not None:
        average.check(saved.numels)
    for name, buffer in persistent_buffers(engine.model.pretrained):
        buffers.check({name: buffer.numel()})
    _load_weights(engine, weights, buffers)
    if steps.names:
        _load_moments(engine, moments, steps)
    if engine.average is not None:
        engine.average.load(average.read)
    if isinstance(engine.model, ScalarModel) and engine.model.bias != saved.score_bias:
        engine.model.set_bias(saved.score_bias)
    engine.steps_taken = saved.steps_taken
    load_random_state(folder, engine.device, engine.rank, engine.world, saved.steps_taken)


def _compare(saved: RoleState, here: RoleState, folder: Path) -> None:
    """UserError that names the first thing in which the checkpoint is of another model."""
    what = f"{folder} cannot be loaded:"
    for key in ("rank", "alpha", "targets"):
        then, now = getattr(saved.lora, key), getattr(here.lora, key)
        if then != now and (saved.lora.rank or here.lora.rank):
            raise UserError(f"{what} it was written with lora.{key}={then}, but now it is {now}")
    if saved.auto_class != here.auto_class:
        raise UserError(f"{what} it is the state of {saved.auto_class}, but this role has {here.auto_class}")
    for name in {**saved.parameters, **here.parameters}:
        then, now = ((state.parameters[name][0] if name in state.parameters else None) for state in (saved, here))
        if then != now:
            texts = ["does not have it" if shape is None else f"has it as {list(shape)}" for shape in (now, then)]
            raise UserError(f"{what} parameter {name}: {here.path} {texts[0]}, the checkpoint {texts[1]}")
    if saved.fingerprint != here.fingerprint:
        raise UserError(f"{what} it belongs to the base model {saved.path}, whose weights differ from {here.path}")
    if here.has_average and not saved.has_average:
        raise UserError(f"{what} it holds no moving average of the weights: set ema_decay to 0, as it was")


@torch.no_grad()
def _load_weights(engine: TrainEngine, weights: Fragments, buffers: Fragments) -> None:
    model = engine.model.pretrained
    shards = engine.optimizer_shards()
    for name, parameter in learning(model):
        start, here = engine.sharding.local_part(parameter, engine.sharding.local(parameter))
        values = weights.read(name, start, here.numel())
        here.copy_(values)
        if name in shards:
            shard = shards[name]
            shard.of(shard.owner).copy_(values[shard.start - start :][: shard.count])
    for name, buffer in persistent_buffers(model):
        buffer.copy_(buffers.read(name, 0, buffer.numel()).view(buffer.shape))
    engine.sharding.forget_gathered()


@torch.no_grad()
def _load_moments(engine: TrainEngine, moments: dict[str, Fragments], steps: Fragments) -> None:
    latest: dict[int, float] = {}  # parameters that are flat in one tensor share its step: the highest of theirs
    for name, shard in engine.optimizer_shards().items():
        state = _adamw_state(engine.adamw, shard)
        latest[id(shard.owner)] = max(latest.get(id(shard.owner), 0.0), float(steps.read(name, 0, 1)))
        state[STEP].fill_(latest[id(shard.owner)])
        for key, fragments in moments.items():
            shard.of(state[key]).copy_(fragments.read(name, shard.start, shard.count))


def _adamw_state(adamw: torch.optim.AdamW, shard: Shard) -> dict[str, Tensor]:
    """The states of a shard's owner, made as AdamW makes them at its first step."""
    state = adamw.state[shard.owner]
    if not state:
        on_device = adamw.defaults["fused"] or adamw.defaults["capturable"]
        state[STEP] = torch.zeros((), dtype=torch.float32, device=shard.owner.device if on_device else "cpu")
        for key in MOMENTS:
            state[key] = torch.zeros_like(shard.owner, memory_format=torch.preserve_format)
    return state
