"""Which part of each parameter a worker's optimizer updates, as checkpoints ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Shard:
    """Elements ``[start, start + count)`` of a flattened parameter, as this worker's optimizer updates them.

    Attributes:
        start: of the parameter's elements.
        count: how many.
        owner: the tensor that the optimizer updates, float32, and its states' key: the parameter, its float32
            master, or a flat tensor of many.
        offset: where in ``owner`` they begin.
        replicated: whether every worker holds the same.
    """

    start: int
    count: int
    owner: Tensor
    offset: int
    replicated: bool

    @classmethod
    def whole(cls, owner: Tensor) -> Shard:
        """All of a parameter, which every worker updates alike in ``owner``, of its shape."""
        return cls(0, owner.numel(), owner, 0, True)

    def of(self, tensor: Tensor) -> Tensor:
        """The elements in ``tensor``, which is ``owner`` or one of its states: a view ``[count]``."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.count]


def learning(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of ``model`` that learn, by name; a tied one once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
