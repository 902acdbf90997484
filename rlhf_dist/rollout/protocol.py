"""What the cluster may ask of a rollout engine, whichever library is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlhf_dist.types import Prompts, Sequences
from rlhf_dist.weights.transport import Endpoint, ParamInfo


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample.

    Attributes:
        temperature: of the softmax; 0 is greedy.
        max_tokens: length limit of a response, end-of-sequence token included.
        seed: base seed; the sample with id i is drawn with a generator seeded from (seed, i) alone.
    """

    temperature: float
    max_tokens: int
    seed: int


class RolloutEngine(Protocol):
    """One engine, living in one worker process.

    Its weights arrive by broadcast: ``join`` once, then per update ``receive`` on every engine at the same time as
    the actor's workers send (see `rlhf_dist.weights`).
    """

    def generate(self, prompts: Prompts, options: SamplingOptions) -> Sequences:
        """Samples one response a prompt, in the prompts' order. B may be 0."""
        ...

    def join(self, endpoint: Endpoint, rank: int) -> None:
        """Joins the broadcast group at ``endpoint`` as its member number ``rank`` (the sender is 0)."""
        ...

    def receive(self, parameters: list[ParamInfo], version: int) -> None:
        """Takes one full set of weights, blocks until they serve, drops cached prefixes, and sets the version."""
        ...

    def close(self) -> None:
        """Gives memory and sockets back."""
        ...
