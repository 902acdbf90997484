"""Where the time goes: seconds of each phase of a step, and the same as a timeline in Chrome's trace format."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_dist.durable import write_text_atomic

#: The lane of the loop itself; its phases follow one another and make up the step.
MAIN_LANE = "step"

_MAX_EVENTS = 20_000  # about 2.5 MB of JSON
_SAVE_EVERY_S = 15.0


class Timer:
    """Times phases: ``with timer("rollout"): ...``.

    A phase inside another one of its lane is called `outer/inner`, and one on another lane `lane/phase`, so the plain
    names are the parts that a step's time divides into. Phases outside a step (evaluation, checkpoints) stand in
    the trace only. Threads may time phases at once.

    Args:
        path: trace.json; None keeps no trace.
        on_phase: called with the name of each phase of the main lane as it starts, such as `LiveView.phase`.
        max_events: the trace's size limit; beyond it the oldest events go.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        on_phase: Callable[[str], None] | None = None,
        max_events: int = _MAX_EVENTS,
    ) -> None:
        self._path = path
        self._on_phase = on_phase
        self._epoch = time.time() - time.perf_counter()
        self._events: deque[dict[str, Any]] = deque(maxlen=max_events)
        self._recorded = 0
        self._lanes: dict[str, int] = {MAIN_LANE: 0}
        self._lock = threading.Lock()
        self._open = threading.local()
        self._step: int | None = None
        self._step_started = 0.0
        self._seconds: dict[str, float] = {}
        self._saved_at = time.perf_counter()
        self._save_every_s = _SAVE_EVERY_S

    @contextmanager
    def __call__(self, phase: str, lane: str = MAIN_LANE) -> Iterator[None]:
        """Times the block as ``phase`` of ``lane`` (a role's name, where roles work at once)."""
        stack: list[tuple[str, str]] = self._stack()
        outer = [name for on, name in stack if on == lane]
        name = f"{outer[-1]}/{phase}" if outer else phase
        if self._on_phase is not None and lane == MAIN_LANE:
            self._on_phase(name)
        stack.append((lane, name))
        started = time.perf_counter()
        try:
            yield
        finally:
            stack.pop()
            self._add(name, lane, started, time.perf_counter() - started)

    def record(self, phase: str, lane: str, started_at: float, seconds: float) -> None:
        """Adds a phase that was timed elsewhere, in a worker say.

        Args:
            phase: its name.
            lane: whose it was.
            started_at: when it began, seconds as `time.time()` counts them.
            seconds: how long it took.
        """
        self._add(phase, lane, started_at - self._epoch, seconds)

    def start_step(self, step: int) -> None:
        """Begins a step: its phases count from here."""
        with self._lock:
            self._step, self._step_started, self._seconds = step, time.perf_counter(), {}

    def step_metrics(self) -> dict[str, float]:
        """Ends the step. Returns `time/step_s` and one `time/<phase>_s` for each phase that ran in it, seconds.

        RuntimeError where no step was started.
        """
        with self._lock:
            if self._step is None:
                raise RuntimeError("step_metrics() needs a start_step() before it")
            total = time.perf_counter() - self._step_started
            metrics = {f"time/{name}_s": seconds for name, seconds in self._seconds.items()}
            self._event(f"step {self._step}", "steps", self._step_started, total)
            self._step = None
        self._save_if_due()
        return {**metrics, "time/step_s": total}

    def save(self) -> None:
        """Writes trace.json, whole: it is valid JSON at any time, also where the run is killed.

        Where it cannot be written, stderr says so once, and nothing else happens: no run shall end for its trace.
        """
        with self._lock:
            events = list(self._events)
            lanes, dropped = dict(self._lanes), self._recorded - len(self._events)
        if self._path is None or not events:
            return  # where a run did nothing, an earlier trace stays
        names = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": lane}}
            for lane, tid in lanes.items()
        ]
        trace = {"displayTimeUnit": "ms", "otherData": {"events_dropped": dropped}, "traceEvents": names + events}
        try:
            write_text_atomic(self._path, json.dumps(trace, separators=(",", ":")))
        except OSError as error:
            print(f"warning: {self._path} cannot be written: {error}", file=sys.stderr)
            self._path = None

    def _save_if_due(self) -> None:
        """Saves now and then: at most about a hundredth of the run's time goes into it."""
        started = time.perf_counter()
        if started - self._saved_at < self._save_every_s:
            return
        self.save()
        self._saved_at = time.perf_counter()
        self._save_every_s = max(_SAVE_EVERY_S, 100 * (self._saved_at - started))

    def _stack(self) -> list[tuple[str, str]]:
        if not hasattr(self._open, "stack"):
            self._open.stack = []
        stack: list[tuple[str, str]] = self._open.stack
        return stack

    def _add(self, name: str, lane: str, started: float, seconds: float) -> None:
        key = name if lane == MAIN_LANE else f"{lane}/{name}"
        with self._lock:
            if self._step is not None:
                self._seconds[key] = self._seconds.get(key, 0.0) + seconds
            self._event(name, lane, started, seconds)

    def _event(self, name: str, lane: str, started: float, seconds: float) -> None:
        """Adds a complete event; times in microseconds, as the format wants them. Called with the lock held."""
        tid = self._lanes.setdefault(lane, len(self._lanes))
        self._recorded += 1
        self._events.append(
            {
                "ph": "X",
                "name": name,
                "cat": lane,
                "pid": 1,
                "tid": tid,
                "ts": round((self._epoch + started) * 1e6),
                "dur": round(seconds * 1e6),
            }
        )
