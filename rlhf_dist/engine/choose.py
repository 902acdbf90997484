"""Chooses the engine that runs or trains a role's model: the one place that knows all engines."""

from __future__ import annotations

from rlhf_dist.config.resolve import train_engine_of
from rlhf_dist.config.schema import ModelRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.plain_torch import TorchForwardEngine, TorchTrainEngine
from rlhf_dist.engine.protocol import ForwardEngine, TrainEngine
from rlhf_dist.engine.zero import ZeroForwardEngine, ZeroTrainEngine
from rlhf_dist.models.language import PolicyModel, ScalarModel

TRANSFORMERS = ("transformers.models.auto.modeling_auto",)  # what loading a model begins with


def make_train_engine(
    model: PolicyModel | ScalarModel, device: Device, role: TrainedRoleConfig, total_steps: int
) -> TrainEngine:
    """The engine that trains ``model``, as the role's `train_engine` says.

    Args:
        model: on CPU; parameters that do not require a gradient stay as they are.
        device: where the model runs.
        role: the role's configuration.
        total_steps: optimizer steps of the whole run, for the learning-rate schedule.
    """
    match train_engine_of(role, device):
        case "torch":
            return TorchTrainEngine(model, device, role, total_steps)
        case "zero":
            return ZeroTrainEngine(model, device, role, total_steps)


def make_forward_engine(model: PolicyModel | ScalarModel, device: Device, role: ModelRoleConfig) -> ForwardEngine:
    """The engine that runs a frozen model: sharded under `zero_stage` 3, else whole on every worker.

    Args:
        model: on CPU.
        device: where the model runs.
        role: the role's configuration.
    """
    if role.zero_stage == 3:
        return ZeroForwardEngine(model, device, role)
    return TorchForwardEngine(model, device, role)


def libraries_of(role: ModelRoleConfig, device: Device) -> tuple[str, ...]:
    """The modules that making the role's engine imports, which takes each worker's process seconds.

    Args:
        role: the role's configuration.
        device: of its workers.
    """
    learns_by_zero = isinstance(role, TrainedRoleConfig) and train_engine_of(role, device) == "zero"
    return TRANSFORMERS + (("deepspeed",) if learns_by_zero or role.zero_stage == 3 else ())
