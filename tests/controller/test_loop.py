"""The loop around the steps: what is saved when, what a failure leaves, and that a robbed run writes nothing.

The roles here only write a number; the same loop around real workers is in tests/pipeline.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_dist.config.load import load_config
from rlhf_dist.config.schema import SFTConfig
from rlhf_dist.controller.identity import Identity
from rlhf_dist.controller.lock import LockLost
from rlhf_dist.controller.loop import run_training
from rlhf_dist.controller.metrics import MetricsWriter
from rlhf_dist.controller.rundir import RunDir, read_jsonl
from rlhf_dist.controller.start import claim_run
from rlhf_dist.controller.trace import Timer
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.errors import MemoryRanOut, RunError, StoppedByUser, UserError


class Counter:
    """A role whose weights are a number."""

    def __init__(self) -> None:
        self.value = 0

    def save_checkpoint(self, folder: Path) -> Callable[[], None]:
        def write() -> None:
            folder.mkdir(parents=True)
            (folder / "value").write_text(str(self.value))

        return write

    def load_checkpoint(self, folder: Path) -> Callable[[], None]:
        return lambda: setattr(self, "value", int((folder / "value").read_text()))

    def save_model(self, folder: Path, tokenizer_path: str) -> Callable[[], None]:
        def write() -> None:
            folder.mkdir(exist_ok=True)
            (folder / "value").write_text(str(self.value))

        return write


class Counting(Trainer):
    """Adds one a step; ``at`` is called with what happens and the step, and may raise."""

    def __init__(self, steps: int, at: Callable[[str, int], None], measure: Callable[[], float] | None) -> None:
        self.total_steps, self.at, self.measure, self.role = steps, at, measure, Counter()
        self.trained: Any = {"actor": self.role}
        self.result: Any = self.role
        self.tokenizer_path = ""

    def step(self, number: int) -> dict[str, float]:
        self.at("step", number)
        self.role.value += 1
        return {"value": float(self.role.value), "tokens": 10.0}

    def evaluate(self, number: int) -> dict[str, float | None]:
        self.at("evaluate", number)
        return {"value": self.measure() if self.measure is not None else float(self.role.value)}

    def complete(self) -> bool:
        self.at("complete", self.role.value)
        self.role.value += 100
        return True


@dataclass
class Stage:
    """A run's place, and what happened there.

    Attributes:
        run: the place.
        events: what the job was asked for, and what the loop told the user.
        hook: called with each event of the job; may raise.
        stop: whether the user wants to stop.
        failing: which of the roles' calls fails; None for none.
        failure: how it fails.
        evaluates: gives what each evaluation finds; None for the role's number.
        now: what the clock shows, seconds.
    """

    run: RunDir
    events: list[str] = field(default_factory=list)
    hook: Callable[[str, int], None] = lambda what, number: None
    stop: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(wanted=False))
    failing: str | None = None
    failure: RunError = field(
        default_factory=lambda: RunError("worker actor-0 failed: OSError: no space left on device")
    )
    evaluates: Callable[[], float] | None = None
    now: float = 0.0

    def go(self, *settings: str, steps: int = 4) -> dict[str, Any]:
        """One process's run, with ``settings``."""
        self.events.clear()
        words = [f"run.name={self.run.name}", f"run.dir={self.run.root.parent}", "run.tensorboard=false", *settings]
        config = load_config(SFTConfig, ["--config", "/dev/null", *words], Path("/dev/null"))
        with claim_run(config.run, config) as start:
            assert not start.is_over(steps)
            start.open()
            view = SimpleNamespace(note=self.events.append, start_clock=lambda: None, update=lambda *_: None)
            gauges = SimpleNamespace(write=lambda *_: None)
            scheduler = SimpleNamespace(run=self._run_call)
            context = RunContext(  # type: ignore[arg-type]
                config.run,
                config.cluster,
                start,
                view,
                Timer(),
                self.stop,
                gauges,
                scheduler,
                Identity({}, {}),
                listen_address=None,
                forks=None,
            )
            return run_training(Counting(steps, self._at, self.evaluates), context, lambda: self.now)

    def _run_call(self, call: Callable[[], Any], timeout_s: float) -> Any:
        if self.failing is not None and self.failing in call.__qualname__:
            raise self.failure
        return call()

    def _at(self, what: str, number: int) -> None:
        self.events.append(f"{what} {number}")
        self.hook(what, number)

    def saved(self) -> list[tuple[int, int]]:
        """Step and weights of the whole checkpoints."""
        whole = RunDir(self.run.root).checkpoints.whole()
        return [(checkpoint.step, int((checkpoint.path / "actor/value").read_text())) for checkpoint in whole]

    def model(self) -> int:
        return int((self.run.model / "value").read_text())

    def steps(self) -> list[int]:
        return [row["step"] for row in read_jsonl(self.run.metrics)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(RunDir(tmp_path / "one"))


def failing(what: str, number: int, error: BaseException) -> Callable[[str, int], None]:
    def hook(event: str, at: int) -> None:
        if (event, at) == (what, number):
            raise error

    return hook


def stopping(stage: Stage, number: int) -> Callable[[str, int], None]:
    """A hook by which the user wants to stop during a step."""

    def hook(event: str, at: int) -> None:
        stage.stop.wanted |= (event, at) == ("step", number)

    return hook


def test_a_run_saves_what_it_learned_before_it_evaluates(stage: Stage) -> None:
    def hook(what: str, number: int) -> None:
        if (what, number) == ("complete", 4):
            assert stage.saved() == [(4, 4)]  # nothing can take the steps away any more
        if (what, number) == ("evaluate", 4):
            assert stage.saved() == [(4, 104)] and stage.model() == 104
            assert not stage.run.summary.exists()

    stage.hook = hook
    summary = stage.go()
    assert stage.events == ["evaluate 0", *[f"step {n}" for n in (1, 2, 3, 4)], "complete 4", "evaluate 4"]
    assert summary["before"] == {"value": 0} and summary["after"] == {"value": 104} and summary["tokens"] == 40
    assert json.loads(stage.run.summary.read_text()) == summary


@pytest.mark.parametrize(
    "error", [MemoryRanOut("the memory ran out", "", {}, 1), UserError("the judge is wrong"), ValueError("a bug")]
)
def test_a_failed_evaluation_costs_the_summary_alone_and_is_made_up_for(stage: Stage, error: Exception) -> None:
    stage.hook = failing("evaluate", 4, error)
    with pytest.raises(RunError if isinstance(error, UserError) else type(error), match=f"^{error}$"):
        stage.go()
    assert stage.events[-1] == "the model and a checkpoint are saved; run.resume=true repeats the evaluation"
    assert stage.saved() == [(4, 104)] and stage.model() == 104 and stage.steps() == [1, 2, 3, 4]
    assert not stage.run.summary.exists()
    stage.hook = lambda what, number: None
    summary = stage.go("run.resume=true")
    assert [event for event in stage.events if not event.startswith("resuming")] == ["evaluate 4"]
    assert summary["before"] == {"value": 0} and summary["after"] == {"value": 104} and summary["tokens"] == 40
    assert stage.steps() == [1, 2, 3, 4]


def test_an_evaluation_on_the_way_does_not_come_before_the_end_is_saved(stage: Stage) -> None:
    stage.go("run.eval_every=2")
    assert [event for event in stage.events if event.startswith("evaluate")] == [f"evaluate {n}" for n in (0, 2, 4)]
    assert stage.events.index("complete 4") < stage.events.index("evaluate 4")
    assert ["eval/value" in row for row in read_jsonl(stage.run.metrics)] == [False, True, False, False]


def test_a_failure_on_the_way_to_the_model_leaves_the_steps(stage: Stage) -> None:
    stage.hook = failing("complete", 4, RunError("a worker died"))
    with pytest.raises(RunError, match="a worker died"):
        stage.go()
    assert stage.saved() == [(4, 4)]
    stage.hook = lambda what, number: None
    stage.go("run.resume=auto")
    assert [event for event in stage.events if not event.startswith("resuming")] == ["complete 4", "evaluate 4"]
    assert stage.model() == 104


def test_a_finished_run_that_shall_have_more_steps_goes_on(stage: Stage) -> None:
    stage.go(steps=2)
    before = json.loads((stage.run.checkpoints.path(2) / "state.json").read_text())["wall_s"]
    summary = stage.go("run.resume=true", steps=4)
    assert stage.steps() == [1, 2, 3, 4] and summary["tokens"] == 40 and summary["wall_s"] > before
    assert stage.saved()[-1] == (4, 204) and stage.model() == 204


def test_nothing_changes_before_the_checkpoint_is_loaded(stage: Stage) -> None:
    stage.go(steps=2)
    stage.run.metrics.write_text(stage.run.metrics.read_text() + '{"step": 3}\n{"st')
    there = {path: path.read_bytes() for path in stage.run.root.rglob("*") if path.is_file()}
    stage.failing = "load_checkpoint"
    with pytest.raises(RunError):
        stage.go("run.resume=true", "sft.batch_size=3", steps=4)
    assert {path: path.read_bytes() for path in stage.run.root.rglob("*") if path.is_file()} == there
    stage.failing = None
    stage.hook = failing("step", 3, RunError("later"))
    with pytest.raises(RunError, match="later"):
        stage.go("run.resume=true", "sft.batch_size=3", steps=4)
    assert stage.steps() == [1, 2] and not stage.run.summary.exists()
    assert "batch_size: 3" in stage.run.config.read_text()


def test_save_every_0_saves_at_the_end_and_when_stopped_and_else_never(stage: Stage) -> None:
    stage.hook = stopping(stage, 3)
    with pytest.raises(StoppedByUser, match=r"stopped after step 3; resume with run\.resume=true"):
        stage.go()
    assert stage.saved() == [(3, 3)]
    with pytest.raises(StoppedByUser, match="after step 3"):  # still wanted, before it did anything
        stage.go("run.resume=true")
    assert stage.saved() == [(3, 3)] and stage.steps() == [1, 2, 3]


def test_a_stop_in_the_last_step_leaves_the_evaluation_for_later(stage: Stage) -> None:
    stage.hook = stopping(stage, 4)
    with pytest.raises(StoppedByUser, match=r"stopped after the last step: everything is saved; run\.resume=true"):
        stage.go()
    assert stage.saved() == [(4, 104)] and stage.model() == 104 and not stage.run.summary.exists()


def test_save_every_n_saves_every_nth_step_and_keeps_so_many(stage: Stage) -> None:
    stage.go("run.save_every=2", "run.keep_checkpoints=3", steps=5)
    assert stage.saved() == [(2, 2), (4, 4), (5, 105)]


def test_a_save_that_fails_on_the_way_warns_and_the_run_goes_on_with_the_older_ones(stage: Stage) -> None:
    def hook(what: str, number: int) -> None:
        if number == 5:
            assert not list(stage.run.checkpoints.folder.glob("*.tmp"))  # what was half written takes no room
        stage.failing = "save_checkpoint" if (what, number) == ("step", 4) else None

    stage.hook = hook
    stage.go("run.save_every=2", steps=5)
    (warning,) = [event for event in stage.events if event.startswith("warning")]
    assert warning.startswith("warning: the checkpoint of step 4 was not written: worker actor-0 failed: OSError")
    assert warning.endswith(f"(the newest one is {stage.run.checkpoints.path(2)})")
    assert stage.saved() == [(2, 2), (5, 105)]


def test_a_worker_that_the_system_killed_in_a_save_ends_the_run_with_the_cause(stage: Stage) -> None:
    stage.failing, stage.failure = "save_checkpoint", MemoryRanOut("the memory ran out", "", {}, 1)
    with pytest.raises(MemoryRanOut):
        stage.go("run.save_every=2")
    assert stage.steps() == [1, 2]


def test_a_disk_that_takes_no_checkpoint_on_the_way_is_only_warned_of(stage: Stage) -> None:
    stage.run.root.mkdir()
    stage.hook = lambda what, number: stage.run.checkpoints.folder.touch() if what == "evaluate" else None
    with pytest.raises(RunError, match="the model is saved, but no checkpoint of the last step"):
        stage.go("run.save_every=2")
    assert any("the checkpoint of step 2 was not written" in event for event in stage.events)
    assert stage.model() == 104 and stage.steps() == [1, 2, 3, 4] and not stage.run.summary.exists()


def test_a_stop_whose_checkpoint_fails_is_a_failure(stage: Stage) -> None:
    stop = stopping(stage, 2)

    def hook(what: str, number: int) -> None:
        stop(what, number)
        stage.run.checkpoints.folder.touch()

    stage.hook = hook
    with pytest.raises(RunError, match=r"checkpoints/step-2 cannot be written: .*Not a directory"):
        stage.go()


def test_metrics_that_cannot_be_written_end_the_run_with_the_file_named(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsWriter, "write", full)
    with pytest.raises(RunError, match=r"^.*metrics\.jsonl cannot be written: No space left on device$"):
        stage.go()


def test_a_model_that_cannot_be_saved_ends_the_run_with_the_checkpoint_there(stage: Stage) -> None:
    stage.failing = "save_model"
    with pytest.raises(RunError, match="no space left"):
        stage.go()
    assert stage.saved() == [(4, 104)] and not stage.run.summary.exists()
    stage.failing = None
    stage.go("run.resume=true")
    assert stage.model() == 104


def test_workers_whose_files_do_not_come_to_this_disk_have_saved_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counter, "save_checkpoint", lambda self, folder: lambda: None)
    with pytest.raises(RunError, match=r"run\.dir must be on a disk that all nodes share"):
        stage.go()


