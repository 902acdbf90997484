"""The run directory: what it refuses, what it keeps, and that nothing in it is ever half there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_dist.controller.rundir import RunDir, read_jsonl
from rlhf_dist.durable import write_json_atomic, write_text_atomic
from rlhf_dist.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that has done one step."""
    made = RunDir.create(tmp_path, "one")
    write_text_atomic(made.config, "a: 1\n")
    made.metrics.write_text('{"step": 1}\n')
    return made


def test_a_run_that_exists_is_refused_with_both_ways_out_in_one_line(run: RunDir) -> None:
    with pytest.raises(UserError) as error:
        RunDir.create(run.root.parent, "one")
    text = str(error.value)
    assert "run.resume=true" in text and "run.overwrite=true" in text and "\n" not in text
    assert run.metrics.exists()


def test_resume_keeps_everything(run: RunDir) -> None:
    again = RunDir.create(run.root.parent, "one", resume=True)
    assert again.metrics.read_text() == '{"step": 1}\n'


def test_resume_of_a_run_that_never_was_starts_one(tmp_path: Path) -> None:
    assert RunDir.create(tmp_path, "new", resume=True).newest_checkpoint() is None


def test_overwrite_starts_from_an_empty_directory(run: RunDir) -> None:
    again = RunDir.create(run.root.parent, "one", overwrite=True)
    assert [path.name for path in again.root.iterdir()] == ["logs"]


def test_a_run_that_died_before_its_first_step_is_in_nobodys_way(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path, "early")
    write_text_atomic(first.config, "a: 1\n")
    first.driver_log.write_text("no such model")
    assert not RunDir.create(tmp_path, "early").config.exists()


def test_overwrite_never_removes_a_directory_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("dear")
    with pytest.raises(UserError, match="is not a run"):
        RunDir.create(tmp_path, "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "dear"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up"])
def test_a_name_that_is_no_directory_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"run\.name"):
        RunDir.create(tmp_path, name)


def test_resume_and_overwrite_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contradict"):
        RunDir.create(tmp_path, "x", resume=True, overwrite=True)


def test_an_unwritable_place_is_a_users_mistake_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir"):
        RunDir.create(tmp_path / "file", "x")


def test_an_interrupted_checkpoint_does_not_count(run: RunDir) -> None:
    run.begin_checkpoint(10)
    run.commit_checkpoint(10)
    (run.begin_checkpoint(20) / "half").write_text("")
    newest = run.newest_checkpoint()
    assert newest is not None
    assert (newest.step, newest.path) == (10, run.root / "checkpoints" / "step-10")


def test_checkpoints_are_ordered_by_number_not_by_name(run: RunDir) -> None:
    for step in (100, 9, 20):
        run.begin_checkpoint(step)
        run.commit_checkpoint(step)
    assert [checkpoint.step for checkpoint in run.complete_checkpoints()] == [9, 20, 100]


def test_pruning_keeps_the_newest_and_clears_interrupted_ones(run: RunDir) -> None:
    for step in (1, 2, 3):
        run.begin_checkpoint(step)
        run.commit_checkpoint(step)
    run.begin_checkpoint(4)
    run.prune_checkpoints(2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-2", "step-3"]
    run.prune_checkpoints(0)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-3"]


def test_a_checkpoint_written_again_replaces_the_first(run: RunDir) -> None:
    for text in ("old", "new"):
        (run.begin_checkpoint(5) / "state").write_text(text)
        run.commit_checkpoint(5)
    assert (run.checkpoints / "step-5" / "state").read_text() == "new"


def test_rewind_cuts_steps_after_the_checkpoint_and_a_half_written_line(run: RunDir) -> None:
    run.metrics.write_text('{"step": 1, "a": 1.5}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a')
    run.append_samples([{"step": 2, "prompt": "ä"}, {"step": 3, "prompt": "b"}])
    write_json_atomic(run.summary, {"wall_s": 1})
    run.rewind(2)
    assert run.metrics.read_text() == '{"step": 1, "a": 1.5}\n{"step": 2, "a": 2}\n'
    assert read_jsonl(run.samples) == [{"step": 2, "prompt": "ä"}]
    assert not run.summary.exists()
