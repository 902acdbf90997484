"""The exponential moving average of a model's weights, under any ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlhf_dist.engine.shards import learning, local, local_part


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
        self._average = {name: here.detach().float().cpu().clone() for name, here in self._learning()}

    def update(self) -> None:
        """Takes in the weights of now."""
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

    def parts(self, rank: int) -> Iterator[tuple[str, int, Tensor]]:
        """What worker ``rank``, this one, holds of each parameter's average: where it begins, and ``[n]`` elements."""
        for name, parameter in learning(self._model):
            yield name, *local_part(parameter, self._average[name], rank)

    def load(self, rank: int, read: Callable[[str, int, int], Tensor]) -> None:
        """Takes up an average of the same model, from a function that gives ``count`` elements of a parameter from
        ``start`` on."""
        for name, start, part in self.parts(rank):
            part.copy_(read(name, start, part.numel()))

    def _learning(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that learn, as this worker holds them."""
        return ((name, local(parameter)) for name, parameter in learning(self._model))

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, here in self._learning():
            here.copy_(values[name])
        self._replaced()
