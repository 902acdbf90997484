"""How a run begins: what it refuses, what it goes on from, and that looking changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_dist.config.load import config_yaml, load_config
from rlhf_dist.config.schema import RewardModelConfig, SFTConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.controller.start import Start, claim_run
from rlhf_dist.durable import write_text_atomic
from rlhf_dist.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """The place of the run `one`, where nothing is yet."""
    return RunDir(tmp_path / "one")


def config(run: RunDir, *settings: str) -> SFTConfig:
    words = [f"run.name={run.name}", f"run.dir={run.root.parent}", *settings]
    return load_config(SFTConfig, ["--config", "/dev/null", *words], Path("/dev/null"))


def look(run: RunDir, *settings: str) -> Start:
    asked = config(run, *settings)
    with claim_run(asked.run, asked) as start:
        return start


def begin(run: RunDir, *settings: str) -> set[str]:
    """What is in the directory once a run has begun, its lock aside."""
    asked = config(run, *settings)
    with claim_run(asked.run, asked) as start:
        assert not start.is_over(4)
        start.open()
    return {entry.name for entry in run.root.iterdir()}


def refusal(run: RunDir, *settings: str, steps: int = 4) -> str:
    with pytest.raises(UserError) as error:
        look(run, *settings).is_over(steps)
    assert "\n" not in str(error.value)
    return str(error.value)


def ran(run: RunDir, *, steps: int, saved: tuple[int, ...] = (), ended: bool = False, other_job: bool = False) -> None:
    """Leaves what a run leaves that did ``steps`` and wrote checkpoints after those ``saved``."""
    mine = config(run)
    theirs = RewardModelConfig(run=mine.run)
    write_text_atomic(run.config, config_yaml(theirs if other_job else mine))
    run.logs.mkdir()
    run.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, steps + 1)))
    for step in saved:
        (run.checkpoints.begin(step) / "state.json").write_text("{}")
        run.checkpoints.commit(step, {})
    if ended:
        run.summary.write_text("{}")


def everything(run: RunDir) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.root.rglob("*") if path.is_file()}


def test_a_run_that_is_there_is_refused_with_the_ways_out(run: RunDir) -> None:
    ran(run, steps=1)
    there = everything(run)
    said = refusal(run)
    assert "run.resume=true resumes it, run.overwrite=true replaces it, another run.name" in said
    assert everything(run) == there


@pytest.mark.parametrize("setting", ["run.resume=false", "run.resume=auto", "run.overwrite=true"])
def test_a_start_that_died_before_its_first_step_is_in_nobodys_way(run: RunDir, setting: str) -> None:
    ran(run, steps=0)
    run.metrics.unlink()
    run.driver_log.write_text("no such model")
    assert begin(run, setting) == {"config.yaml", "logs"}
    assert not run.driver_log.exists() and run.config.exists()


@pytest.mark.parametrize("setting", ["run.resume=false", "run.resume=auto", "run.overwrite=true"])
def test_where_nothing_is_a_run_begins(run: RunDir, setting: str) -> None:
    assert look(run, setting).done == 0 and not run.root.exists()
    assert begin(run, setting) == {"config.yaml", "logs"}


def test_overwriting_begins_from_an_empty_directory(run: RunDir) -> None:
    ran(run, steps=2, saved=(2,), ended=True)
    assert begin(run, "run.overwrite=true") == {"config.yaml", "logs"}


@pytest.mark.parametrize("setting", ["run.resume=false", "run.resume=true", "run.resume=auto", "run.overwrite=true"])
def test_a_directory_that_is_no_run_is_left_alone(run: RunDir, setting: str) -> None:
    run.root.mkdir()
    (run.root / "chapter1.tex").write_text("dear")
    assert "is not a run" in refusal(run, setting) or setting == "run.resume=false"
    run.root.rename(run.root.with_name("thesis"))
    run.root.write_text("a file")
    assert "is not a directory" in refusal(run, setting)


def test_an_unwritable_place_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "choose another run.dir" in refusal(RunDir(tmp_path / "file" / "x"))


def test_a_living_run_is_not_overwritten(run: RunDir) -> None:
    ran(run, steps=2, saved=(2,))
    there = everything(run)
    asked = config(run, "run.resume=true")
    with claim_run(asked.run, asked):
        assert "belongs to a run that is still active" in refusal(run, "run.overwrite=true")
        assert "belongs to a run that is still active" in refusal(run, "run.resume=auto")
    assert everything(run) == there


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_a_run_goes_on_from_its_newest_whole_checkpoint_and_nothing_changes_before(run: RunDir, resume: str) -> None:
    ran(run, steps=3, saved=(1, 2, 3))
    (run.checkpoints.path(3) / "state.json").write_text("[]")
    (run.checkpoints.folder / "step-9.tmp").mkdir()
    there = everything(run)
    start = look(run, f"run.resume={resume}", "sft.batch_size=3")
    assert start.done == 2 and not start.is_over(4)
    assert start.notes == (f"{run.checkpoints.path(3)} is passed over: state.json does not have the content that was "
                           "written",)  # fmt: skip
    begin(run, f"run.resume={resume}", "sft.batch_size=3")
    assert everything(run) == there


def test_what_never_got_to_a_checkpoint_begins_again_if_that_is_left_to_it(run: RunDir) -> None:
    ran(run, steps=3)
    (run.checkpoints.folder / "step-3.tmp").mkdir(parents=True)
    said = refusal(run, "run.resume=true")
    assert said.endswith("one has no checkpoint to resume from; run.resume=auto would start a new run")
    assert begin(run, "run.resume=auto") == {"config.yaml", "logs"}


def test_checkpoints_that_are_all_damaged_are_not_thrown_away_unasked(run: RunDir) -> None:
    ran(run, steps=3, saved=(3,))
    (run.checkpoints.path(3) / "manifest.json").unlink()
    there = everything(run)
    for resume in ("true", "auto"):
        assert "is complete (step-3: it has no manifest.json" in refusal(run, f"run.resume={resume}")
    assert everything(run) == there


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_a_finished_run_has_nothing_to_do_and_with_more_steps_it_goes_on(run: RunDir, resume: str) -> None:
    ran(run, steps=4, saved=(4,), ended=True)
    start = look(run, f"run.resume={resume}")
    assert start.is_over(4) and start.is_over(3)
    assert not start.is_over(6) and start.done == 4


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_a_finished_run_without_checkpoints_is_never_begun_again(run: RunDir, resume: str) -> None:
    ran(run, steps=4, ended=True)
    assert look(run, f"run.resume={resume}").is_over(4)
    assert "ended at step 4 of 6, and has no complete checkpoint" in refusal(run, f"run.resume={resume}", steps=6)
    run.summary.unlink()
    run.model.mkdir()
    assert "holds a trained model" in refusal(run, f"run.resume={resume}")


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_a_run_whose_evaluation_failed_is_not_over(run: RunDir, resume: str) -> None:
    ran(run, steps=4, saved=(4,))
    start = look(run, f"run.resume={resume}")
    assert not start.is_over(4) and start.done == 4
    assert "is at step 4, but the run is configured for 3" in refusal(run, f"run.resume={resume}", steps=3)


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_another_jobs_run_is_left_alone(run: RunDir, resume: str) -> None:
    ran(run, steps=4, saved=(4,), other_job=True)
    assert "is a run of another job (reward, this one is sft)" in refusal(run, f"run.resume={resume}")
