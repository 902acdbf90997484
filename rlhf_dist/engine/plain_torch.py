"""Engines that need only torch: unsharded models for scoring, and training on a single worker.

They start faster and take less memory than DeepSpeed's, and are what those are tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlhf_dist.config.schema import ModelRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.base import ForwardBase, TrainBase, make_adamw
from rlhf_dist.engine.shards import Shard, learning
from rlhf_dist.models.in_place import add_gradients_in_place
from rlhf_dist.models.language import PolicyModel, ScalarModel


class TorchForwardEngine(ForwardBase):
    """A model that only runs forward, whole on every worker.

    Args:
        model: a policy or scalar model, on CPU.
        device: where the model runs.
        role: the role's configuration.
    """

    def __init__(self, model: PolicyModel | ScalarModel, device: Device, role: ModelRoleConfig) -> None:
        super().__init__(model.eval().requires_grad_(False), device, role)
        self.forward_module = model.to(self.torch_device)


class TorchTrainEngine(TrainBase):
    """A model that learns on one worker, unsharded.

    AdamW updates float32: the weights themselves, or a float32 copy ("master") of a weight of another dtype, from
    which that one is rounded anew after each step. Such a weight's gradient is added up in float32 as well.

    Args:
        model: a policy or scalar model, on CPU; parameters that do not require a gradient stay as they are.
        device: where the model runs.
        role: the role's configuration: micro-batches, optimizer and schedule.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    def __init__(
        self, model: PolicyModel | ScalarModel, device: Device, role: TrainedRoleConfig, total_steps: int
    ) -> None:
        super().__init__(model, device, role, total_steps)
        assert self.world == 1, "plain torch trains on one worker"
        dtype = next(model.parameters()).dtype
        for parameter in model.parameters():  # an adapter comes in float32 whatever the model's dtype
            parameter.data = parameter.data.to(dtype)
        self.forward_module = model.to(self.torch_device)
        if device.in_place_gradients:
            add_gradients_in_place(model.pretrained)
        self._masters = {name: _master(parameter) for name, parameter in learning(model.pretrained)}
        self.adamw = make_adamw(list(self._masters.values()), role.optim, device)
        self._start_average()

    def optimizer_shards(self) -> dict[str, Shard]:
        """All of each parameter that learns, or of its master."""
        return {name: Shard.whole(master) for name, master in self._masters.items()}

    def _backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _update(self) -> float:
        masters, clip = list(self._masters.values()), self.role.optim.grad_clip
        norm = torch.nn.utils.get_total_norm([master.grad for master in masters if master.grad is not None])
        if clip:
            torch.nn.utils.clip_grads_with_norm_(masters, clip, norm)
        self.adamw.step()
        self.adamw.zero_grad()
        for name, parameter in learning(self.model.pretrained):
            if self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name])
        return float(norm)


def _master(parameter: nn.Parameter) -> Tensor:
    """What AdamW updates in a parameter's place, with the gradient: itself where it is float32, else a copy."""
    if parameter.dtype == torch.float32:
        return parameter
    master = parameter.detach().float()

    def accumulate(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad.float(), None
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    parameter.register_post_accumulate_grad_hook(accumulate)
    return master
