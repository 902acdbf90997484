"""Fingerprints: equal for what is equal, wherever it lies, and another for what is not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_dist.data.fingerprint import function_fingerprint, model_fingerprint, rows_fingerprints
from rlhf_dist.data.functions import load_function
from rlhf_dist.data.pretraining import TextSampler
from rlhf_dist.data.prompts import PromptSet
from rlhf_dist.types import Demonstrations, Prompts
from tests.tiny import write_model


@dataclass(frozen=True)
class Data:
    train: object
    held_out: object
    tokenizer_path: str = "model"
    judge: object = None


def demonstrations(*tokens: int) -> Demonstrations:
    count = torch.tensor([1] * (len(tokens) // 2))
    return Demonstrations(torch.tensor(tokens), count, count)


def prompts(*tokens: int) -> PromptSet:
    count = torch.arange(len(tokens))
    rows = Prompts(torch.tensor(tokens), torch.ones(len(tokens), dtype=torch.int64), ids=count, rows=count)
    return PromptSet(rows, ("?",) * len(tokens), "prompts.jsonl")


def test_rows_are_named_counted_and_told_apart_by_their_tokens() -> None:
    found = rows_fingerprints(Data(demonstrations(1, 2, 3, 4), demonstrations(1, 2)))
    assert found.keys() == {"train", "held_out"}
    assert found["train"].startswith("2 rows (") and found["held_out"].startswith("1 rows (")
    assert rows_fingerprints(Data(demonstrations(1, 2, 3, 4), demonstrations(1, 2))) == found
    assert rows_fingerprints(Data(demonstrations(1, 2, 3, 5), demonstrations(1, 2)))["train"] != found["train"]


def test_the_same_tokens_cut_otherwise_are_other_rows() -> None:
    one = Demonstrations(torch.tensor([1, 2, 3]), torch.tensor([1]), torch.tensor([2]))
    other = Demonstrations(torch.tensor([1, 2, 3]), torch.tensor([2]), torch.tensor([1]))
    assert rows_fingerprints(Data(one, None)) != rows_fingerprints(Data(other, None))


@pytest.mark.parametrize(
    "make", [prompts, lambda *tokens: TextSampler(demonstrations(*tokens), 1, 1)], ids=["prompts", "text"]
)
def test_prompts_and_pretraining_text_have_fingerprints_too(make: object) -> None:
    one, same, other = (rows_fingerprints(Data(make(*tokens), None)) for tokens in ((1, 2), (1, 2), (1, 3)))  # type: ignore[operator]
    assert one == same != other


def test_a_model_keeps_its_fingerprint_where_it_is_copied_and_loses_it_where_it_learns(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    was = model_fingerprint(str(tmp_path / "model"))
    assert model_fingerprint(str(tmp_path / "copy")) == was
    file = tmp_path / "copy/model.safetensors"
    weights = load_file(file)
    save_file({name: weight * (1 + 1e-4) for name, weight in weights.items()}, file, {"format": "pt"})
    assert file.stat().st_size == (tmp_path / "model/model.safetensors").stat().st_size
    assert model_fingerprint(str(tmp_path / "copy")) != was


def test_of_large_weights_only_samples_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_dist.data.fingerprint._PIECE", 10)
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    content = bytearray(range(250)) * 4
    file.write_bytes(content)
    was = model_fingerprint(str(tmp_path))
    for changed in (0, len(content) - 1):  # the first and the last piece
        file.write_bytes(content[:changed] + b"\xff" + content[changed + 1 :])
        assert model_fingerprint(str(tmp_path)) != was
    file.write_bytes(content)
    assert model_fingerprint(str(tmp_path)) == was


def test_a_configuration_that_changes_is_another_model(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    was = model_fingerprint(str(tmp_path / "model"))
    config = tmp_path / "model/config.json"
    config.write_text(config.read_text().replace("{", '{"x": 1,', 1))
    assert model_fingerprint(str(tmp_path / "model")) != was


def test_a_hub_name_that_nobody_has_loaded_stands_for_itself() -> None:
    assert model_fingerprint("nobody/nothing-of-that-name") == "nobody/nothing-of-that-name"


def test_a_function_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.py").write_text("def score(prompts, responses):\n    return []\n")
    Path("two.py").write_text("def score(prompts, responses):\n    return []\n")
    Path("three.py").write_text("def score(prompts, responses):\n    return [1.0]\n")
    one, two, three = (function_fingerprint(load_function(f"{name}.py:score")) for name in ("one", "two", "three"))
    assert one == two != three
