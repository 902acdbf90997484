"""What the roles with a model may ask of an engine that runs or trains it, whichever library is behind it.

Every worker of a role holds one engine. A call gives all workers the same whole batch; each takes its share
(:func:`rlhf_dist.models.layout.balanced_shards`), so nothing has to divide and a worker may have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rlhf_dist.config.schema import ModelRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.averaging import WeightAverage
from rlhf_dist.engine.shards import Shard
from rlhf_dist.models.language import PolicyModel, ScalarModel
from rlhf_dist.models.layout import MicroBatch
from rlhf_dist.types import Ragged, Residency
from rlhf_dist.weights.sharding import Sharding

Batch = TypeVar("Batch", bound=Ragged)


@dataclass(frozen=True)
class Part:
    """One of the losses of an optimizer step; their gradients are summed.

    Attributes:
        lengths: ``[B]`` int64, tokens of each row of the whole minibatch, the same on every worker; at least one row.
        loss_sums: the rows of a micro-batch ``[n]`` int64, and a factor, to its summed loss times the factor (a scalar
            with gradient) and the sums to report (``[S]`` float), which know nothing of the factor.
        scale: of the sum of the loss over all rows: 1 over the minibatch's tokens or rows, times a coefficient.
    """

    lengths: Tensor
    loss_sums: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    scale: float

    @classmethod
    def of(
        cls, batch: Batch, lengths: Tensor, loss_sums: Callable[[Batch, float], tuple[Tensor, Tensor]], scale: float
    ) -> Part:
        """The part whose micro-batches are rows of ``batch``."""
        return cls(lengths, lambda rows, factor: loss_sums(batch.select(rows), factor), scale)


class StepResult(NamedTuple):
    """What an optimizer step tells.

    Attributes:
        sums: for each part its reported sums over all workers, ``[S]`` float64.
        grad_norm: norm of the whole gradient before clipping.
        lr: the learning rate that was used.
    """

    sums: list[Tensor]
    grad_norm: float
    lr: float


class ForwardEngine(Protocol):
    """A model that runs forward.

    Attributes:
        model: the policy, or the model with a scalar head; its parameters may be sharded.
        forward_module: to be called in the model's place: a library may have wrapped it.
        device: the kind of device that it runs on.
        rank: this worker's number among the role's, from 0.
        world: how many workers the role has.
        sharding: gathers the parameters where they are sharded.
    """

    model: PolicyModel | ScalarModel
    forward_module: nn.Module
    device: Device
    rank: int
    world: int
    sharding: Sharding

    @property
    def role(self) -> ModelRoleConfig:
        """The role's section, its layout resolved."""
        ...

    def reside(self, to: Residency) -> None:
        """Moves the model and its state onto the device or to host memory; ``to``: how much is on the device."""
        ...

    def lay_out(self, tokens: Tensor, lengths: Tensor) -> MicroBatch:
        """``[T]`` tokens of rows with ``[b]`` lengths as the role's layout wants them, on the device."""
        ...

    def my_rows(self, lengths: Tensor) -> Tensor:
        """Which rows of a batch with ``[B]`` lengths are this worker's."""
        ...

    def map(self, batch: Batch, lengths: Tensor, outputs: Tensor, function: Callable[[Batch], Tensor]) -> Tensor:
        """Runs ``function`` on micro-batches of this worker's rows, without gradient.

        Args:
            batch: the whole batch, the same on every worker.
            lengths: ``[B]`` int64, tokens of each row.
            outputs: ``[B]`` int64, how many values ``function`` gives for each row.
            function: a micro-batch to its values, flat ``[sum(outputs of its rows)]``.

        Returns:
            the values of :meth:`my_rows`, in their order, flat, float32 on CPU.
        """
        ...


class TrainEngine(ForwardEngine, Protocol):
    """A model that learns, by AdamW with a learning-rate schedule.

    Attributes:
        average: the moving average of the weights; None where the role wants none.
        adamw: the optimizer, whose states, by a shard's owner, are part of a checkpoint.
        steps_taken: optimizer steps since the beginning of the run, over all resumes.
        last_lr: learning rate of the last step; 0 before the first.
    """

    average: WeightAverage | None
    adamw: torch.optim.AdamW
    steps_taken: int
    last_lr: float

    @property
    def role(self) -> TrainedRoleConfig:
        """The role's section, its layout resolved."""
        ...

    def step(self, parts: Sequence[Part]) -> StepResult:
        """One optimizer step on the sum of the parts: the gradient of sum(scale * sum of losses over all workers).

        All parts are accumulated into the same gradient, however it is sharded.
        """
        ...

    def optimizer_shards(self) -> dict[str, Shard]:
        """What this worker's optimizer updates, by the parameters' names; there may be none of some."""
        ...

    def save_checkpoint(self, folder: Path) -> None:
        """Writes everything needed to resume (weights, optimizer states, ...); each worker writes its own part."""
        ...

    def load_checkpoint(self, folder: Path) -> None:
        """Loads what :meth:`save_checkpoint` of any engine wrote, at any ZeRO stage, with any number of workers.

        Raises:
            UserError: it is not of this model, or damaged; nothing has been changed then.
        """
        ...
