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

from rlhf_dist.durable import write_text_atomic

_LOOP = "step"  # the row of the loop itself; its phases follow one another and make up the step
_STEPS = "steps"

_MAX_EVENTS = 20_000  # about 2.5 MB of JSON
_SAVE_EVERY_S = 15.0


class Timer:
    """Times phases: ``with timer("rollout"): ...``.

    A phase inside another one is called `outer/inner`, so the plain names are the parts that a step's time divides
    into. Phases outside a step (evaluation, checkpoints) stand in the trace only. Threads may time phases at once.
    What workers did meanwhile is added by :meth:`record`, a row for each of them.

    Args:
        path: trace.json; None keeps no trace.
        on_phase: called with the name of each phase as it starts, such as `LiveView.phase`.
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
        self._events: deque[dict[str, object]] = deque(maxlen=max_events)
        self._recorded = 0
        self._rows: dict[str, int] = {_LOOP: 0}
        self._lock = threading.Lock()
        self._open = threading.local()
        self._step: int | None = None
        self._step_started = 0.0
        self._seconds: dict[str, float] = {}
        self._saved_at = time.perf_counter()
        self._save_every_s = _SAVE_EVERY_S

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times the block as ``phase``."""
        stack = self._stack()
        name = f"{stack[-1]}/{phase}" if stack else phase
        if self._on_phase is not None:
            self._on_phase(name)
        stack.append(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            stack.pop()
            seconds = time.perf_counter() - started
            with self._lock:
                if self._step is not None:
                    self._seconds[name] = self._seconds.get(name, 0.0) + seconds
                self._event(name, _LOOP, started, seconds)

    def record(self, worker: str, method: str, started_at: float, seconds: float) -> None:
        """Adds to a worker's row of the trace what it was asked, from the asking to its answer.

        Args:
            worker: its name.
            method: what it was asked.
            started_at: when, seconds as `time.time()` counts them.
            seconds: until it answered.
        """
        with self._lock:
            self._event(method, worker, started_at - self._epoch, seconds)

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
            self._event(f"step {self._step}", _STEPS, self._step_started, total)
            self._step = None
        self._save_if_due()
        return {**metrics, "time/step_s": total}

    def save(self) -> None:
        """Writes trace.json, whole: it is valid JSON at any time, also where the run is killed.

        If it cannot be written, that is said once on stderr, and nothing else happens: a trace must not end a run.
        """
        with self._lock:
            events = list(self._events)
            rows, dropped = dict(self._rows), self._recorded - len(self._events)
        if self._path is None or not events:
            return  # where a run did nothing, an earlier trace stays
        names = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": row}} for row, tid in rows.items()
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

    def _stack(self) -> list[str]:
        if not hasattr(self._open, "stack"):
            self._open.stack = []
        stack: list[str] = self._open.stack
        return stack

    def _event(self, name: str, row: str, started: float, seconds: float) -> None:
        """Adds a complete event; times in microseconds, as the format wants them. Called with the lock held."""
        tid = self._rows.setdefault(row, len(self._rows))
        self._recorded += 1
        self._events.append(
            {
                "ph": "X",
                "name": name,
                "cat": row,
                "pid": 1,
                "tid": tid,
                "ts": round((self._epoch + started) * 1e6),
                "dur": round(seconds * 1e6),
            }
        )
