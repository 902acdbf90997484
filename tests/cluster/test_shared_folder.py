"""What a node says of the run's folder and the models; that it is asked at all, tests/pipeline/test_nodes.py shows."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rlhf_dist.cluster.shared_folder import _checksum, problems_here

TOKEN = "8a1f"


def a_model(folder: Path, text: str = "{}") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(text)
    return folder


def test_a_node_that_sees_the_same_has_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text(TOKEN)
    model = a_model(tmp_path / "model")
    assert problems_here(tmp_path / "mark", TOKEN, {"actor.model.path": (model, _checksum(model))}, 0) == []


def test_a_folder_of_the_same_name_is_not_the_same_folder(tmp_path: Path) -> None:
    said = f"{tmp_path} is not the folder that the driver writes to: choose a run.dir on a disk that all nodes share"
    assert problems_here(tmp_path / "mark", TOKEN, {}, 0) == [said]
    (tmp_path / "mark").write_text("of another run")
    assert problems_here(tmp_path / "mark", TOKEN, {}, 0) == [said]


def test_a_file_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    timer = threading.Timer(0.3, (tmp_path / "mark").write_text, (TOKEN,))
    timer.start()
    started = time.monotonic()
    assert problems_here(tmp_path / "mark", TOKEN, {}, 60) == []
    assert time.monotonic() - started < 30
    timer.join()


def test_a_model_that_is_missing_or_another_one_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text(TOKEN)
    model, gone = a_model(tmp_path / "model"), tmp_path / "gone"
    models = {"actor.model.path": (model, "of another"), "reward.model.path": (gone, "any")}
    another, missing = problems_here(tmp_path / "mark", TOKEN, models, 0)
    assert another.startswith(f"{model} (actor.model.path) holds another model than on the driver's node: copy it")
    assert missing.startswith(f"there is no {gone} (reward.model.path): copy it there, or choose a path")
