"""Reads the rows of a data set, each with the place it stands in, so that every later message can name it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.config.paths import check_data_path
from rlhf_dist.data.hub import from_hub, hub_offline, hub_reachable
from rlhf_dist.errors import UserError

_MOST_DIGITS = 18  # of an integer: whatever a row says is an int64 later
_WORDS = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


@dataclass(frozen=True)
class Record:
    """One row of a data set.

    Attributes:
        where: `file:line` of a JSONL file, else `name row N`, from 1.
        fields: what stands there, not yet checked.
    """

    where: str
    fields: Mapping[str, object]

    def has(self, name: str) -> bool:
        """Whether the field is there, and not null."""
        return name in self.fields and self.fields[name] is not None

    def text(self, name: str) -> str:
        """The text of a field. UserError where it is missing or no text."""
        return str(self._get(name, str))

    def list(self, name: str) -> list[Any]:
        """The list of a field. UserError where it is missing or no list."""
        return list(self._get(name, list))

    def object(self, name: str) -> dict[str, Any]:
        """The object of a field. UserError where it is missing or no object."""
        return dict(self._get(name, dict))

    def _get(self, name: str, kind: type) -> Any:
        if not self.has(name):
            there = ", ".join(self.fields) or "none"
            raise self.error(f"the field {name!r} is missing; the row has: {there}{suggest(name, self.fields)}")
        value = self.fields[name]
        if not isinstance(value, kind):
            raise self.error(f"the field {name!r} is {kind_of(value)}, expected {_WORDS[kind]}")
        return value

    def error(self, message: str) -> UserError:
        """A UserError that names this row."""
        return UserError(f"{self.where}: {message}")


def read_records(path: str, split: str, growing: bool = False) -> list[Record]:
    """All rows of a data set, in order.

    Args:
        path: a .jsonl file (UTF-8, one object a line; blank lines are skipped), a .parquet file, or a hub name.
        split: which split of a hub name; files have none.
        growing: a .jsonl file may be written to meanwhile: a last line without its end is left out; it may be empty.

    Raises:
        UserError: the data set is missing, empty, malformed, or of an unknown kind.
    """
    check_data_path(path, "data")
    suffix = Path(path).suffix if Path(path).is_file() else ""
    if suffix == ".jsonl":
        records = list(_jsonl(Path(path), growing))
    else:
        rows = _parquet(path) if suffix == ".parquet" else _hub(path, split)
        records = [Record(f"{path} row {number}", row) for number, row in enumerate(rows, 1)]
    if not records and not growing:
        raise UserError(f"{path} is empty")
    return records


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return "null" if value is None else _WORDS.get(type(value), type(value).__name__)


def _jsonl(path: Path, growing: bool) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and (line.endswith(b"\n") or not growing):
                    where = f"{path}:{number}"
                    yield Record(where, _object(line, where))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_int=_integer, parse_constant=_no_number)
        if b"\\u" in line:  # the one way in which half of a surrogate pair gets into UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start + 1} of the line)") from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(f"{where}: the text holds half of a surrogate pair ({half}), which is no character") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{where}: not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: the line is {kind_of(value)}, expected an object of fields")
    return value


def _integer(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > _MOST_DIGITS:
        raise ValueError(f"an integer of {digits} digits, expected at most {_MOST_DIGITS}")
    return int(text)


def _no_number(text: str) -> float:
    raise ValueError(f"not valid JSON: {text}")


def _parquet(path: str) -> Iterable[dict[str, Any]]:
    import datasets

    try:  # streaming reads the file in place, without a copy in the cache
        return list(datasets.load_dataset("parquet", data_files=path, split="train", streaming=True))
    except Exception as error:  # pyarrow and datasets have many, all mean that the file is no Parquet file
        raise UserError(f"{path}: cannot be read as Parquet: {_first_line(error)}") from error


def _hub(path: str, split: str) -> Iterable[dict[str, Any]]:
    import datasets

    if not hub_offline() and not hub_reachable():
        raise UserError(
            f"there is no file {path}, and it cannot be looked up on the Hugging Face hub: the hub cannot be reached "
            "(HF_HUB_OFFLINE=1 reads a copy in the local cache)"
        )
    try:
        return from_hub(path, "data set", lambda: list(datasets.load_dataset(path, split=split)))
    except UserError:
        raise
    except Exception as error:  # a name or split that is not there, a script, an interrupted download, ...
        raise UserError(f"data set {path} (split {split}) cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
