"""Training and forward passes under DeepSpeed ZeRO, for any model and any loss.

Every worker of a role holds one of these. A call gives all workers the same whole batch; each takes its share
(:func:`rlhf_dist.models.layout.balanced_shards`), so nothing has to divide and a worker may have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf_dist.algo.schedule import lr_factor
from rlhf_dist.config.schema import ModelRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine import role_state
from rlhf_dist.engine.averaging import WeightAverage
from rlhf_dist.engine.offload import DeviceMemory
from rlhf_dist.engine.shards import local
from rlhf_dist.engine.zero_settings import deepspeed_config, initialize_deepspeed, share_masters
from rlhf_dist.models.language import PolicyModel, ScalarModel
from rlhf_dist.models.layout import MicroBatch, balanced_shards, lay_out, micro_batches, resolve_layout
from rlhf_dist.types import Ragged, Residency

Batch = TypeVar("Batch", bound=Ragged)

# One micro-batch to its summed loss (a scalar with gradient) and sums to report ([S] float).
LossSums = Callable[[Any], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Part:
    """One of the losses whose gradients an optimizer step adds up.

    Attributes:
        batch: the whole minibatch, the same on every worker; at least one row.
        lengths: ``[B]`` int64, tokens of each row.
        loss_sums: one micro-batch to its summed loss and the sums to report.
        scale: of the sum of the loss over all rows: 1 over the minibatch's tokens or rows, times a coefficient.
    """

    batch: Ragged
    lengths: Tensor
    loss_sums: LossSums
    scale: float


class ZeroRunner:
    """A model under ZeRO that only runs forward: sharded by stage 3, or whole on every worker.

    Args:
        model: a policy or scalar model, on CPU.
        device: where it shall live.
        role: the role's configuration: its ZeRO stage (0 or 3), and how micro-batches are made.
    """

    def __init__(self, model: PolicyModel | ScalarModel, device: Device, role: ModelRoleConfig) -> None:
        self._settle(model.eval().requires_grad_(False), device, role)
        if role.zero_stage == 3:
            dtype = next(model.parameters()).dtype
            config = deepspeed_config(3, dtype, 0.0, device, learning=0)
            self.forward_module, *_ = initialize_deepspeed(model=model, config=config)
        else:
            self.forward_module = model.to(self.torch_device)

    def _settle(self, model: PolicyModel | ScalarModel, device: Device, role: ModelRoleConfig) -> None:
        layout = resolve_layout(role.layout, device.attention(role.model.attention, role.model.dtype))
        self.model, self.device, self.role = model, device, replace(role, layout=layout)
        self.torch_device = device.torch_device()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._memory = DeviceMemory(device, self._weights)

    def _weights(self) -> list[Tensor]:
        """What a forward pass needs: this worker's part of the weights, under stage 3 its shards, and the buffers."""
        return [*map(local, self.model.parameters()), *self.model.buffers()]

    def reside(self, to: Residency) -> None:
        """Brings the model and all that belongs to it onto the device, or to host memory, as far as ``to`` says."""
        if to != "all" and self.role.zero_stage == 3:
            self.forward_module.empty_partition_cache()
        self._memory.reside(to)

    def lay_out(self, tokens: Tensor, lengths: Tensor) -> MicroBatch:
        """``[T]`` tokens of rows with ``[b]`` lengths as the role's layout wants them, on the device."""
        return lay_out(tokens, lengths, self.role.layout, self.torch_device)

    def my_rows(self, lengths: Tensor) -> Tensor:
        """Which rows of a batch with ``[B]`` lengths are this worker's."""
        return balanced_shards(lengths, self.world)[self.rank]

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
        mine = self.my_rows(lengths)
        shard, shard_outputs = batch.select(mine), outputs[mine]
        results: list[tuple[int, Tensor]] = []
        was_training = self.forward_module.training
        self.forward_module.eval()
        with torch.no_grad():
            for rows in self._aligned_micro_batches(lengths[mine]):
                values = function(batch.select([0]) if rows is None else shard.select(rows)).float().cpu()
                if rows is not None:
                    pieces = torch.split(values, shard_outputs[rows].tolist())
                    results.extend(zip(rows.tolist(), pieces, strict=True))
        self.forward_module.train(was_training)
        results.sort(key=lambda item: item[0])
        return torch.cat([piece for _, piece in results]) if results else torch.zeros(0)

    def _aligned_micro_batches(self, lengths: Tensor) -> list[Tensor | None]:
        """This worker's micro-batches, filled up with None to the largest number any worker has.

        A forward or backward under ZeRO is a collective: all workers make the same number of them.
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


class ZeroTrainer(ZeroRunner):
    """A model that learns under ZeRO stage 0 to 3, with AdamW.

    Args:
        model: a policy or scalar model, on CPU; parameters that do not require a gradient stay as they are.
        device: where it shall live.
        role: the role's configuration: ZeRO stage, micro-batches, optimizer and schedule.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    role: TrainedRoleConfig

    def __init__(
        self, model: PolicyModel | ScalarModel, device: Device, role: TrainedRoleConfig, total_steps: int
    ) -> None:
        self._settle(model.train(), device, role)
        self.optim, self.total_steps, self.zero_stage = role.optim, total_steps, role.zero_stage
        self.steps_taken = 0
        optim, dtype = role.optim, next(model.parameters()).dtype
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        learning = sum(parameter.numel() for parameter in parameters)
        self.adamw = torch.optim.AdamW(
            parameters,
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=device.fused_adamw or None,  # None: torch's choice among the others
        )
        self.forward_module, self.optimizer, *_ = initialize_deepspeed(
            model=model,
            optimizer=self.adamw,
            config=deepspeed_config(role.zero_stage, dtype, optim.grad_clip, device, learning),
        )
        share_masters(self.optimizer)
        self.average: WeightAverage | None = None
        if role.ema_decay:
            self.average = WeightAverage(model.pretrained, role.ema_decay, self.forget_gathered)

    def step(self, parts: Sequence[Part]) -> tuple[list[Tensor], float, float]:
        """One optimizer step on the sum of the parts: the gradient of sum(scale * sum of losses over all workers).

        All parts are accumulated into the same gradient buffers, whatever the ZeRO stage.

        Returns:
            for each part its reported sums over all workers ``[S]`` float64, the gradient norm before clipping, and
            the learning rate.
        """
        planned = [(part, *self._shard(part)) for part in parts]
        left = sum(len(groups) for _, _, groups in planned)
        reported: list[Tensor] = []
        for part, shard, groups in planned:
            sums: list[Tensor] = []
            for rows in groups:
                loss, micro_sums = part.loss_sums(part.batch.select([0]) if rows is None else shard.select(rows))
                # DeepSpeed averages over the workers, so each one's part is scaled up by their number. A worker
                # without rows runs a borrowed row at weight 0, to take part in the collectives.
                weight = 0.0 if rows is None else self.world * part.scale
                left -= 1
                self.forward_module.set_gradient_accumulation_boundary(left == 0)
                self.forward_module.backward(loss * weight, scale_wrt_gas=False)
                sums.append(micro_sums.detach() * (rows is not None))
            assert sums, "a minibatch has at least one row"
            reported.append(self._over_workers(torch.stack(sums).cpu().double().sum(0)))
        return reported, self._apply(), self.last_lr

    def _shard(self, part: Part) -> tuple[Ragged, list[Tensor | None]]:
        """This worker's rows of a part, and its micro-batches of them."""
        mine = self.my_rows(part.lengths)
        return part.batch.select(mine), self._aligned_micro_batches(part.lengths[mine])

    def _over_workers(self, sums: Tensor) -> Tensor:
        """The sums ``[S]`` float64 over all workers. They are gathered, and added up here: HCCL reduces no float64."""
        if self.world == 1:
            return sums
        mine = sums.to(self.torch_device)
        everyones = torch.empty(self.world * sums.numel(), dtype=sums.dtype, device=mine.device)
        dist.all_gather_into_tensor(everyones, mine)
        return everyones.cpu().view(self.world, -1).sum(0)

    def _apply(self) -> float:
        self.last_lr = self.optim.lr * lr_factor(
            self.steps_taken,
            self.total_steps,
            self.optim.schedule,
            self.optim.warmup_steps,
            self.optim.warmup_from,
            self.optim.min_lr_ratio,
        )
        for group in self.forward_module.optimizer.param_groups:
            group["lr"] = self.last_lr
        plain = self.zero_stage == 0 and next(self.model.parameters()).dtype == torch.float32
        # Without ZeRO and in float32 DeepSpeed clips but does not tell the norm.
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None] if plain else []
        norm = float(torch.nn.utils.get_total_norm(gradients)) if plain else 0.0
        self.forward_module.step()
        self.steps_taken += 1
        if self.average is not None:
            self.average.update()
        return norm if plain else float(self.forward_module.get_global_grad_norm())

    def save_checkpoint(self, folder: Path) -> None:
        """Writes weights, optimizer states and all else to go on from, each worker its own part."""
        role_state.save(self, folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Takes up what :meth:`save_checkpoint` wrote, under any ZeRO stage and by any number of workers.

        Raises:
            UserError: it is not of this model, or damaged; nothing has been changed then.
        """
        role_state.load(self, folder)

    def forget_gathered(self) -> None:
        """To be called when the weights were exchanged: stage 3 keeps gathered copies, which are old then."""
        if self.role.zero_stage == 3:
            self.forward_module.empty_partition_cache()


class Engine:
    """What the engines of all roles with a model have in common."""

    runner: ZeroRunner

    def reside(self, to: Residency) -> None:
        """Comes onto the device, or leaves it, where roles share it."""
        self.runner.reside(to)


class LearningEngine(Engine):
    """What the engines of all roles that learn have in common."""

    runner: ZeroTrainer

    def save_checkpoint(self, folder: Path) -> None:
        """Weights, optimizer and schedule, to go on from."""
        self.runner.save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Goes on from what :meth:`save_checkpoint` wrote."""
        self.runner.load_checkpoint(folder)
