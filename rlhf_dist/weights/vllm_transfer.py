"""vLLM's side of a weight update: a backend of vLLM's own weight-transfer protocol that receives by BroadcastGroup.

vLLM drives it: ``init_transfer_engine`` once, then ``start_weight_update``, ``update_weights`` and
``finish_weight_update`` for each update, in every process of the engine. This module imports vLLM.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rlhf_dist.errors import RunError
from rlhf_dist.weights.packing import ParamInfo
from rlhf_dist.weights.transport import BroadcastGroup, Endpoint

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
        self._group: BroadcastGroup | None = None
        self._expected: set[str] = set()

    def init_transfer_engine(self, init_info: BroadcastInitInfo) -> None:
        """Joins the broadcast group, as the rank of this worker process.

        Raises:
            RunError: names the members that did not come.
        """
        endpoint = Endpoint(**dict(init_info.endpoint, members=tuple(init_info.endpoint["members"])))
        rank = init_info.first_rank + self.parallel_config.rank
        place = self.device if self.device.type == endpoint.device else None
        self._group = BroadcastGroup.dial(endpoint, rank, place)
        self._group.connect()

    def start_weight_update(self) -> None:
        """Puts the model's layers into the state in which checkpoint weights can be loaded.

        On CPU the linear layers hold packed copies and no weight; vLLM's layerwise reload restores and repacks them.
        """
        self._expected = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BroadcastUpdateInfo) -> None:
        """Takes one full set of weights from the sender.

        Raises:
            RunError: the transfer broke, or parameters of the model were not in it.
        """
        if self._group is None:
            raise RuntimeError("weights cannot be received before init_weight_transfer_engine")
        parameters = [ParamInfo(**dict(row, shape=tuple(row["shape"]))) for row in update_info.parameters]
        loaded = self.model.load_weights(self._group.receive(parameters))
        missing = sorted(self._expected - loaded) if loaded is not None else []
        if missing:
            raise RunError(f"the weights that were sent lack {len(missing)} of vLLM's parameters: {missing[0]}, ...")

    def finish_weight_update(self) -> None:
        """Makes the loaded weights serve."""
        with _quiet_about_tied_heads():
            finalize_layerwise_reload(self.model, self.model_config)
        for layer in tied_layers(self.model):
            layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """Leaves the broadcast group."""
        if self._group is not None:
            self._group.close()
            self._group = None


def tied_layers(model: nn.Module) -> list[Any]:
    """The layers whose weight is another, earlier layer's: an lm_head tied to the embedding.

    A checkpoint holds no weight for them, so a layerwise reload does not process them, and on CPU they would go on
    with the packed copy of the weights before the update, without an error.
    """
    seen: set[int] = set()
    tied = []
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if weight is None:
            continue
        if id(weight) in seen and isinstance(getattr(layer, "quant_method", None), QuantizeMethodBase):
            tied.append(layer)
        seen.add(id(weight))
    return tied


@contextmanager
def _quiet_about_tied_heads() -> Iterator[None]:
    """Silences vLLM's warning that a tied head failed to load: what failed to load is checked here already."""
    logger = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")

    def wanted(record: logging.LogRecord) -> bool:
        return "Failed to load weights" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
