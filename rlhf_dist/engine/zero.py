"""Training and forward passes under DeepSpeed ZeRO, for any model and any loss.

Every worker of a role holds one of these. A call gives all workers the same whole batch; each takes its share
(:func:`rlhf_dist.models.layout.balanced_shards`), so nothing has to divide and a worker may have none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhf_dist.algo.schedule import lr_factor
from rlhf_dist.config.schema import OptimConfig
from rlhf_dist.device import Device
from rlhf_dist.models.layout import balanced_shards, micro_batches
from rlhf_dist.types import Ragged

Batch = TypeVar("Batch", bound=Ragged)

# One micro-batch to its summed loss (a scalar with gradient) and sums to report ([S] float).
LossSums = Callable[[Any], tuple[Tensor, Tensor]]


def initialize_deepspeed(**arguments: Any) -> tuple[Any, ...]:
    """``deepspeed.initialize``, without the collectives that DeepSpeed would compile first on a CPU.

    Its shared-memory collectives want a C++ compiler on the user's machine and a minute of its time, and a process
    that is killed while compiling leaves a lock behind on which every later one waits for ever. Gloo does without.
    """
    import deepspeed
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed.initialize(**arguments)


def _deepspeed_config(zero_stage: int, dtype: torch.dtype, grad_clip: float) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # boundaries are set by hand: micro-batches vary in number
        "steps_per_print": 2**31 - 1,
        "gradient_clipping": grad_clip,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            # Without ZeRO, DeepSpeed keeps no float32 copy of bfloat16 weights, and small updates are lost; stage 1
            # does, and is the same training otherwise.
            "stage": max(zero_stage, 1) if dtype == torch.bfloat16 else zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 0,
        },
        "zero_force_ds_cpu_optimizer": False,
    }


class ZeroRunner:
    """A model under ZeRO that only runs forward: sharded by stage 3, or whole on every worker.

    Args:
        model: a policy or scalar model, on CPU.
        device: where it shall live.
        zero_stage: 0 or 3.
        micro_batch_tokens: padded tokens of one forward pass.
    """

    def __init__(self, model: nn.Module, device: Device, zero_stage: int, micro_batch_tokens: int) -> None:
        self.device, self.micro_batch_tokens = device, micro_batch_tokens
        self.torch_device = device.torch_device()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        model.eval().requires_grad_(False)
        if zero_stage == 3:
            dtype = next(model.parameters()).dtype
            self.forward_module, *_ = initialize_deepspeed(model=model, config=_deepspeed_config(3, dtype, 0.0))
        else:
            self.forward_module = model.to(self.torch_device)
        self.model = model

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
        groups: list[Tensor | None] = list(micro_batches(lengths, self.micro_batch_tokens))
        if self.world == 1:
            return groups
        most = torch.tensor(len(groups), device=self.torch_device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return groups + [None] * (int(most) - len(groups))


class ZeroTrainer(ZeroRunner):
    """A model that learns under ZeRO stage 0 to 3, with AdamW.

    Args:
        model: a policy or scalar model, on CPU.
        device: where it shall live.
        zero_stage: 0, 1, 2 or 3.
        micro_batch_tokens: padded tokens of one forward and backward.
        optim: AdamW's settings and schedule.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        device: Device,
        zero_stage: int,
        micro_batch_tokens: int,
        optim: OptimConfig,
        total_steps: int,
    ) -> None:
        self.device, self.micro_batch_tokens = device, micro_batch_tokens
        self.torch_device = device.torch_device()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.optim, self.total_steps, self.zero_stage = optim, total_steps, zero_stage
        self.steps_taken = 0
        self.model = model.train()
        dtype = next(model.parameters()).dtype
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self.forward_module, self.optimizer, *_ = initialize_deepspeed(
            model=model, optimizer=optimizer, config=_deepspeed_config(zero_stage, dtype, optim.grad_clip)
        )

    def step(
        self, batch: Batch, lengths: Tensor, global_count: float, loss_sums: LossSums
    ) -> tuple[Tensor, float, float]:
        """One optimizer step on ``batch``: the gradient of (sum of losses over all workers) / ``global_count``.

        Args:
            batch: the whole minibatch, the same on every worker; at least one row.
            lengths: ``[B]`` int64, tokens of each row.
            global_count: what the summed loss is divided by: tokens, or rows, of the whole minibatch.
            loss_sums: one micro-batch to its summed loss and the sums to report.

        Returns:
            the reported sums over all workers ``[S]`` float64, the gradient norm before clipping, the learning rate.
        """
        mine = self.my_rows(lengths)
        shard = batch.select(mine)
        groups = self._aligned_micro_batches(lengths[mine])
        sums: Tensor | None = None
        for number, rows in enumerate(groups):
            loss, micro_sums = loss_sums(batch.select([0]) if rows is None else shard.select(rows))
            # DeepSpeed averages over the workers, so each one's part is scaled up by their number. A worker without
            # rows runs a borrowed row at weight 0, to take part in the collectives.
            weight = 0.0 if rows is None else self.world / global_count
            self.forward_module.set_gradient_accumulation_boundary(number == len(groups) - 1)
            self.forward_module.backward(loss * weight, scale_wrt_gas=False)
            micro_sums = micro_sums.detach().double() * (rows is not None)
            sums = micro_sums if sums is None else sums + micro_sums
        assert sums is not None, "a minibatch has at least one row"
        norm = self._apply()
        if self.world > 1:
            sums = sums.to(self.torch_device)
            dist.all_reduce(sums)
        return sums.cpu(), norm, self.last_lr

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
        return norm if plain else float(self.forward_module.get_global_grad_norm())

    def save_checkpoint(self, folder: Path) -> None:
        """Writes weights, optimizer states and the step count, each worker its own part."""
        self.forward_module.save_checkpoint(
            str(folder), tag="state", client_state={"steps_taken": self.steps_taken}, save_latest=False
        )

    def load_checkpoint(self, folder: Path) -> None:
        """Takes up what :meth:`save_checkpoint` wrote, with the same number of workers and ZeRO stage."""
        path, state = self.forward_module.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise FileNotFoundError(f"no checkpoint under {folder}")
        self.steps_taken = state["steps_taken"]
