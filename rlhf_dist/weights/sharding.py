"""Which part of a model's parameters a worker holds: what an engine knows, and whoever reads the weights has to ask."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn


class Sharding(Protocol):
    """How the weights of a model are dealt out over the workers of its role."""

    @property
    def replicated(self) -> bool:
        """Whether every worker holds the same."""
        ...

    def full_shape(self, parameter: Tensor) -> tuple[int, ...]:
        """The shape of the whole parameter, however much of it this worker holds."""
        ...

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        """The context in which ``parameters`` are whole on every worker. A collective where weights are sharded."""
        ...

    def local(self, parameter: Tensor) -> Tensor:
        """What this worker holds of a parameter: all of it in its shape, or its shard ``[n]``, padding included."""
        ...

    def local_part(self, parameter: Tensor, tensor: Tensor) -> tuple[int, Tensor]:
        """Where in the flattened parameter the elements begin that this worker holds, and they themselves.

        Args:
            parameter: of the model.
            tensor: of the shape of :meth:`local`.

        Returns:
            the number of the first element, and a view ``[n]`` of ``tensor`` without padding; n may be 0.
        """
        ...

    def forget_gathered(self) -> None:
        """Drops copies of gathered weights; to be called where weights were set, as the copies are old then."""
        ...


class Unsharded:
    """Every worker holds all weights."""

    replicated = True

    def full_shape(self, parameter: Tensor) -> tuple[int, ...]:
        """The parameter's own."""
        return tuple(parameter.shape)

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        """They are whole already."""
        return nullcontext()

    def local(self, parameter: Tensor) -> Tensor:
        """All of it."""
        return parameter.data

    def local_part(self, parameter: Tensor, tensor: Tensor) -> tuple[int, Tensor]:
        """All of it, from element 0 on."""
        return 0, tensor.view(-1)

    def forget_gathered(self) -> None:
        """There are no copies."""


UNSHARDED = Unsharded()
