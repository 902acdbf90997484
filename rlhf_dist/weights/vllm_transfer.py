"""vLLM's side of a weight update: a backend of vLLM's own weight-transfer protocol that receives by a TransferGroup.

vLLM drives it: ``init_transfer_engine`` once, then ``start_weight_update``, ``update_weights`` and
``finish_weight_update`` for each update, in every process of the engine. This module imports vLLM.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlhf_dist.weights.packing import ParamInfo
from rlhf_dist.weights.transport import Endpoint
from rlhf_dist.weights.vllm_receiver import Receiver

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig

BACKEND = "rlhf_dist"


@dataclass
class BroadcastInitInfo(WeightTransferInitInfo):
    """What ``init_transfer_engine`` needs, as plain values that vLLM may send to its worker processes.

    Attributes:
        endpoint: the fields of an Endpoint.
        first_rank: rank of the engine's first process in the broadcast group; its others follow.
    """

    endpoint: dict[str, Any]
    first_rank: int


@dataclass
class BroadcastUpdateInfo(WeightTransferUpdateInfo):
    """What one update carries: the fields of each ParamInfo, in the order of the broadcast."""

    parameters: list[dict[str, Any]]


def init_request(endpoint: Endpoint, first_rank: int) -> dict[str, Any]:
    """The argument of vLLM's ``init_weight_transfer_engine``."""
    return {"init_info": {"endpoint": asdict(endpoint), "first_rank": first_rank}}


def update_request(parameters: list[ParamInfo]) -> dict[str, Any]:
    """The argument of vLLM's ``update_weights``."""
    return {"update_info": {"parameters": [asdict(info) for info in parameters]}}


def register() -> None:
    """Makes the backend known to vLLM in this process. May be called again.

    Where an engine has worker processes of its own (tensor parallelism), vLLM calls this in each of them through the
    package's ``vllm.general_plugins`` entry point.
    """
    with suppress(ValueError):  # what vLLM raises when the name is registered already
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, BroadcastTransferEngine.__name__)


class BroadcastTransferEngine(WeightTransferEngine[BroadcastInitInfo, BroadcastUpdateInfo]):
    """Receives full checkpoint-format weights and loads them into the running model."""

    init_info_cls = BroadcastInitInfo
    update_info_cls = BroadcastUpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._receiver = Receiver(model, device)

    def init_transfer_engine(self, init_info: BroadcastInitInfo) -> None:
        """Joins the group, as the rank of this worker process."""
        self._receiver.join(dict(init_info.endpoint), init_info.first_rank + self.parallel_config.rank)

    def start_weight_update(self) -> None:
        """Makes the model ready for checkpoint weights."""
        self._receiver.prepare()

    def receive_weights(self, update_info: BroadcastUpdateInfo) -> None:
        """Takes one full set of weights from the sender."""
        self._receiver.load(update_info.parameters)

    def finish_weight_update(self) -> None:
        """Makes the loaded weights serve."""
        self._receiver.finish(self.model_config)

    def shutdown(self) -> None:
        """Leaves the group."""
        self._receiver.close()
