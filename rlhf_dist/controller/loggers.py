"""A run's figures, samples and report in Weights & Biases, MLflow and trackio, beside the run and never in its way.

Each service is served by a thread of its own, which is handed what there is to log and waited for by nobody until the
end, and then for a limited time only: what fails there, or hangs, costs the run a warning.
"""

from __future__ import annotations

import importlib
import json
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rlhf_dist.config.schema import RunConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_json_atomic

FINISH_S = 60.0  # that all services together may take at the end of a run
_WAITING = 10_000  # entries that wait for a slow service; what comes on top is lost to it
_PARAMS_AT_ONCE, _LONGEST_PARAM = 100, 6000  # MLflow's limits
_IDENTITIES = "loggers.json"  # in the run's logs/: a resumed run goes on where its figures are

Table = Sequence[Mapping[str, object]]


class MetricsLogger(Protocol):
    """A service that keeps a run's figures. Every method may fail or take its time; all are called by one thread."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the figures of a step."""

    def samples(self, step: int, rows: Table) -> None:
        """Takes lines of samples.jsonl, all of one step."""

    def artifact(self, path: Path) -> None:
        """Keeps a file."""

    def finish(self, succeeded: bool) -> None:
        """Ends the run there."""


@dataclass(frozen=True)
class Described:
    """What a service is told of a run.

    Attributes:
        name: the run's.
        project: under which it stands there.
        config: its configuration by dotted key, without secrets.
        directory: the run's own.
        identity: by which the service knows the run; that of the earlier try where a run is resumed.
        resumed: whether there is an earlier try.
    """

    name: str
    project: str
    config: Mapping[str, object]
    directory: RunDir
    identity: str
    resumed: bool


