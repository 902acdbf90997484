"""Loading tokenizers, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_dist.data import tokenizer
from rlhf_dist.data.tokenizer import load_tokenizer, stop_tokens
from rlhf_dist.errors import UserError
from tests.data.conftest import build


def refusal(path: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_tokenizer_is_loaded_and_pads_with_its_end_token(tmp_path: Path) -> None:
    saved = build("{{ messages[0].content }}")
    saved.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded("the movie")["input_ids"] == saved("the movie")["input_ids"]
    assert loaded.pad_token_id == loaded.eos_token_id == saved.eos_token_id
    assert loaded.chat_template == saved.chat_template


@pytest.mark.parametrize(
    ("generation", "more"), [(None, []), ({}, []), ({"eos_token_id": 7}, [7]), ({"eos_token_id": [8, 7]}, [8, 7])]
)
def test_an_answer_ends_at_the_end_token_and_at_those_of_the_generation_config(
    tmp_path: Path, generation: dict[str, object] | None, more: list[int]
) -> None:
    saved = build()
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert stop_tokens(str(tmp_path), saved) == [saved.eos_token_id, *more]
    assert stop_tokens("organisation/name", saved) == [saved.eos_token_id]


def test_a_tokenizer_without_end_token_is_refused(tmp_path: Path) -> None:
    build(eos=None).save_pretrained(tmp_path)
    assert refusal(tmp_path).startswith(f"the tokenizer of {tmp_path} has no end-of-sequence token")


def test_a_directory_without_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert f"the directory {tmp_path} has no tokenizer.json" in refusal(tmp_path)


def test_a_broken_tokenizer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    assert refusal(tmp_path).startswith(f"the tokenizer of {tmp_path} cannot be loaded: ")


def test_a_missing_directory_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "demo-sft").mkdir()
    said = refusal(tmp_path / "demo-stf" / "model")
    assert "there is no model directory" in said
    assert f"did you mean {tmp_path / 'demo-sft'}?" in said


def test_a_hub_name_without_a_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "hub_reachable", lambda: False)
    assert refusal("no-such-organisation/no-such-model") == (
        "there is no directory no-such-organisation/no-such-model, and it cannot be looked up on the Hugging Face hub: "
        "the hub cannot be reached and the local cache does not hold it"
    )
