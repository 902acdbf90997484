"""What a run has written, read back for a report or a comparison; and which runs are one another's seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from rlhf_dist.config.diff import flat
from rlhf_dist.controller.rundir import RunDir, read_jsonl
from rlhf_dist.errors import UserError

Row = Mapping[str, Any]
Rows = Sequence[Row]

#: Keys that say where a run lies and how it began: no two runs are told apart by them.
OF_ONE_PLACE = ("run.name", "run.dir", "run.resume", "run.resume_changed", "run.overwrite")
#: In these keys runs may differ and still be one configuration with several seeds.
OF_ONE_SEED = (*OF_ONE_PLACE, "run.seed")


@dataclass(frozen=True)
class LoadedRun:
    """The files of a run, finished or not.

    Attributes:
        directory: of the run.
        label: its name; with folders before it where another run of the same page has the same name.
        rows: of metrics.jsonl.
        samples: of samples.jsonl.
        summary: summary.json; None before the end.
        config: the values of config.yaml by dotted key; empty without one.
    """

    directory: RunDir
    label: str
    rows: Rows
    samples: Rows
    summary: Row | None
    config: Mapping[str, object]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, which differ in `run.seed` at most.

    Attributes:
        label: the run's, or what the names of several begin with.
        number: from 0, in the order of the page.
        runs: at least one.
    """

    label: str
    number: int
    runs: Sequence[LoadedRun]


def load_run(path: Path, label: str | None = None) -> LoadedRun:
    """Reads the run in the directory ``path``.

    Raises:
        UserError: there is no run, or one of its files is not what a run writes.
    """
    run = RunDir(Path(path))
    if not run.config.exists() and not run.metrics.exists():
        raise UserError(f"{run.root} is not a run: it has neither config.yaml nor metrics.jsonl")
    return LoadedRun(
        run,
        label or run.root.resolve().name,
        read_jsonl(run.metrics),
        read_jsonl(run.samples),
        _summary(run),
        _config(run),
    )


def load_runs(paths: Sequence[Path]) -> list[LoadedRun]:
    """Reads several runs; each has a label of its own.

    Raises:
        UserError: as :func:`load_run`; or the same run is named twice.
    """
    whole = [Path(path).resolve() for path in paths]
    twice = next((path for path in whole if whole.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named more than once")
    return [load_run(path, label) for path, label in zip(paths, _labels(whole), strict=True)]


def groups_of(runs: Sequence[LoadedRun]) -> list[Group]:
    """The runs by configuration, in the order of each group's first; one without a config.yaml is a group by itself."""
    found: dict[str, list[LoadedRun]] = {}
    for run in runs:
        values = {name: value for name, value in run.config.items() if name not in OF_ONE_SEED}
        same = json.dumps(values, sort_keys=True, default=str) if run.config else str(run.directory.root.resolve())
        found.setdefault(same, []).append(run)
    return [Group(_group_label(members), number, members) for number, members in enumerate(found.values())]


def _group_label(runs: Sequence[LoadedRun]) -> str:
    if len(runs) == 1:
        return runs[0].label
    letters = takewhile(lambda same: len(set(same)) == 1, zip(*(run.label for run in runs), strict=False))
    shared = re.sub(r"[-_.](seed|s)?[-_.]?\d*$", "", "".join(same[0] for same in letters))
    return f"{shared or runs[0].label} ({len(runs)} runs)"


def _labels(paths: Sequence[Path]) -> list[str]:
    """The name of each path, with as many folders before it as it takes to tell it from the others."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(labels):
            break
    return labels


def _summary(run: RunDir) -> Row | None:
    if not run.summary.exists():
        return None
    try:
        summary = json.loads(run.summary.read_text(encoding="utf-8"))
        return summary if isinstance(summary, dict) else None
    except ValueError as error:
        raise UserError(f"{run.summary} is not JSON: {error}") from error


def _config(run: RunDir) -> Mapping[str, object]:
    if not run.config.exists():
        return {}
    try:
        values = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{run.config} is not YAML: {error}") from error
    return flat(values) if isinstance(values, dict) else {}
