"""The exponential moving average of a model's weights, under any ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """average = decay * average + (1 - decay) * weights, after each optimizer step (arXiv 2203.02155, appendix C.4).

    Each worker averages what it holds: its shards under stage 3, else all weights. The average is float32, in host
    memory; weights that do not learn are not part of it.

    Args:
        model: the model that learns, already under ZeRO.
        decay: 0 to 1.
        replaced: called whenever the weights were exchanged: stage 3 keeps gathered copies that it must forget then.
    """

    def __init__(self, model: nn.Module, decay: float, replaced: Callable[[], None] = lambda: None) -> None:
        self._model, self.decay, self._replaced = model, decay, replaced
        self._average = {name: local.detach().float().cpu().clone() for name, local in self._learning()}

    def update(self) -> None:
        """Takes in the weights of now."""
        for name, local in self._learning():
            self._average[name].lerp_(local.detach().float().cpu(), 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model holds the average, behind it its own weights again."""
        kept = {name: local.detach().clone() for name, local in self._learning()}
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """This worker's part of the average, by the parameters' names."""
        return self._average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up what :meth:`state_dict` gave, on as many workers under the same stage."""
        if state.keys() != self._average.keys():
            raise ValueError("the average in the checkpoint is of another model")
        for name, value in state.items():
            self._average[name].copy_(value)

    def _learning(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that learn, as this worker holds them."""
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                yield name, _local(parameter)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, local in self._learning():
            local.copy_(values[name])
        self._replaced()


def _local(parameter: Any) -> Tensor:
    """ZeRO stage 3 keeps a worker's shard in ds_tensor, and leaves the parameter itself empty."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data
