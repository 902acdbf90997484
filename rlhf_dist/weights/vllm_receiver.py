"""Loading weights into vLLM's running model, in each process of an engine. This module imports vLLM.

vLLM mixes :class:`WorkerExtension` into the workers of an engine that asks for it by name (`worker_extension_cls`), in
whatever processes they live. Its own weight-transfer protocol would need a plugin for that, which every vLLM process of
the environment loads, ours or not, and has another shape in each version.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rlhf_dist.device import DEVICES
from rlhf_dist.errors import RunError
from rlhf_dist.weights.groups import dial
from rlhf_dist.weights.packing import ParamInfo
from rlhf_dist.weights.transport import Endpoint, TransferGroup

Fields: TypeAlias = dict[str, Any]  # of a dataclass: vLLM's calls of its workers carry plain values


class Receiver:
    """One process's membership in the group that weights come through, and the model that they go into.

    Args:
        model: of this process.
        device: it is on.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device
        self._group: TransferGroup | None = None
        self._expected: set[str] = set()

    def join(self, endpoint: Fields, rank: int) -> None:
        """Joins the group as member ``rank``.

        Args:
            endpoint: the fields of an Endpoint.
            rank: of this process in the group.

        Raises:
            RunError: names the members that did not come.
        """
        where = Endpoint(**dict(endpoint, members=tuple(endpoint["members"])))
        self._group = dial(where, rank, self._device if self._device.type == where.device else None)
        self._group.connect()

    def prepare(self) -> None:
        """Puts the model's layers into the state in which checkpoint weights can be loaded.

        On CPU the linear layers hold packed copies and no weight; vLLM's layerwise reload restores and repacks them.
        """
        self._expected = {name for name, _ in self._model.named_parameters()}
        initialize_layerwise_reload(self._model)

    def load(self, parameters: list[Fields]) -> None:
        """Takes one full set of weights from the sender.

        Args:
            parameters: the fields of each ParamInfo, in the order of the transfer.

        Raises:
            RunError: the transfer broke, or parameters of the model were not in it.
            RuntimeError: :meth:`join` was not called before.
        """
        if self._group is None:
            raise RuntimeError("weights cannot be received before the group was joined")
        infos = [ParamInfo(**dict(row, shape=tuple(row["shape"]))) for row in parameters]
        loaded = self._model.load_weights(self._group.receive(infos))  # type: ignore[operator]
        missing = sorted(self._expected - loaded) if loaded is not None else []
        if missing:
            raise RunError(f"weight transfer: {len(missing)} of vLLM's parameters were not sent, such as {missing[0]}")

    def finish(self, model_config: Any) -> None:
        """Makes the loaded weights serve."""
        with _quiet_about_tied_heads():
            finalize_layerwise_reload(self._model, model_config)
        for layer in tied_layers(self._model):
            layer.quant_method.process_weights_after_loading(layer)
        DEVICES[self._device.type].synchronize()

    def close(self) -> None:
        """Leaves the group."""
        if self._group is not None:
            self._group.close()
            self._group = None


class WorkerExtension:
    """What vLLM mixes into its worker class: its methods are reached by `collective_rpc`."""

    rank: int
    device: torch.device
    model_runner: Any
    model_config: Any
    vllm_config: Any

    def rlhf_join(self, endpoint: Fields, first_rank: int) -> None:
        """Joins the group that weights come through; the engine's first process is its member ``first_rank``."""
        self.rlhf_receiver = Receiver(self.model_runner.get_model(), self.device)
        self.rlhf_receiver.join(endpoint, first_rank + self.rank)

    def rlhf_receive(self, parameters: list[Fields]) -> None:
        """Takes one full set of weights, and makes them serve."""
        with set_current_vllm_config(self.vllm_config), torch.inference_mode(), torch.device(self.device):
            self.rlhf_receiver.prepare()
            self.rlhf_receiver.load(parameters)
            self.rlhf_receiver.finish(self.model_config)


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
