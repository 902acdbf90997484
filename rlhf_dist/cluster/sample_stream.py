"""The stream of requests to the rollout engines: added at any time, answered as they finish, each exactly once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rlhf_dist.cluster.failures import tails
from rlhf_dist.cluster.roles import Rollout
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.cluster.waiting import Ref, wait_for_first
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.types import Prompts, Sequences

#: Seconds that an engine works before it hands over what has finished.
POLL_S = 0.2

# While the answer of one poll is on its way, the engine is at work on the next.
_POLLS_AT_ONCE = 2

_SAMPLING = "generate"  # what an engine does from its first open request to its last answer, in trace and messages


@dataclass
class _Engine:
    """What the stream knows of one engine.

    Attributes:
        open: when the requests that it has not answered were added (`time.monotonic()`), by sample.
        polls: how many of its polls are not answered.
        began_at: when it began to work, as `time.time()` counts, if it has something open.
    """

    open: dict[int, float] = field(default_factory=dict)
    polls: int = 0
    began_at: float = 0.0


class SampleStream:
    """Requests dealt out to the engines of a run, and their answers.

    Where engines share devices with other roles, they are brought onto them by :meth:`add`, and no other role may be
    called before all requests are answered.

    Args:
        rollout: the engines.
        scheduler: brings them onto their devices.
        timeout_s: seconds within which a request must be answered.
    """

    def __init__(self, rollout: Rollout, scheduler: Scheduler, timeout_s: float) -> None:
        self.rollout, self._scheduler, self._timeout_s = rollout, scheduler, timeout_s
        self._group = rollout.group
        self._engines = [_Engine() for _ in range(self._group.size)]
        self._adding: dict[Ref, str] = {}  # additions that the engines have not confirmed: the worker of each
        self._polling: dict[Ref, int] = {}  # polls that are not answered: the engine of each

    def __len__(self) -> int:
        """How many requests are not answered."""
        return sum(len(engine.open) for engine in self._engines)

    def add(self, prompts: Prompts, options: SamplingOptions) -> None:
        """Asks for one response to each prompt; no two open requests may have one id. Does not wait for them."""
        parts = self.rollout.deal(prompts)
        started = self._scheduler.start(self.rollout.add(parts, options), self._timeout_s)
        self._group.waiting(-self._group.size)  # it is counted by its requests
        self._adding |= zip(started.refs, self._group.worker_names, strict=True)
        now = time.monotonic()
        for rank, part in enumerate(parts):
            self._opened(rank, part.ids, now)

    def take(self, most_s: float = math.inf) -> Sequences | None:
        """Waits until something has finished, and gives it; None where nothing has within ``most_s`` seconds.

        Raises:
            RunError: an engine died or failed, or a request had no answer in time.
        """
        until = time.monotonic() + most_s
        while len(self):
            for rank in range(len(self._engines)):
                self._poll(rank)
            finished = self._answer(until)
            if finished is not None and len(finished):
                return finished
            if time.monotonic() >= until:
                return None
        raise RuntimeError("take() without an open request")

    def sample(self, prompts: Prompts, options: SamplingOptions) -> Sequences:
        """One response to each prompt, in the prompts' order. No other requests may be open."""
        return next(self.sample_each([prompts], options))

    def sample_each(self, batches: Sequence[Prompts], options: SamplingOptions) -> Iterator[Sequences]:
        """One response to each prompt of several batches, in the prompts' order; no other requests may be open.

        The engines have all batches at once, so that none waits for the last response of another. The batches come in
        their order, each as soon as it is whole; there must be no empty one.
        """
        for batch in batches:
            self.add(batch, options)
        batch_of = {sample: at for at, batch in enumerate(batches) for sample in batch.ids.tolist()}
        parts: list[list[Sequences]] = [[] for _ in batches]
        for at, batch in enumerate(batches):
            while sum(map(len, parts[at])) < len(batch):
                finished = self.take()
                assert finished is not None, "without a limit it waits for something"
                owners = [batch_of[sample] for sample in finished.ids.tolist()]
                for owner in set(owners):
                    parts[owner].append(finished.select([row for row, other in enumerate(owners) if other == owner]))
            yield in_order(Sequences.cat(parts[at]), batch.ids)

    def _opened(self, rank: int, ids: Tensor, now: float) -> None:
        engine = self._engines[rank]
        if len(ids) and not engine.open:
            engine.began_at = time.time()
            self._group.waiting(1)
        engine.open |= dict.fromkeys(ids.tolist(), now)

    def _poll(self, rank: int) -> None:
        """Keeps an engine that has open requests at work."""
        engine = self._engines[rank]
        while engine.open and engine.polls < _POLLS_AT_ONCE:
            self._polling[self._group.workers[rank].poll.remote(POLL_S)] = rank
            engine.polls += 1

    def _answer(self, until: float) -> Sequences | None:
        """The first answer of an engine to a poll; None if there is none by then, or it is the answer to an addition.

        RunError as in :meth:`take`.
        """
        workers = self._group.worker_names
        names = self._adding | {ref: workers[rank] for ref, rank in self._polling.items()}
        late = min(min(engine.open.values()) for engine in self._engines if engine.open) + self._timeout_s
        answer = wait_for_first(names, _SAMPLING, min(late, until) - time.monotonic(), self._group.log_of())
        if answer is None:
            if time.monotonic() >= late:
                raise self._too_late()
            return None
        ref, finished = answer
        if ref in self._adding:
            del self._adding[ref]
            return None
        self._answered(self._polling.pop(ref), finished)
        return finished

    def _answered(self, rank: int, finished: Sequences) -> None:
        engine = self._engines[rank]
        engine.polls -= 1
        for sample in finished.ids.tolist():
            del engine.open[sample]
        if len(finished) and not engine.open:
            self._group.waiting(-1)
            self._group.answered(self._group.worker_names[rank], _SAMPLING, engine.began_at)

    def _too_late(self) -> RunError:
        names = self._group.worker_names
        late = {name: engine.open for name, engine in zip(names, self._engines, strict=True) if engine.open}
        what = ", ".join(f"{len(samples)} from {name}, as of sample {min(samples)}" for name, samples in late.items())
        logs = self._group.log_of()
        return RunError(f"{_SAMPLING}: no answer within {self._timeout_s:g} s ({what})", tails(list(late), logs))


def in_order(sequences: Sequences, ids: Tensor) -> Sequences:
    """The samples ``ids`` ([B] int64) of ``sequences``, where each is there once, in that order."""
    place = {sample: at for at, sample in enumerate(sequences.ids.tolist())}
    return sequences.select([place[sample] for sample in ids.tolist()])
