"""The loop around the steps of any job: metrics, view, checkpoints, resuming, stopping."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlhf_dist.config.schema import RunConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_json_atomic
from rlhf_dist.errors import StoppedByUser, UserError

if TYPE_CHECKING:
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.prometheus import RunGauges
    from rlhf_dist.cluster.roles import TrainedModel
    from rlhf_dist.controller.metrics import MetricsWriter
    from rlhf_dist.controller.signals import StopSignal
    from rlhf_dist.controller.trace import Timer
    from rlhf_dist.controller.view import LiveView

STATE_FILE = "state.json"


class Job(Protocol):
    """What the loop runs: PPO, SFT or reward-model training."""

    total_steps: int

    @property
    def trained(self) -> Mapping[str, TrainedModel]:
        """The roles whose state a checkpoint holds, by name."""

    def before(self, start: int) -> None:
        """Called once, ``start`` steps being done already."""

    def step(self, number: int) -> dict[str, float]:
        """Does step ``number`` (from 1). Returns its metrics, tokens of the step as `tokens` among them."""

    def after(self) -> dict[str, Any]:
        """Called when all steps are done: saves the model, returns summary.json without its times."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep beside the roles' states (JSON)."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""


@dataclass(frozen=True)
class Desk:
    """What a job and its loop write to, and whom they ask to run calls."""

    config: RunConfig
    directory: RunDir
    metrics: MetricsWriter
    gauges: RunGauges
    view: LiveView
    timer: Timer
    stop: StopSignal
    placement: Placement
    timeout_s: float


def run_job(job: Job, desk: Desk) -> dict[str, Any]:
    """Runs ``job`` from its newest checkpoint, or its beginning, to its end.

    Returns:
        the summary, which is also written to summary.json.

    Raises:
        StoppedByUser: after a checkpoint was written.
    """
    started = time.monotonic()
    start, tokens = _resume(job, desk)
    job.before(start)
    desk.view.start_clock()
    for number in range(start + 1, job.total_steps + 1):
        _stop_if_wanted(job, desk, number - 1, tokens)
        desk.timer.start_step(number)
        metrics = job.step(number)
        tokens += int(metrics["tokens"])
        _record(desk, number, metrics)
        if desk.config.save_every and number % desk.config.save_every == 0:
            save_checkpoint(job, desk, number, tokens)
    _stop_if_wanted(job, desk, job.total_steps, tokens)
    summary = job.after() | {"wall_s": round(time.monotonic() - started, 3), "tokens": tokens}
    write_json_atomic(desk.directory.summary, summary)
    return summary


def _record(desk: Desk, number: int, metrics: dict[str, float]) -> None:
    timed = desk.timer.step_metrics()
    step_tokens = metrics.pop("tokens")
    timed["throughput/tokens_per_s"] = step_tokens / timed["time/step_s"]
    desk.metrics.write(number, metrics | timed)
    desk.gauges.write(number, metrics | timed)
    desk.view.update(number, metrics | timed)


def _stop_if_wanted(job: Job, desk: Desk, done: int, tokens: int) -> None:
    if not desk.stop.wanted:
        return
    if done > 0:
        path = save_checkpoint(job, desk, done, tokens)
        raise StoppedByUser(f"stopped after step {done}; go on with run.resume=true (checkpoint: {path})")
    raise StoppedByUser("stopped before the first step")


def save_checkpoint(job: Job, desk: Desk, step: int, tokens: int) -> Path:
    """Writes the state after ``step``, whole or not at all, and drops the oldest. Returns where it is."""
    with desk.timer("checkpoint"):
        folder = desk.directory.begin_checkpoint(step).absolute()
        for name, role in job.trained.items():
            desk.placement.run(role.save_checkpoint(folder / name), timeout_s=desk.timeout_s)
        write_json_atomic(folder / STATE_FILE, {"step": step, "tokens": tokens, "job": job.state()})
        path = desk.directory.commit_checkpoint(step)
        desk.directory.prune_checkpoints(desk.config.keep_checkpoints)
    return path


def _resume(job: Job, desk: Desk) -> tuple[int, int]:
    """Takes up the newest checkpoint if the run shall go on. Returns the steps and tokens that are done."""
    if not desk.config.resume:
        return 0, 0
    checkpoint = desk.directory.newest_checkpoint()
    if checkpoint is None:
        return 0, 0
    state = json.loads((checkpoint.path / STATE_FILE).read_text())
    if state["step"] >= job.total_steps:
        raise UserError(
            f"run.resume=true: {checkpoint.path} is at step {state['step']} of {job.total_steps}: nothing is left to do"
        )
    for name, role in job.trained.items():
        desk.placement.run(role.load_checkpoint((checkpoint.path / name).absolute()), timeout_s=desk.timeout_s)
    job.load_state(state["job"])
    desk.view.note(f"going on after step {state['step']} ({checkpoint.path})")
    return state["step"], state["tokens"]