@pytest.fixture
def robbed(stage: Stage) -> Iterator[Stage]:
    """A stage whose run is taken over by another one during its third step."""

    def hook(what: str, number: int) -> None:
        if (what, number) == ("step", 3):
            (stage.run.root / "lock-1").rename(stage.run.root / "lock-2")
            text = (stage.run.root / "lock-2").read_text()
            me = json.loads(text.partition("\n")[2])
            (stage.run.root / "lock-2").write_text(f"0\n{json.dumps(me | {'token': 'another', 'host': 'faraway'})}")

    stage.hook = hook
    yield stage
    shutil.rmtree(stage.run.root)


def test_a_run_that_was_taken_over_stops_and_writes_nothing_more(robbed: Stage) -> None:
    with pytest.raises(LockLost, match=r"was taken over by process .* on faraway"):
        robbed.go("run.save_every=1")
    assert robbed.steps() == [1, 2]
    assert [step for step, _ in robbed.saved()] == [1, 2]
    assert (robbed.run.root / "lock-2").exists()


# --- when checkpoints are written on the way, and which of them stay ---


def test_a_checkpoint_is_written_after_so_many_minutes(stage: Stage) -> None:
    def hook(what: str, number: int) -> None:
        stage.now += 11 * 60 if what == "step" else 0

    stage.hook = hook
    stage.go("run.keep_checkpoints=9", steps=8)
    assert [step for step, _ in stage.saved()] == [3, 6, 8]  # of its own accord every 30 minutes, and at the end
    stage.go("run.overwrite=true", "run.save_every_minutes=12", "run.keep_checkpoints=9")
    assert [step for step, _ in stage.saved()] == [2, 4]


