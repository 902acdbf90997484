"""Reading rows, and what is said of rows that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from rlhf_dist.data import records
from rlhf_dist.data.records import Record, read_records
from rlhf_dist.errors import UserError


def write(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        read_records(path, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_jsonl_rows_keep_the_number_of_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"prompt": "a"}\n\n  \n{"prompt": "\xc3\xa4"}')
    rows = read_records(path, "train")
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:4"]
    assert rows[1].text("prompt") == "ä"


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"prompt": "\\ud83d\\ude00 \\u00e4"}\n')
    assert read_records(path, "train")[0].text("prompt") == "\U0001f600 ä"


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    assert read_records(write(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}\n'), "train")[0].text("prompt") == "a"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "b"', "not valid JSON: Expecting ',' delimiter at column 1"),
        (b"[1]", "the line is a list, expected an object of fields"),
        (b"null", "the line is null"),
        (b'{"prompt": "\xff"}', "not UTF-8 text (byte 13 of the line)"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b'{"ranking": [1, %s]}' % (b"7" * 5000), "an integer of 5000 digits, expected at most 18"),
        (b'{"ranking": [1, -%s]}' % (b"7" * 19), "an integer of 19 digits, expected at most 18"),
        (b'{"prompt": NaN}', "not valid JSON: NaN"),
        (b'{"prompt": -Infinity}', "not valid JSON: -Infinity"),
        (
            b'{"messages": [{"a": "\\ud83d"}]}',
            "the text holds half of a surrogate pair (\\ud83d), which is no character",
        ),
        (b'{"\\udc00": "b"}', "the text holds half of a surrogate pair (\\udc00), which is no character"),
    ],
)
def test_malformed_jsonl_names_file_and_line(tmp_path: Path, line: bytes, said: str) -> None:
    path = write(tmp_path, b'{"prompt": "a"}\n' + line + b"\n")
    assert refusal(path).startswith(f"{path}:2: {said}")


@pytest.mark.parametrize("content", [b"", b"\n  \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    assert refusal(path) == f"{path} is empty"


def test_a_missing_file_names_a_near_one(tmp_path: Path) -> None:
    write(tmp_path, b"", "prompts.jsonl")
    said = refusal(str(tmp_path / "prompt.jsonl"))
    assert "there is no file" in said
    assert f"did you mean {tmp_path / 'prompts.jsonl'}?" in said


def test_an_unknown_extension_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, b"a", "rows.csv")).endswith("no known extension, expected .jsonl or .parquet")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory, expected a .jsonl or .parquet file in it" in refusal(str(tmp_path))


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict({"prompt": ["a", "b"], "ranking": [[1, 2], [2, 1]]}).to_parquet(path)
    rows = read_records(path, "train")
    assert [row.where for row in rows] == [f"{path} row 1", f"{path} row 2"]
    assert rows[1].list("ranking") == [2, 1]


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"nope", "rows.parquet")
    assert refusal(path).startswith(f"{path}: cannot be read as Parquet: ")


def test_a_hub_name_is_loaded_by_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load(name: str, split: str) -> list[dict[str, str]]:
        asked.append((name, split))
        return [{"prompt": "a"}]

    monkeypatch.setattr(records, "hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_records("org/name", "test")[0].where == "org/name row 1"
    monkeypatch.setattr(records, "hub_reachable", lambda: False)
    monkeypatch.setattr(records, "hub_offline", lambda: True)
    assert len(read_records("org/name", "train")) == 1
    assert asked == [("org/name", "test"), ("org/name", "train")]


def test_a_hub_name_without_a_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "hub_reachable", lambda: False)
    monkeypatch.setattr(records, "hub_offline", lambda: False)
    assert refusal("org/name") == (
        "there is no file org/name, and it cannot be looked up on the Hugging Face hub: the hub cannot be reached "
        "(HF_HUB_OFFLINE=1 reads a copy in the local cache)"
    )


def test_a_missing_field_names_the_place_the_field_and_what_is_there() -> None:
    with pytest.raises(UserError) as caught:
        Record("f:3", {"promt": "a", "id": 1}).text("prompt")
    assert str(caught.value) == "f:3: the field 'prompt' is missing; the row has: promt, id (did you mean promt?)"


@pytest.mark.parametrize(
    ("value", "kind"), [(1, "an integer"), ([], "a list"), ({}, "an object"), (True, "true or false")]
)
def test_a_field_of_the_wrong_type_says_which_is_there(value: object, kind: str) -> None:
    with pytest.raises(UserError) as caught:
        Record("f:3", {"prompt": value}).text("prompt")
    assert str(caught.value) == f"f:3: the field 'prompt' is {kind}, expected a string"


def test_further_fields_are_ignored(jsonl: Callable[[list[dict[str, object]]], str]) -> None:
    assert read_records(jsonl([{"prompt": "a", "source": 7}]), "train")[0].text("prompt") == "a"