class WandbLogger:
    """Weights & Biases; ``mode`` is online or offline. Offline, all is in `runs/NAME/wandb`, for `wandb sync`."""

    def __init__(self, mode: str, run: Described) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        settings = self._wandb.Settings(silent=True, console="off", init_timeout=FINISH_S, finish_timeout=FINISH_S / 2)
        self._run: Any = self._wandb.init(
            project=run.project,
            name=run.name,
            id=run.identity,
            resume="allow",
            mode=mode,
            dir=str(run.directory.root),
            config=dict(run.config),
            settings=settings,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`MetricsLogger`."""
        self._run.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Table) -> None:
        """See :class:`MetricsLogger`."""
        columns = list(rows[0])
        table = self._wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
        self._run.log({"samples": table}, step=step)

    def artifact(self, path: Path) -> None:
        """See :class:`MetricsLogger`."""
        artifact = self._wandb.Artifact(f"{path.stem}-{self._run.id}", type=path.stem)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, succeeded: bool) -> None:
        """See :class:`MetricsLogger`."""
        self._run.finish(exit_code=0 if succeeded else 1)


class MlflowLogger:
    """MLflow, at a tracking server or in a database, as ``uri`` says."""

    def __init__(self, uri: str, run: Described) -> None:
        mlflow = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._id = self._found(run) if run.resumed else None
        if self._id is None:
            experiment = self._client.get_experiment_by_name(run.project)
            identity = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
            tags = {"rlhf_dist.identity": run.identity}
            self._id = self._client.create_run(identity, run_name=run.name, tags=tags).info.run_id
            texts = [(key, str(value)[:_LONGEST_PARAM]) for key, value in run.config.items()]
            params = [self._entities.Param(key, value) for key, value in texts]
            for start in range(0, len(params), _PARAMS_AT_ONCE):
                self._client.log_batch(self._id, params=params[start : start + _PARAMS_AT_ONCE])
        self._client.update_run(self._id, status="RUNNING")

    def _found(self, run: Described) -> str | None:
        experiment = self._client.get_experiment_by_name(run.project)
        if experiment is None:
            return None
        wanted = f"tags.`rlhf_dist.identity` = '{run.identity}'"
        runs = self._client.search_runs([experiment.experiment_id], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`MetricsLogger`."""
        now = int(time.time() * 1000)
        values = [self._entities.Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=values)

    def samples(self, step: int, rows: Table) -> None:
        """See :class:`MetricsLogger`."""
        columns = {name: [row.get(name) for row in rows] for name in rows[0]}
        self._client.log_table(self._id, columns, "samples.json")

    def artifact(self, path: Path) -> None:
        """See :class:`MetricsLogger`."""
        self._client.log_artifact(self._id, str(path))

    def finish(self, succeeded: bool) -> None:
        """See :class:`MetricsLogger`."""
        self._client.set_terminated(self._id, status="FINISHED" if succeeded else "FAILED")


class TrackioLogger:
    """trackio: on this machine (``place`` is local), or in a Space of the Hugging Face hub, as `user/name`."""

    def __init__(self, place: str, run: Described) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        self._pandas: Any = importlib.import_module("pandas")
        self._run: Any = self._trackio.init(
            project=run.project,
            name=f"{run.name}-{run.identity}",
            space_id=None if place == "local" else place,
            config=dict(run.config),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`MetricsLogger`."""
        self._run.log(dict(metrics), step=step)

    def samples(self, step: int, rows: Table) -> None:
        """See :class:`MetricsLogger`."""
        table = self._trackio.Table(dataframe=self._pandas.DataFrame(list(rows)))
        self._run.log({"samples": table}, step=step)

    def artifact(self, path: Path) -> None:
        """See :class:`MetricsLogger`."""
        self._trackio.log_artifact(str(path), name=path.stem, type=path.stem)

    def finish(self, succeeded: bool) -> None:
        """See :class:`MetricsLogger`."""
        self._run.finish()


class _Served:
    """A service with its thread.

    Args:
        name: in warnings.
        make: begins the run there; called by the thread.
        tell: called with a warning, once.
    """

    def __init__(self, name: str, make: Callable[[], MetricsLogger], tell: Callable[[str], None]) -> None:
        self._name, self._make, self._tell = name, make, tell
        self._entries: queue.Queue[Callable[[MetricsLogger], None] | None] = queue.Queue(_WAITING)
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"logger {name}", daemon=True)
        self._thread.start()

    def put(self, entry: Callable[[MetricsLogger], None] | None) -> None:
        """Hands the service something to do, or None at the end; nothing where it has failed."""
        if self._failed.is_set():
            return
        try:
            self._entries.put_nowait(entry)
        except queue.Full:
            self._fail("it does not keep up")

    def wait(self, until: float) -> None:
        """Waits for the end of all that was handed over, until the time of `time.monotonic` given."""
        if self._failed.is_set():
            return
        self._thread.join(max(until - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._fail(f"it did not finish within {FINISH_S:.0f} s")

    def _serve(self) -> None:
        try:
            logger = self._make()
            while (entry := self._entries.get()) is not None:
                entry(logger)
        except Exception as error:  # whatever a service does, the run goes on
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        if not self._failed.is_set():
            self._failed.set()
            self._tell(f"run.{self._name}: {why}; the run continues without it")


class Loggers:
    """All services of a run; none, and this does nothing."""

    def __init__(self, served: Sequence[_Served] = ()) -> None:
        self._served = served

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hands over the figures of a step."""
        kept = dict(metrics)
        self._put(lambda logger: logger.log(step, kept))

    def samples(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Hands over lines of samples.jsonl."""
        by_step: dict[int, list[Mapping[str, object]]] = {}
        for row in rows:
            by_step.setdefault(int(str(row["step"])), []).append(row)
        for step, kept in by_step.items():
            self._put(partial(_log_samples, step, kept))

    def artifact(self, path: Path) -> None:
        """Hands over a file, which must not change any more."""
        self._put(lambda logger: logger.artifact(path))

    def finish(self, succeeded: bool) -> None:
        """Ends the run at all services, and waits until they have all, for :data:`FINISH_S` at most."""
        self._put(lambda logger: logger.finish(succeeded))
        until = time.monotonic() + FINISH_S
        for served in self._served:
            served.put(None)
        for served in self._served:
            served.wait(until)

    def _put(self, entry: Callable[[MetricsLogger], None]) -> None:
        for served in self._served:
            served.put(entry)


def _log_samples(step: int, rows: Table, logger: MetricsLogger) -> None:
    logger.samples(step, rows)


_KINDS: Mapping[str, Callable[[str, Described], MetricsLogger]] = {
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
    "trackio": TrackioLogger,
}


@contextmanager
def open_loggers(
    run: RunConfig, config: Mapping[str, object], directory: RunDir, resumed: bool, tell: Callable[[str], None]
) -> Iterator[Loggers]:
    """Begins the run at the services that `run.wandb`, `run.mlflow` and `run.trackio` choose, and ends it there.

    Args:
        run: the section of the configuration.
        config: all of it by dotted key, without secrets.
        directory: the run's.
        resumed: whether it goes on from an earlier try.
        tell: called with warnings, from any thread.
    """
    named = {"wandb": run.wandb, "mlflow": run.mlflow, "trackio": run.trackio}
    chosen = {name: value for name, value in named.items() if value is not None}
    if not chosen:
        yield Loggers()
        return
    known = _identity(directory) if resumed else None
    identity = known or _new_identity(directory)
    described = Described(run.name, run.project, config, directory, identity, resumed=known is not None)
    loggers = Loggers([_Served(name, partial(_KINDS[name], value, described), tell) for name, value in chosen.items()])
    succeeded = False
    try:
        yield loggers
        succeeded = True
    finally:
        loggers.finish(succeeded)


def _identity(directory: RunDir) -> str | None:
    try:
        return str(json.loads((directory.logs / _IDENTITIES).read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _new_identity(directory: RunDir) -> str:
    identity = secrets.token_hex(4)
    write_json_atomic(directory.logs / _IDENTITIES, {"identity": identity})
    return identity
