"""Phase times and the trace: what counts into a step, a row for each worker, that the file is small and valid."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from rlhf_dist.controller.trace import Timer


def _events(path: Path) -> list[dict]:
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]


def test_a_step_reports_each_phase_and_its_whole() -> None:
    timer = Timer()
    timer.start_step(1)
    with timer("rollout"):
        time.sleep(0.02)
    with timer("train"):
        time.sleep(0.01)
    metrics = timer.step_metrics()
    assert set(metrics) == {"time/rollout_s", "time/train_s", "time/step_s"}
    assert metrics["time/rollout_s"] >= 0.02
    assert metrics["time/step_s"] >= metrics["time/rollout_s"] + metrics["time/train_s"]


def test_a_phase_that_runs_twice_counts_twice_and_steps_do_not_mix() -> None:
    timer = Timer()
    timer.start_step(1)
    for _ in range(2):
        with timer("train"):
            time.sleep(0.01)
    assert timer.step_metrics()["time/train_s"] >= 0.02
    timer.start_step(2)
    assert set(timer.step_metrics()) == {"time/step_s"}


def test_phases_outside_a_step_stand_in_the_trace_only(tmp_path: Path) -> None:
    timer = Timer(tmp_path / "trace.json")
    with timer("evaluate"):
        pass
    timer.start_step(1)
    assert set(timer.step_metrics()) == {"time/step_s"}
    timer.save()
    assert [event["name"] for event in _events(tmp_path / "trace.json")] == ["evaluate", "step 1"]


def test_the_plain_names_are_the_parts_a_step_divides_into() -> None:
    timer = Timer()
    timer.start_step(1)
    with timer("score"), timer("reference"):
        pass
    with timer("train"), timer("critic"):
        pass
    assert set(timer.step_metrics()) == {
        "time/score_s",
        "time/score/reference_s",
        "time/train_s",
        "time/train/critic_s",
        "time/step_s",
    }


def test_a_failing_phase_is_timed_and_closed() -> None:
    timer = Timer()
    timer.start_step(1)
    with pytest.raises(ValueError), timer("train"):
        raise ValueError
    with timer("sync"):
        pass
    assert set(timer.step_metrics()) == {"time/train_s", "time/sync_s", "time/step_s"}


def test_each_worker_has_a_row_of_what_it_was_asked_on_the_clock_of_the_phases(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    timer = Timer(path)
    timer.start_step(1)
    began = time.time()
    with timer("train"):
        time.sleep(0.02)
    timer.record("actor-0", "train", began - 1.0, 0.5)
    timer.record("actor-1", "train", began - 1.0, 0.75)
    assert set(timer.step_metrics()) == {"time/train_s", "time/step_s"}, "workers are no parts of the step's time"
    timer.save()
    trace = json.loads(path.read_text())
    names = {event["args"]["name"]: event["tid"] for event in trace["traceEvents"] if event["ph"] == "M"}
    rows = {event["cat"]: event for event in _events(path)}
    assert {row: rows[row]["tid"] for row in rows} == names and len(set(names.values())) == 4
    assert rows["actor-0"]["dur"] == 500_000 and rows["actor-1"]["dur"] == 750_000
    assert 990_000 < rows["step"]["ts"] - rows["actor-0"]["ts"] < 60_000_000


def test_phases_of_two_threads_do_not_stand_inside_one_another(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    timer, both = Timer(path), threading.Barrier(2)

    def work(phase: str) -> None:
        with timer(phase):
            both.wait(10)

    threads = [threading.Thread(target=work, args=(phase,)) for phase in ("train", "save")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timer.save()
    assert sorted(event["name"] for event in _events(path)) == ["save", "train"]


def test_a_long_run_keeps_its_newest_events_and_says_how_many_went(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    timer = Timer(path, max_events=10)
    for number in range(25):
        with timer(f"phase{number}"):
            pass
    timer.save()
    assert [event["name"] for event in _events(path)] == [f"phase{number}" for number in range(15, 25)]
    assert json.loads(path.read_text())["otherData"] == {"events_dropped": 15}


def test_phases_are_announced() -> None:
    seen: list[str] = []
    timer = Timer(on_phase=seen.append)
    with timer("score"), timer("wait"):
        pass
    assert seen == ["score", "score/wait"]


def test_a_step_that_was_not_started_is_a_programming_error() -> None:
    with pytest.raises(RuntimeError, match="start_step"):
        Timer().step_metrics()


def test_a_trace_that_cannot_be_written_is_said_once_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").touch()  # no folder: nothing can be written into it
    timer = Timer(tmp_path / "run" / "trace.json")
    for _ in range(2):
        with timer("train"):
            pass
        timer.save()
    assert capsys.readouterr().err.count("trace.json cannot be written") == 1


def test_a_run_that_did_nothing_leaves_an_earlier_trace_alone(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("earlier")
    Timer(tmp_path / "trace.json").save()
    assert (tmp_path / "trace.json").read_text() == "earlier"
