"""Writing beside, syncing, renaming: what is there is whole, whenever the process ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlhf_dist.durable import ASIDE, remove_folder, replace_folder, write_json_atomic, write_text_atomic
from tests.kills import killed_at_every_change


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json_atomic(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "half \udc80")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_file_is_the_old_or_the_new_one_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def check() -> None:
        assert path.read_text() in ("old" * 1000, "new" * 1000)

    changes = killed_at_every_change(
        lambda: write_text_atomic(path, "old" * 1000), lambda: write_text_atomic(path, "new" * 1000), check
    )
    assert changes >= 2


def _make(folder: Path, text: str) -> None:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(text)


def _texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() if (folder / name).exists() else "" for name in ("a", "b")]


def test_a_folder_is_replaced_whole_wherever_that_is_interrupted(tmp_path: Path) -> None:
    here, new = tmp_path / "here", tmp_path / "new"

    def prepare() -> None:
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        _make(here, "old")
        _make(new, "new")

    def check() -> None:
        if here.exists():  # whatever stands under the name is whole
            assert _texts(here) in (["old", "old"], ["new", "new"])
        else:
            (aside,) = tmp_path.glob(f"here{ASIDE}*")
            assert _texts(aside) == ["old", "old"] and _texts(new) == ["new", "new"]

    assert killed_at_every_change(prepare, lambda: replace_folder(new, here), check) >= 5
    assert _texts(here) == ["new", "new"] and list(tmp_path.iterdir()) == [here]
    _make(tmp_path / f"here{ASIDE}0a1b2c3d", "left over")
    _make(new, "newer")
    replace_folder(new, here)
    assert _texts(here) == ["newer", "newer"] and list(tmp_path.iterdir()) == [here]


def test_a_folder_is_there_whole_or_not_at_all_wherever_its_removal_is_interrupted(tmp_path: Path) -> None:
    here = tmp_path / "here"

    def prepare() -> None:
        shutil.rmtree(here, ignore_errors=True)
        _make(here, "old")

    def check() -> None:
        assert not here.exists() or _texts(here) == ["old", "old"]

    assert killed_at_every_change(prepare, lambda: remove_folder(here), check) >= 4
    assert not here.exists()
