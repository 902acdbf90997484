"""Checkpoints: what counts as whole, what is passed over, and that a kill at any moment leaves a whole one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_dist.controller.checkpoints import MANIFEST, Checkpoint, Checkpoints
from tests.kills import killed_at_every_change

MADE_BY = {"rlhf_dist": "0", "job": "sft"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def write(checkpoints: Checkpoints, step: int, text: str = "") -> Path:
    folder = checkpoints.begin(step)
    (folder / "actor").mkdir()
    for name in ("actor/weights", "actor/moments", "state.json"):
        (folder / name).write_text(f"{name} {step} {text}")
    return checkpoints.commit(step, MADE_BY)


def seen(checkpoints: Checkpoints) -> Checkpoints:
    """The same folder as another process finds it."""
    return Checkpoints(checkpoints.folder)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_a_manifest_names_every_file_and_what_made_it(checkpoints: Checkpoints) -> None:
    manifest = json.loads((write(checkpoints, 3) / MANIFEST).read_text())
    assert manifest["format"] == 1 and manifest["made_by"].keys() == {"rlhf_dist", "job", "step", "written"}
    assert manifest["made_by"]["step"] == 3
    assert [entry["path"] for entry in manifest["files"]] == ["actor/moments", "actor/weights", "state.json"]


def test_they_are_ordered_by_number_not_by_name(checkpoints: Checkpoints) -> None:
    for step in (100, 9, 20):
        write(checkpoints, step)
    assert [checkpoint.step for checkpoint in seen(checkpoints).whole()] == [9, 20, 100]
    assert seen(checkpoints).newest() == Checkpoint(100, checkpoints.path(100))


def test_one_that_is_being_written_never_counts(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    write(checkpoints, 1)
    shutil.copytree(checkpoints.path(1), checkpoints.folder / "step-5.tmp")
    newest = seen(checkpoints).newest()
    assert newest is not None and newest.step == 1 and seen(checkpoints).damaged() == {}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda at: (at / "actor/weights").unlink(), "actor/weights is missing"),
        (lambda at: (at / "actor/weights").write_text("short"), "actor/weights has 5 bytes instead of 16"),
        (lambda at: flip(at / "actor/weights"), "actor/weights does not have the content that was written"),
        (
            lambda at: (at / MANIFEST).unlink(),
            "it has no manifest.json: written by an earlier version, or not to its end",
        ),
        (lambda at: (at / MANIFEST).write_text('{"format": 1, "made'), "its manifest.json cannot be read"),
        (lambda at: (at / MANIFEST).write_text('{"format": 7, "files": []}'), "its format is 7, this version reads 1"),
        (lambda at: (at / MANIFEST).write_text("[]"), "its manifest.json cannot be read"),
    ],
    ids=["missing", "short", "flipped", "no manifest", "torn manifest", "other format", "no mapping"],
)
def test_a_damaged_one_is_named_and_passed_over(
    checkpoints: Checkpoints, spoil: Callable[[Path], object], said: str
) -> None:
    for step in (4, 7):
        write(checkpoints, step)
    spoil(checkpoints.path(7))
    found = seen(checkpoints)
    assert found.newest() == Checkpoint(4, checkpoints.path(4))
    assert found.damaged() == {checkpoints.path(7): said}
    # It takes no whole one's place when the old ones go, and goes itself once the run has passed it.
    found.prune(1)
    assert names(found) == ["step-4", "step-7"]
    write(found, 8)
    found.prune(1)
    assert names(found) == ["step-8"]


def test_pruning_keeps_the_newest_whole_ones_and_those_asked_for(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3, 4):
        write(checkpoints, step)
    checkpoints.begin(5)
    checkpoints.prune(2, also=[1])
    assert names(checkpoints) == ["step-1", "step-3", "step-4"]
    checkpoints.prune(0)
    assert names(checkpoints) == ["step-4"]


def test_one_written_again_replaces_the_first(checkpoints: Checkpoints) -> None:
    write(checkpoints, 5, "old")
    assert (write(checkpoints, 5, "new") / "state.json").read_text() == "state.json 5 new"
    assert names(checkpoints) == ["step-5"] and seen(checkpoints).newest() is not None


def test_one_that_failed_takes_no_room(checkpoints: Checkpoints) -> None:
    write(checkpoints, 1)
    (checkpoints.begin(2) / "half").write_text("x")
    checkpoints.discard(2)
    assert names(checkpoints) == ["step-1"]


def test_wherever_a_process_is_killed_the_newest_one_is_whole_and_the_rest_goes(checkpoints: Checkpoints) -> None:
    """Writes the next one, replaces it, and prunes, ended before each single change of the file system."""
    steps: set[int] = set()

    def prepare() -> None:
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        fresh = seen(checkpoints)
        for step in (1, 2):
            write(fresh, step)

    def work() -> None:
        mine = seen(checkpoints)
        write(mine, 3, "first")
        mine.prune(2)
        write(mine, 3, "again")
        mine.prune(1)

    def check() -> None:
        newest = seen(checkpoints).newest()
        assert newest is not None and newest.step in (2, 3)
        for path in checkpoints.folder.iterdir():  # what has a checkpoint's plain name is one
            assert path.suffix or seen(checkpoints).damage(path) is None
        assert (newest.path / "state.json").read_text().startswith(f"state.json {newest.step}")
        steps.add(newest.step)
        later = seen(checkpoints)
        write(later, 4)
        later.prune(2)
        assert names(later) == sorted(["step-4", newest.path.name])

    assert killed_at_every_change(prepare, work, check) > 40
    assert steps == {2, 3}
