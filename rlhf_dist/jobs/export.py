"""`python -m rlhf_dist export`: a Hugging Face model of a checkpoint, without accelerator, Ray or DeepSpeed."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.config.roles import ACTOR
from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.controller.checkpoints import damage
from rlhf_dist.device import CPU
from rlhf_dist.durable import PARTIAL, replace_folder, sync_tree
from rlhf_dist.engine.fragments import Fragments
from rlhf_dist.engine.role_state import AVERAGE, BUFFERS, MODEL, WEIGHTS, RoleState, fingerprint
from rlhf_dist.errors import UserError
from rlhf_dist.models.language import PolicyModel, ScalarModel, load_policy, load_scalar
from rlhf_dist.weights.source import gathered_state_dict

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_dist.engine.role_state import RoleState


def run(options: argparse.Namespace) -> None:
    """The command `export`, with the options of its command line. Prints where the model is."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    export(options.checkpoint, options.out, options.role, options.average, options.base, options.trust_remote_code)
    print(options.out)


def export(
    checkpoint: Path, out: Path, role: str | None, average: bool, base: Path | None, trust_remote_code: bool
) -> None:
    """Writes the model that a role's part of a checkpoint holds, with its configuration and tokenizer.

    The whole model is in host memory once. Its dtype is the one it was trained in; an adapter is merged.

    Args:
        checkpoint: `runs/NAME/checkpoints/step-N`.
        out: the directory to make.
        role: whose; None: the actor's, or the only one's.
        average: the moving average of the weights instead of the weights.
        base: where the base of an adapter is now; None: where it was.
        trust_remote_code: whether a model's own code may run.

    Raises:
        UserError: it is no checkpoint, or damaged; `out` exists; what was asked for is not in it.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another directory, or remove it")
    folder = checkpoint / _role(checkpoint, role)
    problem = damage(checkpoint)
    if problem is not None:
        raise UserError(f"{checkpoint} is not a complete checkpoint: {problem}")

    state = RoleState.read(folder)
    if state.trust_remote_code and not trust_remote_code:
        raise UserError(f"{state.path} needs code that comes with the model: allow it with --trust-remote-code")
    beside = out.with_name(out.name + PARTIAL)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        model, tensors = _model(folder, state, average, base, trust_remote_code)
        model.save_pretrained(beside, state_dict=tensors)
        for file in (folder / MODEL).iterdir():
            if file.name != "config.json":
                shutil.copy2(file, beside / file.name)
        sync_tree(beside)
        replace_folder(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _role(checkpoint: Path, wanted: str | None) -> str:
    roles = sorted(path.parent.name for path in checkpoint.glob("*/state.json"))
    if not roles:
        raise UserError(f"{checkpoint} is not a checkpoint (expected runs/NAME/checkpoints/step-N)")
    if wanted is None:
        if ACTOR not in roles and len(roles) > 1:
            raise UserError(f"{checkpoint} has the roles {', '.join(roles)}: choose one with --role")
        return ACTOR if ACTOR in roles else roles[0]
    if wanted not in roles:
        raise UserError(f"{checkpoint} has no role {wanted}{suggest(wanted, roles)}, only {', '.join(roles)}")
    return wanted


def _model(
    folder: Path, state: RoleState, average: bool, base: Path | None, trust_remote_code: bool
) -> tuple[Any, dict[str, Tensor]]:
    """A transformers model, perhaps without weights, and all of its weights by their names."""
    import torch

    if average and not state.has_average:
        raise UserError(f"{folder} holds no moving average of the weights (ema_decay was 0)")
    learned = Fragments(folder, AVERAGE if average else WEIGHTS)
    learned.check(state.numels)
    tensors = {
        name: learned.read(name, 0, state.numels[name]).view(shape).to(getattr(torch, dtype))
        for name, (shape, dtype) in state.parameters.items()
    }
    if state.fingerprint is not None:
        return _adapted(state, tensors, base, trust_remote_code)
    buffers = Fragments(folder, BUFFERS)
    model = _without_weights(folder, state, trust_remote_code)
    for name, buffer in model.named_buffers():
        if name in buffers.names:
            tensors[name] = buffers.read(name, 0, buffer.numel()).view(buffer.shape)
    return model, tensors


def _without_weights(folder: Path, state: RoleState, trust_remote_code: bool) -> Any:
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder / MODEL, trust_remote_code=trust_remote_code)
        dtype = next(iter(state.parameters.values()))[1]
        with torch.device("meta"):
            return getattr(transformers, state.auto_class).from_config(
                config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / MODEL} is damaged: {str(error).splitlines()[0]}") from error


def _adapted(
    state: RoleState, learned: dict[str, Tensor], base: Path | None, trust_remote_code: bool
) -> tuple[Any, dict[str, Tensor]]:
    """The base with the adapter merged into it."""
    import torch

    path = str(base or state.path)
    dtype = next(iter(state.parameters.values()))[1]
    config = ModelConfig(path=path, dtype=dtype, trust_remote_code=trust_remote_code)
    policy = state.auto_class == PolicyModel.auto_class
    model = (load_policy if policy else load_scalar)(config, CPU, lora=state.lora)
    if fingerprint(path, model.pretrained.config) != state.fingerprint:
        raise UserError(
            f"{path} is not the base that the adapter was trained on ({state.path}): name that one with --base"
        )
    parameters = dict(model.pretrained.named_parameters())
    with torch.no_grad():
        for name, tensor in learned.items():
            parameters[name].copy_(tensor)
    if isinstance(model, ScalarModel):
        model.set_bias(state.score_bias)
    return model.pretrained, gathered_state_dict(model.pretrained, 2**62)
