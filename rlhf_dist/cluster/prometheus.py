"""Gauges of a run for Prometheus, which Ray's agent on each node exports.

Ray writes `ray_` before the names. docs/operators.md describes them, and launch/cluster/grafana-dashboard.json shows
them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import psutil
from ray.util.metrics import Gauge

from rlhf_dist.cluster.worker_memory import note_memory
from rlhf_dist.device import Device

logger = logging.getLogger(__name__)

#: Every gauge, and its tags beside `run`.
GAUGES: dict[str, tuple[str, ...]] = {
    "rlhf_step": (),
    "rlhf_reward_score_mean": (),
    "rlhf_reward_total_mean": (),
    "rlhf_kl_sequence_mean": (),
    "rlhf_kl_coef": (),
    "rlhf_loss_policy": (),
    "rlhf_loss_value": (),
    "rlhf_policy_entropy": (),
    "rlhf_policy_clip_fraction": (),
    "rlhf_value_explained_variance": (),
    "rlhf_response_length_mean": (),
    "rlhf_rollout_logprob_gap": (),
    "rlhf_throughput_tokens_per_s": (),
    "rlhf_weights_version": (),
    "rlhf_phase_seconds": ("phase",),
    "rlhf_worker_memory_bytes": ("worker", "kind"),
    "rlhf_calls_waiting": ("role",),
}

# Which metric of a step is which gauge: `kl/coef` is `rlhf_kl_coef`, and so on.
_OF_STEP = {name.removeprefix("rlhf_").replace("_", "/", 1): name for name, tags in GAUGES.items() if not tags}
_REST = 50.0  # times as long as it took: the kernel walks all pages of a process for its PSS, 6 ms a GiB
_SET_EVERY_S = 5.0  # Ray exports a gauge once each time it is set, and its agent drops it after 20 s

Key = tuple[str, tuple[str, ...]]


class Gauges:
    """The gauges that one process sets, and sets again every few seconds: a step may take an hour, and Ray forgets.

    Nothing here fails or delays a run: whatever Ray says is logged, once.

    Args:
        run: the tag that all of them have.
        look: called every few seconds, in a thread of its own, for values that change by themselves.
    """

    def __init__(self, run: str, look: Callable[[], Mapping[Key, float]] | None = None) -> None:
        self._run, self._look = run, look
        self._gauges: dict[str, Any] = {}
        self._values: dict[Key, float] = {}
        self._lock, self._closed, self._complained = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._keep, name="gauges", daemon=True)
        self._thread.start()

    def set(self, name: str, value: float, *tags: str) -> None:
        """Sets a gauge of `GAUGES`; ``tags`` are the values of its further tags, in order."""
        with self._lock:
            self._set((name, tags), value)

    def close(self) -> None:
        """Sets nothing any more. To be called while Ray is still there."""
        self._closed.set()
        self._thread.join(timeout=_SET_EVERY_S)

    def _keep(self) -> None:
        while True:
            with self._lock:
                for key, value in {**self._values, **self._seen()}.items():
                    self._set(key, value)
            if self._closed.wait(_SET_EVERY_S):
                return

    def _seen(self) -> Mapping[Key, float]:
        try:
            return self._look() if self._look is not None else {}
        except Exception as error:
            self._complain(error)
            return {}

    def _set(self, key: Key, value: float) -> None:
        if self._closed.is_set():
            return
        (name, tags), self._values[key] = key, value
        try:
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, tag_keys=("run", *GAUGES[name]))
            self._gauges[name].set(float(value), {"run": self._run, **dict(zip(GAUGES[name], tags, strict=True))})
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            logger.warning("no gauges for Prometheus: %s: %s", type(error).__name__, error)
        self._complained = True


class RunGauges(Gauges):
    """The driver's gauges: metrics of the last step, and the calls that it waits for."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self._waiting: Counter[str] = Counter()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sets the metrics of ``step``, named as in metrics.jsonl; those without a gauge are skipped."""
        self.set("rlhf_step", step)
        for name, value in metrics.items():
            if name in _OF_STEP:
                self.set(_OF_STEP[name], value)
            phase = name.removeprefix("time/").removesuffix("_s")
            if name == f"time/{phase}_s" and phase != "step" and "/" not in phase:  # those that a step divides into
                self.set("rlhf_phase_seconds", value, phase)

    def waiting(self, role: str, calls: int) -> None:
        """So many calls more, or fewer, have been made to workers of ``role`` and not been answered."""
        self._waiting[role] += calls
        self.set("rlhf_calls_waiting", self._waiting[role], role)


def watch_memory(run: str, worker: str, device: Device) -> Gauges:
    """Reports, from now on, the memory of this process, which is ``worker``, and notes it for the driver."""

    pss, due = 0, 0.0

    def look() -> dict[Key, float]:
        nonlocal pss, due
        now = time.monotonic()
        if now >= due:
            pss = note_memory(worker)
            due = now + _REST * (time.monotonic() - now)
        kinds = device.memory() | {"host_rss": psutil.Process().memory_info().rss, "host_pss": pss}
        return {("rlhf_worker_memory_bytes", (worker, kind)): float(value) for kind, value in kinds.items()}

    return Gauges(run, look)