def test_every_checkpoint_says_what_it_was_made_with(stage: Stage) -> None:
    stage.go("run.save_every=2")
    for checkpoint in stage.run.checkpoints.whole():
        assert json.loads((checkpoint.path / "identity.json").read_text()) == {"values": {}, "content": {}}
        made_by = json.loads((checkpoint.path / "manifest.json").read_text())["made_by"]
        assert made_by["versions"]["torch"] == importlib.metadata.version("torch")


BEST = ("run.save_every=1", "run.keep_checkpoints=1")


def measured(stage: Stage, *values: float) -> None:
    """Lets the evaluations find ``values``, one after another."""
    found = iter(values)
    stage.evaluates = lambda: next(found)


def test_the_best_checkpoint_outlives_the_newer_ones_and_a_resume_knows_it(stage: Stage) -> None:
    down = (*BEST, "run.keep_best=-eval/value", "run.eval_every=1")
    stage.hook = failing("step", 4, RunError("the machine went down"))
    measured(stage, 9.0, 5.0, 2.0, 3.0)  # before the first step, and after each
    with pytest.raises(RunError):
        stage.go(*down, steps=6)
    assert [step for step, _ in stage.saved()] == [2, 3]
    assert "the best checkpoint so far is that of step 2: eval/value 2" in stage.events
    stage.hook = lambda what, number: None
    measured(stage, 4.0, 2.5, 7.0)  # after steps 4 and 5, and at the end
    stage.go(*down, "run.resume=true", steps=6)
    assert [step for step, _ in stage.saved()] == [2, 6]


def test_an_evaluation_that_is_the_best_yet_is_saved_without_an_interval(stage: Stage) -> None:
    measured(stage, 0.0, 0.2, 0.5, 0.4, 0.3)
    stage.go("run.keep_best=eval/value", "run.eval_every=2", "run.keep_checkpoints=1", steps=8)
    assert [step for step, _ in stage.saved()] == [4, 8]


def test_a_figure_of_every_step_keeps_the_best_of_those_that_were_due(stage: Stage) -> None:
    stage.go(*BEST, "run.keep_best=-value")  # it grows with every step
    assert [step for step, _ in stage.saved()] == [1, 4]


@pytest.mark.parametrize(
    ("keep_best", "hint", "steps"), [("vlaue", "value", 1), ("-eval/vlaue", "-?eval/value", 0)], ids=["step", "eval"]
)
def test_a_figure_that_there_is_not_ends_the_run_at_its_beginning(
    stage: Stage, keep_best: str, hint: str, steps: int
) -> None:
    with pytest.raises(UserError, match=rf"run\.keep_best={keep_best}: .*did you mean {hint}"):
        stage.go(f"run.keep_best={keep_best}", "run.eval_every=1")
    assert stage.steps() == list(range(1, steps + 1))
