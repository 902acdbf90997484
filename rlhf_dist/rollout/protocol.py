"""What the cluster may ask of a rollout engine, whichever library is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rlhf_dist.types import Prompts, Residency, Sequences
from rlhf_dist.weights.transport import Endpoint, ParamInfo

# What a sample's id grows by with each further turn of its response: no two draws share random numbers.
TURN_IDS = 2**44


def going_on(ids: Tensor) -> bool:
    """Whether samples ``[B]`` go on from what they sampled before, so that engines have most of it in their caches."""
    return bool((ids >= TURN_IDS).any())


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample.

    Attributes:
        temperature: of the softmax; 0 is greedy, with the log-probabilities of temperature 1.
        max_tokens: length limit of a response, end-of-sequence token included.
        seed: base seed; the sample with id i is drawn with a generator seeded from (seed, i) alone.
        top_p: draw from the likeliest tokens that make up this probability; 1 is all.
        top_k: draw from so many likeliest tokens; 0 is all.
    """

    temperature: float
    max_tokens: int
    seed: int
    top_p: float = 1.0
    top_k: int = 0


class RolloutEngine(Protocol):
    """One engine, living in one worker process.

    Its weights arrive by broadcast: ``join`` once, then per update ``receive`` on every engine at the same time as
    the actor's workers send (see `rlhf_dist.weights`).
    """

    def add(self, prompts: Prompts, options: SamplingOptions) -> None:
        """Takes in a request for one response to each prompt (B may be 0), and returns at once.

        A request is known by its sample's id; no two may have the same before they are answered. What a sample is
        depends on nothing that was asked for before it or elsewhere: only the requests that are added together, and
        the further turns of a response (ids from ``TURN_IDS`` on), find what the engine has computed of their prompts.

        The log-probabilities are log_softmax(logits / temperature), over the whole vocabulary also where top-p or
        top-k narrowed the draw: the trainer's, with which they are compared, know nothing of that.

        Raises:
            RunError: a prompt with its response does not fit the engine's context.
        """
        ...

    def poll(self, most_s: float) -> Sequences:
        """Works until all requests are answered, or ``most_s`` seconds have passed; gives what has finished by then.

        A step of work is done in any case. B may be 0; ``ids`` says whose the responses are.

        Raises:
            RunError: a log-probability is not finite.
        """
        ...

    def abort(self, ids: Tensor) -> None:
        """Drops the requests of the samples ``ids`` ([N] int64) that are not answered; they never will be."""
        ...

    def generate(self, prompts: Prompts, options: SamplingOptions) -> Sequences:
        """Samples one response a prompt, in the prompts' order. B may be 0. No other requests may be open."""
        ...

    def join(self, endpoint: Endpoint, rank: int) -> None:
        """Joins the broadcast group at ``endpoint`` as its member number ``rank`` (the sender is 0).

        An engine of several processes takes as many ranks, from ``rank`` on. Blocks until all members have joined.

        Raises:
            RunError: names the members that did not come.
        """
        ...

    def receive(self, parameters: list[ParamInfo], version: int) -> None:
        """Takes one full set of weights, blocks until they serve, drops cached prefixes, and sets the version.

        Raises:
            RunError: a member did not come, the transfer broke, or what came is not the model's set of parameters.
                The engine's weights are undefined then.
        """
        ...

    def reside(self, to: Residency) -> None:
        """Comes onto the device, or leaves it, where others share it.

        From "none" on the weights are lost: "weights" makes room for new ones, that a ``receive`` must bring, and
        "all" makes room for what else sampling needs.
        """
        ...

    def close(self) -> None:
        """Gives memory and sockets back."""
        ...
