"""Room on the disk: refused where the model alone cannot be saved, a line where the checkpoints may not be."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import CPU
from rlhf_dist.errors import UserError
from rlhf_dist.jobs.disk_space import check_room
from tests.tiny import write_model

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A model, and how many parameters it has."""
    from safetensors.torch import load_file

    folder = write_model(tmp_path_factory.mktemp("model"), tied=False)
    return folder, sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def config(model: Path, *settings: str) -> PPOConfig:
    words = ["run.name=r", "run.dir=place", f"actor.model.path={model}", f"critic.model.path={model}", *settings]
    return resolve_ppo(load_config(PPOConfig, ["--config", "/dev/null", *words], Path("/dev/null")))


@pytest.mark.parametrize(
    ("settings", "model_bytes", "checkpoint_bytes"),
    [
        ([], 4, 2 * 12),  # float32 on a CPU; actor and critic with two moments each
        (["actor.model.dtype=bfloat16"], 2, 2 * 12),
        (["actor.ema_decay=0.9"], 8, 2 * 12 + 4),
        (["actor.lora.rank=2"], 4, 12),
    ],
)
def test_room_is_counted_in_models_and_checkpoints(
    model: tuple[Path, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    model_bytes: int,
    checkpoint_bytes: int,
) -> None:
    folder, count = model
    asked = config(folder, "run.keep_checkpoints=3", *settings)

    def with_free(free: int) -> str:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
        check_room(folder, asked, CPU)
        return capsys.readouterr().err

    with pytest.raises(UserError, match=r"^run\.dir=place: .* free, but the model alone needs .* MiB: choose another"):
        with_free(count * model_bytes - 1)
    enough = count * (model_bytes + 4 * checkpoint_bytes)
    said = with_free(enough - 1)
    assert said.startswith("note: run.dir=place: ") and "and 4 checkpoints of" in said and said.count("\n") == 1
    assert with_free(enough) == ""


def test_a_model_that_is_not_here_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    check_room(tmp_path, config(Path("some/hub-name")), CPU)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    check_room(tmp_path, config(tmp_path), CPU)


def test_the_disk_is_asked_of_the_place_itself(model: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    check_room(model[0], config(model[0]), CPU)  # a few MiB are free here
    assert capsys.readouterr().err == ""
