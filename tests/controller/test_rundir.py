"""The run directory: what counts as a start that did nothing, what a resumed run keeps, what a torn line does."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_dist.controller.rundir import RunDir, read_jsonl
from rlhf_dist.durable import write_json_atomic, write_text_atomic
from tests.kills import killed_at_every_change


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that has done one step."""
    made = RunDir(tmp_path / "one")
    made.logs.mkdir(parents=True)
    write_text_atomic(made.config, "a: 1\n")
    made.metrics.write_text('{"step": 1}\n')
    return made


def test_a_start_that_did_no_step_leaves_nothing_worth_keeping(run: RunDir) -> None:
    assert run.leftovers() == {"metrics.jsonl"}
    run.metrics.unlink()
    (run.root / "lock-3").touch()
    assert run.leftovers() == set() and RunDir(run.root / "never").leftovers() == set()


def test_clearing_keeps_the_lock_and_stays_recognisable_wherever_it_is_interrupted(run: RunDir) -> None:
    def prepare() -> None:
        (run.root / "model").mkdir(exist_ok=True)
        for name in ("config.yaml", "metrics.jsonl", "model/weights", "lock-1"):
            (run.root / name).touch()

    def check() -> None:
        there = {entry.name for entry in run.root.iterdir()}
        assert "lock-1" in there and (run.config.exists() or there == {"lock-1"})

    assert killed_at_every_change(prepare, run.clear, check) >= 4
    assert [entry.name for entry in run.root.iterdir()] == ["lock-1"]


def test_rewind_cuts_steps_after_the_checkpoint_and_a_half_written_line(run: RunDir) -> None:
    run.metrics.write_text('{"step": 1, "a": 1.5}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a')
    run.append_samples([{"step": 2, "prompt": "ä"}, {"step": 3, "prompt": "b"}])
    write_json_atomic(run.summary, {"wall_s": 1})
    run.rewind(2)
    assert run.metrics.read_text() == '{"step": 1, "a": 1.5}\n{"step": 2, "a": 2}\n'
    assert read_jsonl(run.samples) == [{"step": 2, "prompt": "ä"}]
    assert not run.summary.exists()


def test_a_torn_line_is_passed_over_wherever_it_stands(run: RunDir) -> None:
    run.metrics.write_text('{"step": 1}\n{"step": 2, "a{"step": 1}\n\0\0\0\n{"step": 3}\n{"st')
    assert read_jsonl(run.metrics) == [{"step": 1}, {"step": 3}]
    assert run.last_step() == 3
