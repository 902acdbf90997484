"""The jobs from Python: for notebooks and scripts. Mistakes and failures are exceptions, not exit codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_dist.controller.rundir import RunDir, read_jsonl
from rlhf_dist.main import run

Setting = str | int | float | bool | None | Sequence[str] | Sequence[float]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: ``runs/NAME``, with the model, checkpoints, samples and the report.
    """

    directory: Path

    @property
    def metrics(self) -> list[dict[str, float]]:
        """One entry a step, as in metrics.jsonl."""
        return read_jsonl(RunDir(self.directory).metrics)

    @property
    def summary(self) -> dict[str, object]:
        """The figures before and after, as in summary.json."""
        summary: dict[str, object] = json.loads(RunDir(self.directory).summary.read_text(encoding="utf-8"))
        return summary


def sft(recipe: str | Path | None = None, settings: Mapping[str, Setting] | None = None) -> Run:
    """Supervised fine-tuning on demonstrations; arguments and errors as of :func:`ppo`."""
    return _run("sft", recipe, settings)


def reward(recipe: str | Path | None = None, settings: Mapping[str, Setting] | None = None) -> Run:
    """A reward model from rankings; arguments and errors as of :func:`ppo`."""
    return _run("reward", recipe, settings)


def dpo(recipe: str | Path | None = None, settings: Mapping[str, Setting] | None = None) -> Run:
    """Direct preference optimization; arguments and errors as of :func:`ppo`."""
    return _run("dpo", recipe, settings)


def ppo(recipe: str | Path | None = None, settings: Mapping[str, Setting] | None = None) -> Run:
    """PPO, and the critic-free algorithms beside it. Returns when the run is finished.

    Args:
        recipe: a YAML file; None: the base recipe, with which at least `run.name` and the models and data must be set.
        settings: keys as on the command line, ``{"actor.num_workers": 2}``; None means null.

    Raises:
        UserError: a mistake in the configuration or the data.
        ClusterError: the cluster cannot hold the job.
        RunError: it failed.
        StoppedByUser: Ctrl-C, after a checkpoint was written.
    """
    return _run("ppo", recipe, settings)


def _run(job: str, recipe: str | Path | None, settings: Mapping[str, Setting] | None) -> Run:
    words = [f"{key}={_text(value)}" for key, value in (settings or {}).items()]
    chosen = [] if recipe is None else ["--config", str(recipe)]
    return Run(run(job, [*chosen, *words]))


def _text(value: Setting) -> str:
    """A value as it stands on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return json.dumps(list(value))
    return repr(value)
