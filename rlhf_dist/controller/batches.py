"""The batches that a run learns from, sampled ahead of their steps where `rollout.staleness` allows it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rlhf_dist.types import Prompts, Sequences

FILE = "samples.safetensors"  # of a checkpoint: the batches that were sampled and not learned from


def weights_of(batch: int, staleness: int) -> int:
    """The step whose weights sample batch ``batch`` (from 1), where batches may be sampled ahead; 0: the first ones.

    The batches come in windows of ``staleness`` (n). All of a window are sampled by the same weights, those that the
    engines can have one step before the window's first batch is learned from: window w has the batches from n w + 1
    to n w + n, and the weights of step n w - 1. So a batch is sampled by weights that lack 1 to n of the steps before
    its own, engines and learner work at the same time, and which weights these are depends on n alone: time decides
    nothing.
    """
    if staleness == 0:
        return batch - 1
    return max(staleness * ((batch - 1) // staleness) - 1, 0)


@dataclass
class _Span:
    """When a window began to be sampled, and when it was done (`time.monotonic()`)."""

    began: float
    end: float = math.inf


class SampledBatches:
    """The batches of a run, in their order.

    With a staleness of 0 each is sampled when it is taken. Else :meth:`go_on` lets the engines sample what the weights
    of a step are for (:func:`weights_of`), in a thread, while the caller learns.

    Args:
        prompts: of a batch, by its number, from 1.
        sample: samples a response to each prompt of several batches, with the weights that the engines have; yields
            the batches in their order.
        staleness: how many steps ahead batches may be sampled.
        total: number of batches.
    """

    def __init__(
        self,
        prompts: Callable[[int], Prompts],
        sample: Callable[[Sequence[Prompts]], Iterator[Sequences]],
        staleness: int,
        total: int,
    ) -> None:
        self._prompts, self._sample = prompts, sample
        self._staleness, self._total = staleness, total
        self._ahead: dict[int, Future[Sequences]] = {}
        self._busy: list[_Span] = []  # of the latest windows

    def take(self, number: int) -> Sequences:
        """Batch ``number``, waited for if it is being sampled. What the sampling raised is raised here."""
        ahead = self._ahead.pop(number, None)
        return next(self._sample([self._prompts(number)])) if ahead is None else ahead.result()

    def are_due(self, step: int) -> bool:
        """Whether the engines need the weights of ``step``, for batches that only these may sample."""
        if self._staleness == 0:
            return True
        first = step + 2 if step else 1  # of the window that is sampled by them, if there is one
        return (
            first <= self._total and weights_of(first, self._staleness) == step and (first - 1) % self._staleness == 0
        )

    def finish(self) -> None:
        """Waits until nothing is being sampled. The weights of the engines may change then."""
        for batch in self._ahead.values():
            batch.result()

    def go_on(self, step: int) -> None:
        """The engines have the weights of ``step``: lets them sample what is to be sampled by then."""
        wanted = [
            number
            for number in range(step + 1, min(step + 2 * self._staleness + 1, self._total) + 1)
            if number not in self._ahead and weights_of(number, self._staleness) <= step
        ]
        if not self._staleness or not wanted:
            return
        made = {number: Future[Sequences]() for number in wanted}
        self._ahead |= made
        self._busy = [*self._busy[-1:], _Span(time.monotonic())]
        threading.Thread(target=self._work, args=(made, self._busy[-1]), name="sampling", daemon=True).start()

    def busy_since(self, start: float) -> float:
        """Seconds since ``start`` (`time.monotonic()`) in which something was sampled ahead."""
        now = time.monotonic()
        return sum(max(min(span.end, now) - max(span.began, start), 0.0) for span in self._busy)

    def save(self, folder: Path) -> None:
        """Writes the batches that are sampled, or being sampled, into a checkpoint's ``folder``."""
        self.finish()
        tensors = {
            f"{number}.{field.name}": getattr(batch.result(), field.name).clone()
            for number, batch in self._ahead.items()
            for field in fields(Sequences)
        }
        if tensors:
            save_file(tensors, folder / FILE)

    def load(self, folder: Path) -> None:
        """Restores what :meth:`save` wrote."""
        if not (folder / FILE).is_file():
            return
        batches: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in load_file(folder / FILE).items():
            number, _, field = name.partition(".")
            batches.setdefault(int(number), {})[field] = tensor
        for batch, parts in batches.items():
            self._ahead[batch] = Future()
            self._ahead[batch].set_result(Sequences(**parts))

    def _work(self, made: dict[int, Future[Sequences]], busy: _Span) -> None:
        try:
            sampled = self._sample([self._prompts(number) for number in made])
            for future, batch in zip(made.values(), sampled, strict=True):
                future.set_result(batch)
        except BaseException as error:  # whatever it is, who takes a batch has to hear of it
            for future in made.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            busy.end = time.monotonic()
