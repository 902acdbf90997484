"""Calls: what mypy says of them, what is sent, and what becomes of several that were started."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from mypy import api

from rlhf_dist.cluster.calls import Call, StartedCall, wait_for_calls
from rlhf_dist.cluster.group import Construction
from rlhf_dist.cluster.roles import Actor
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.cluster.worker import Worker
from rlhf_dist.errors import RunError

PACKAGE = Path(__file__).resolve().parents[2]
ROLES = PACKAGE / "rlhf_dist/cluster/roles.py"


class Group:
    """Two workers that note what they are asked."""

    role, size, worker_names, logs = "actor", 2, ["actor-0", "actor-1"], ["0.log", "1.log"]

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.unanswered = 0
        self.answers: list[tuple[str, str, float]] = []
        self.batches = SimpleNamespace(put=lambda arg: arg)
        ask = SimpleNamespace(remote=lambda *args: (self.sent.append(args), object())[1])
        self.workers = [SimpleNamespace(call=ask)] * 2

    def waiting(self, calls: int) -> None:
        self.unanswered += calls

    def answered(self, worker: str, method: str, started_at: float) -> None:
        self.answers.append((worker, method, started_at))

    def log_of(self) -> dict[str, str]:
        return dict(zip(self.worker_names, self.logs, strict=True))


@pytest.fixture
def group() -> Any:
    return Group()


def test_a_call_names_the_engines_method_and_is_sent_when_it_is_started(group: Any) -> None:
    call = Actor(group).save_checkpoint(Path("here"))
    assert group.sent == []
    call.start()
    assert group.sent == [("save_checkpoint", Path("here"))] * 2 and group.unanswered == 2


@pytest.mark.slow
def test_mypy_sees_an_argument_or_a_result_that_is_not_the_engines(tmp_path: Path) -> None:
    text, lines = ROLES.read_text(), []
    for right, wrong in [
        ("ActorEngine.train, batch, minibatches", "ActorEngine.train, minibatches, batch"),
        ("ActorEngine.fit, batch, pretrain", "ActorEngine.fit, batch"),
        ("ActorEngine.token_losses", "ActorEngine.logprobs"),
        ("CriticEngine.train, batch, minibatches, clip", "ActorEngine.dpo_step, batch, 0.1, 0.1"),
        ("TrainedRewardEngine.shift", "TrainedRewardEngine.move"),
    ]:
        assert text.count(right) == 1
        lines.append(text[: text.index(right)].count("\n") + 1)
        text = text.replace(right, wrong)
    (tmp_path / "roles.py").write_text(text)
    shadow = ["--shadow-file", str(ROLES), str(tmp_path / "roles.py")]
    said, *_ = api.run([f"--config-file={PACKAGE / 'pyproject.toml'}", f"--cache-dir={tmp_path}", *shadow, str(ROLES)])
    found = {int(line.split(":")[1]) for line in said.splitlines() if "cluster/roles.py" in line and ": error:" in line}
    assert found == set(lines), said


def test_the_first_failure_of_several_started_calls_ends_the_waiting(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [StartedCall(Call(group, method, [(), ()], list), [f"{method} 0", f"{method} 1"]) for method in "ab"]
    monkeypatch.setattr(ray, "wait", lambda pending, num_returns, timeout: ([pending[-1]], pending[:-1]))

    def get(ref: str, timeout: float) -> str:
        if ref == "b 0":
            raise RunError("worker actor-0 failed in b")
        return ref

    monkeypatch.setattr(ray, "get", get)
    group.waiting(4)
    with pytest.raises(RunError, match="worker actor-0 failed in b"):
        wait_for_calls(started, 1.0)
    assert group.unanswered == 3, "one had answered, the others are still at work"
    assert started[0].wait(1.0) == ["a 0", "a 1"]
    asked = [
        ("actor-1", "b", started[1].started_at),
        *(("actor-" + str(n), "a", started[0].started_at) for n in (1, 0)),
    ]
    assert group.answers == asked, "the trace does not say who was asked what, and when"


def test_a_call_that_is_late_names_its_workers_and_one_taken_back_is_not_counted(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Call(group, "train", [(), ()], list).start()
    monkeypatch.setattr(ray, "wait", lambda pending, num_returns, timeout: ([], pending))
    with pytest.raises(RunError, match="train: no answer from actor-0, actor-1 within 2 s"):
        started.wait(2.0)
    cancelled: list[Any] = []
    monkeypatch.setattr(ray, "cancel", cancelled.append)
    started.cancel()
    assert cancelled == started.refs and group.unanswered == 0


def test_results_of_calls_together_are_there_after_the_block_only(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = SimpleNamespace(sharing=[["actor"]], waves=lambda roles: [[0], [1]])
    made: list[list[str]] = []

    def run_calls(calls: list[Call[str]], timeout_s: float) -> list[str]:
        made.append([call.method for call in calls])
        return [f"{call.method} done" for call in calls]

    monkeypatch.setattr("rlhf_dist.cluster.scheduler.run_calls", run_calls)
    with Scheduler(waves).together(1.0) as together:  # type: ignore[arg-type]
        train, save = (together.add(Call(group, method, [], list)) for method in ("train", "save"))
        with pytest.raises(RuntimeError, match="after the block"):
            _ = train.value
    assert (train.value, save.value) == ("train done", "save done") and made == [["train"], ["save"]]


def test_an_error_in_what_workers_are_asked_before_their_engines_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_all(names: dict[Any, str], what: str, *_: Any) -> None:
        raise RunError(f"{what}: {list(names.values())}")

    monkeypatch.setattr("rlhf_dist.cluster.scheduler.wait_for_all", wait_for_all)
    asked: Any = SimpleNamespace(role="actor", prepared={"set_environment": "actor-0"}, log_of=dict)
    placement: Any = SimpleNamespace(sharing=[["actor"]], building_waves=lambda roles: [[0]])
    with pytest.raises(RunError, match=r"starting: .'actor-0'."):
        Scheduler(placement).build([Construction(asked, dict, lambda _: (), collective=False)], 1.0)


@pytest.mark.parametrize("waves", [[[0, 1]], [[0], [1]]], ids=["side by side", "one after another"])
def test_who_waits_for_a_turn_to_load_imports_meanwhile(
    waves: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def group(role: str) -> Any:
        return SimpleNamespace(
            role=role,
            worker_names=[f"{role}-0"],
            prepared={},
            log_of=dict,
            import_ahead=lambda libraries: done.append(f"{role} imports {', '.join(libraries)}"),
            host_rendezvous=lambda: role,
            build=lambda *_: done.append(f"{role} is built") or [role],
        )

    monkeypatch.setattr("rlhf_dist.cluster.scheduler.wait_for_all", lambda names, *_: dict.fromkeys(names))
    placement: Any = SimpleNamespace(sharing=[["actor", "critic"]], building_waves=lambda roles: waves)
    scheduler = Scheduler(placement)
    monkeypatch.setattr(scheduler, "residents", SimpleNamespace(vacate=lambda *_: None, admit=lambda *_: None))
    making = [Construction(group(role), dict, lambda _: (), False, ["torch"]) for role in ("actor", "critic")]
    scheduler.build(making, 1.0)
    imports = ["actor imports torch", "critic imports torch"] if len(waves) > 1 else []
    assert done == [*imports, "actor is built", "critic is built"]


def test_a_library_that_is_missing_is_left_to_who_needs_it() -> None:
    worker = object.__new__(Worker)
    Worker.import_ahead(worker, ["no_such_library", "json.tool"])
    assert "json.tool" in sys.modules
