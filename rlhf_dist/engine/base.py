"""Common parts of all engines: which rows a worker computes, micro-batches, and the optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhf_dist.algo.schedule import lr_factor
from rlhf_dist.config.schema import ModelRoleConfig, OptimConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine import role_state
from rlhf_dist.engine.averaging import WeightAverage
from rlhf_dist.engine.offload import DeviceMemory
from rlhf_dist.engine.protocol import Batch, Part, StepResult
from rlhf_dist.engine.shards import Shard
from rlhf_dist.models.language import PolicyModel, ScalarModel
from rlhf_dist.models.layout import MicroBatch, balanced_shards, lay_out, micro_batches, resolve_layout
from rlhf_dist.types import Residency
from rlhf_dist.weights.sharding import UNSHARDED, Sharding

BORROWED = torch.zeros(1, dtype=torch.int64)  # a row for a worker that has none left


class ForwardBase:
    """:class:`~rlhf_dist.engine.protocol.ForwardEngine`, but for bringing the model to where it lives.

    Args:
        model: a policy or scalar model.
        device: where the model runs.
        role: the role's configuration.
    """

    forward_module: nn.Module
    sharding: Sharding = UNSHARDED
    role: ModelRoleConfig

    def __init__(self, model: PolicyModel | ScalarModel, device: Device, role: ModelRoleConfig) -> None:
        layout = resolve_layout(role.layout, device.attention(role.model.attention, role.model.dtype))
        self.model, self.device, self.role = model, device, replace(role, layout=layout)
        self.torch_device = device.torch_device()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._memory = DeviceMemory(device, self._weights)

    def _weights(self) -> list[Tensor]:
        """What a forward pass needs: this worker's part of the weights, and the buffers."""
        return [*map(self.sharding.local, self.model.parameters()), *self.model.buffers()]

    def reside(self, to: Residency) -> None:
        """Moves the model and its state onto the device or to host memory; ``to``: how much is on the device."""
        if to != "all":
            self.sharding.forget_gathered()
        self._memory.reside(to)

    def lay_out(self, tokens: Tensor, lengths: Tensor) -> MicroBatch:
        """``[T]`` tokens of rows with ``[b]`` lengths as the role's layout wants them, on the device."""
        return lay_out(tokens, lengths, self.role.layout, self.torch_device)

    def my_rows(self, lengths: Tensor) -> Tensor:
        """Which rows of a batch with ``[B]`` lengths are this worker's."""
        return balanced_shards(lengths, self.world)[self.rank]

    def map(self, batch: Batch, lengths: Tensor, outputs: Tensor, function: Callable[[Batch], Tensor]) -> Tensor:
        """Runs ``function`` on micro-batches of this worker's rows, without gradient. See the protocol."""
        mine = self.my_rows(lengths)
        results: list[tuple[int, Tensor]] = []
        was_training = self.forward_module.training
        self.forward_module.eval()
        with torch.no_grad():
            for rows in self._aligned_micro_batches(lengths[mine]):
                values = function(batch.select(BORROWED if rows is None else mine[rows])).float().cpu()
                if rows is not None:
                    pieces = torch.split(values, outputs[mine[rows]].tolist())
                    results.extend(zip(rows.tolist(), pieces, strict=True))
        self.forward_module.train(was_training)
        results.sort(key=lambda item: item[0])
        return torch.cat([piece for _, piece in results]) if results else torch.zeros(0)

    def _aligned_micro_batches(self, lengths: Tensor) -> list[Tensor | None]:
        """This worker's micro-batches, filled up with None to the largest number any worker has.

        A forward or backward of sharded weights is a collective: all workers make the same number of them.
        """
        role = self.role
        groups: list[Tensor | None] = list(
            micro_batches(lengths, role.micro_batch_tokens, role.micro_batch_sequences, role.layout)
        )
        if self.world == 1:
            return groups
        most = torch.tensor(len(groups), device=self.torch_device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return groups + [None] * (int(most) - len(groups))


class TrainBase(ForwardBase, ABC):
    """:class:`~rlhf_dist.engine.protocol.TrainEngine`, but for where gradients and optimizer states are kept.

    Args:
        model: a policy or scalar model, on CPU; parameters that do not require a gradient stay as they are.
        device: where the model runs.
        role: the role's configuration: micro-batches, optimizer and schedule.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    role: TrainedRoleConfig
    adamw: torch.optim.AdamW

    def __init__(
        self, model: PolicyModel | ScalarModel, device: Device, role: TrainedRoleConfig, total_steps: int
    ) -> None:
        super().__init__(model.train(), device, role)
        self.total_steps, self.steps_taken, self.last_lr = total_steps, 0, 0.0
        self.average: WeightAverage | None = None

    def _start_average(self) -> None:
        """Begins to average the weights, once they are where they stay, if the role wants so."""
        if self.role.ema_decay:
            self.average = WeightAverage(self.model.pretrained, self.role.ema_decay, self.sharding)

    @abstractmethod
    def _backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of ``loss`` up; averaged over the workers by the ``last`` one of an optimizer step."""

    @abstractmethod
    def _update(self) -> float:
        """Clips the gradient, lets AdamW update the weights, and forgets the gradient. Returns its norm before."""

    @abstractmethod
    def optimizer_shards(self) -> dict[str, Shard]:
        """What this worker's optimizer updates, by the parameters' names; there may be none of some."""

    def step(self, parts: Sequence[Part]) -> StepResult:
        """One optimizer step on the sum of the parts. See the protocol."""
        planned = [self._micro_batches_of(part) for part in parts]
        left = sum(map(len, planned))
        reported: list[Tensor] = []
        for part, micros in zip(parts, planned, strict=True):
            sums: list[Tensor] = []
            for rows in micros:
                # Gradients are averaged over the workers, so each one's part is scaled up by their number. A worker
                # without rows runs a borrowed row at weight 0, to take part in the collectives.
                weight = 0.0 if rows is None else self.world * part.scale
                loss, micro_sums = part.loss_sums(BORROWED if rows is None else rows, weight)
                left -= 1
                self._backward(loss, last=left == 0)
                sums.append(micro_sums.detach() * (rows is not None))
            assert sums, "a minibatch has at least one row"
            reported.append(self._over_workers(torch.stack(sums).cpu().double().sum(0)))
        return StepResult(reported, self._apply(), self.last_lr)

    def _micro_batches_of(self, part: Part) -> list[Tensor | None]:
        """This worker's micro-batches of a part: rows of the whole minibatch, or None where it has no more."""
        mine = self.my_rows(part.lengths)
        groups = self._aligned_micro_batches(part.lengths[mine])
        return [None if rows is None else mine[rows] for rows in groups]

    def _over_workers(self, sums: Tensor) -> Tensor:
        """The sums ``[S]`` float64 over all workers. They are gathered, and added up here: HCCL reduces no float64."""
        if self.world == 1:
            return sums
        mine = sums.to(self.torch_device)
        everyones = torch.empty(self.world * sums.numel(), dtype=sums.dtype, device=mine.device)
        dist.all_gather_into_tensor(everyones, mine)
        return everyones.cpu().view(self.world, -1).sum(0)

    def _apply(self) -> float:
        """The end of a step: AdamW at the learning rate of now. Returns the gradient's norm before clipping."""
        optim = self.role.optim
        self.last_lr = optim.lr * lr_factor(
            self.steps_taken,
            self.total_steps,
            optim.schedule,
            optim.warmup_steps,
            optim.warmup_from,
            optim.min_lr_ratio,
        )
        for group in self.adamw.param_groups:
            group["lr"] = self.last_lr
        norm = self._update()
        self.steps_taken += 1
        if self.average is not None:
            self.average.update()
        return norm

    def save_checkpoint(self, folder: Path) -> None:
        """Writes everything needed to resume (weights, optimizer states, ...); each worker writes its own part."""
        role_state.save(self, folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Loads what any engine wrote. UserError, without changing anything, if it is damaged or of another model."""
        role_state.load(self, folder)


def make_adamw(parameters: Sequence[Tensor], optim: OptimConfig, device: Device) -> torch.optim.AdamW:
    """AdamW over ``parameters``, as the role's section `optim` says."""
    return torch.optim.AdamW(
        parameters,
        lr=optim.lr,
        betas=(optim.betas[0], optim.betas[1]),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=device.fused_adamw or None,  # None: torch's choice among the others
    )
