"""The exponential moving average of a model's weights, under any ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlhf_dist.engine.shards import learning
from rlhf_dist.weights.sharding import UNSHARDED, Sharding


class WeightAverage:
    """average = decay * average + (1 - decay) * weights, after each optimizer step (arXiv 2203.02155, appendix C.4).

    Each worker averages what it holds: its shards under stage 3, else all weights. The average is float32, in host
    memory; weights that do not learn are not part of it.

    Args:
        model: the model that learns, already sharded where it will be.
        decay: 0 to 1.
        sharding: of its weights.
    """

    def __init__(self, model: nn.Module, decay: float, sharding: Sharding = UNSHARDED) -> None:
        self._model, self.decay, self._sharding = model, decay, sharding
        self._average = {name: here.detach().float().cpu().clone() for name, here in self._learning()}

    def update(self) -> None:
        """Updates the average with the current weights."""
        for name, here in self._learning():
            self._average[name].lerp_(here.detach().float().cpu(), 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model holds the average, behind it its own weights again."""
        kept = {name: here.detach().clone() for name, here in self._learning()}
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(kept)

    def parts(self) -> Iterator[tuple[str, int, Tensor]]:
        """What this worker holds of each parameter's average: where it begins, and ``[n]`` elements."""
        for name, parameter in learning(self._model):
            yield name, *self._sharding.local_part(parameter, self._average[name])

    def load(self, read: Callable[[str, int, int], Tensor]) -> None:
        """Takes up an average of the same model, from a function that gives ``count`` elements of a parameter from
        ``start`` on."""
        for name, start, part in self.parts():
            part.copy_(read(name, start, part.numel()))

    def _learning(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that learn, as this worker holds them."""
        return ((name, self._sharding.local(parameter)) for name, parameter in learning(self._model))

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, here in self._learning():
            here.copy_(values[name])
        self._sharding.forget_gathered()
