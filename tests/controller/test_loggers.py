"""Loggers: what the services get is the run, and nothing that they do harms or delays it.

The services' libraries are the extra `loggers`; what needs one that is not installed is skipped.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rlhf_dist.config.schema import RunConfig
from rlhf_dist.config.secrets import shown
from rlhf_dist.config.validate import _check_loggers
from rlhf_dist.controller import loggers as module
from rlhf_dist.controller.loggers import Loggers, Table, _Served, open_loggers
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.errors import UserError
from tests.controller.curves_of_runs import sample


class Recorder:
    """A service that keeps what it gets, fails at a step, or hangs at one."""

    def __init__(self, fails_at: int | None = None, hangs_at: int | None = None) -> None:
        self.got: list[object] = []
        self.fails_at, self.hangs_at, self.released = fails_at, hangs_at, threading.Event()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("no route to host")
        if step == self.hangs_at:
            self.released.wait(30)
        self.got.append((step, dict(metrics)))

    def samples(self, step: int, rows: Table) -> None:
        self.got.append((step, [row["response"] for row in rows]))

    def artifact(self, path: Path) -> None:
        self.got.append(path)

    def finish(self, succeeded: bool) -> None:
        self.got.append(succeeded)


def _served(recorder: Recorder, warnings: list[str], name: str = "wandb") -> _Served:
    return _Served(name, lambda: recorder, warnings.append)


def test_a_service_gets_everything_in_order() -> None:
    recorder, warnings = Recorder(), []
    loggers = Loggers([_served(recorder, warnings)])
    loggers.log(1, {"loss/sft": 2.0})
    loggers.samples([sample(1, "p", "a"), sample(1, "q", "b"), sample(2, "p", "c")])
    loggers.artifact(Path("report.html"))
    loggers.finish(True)
    assert recorder.got == [(1, {"loss/sft": 2.0}), (1, ["a", "b"]), (2, ["c"]), Path("report.html"), True]
    assert not warnings


def test_a_service_that_fails_warns_once_and_the_others_go_on() -> None:
    broken, whole, warnings = Recorder(fails_at=2), Recorder(), []
    loggers = Loggers([_served(broken, warnings, "mlflow"), _served(whole, warnings)])
    for step in range(1, 6):
        loggers.log(step, {"a": 1.0})
    loggers.finish(True)
    assert warnings == ["run.mlflow: ConnectionError: no route to host; the run continues without it"]
    assert broken.got == [(1, {"a": 1.0})] and len(whole.got) == 6


def test_a_service_that_hangs_delays_no_step_and_the_end_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINISH_S", 0.2)
    monkeypatch.setattr(module, "_WAITING", 3)
    hanging, warnings = Recorder(hangs_at=1), []
    loggers = Loggers([_served(hanging, warnings)])
    started = time.monotonic()
    loggers.log(1, {})
    loggers.finish(False)
    assert time.monotonic() - started < 5
    assert warnings == ["run.wandb: it did not finish within 0 s; the run continues without it"]
    hanging.released.set()


def test_a_service_that_does_not_keep_up_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 3)
    hanging, warnings = Recorder(hangs_at=1), []
    loggers = Loggers([_served(hanging, warnings)])
    for step in range(1, 20):
        loggers.log(step, {})
    loggers.finish(True)
    assert warnings == ["run.wandb: it does not keep up; the run continues without it"]
    hanging.released.set()


def _use(folder: Path, resumed: bool = False, **keys: str) -> list[str]:
    """A run of two steps that logs as the keys say. Returns the warnings."""
    directory, warnings = RunDir(folder / "one"), []
    directory.logs.mkdir(parents=True, exist_ok=True)
    report = directory.report
    report.write_text("<p>report</p>")
    run = RunConfig(name="one", project="tests", **keys)
    with open_loggers(run, {"ppo.steps": 2, "actor.optim.lr": 1e-5}, directory, resumed, warnings.append) as loggers:
        for step in (3, 4) if resumed else (1, 2):
            loggers.log(step, {"reward/score_mean": step / 2, "kl/sequence_mean": 0.1})
            loggers.samples([sample(step, "<p>", "a"), sample(step, "q", "b")])
        loggers.artifact(report)
    return warnings


def test_without_a_service_nothing_is_written(tmp_path: Path) -> None:
    assert _use(tmp_path) == []
    assert not list((tmp_path / "one" / "logs").iterdir())


def test_wandb_offline_keeps_the_run_in_its_directory(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    assert _use(tmp_path, wandb="offline") == []
    (written,) = (tmp_path / "one" / "wandb").glob("offline-run-*/run-*.wandb")
    words = (b"reward/score_mean", b"actor.optim.lr", b"samples", b"report")
    until = time.monotonic() + 10  # wandb's own process may still be writing when its client has finished
    while missing := [word for word in words if word not in written.read_bytes()]:
        assert time.monotonic() < until, missing
        time.sleep(0.02)
    (_first, table) = sorted((tmp_path / "one" / "wandb").glob("offline-run-*/files/media/table/*.json"))
    assert json.loads(table.read_text())["data"][0][1] == "<p>"


@pytest.mark.slow  # making the database takes 10 seconds
def test_mlflow_keeps_the_run_in_a_database_and_a_resumed_run_goes_on_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert _use(tmp_path, mlflow=uri) == [] and _use(tmp_path, resumed=True, mlflow=uri) == []
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.run_name == "one" and run.info.status == "FINISHED"
    assert run.data.params == {"ppo.steps": "2", "actor.optim.lr": "1e-05"}
    history = client.get_metric_history(run.info.run_id, "reward/score_mean")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"report.html", "samples.json"}


def test_trackio_keeps_the_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    assert _use(tmp_path, trackio="local") == []
    (name,) = trackio.SQLiteStorage.get_runs("tests")
    steps = [row for row in trackio.SQLiteStorage.get_logs("tests", name) if "reward/score_mean" in row]
    assert name.startswith("one-") and [row["reward/score_mean"] for row in steps] == [0.5, 1.0]


@pytest.mark.parametrize("key", [{"wandb": "offline"}, {"mlflow": "sqlite:///x.db"}, {"trackio": "local"}])
def test_a_library_that_is_missing_is_named_before_the_run_starts(
    key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    none: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", none)
    (name,) = key
    with pytest.raises(UserError, match=rf"run.{name}=.*{name}.* cannot be imported: install the extra loggers"):
        _check_loggers(RunConfig(name="one", **key))
    _check_loggers(RunConfig(name="one"))


def test_a_tracking_servers_password_is_not_stored() -> None:
    assert shown("run.mlflow", "https://me:secret@host/path") == "https://***@host/path"
    assert shown("run.mlflow", "sqlite:///mlflow.db") == "sqlite:///mlflow.db"
