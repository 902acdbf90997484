"""The engines that shard: DeepSpeed ZeRO, for any model and any loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_dist.config.schema import ModelRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.base import ForwardBase, TrainBase, make_adamw
from rlhf_dist.engine.shards import Shard
from rlhf_dist.engine.zero_settings import deepspeed_config, initialize_deepspeed, share_masters
from rlhf_dist.engine.zero_shards import Zero3Sharding, optimizer_shards
from rlhf_dist.models.language import PolicyModel, ScalarModel


class ZeroForwardEngine(ForwardBase):
    """A model that only runs forward, sharded by ZeRO stage 3.

    Args:
        model: a policy or scalar model, on CPU.
        device: where the model runs.
        role: the role's configuration.
    """

    def __init__(self, model: PolicyModel | ScalarModel, device: Device, role: ModelRoleConfig) -> None:
        super().__init__(model.eval().requires_grad_(False), device, role)
        config = deepspeed_config(3, next(model.parameters()).dtype, 0.0, device, learning=0)
        self.forward_module, *_ = initialize_deepspeed(model=model, config=config)
        self.sharding = Zero3Sharding(self.forward_module, self.rank)


class ZeroTrainEngine(TrainBase):
    """A model that learns under ZeRO stage 0 to 3.

    Args:
        model: a policy or scalar model, on CPU; parameters that do not require a gradient stay as they are.
        device: where the model runs.
        role: the role's configuration: ZeRO stage, micro-batches, optimizer and schedule.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    _deepspeed: Any
    optimizer: Any

    def __init__(
        self, model: PolicyModel | ScalarModel, device: Device, role: TrainedRoleConfig, total_steps: int
    ) -> None:
        super().__init__(model, device, role, total_steps)
        dtype = next(model.parameters()).dtype
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        learning = sum(parameter.numel() for parameter in parameters)
        self.adamw = make_adamw(parameters, role.optim, device)
        self._deepspeed, self.optimizer, *_ = initialize_deepspeed(
            model=model,
            optimizer=self.adamw,
            config=deepspeed_config(role.zero_stage, dtype, role.optim.grad_clip, device, learning),
        )
        self.forward_module = self._deepspeed
        if role.zero_stage == 3:
            self.sharding = Zero3Sharding(self._deepspeed, self.rank)
            share_masters(self.optimizer)
        # Without ZeRO and in float32 DeepSpeed clips but does not tell the norm.
        self._tells_norm = role.zero_stage > 0 or dtype != torch.float32
        self._start_average()

    def optimizer_shards(self) -> dict[str, Shard]:
        """What this worker's optimizer updates, by the parameters' names; there may be none of some."""
        return optimizer_shards(self.model.pretrained, self.optimizer, self.sharding)

    def _backward(self, loss: Tensor, last: bool) -> None:
        self._deepspeed.set_gradient_accumulation_boundary(last)
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def _update(self) -> float:
        norm = 0.0
        if not self._tells_norm:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
        self._deepspeed.step()
        return float(self._deepspeed.get_global_grad_norm()) if self._tells_norm else norm
