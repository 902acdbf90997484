"""What both rollout engines share: requests come in at any time, and are answered one by one as they finish."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.sampling import Response, to_sequences
from rlhf_dist.types import Prompts, Sequences


@dataclass(frozen=True)
class Request:
    """One response to sample.

    Attributes:
        sample: the sample's id; no two requests of an engine have the same at the same time.
        tokens: the prompt's token ids.
        row: the row of the data set the prompt stands in.
        options: how to sample.
    """

    sample: int
    tokens: list[int]
    row: int
    options: SamplingOptions


class RequestEngine(ABC):
    """The part of a RolloutEngine (see `rlhf_dist.rollout.protocol`) that keeps the books of its requests.

    A subclass takes requests in (``_enqueue``), does one step of work on them (``_advance``), and forgets
    them (``_drop``).
    """

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}  # that are not answered, by sample
        self._version = 0  # of the weights

    def add(self, prompts: Prompts, options: SamplingOptions) -> None:
        """Takes in a request for each prompt (B may be 0), and returns at once; :meth:`poll` does the work."""
        columns = zip(prompts.ids.tolist(), prompts.token_lists(), prompts.rows.tolist(), strict=True)
        requests = [Request(sample, tokens, row, options) for sample, tokens, row in columns]
        twice = [request.sample for request in requests if request.sample in self._requests]
        if twice:
            raise RuntimeError(f"sample {twice[0]} was asked for already, and is not answered yet")
        self._enqueue(requests)
        self._requests |= {request.sample: request for request in requests}

    def poll(self, most_s: float) -> Sequences:
        """Works until all requests are answered, or ``most_s`` seconds have passed; gives what has finished by then.

        A step of work is done in any case. B may be 0; ``ids`` says whose the responses are.

        Raises:
            RunError: a log-probability is not finite.
        """
        deadline, done = time.monotonic() + most_s, dict[int, Response]()
        while len(done) < len(self._requests):
            done |= self._advance()
            if time.monotonic() >= deadline:
                break
        requests = [self._requests.pop(sample) for sample in done]
        return to_sequences(_prompts(requests), list(done.values()), self._version)

    def abort(self, ids: Tensor) -> None:
        """Drops the requests of the samples ``ids`` ([N] int64) that are not answered; they never will be."""
        wanted = [sample for sample in ids.tolist() if self._requests.pop(sample, None) is not None]
        if wanted:
            self._drop(wanted)

    def generate(self, prompts: Prompts, options: SamplingOptions) -> Sequences:
        """Samples one response a prompt, in the prompts' order. B may be 0. No other requests may be open."""
        self.add(prompts, options)
        sequences = self.poll(math.inf)
        place = {sample: at for at, sample in enumerate(sequences.ids.tolist())}
        return sequences.select([place[sample] for sample in prompts.ids.tolist()])

    @abstractmethod
    def _enqueue(self, requests: Sequence[Request]) -> None:
        """Takes requests in."""

    @abstractmethod
    def _advance(self) -> dict[int, Response]:
        """Does one step of work. Returns the responses that it finished, by sample."""

    @abstractmethod
    def _drop(self, samples: Sequence[int]) -> None:
        """Forgets requests that were taken in and are not finished."""


def _prompts(requests: Sequence[Request]) -> Prompts:
    return Prompts(
        tokens=torch.tensor([token for request in requests for token in request.tokens], dtype=torch.int64),
        lengths=torch.tensor([len(request.tokens) for request in requests], dtype=torch.int64),
        ids=torch.tensor([request.sample for request in requests], dtype=torch.int64),
        rows=torch.tensor([request.row for request in requests], dtype=torch.int64),
    )
