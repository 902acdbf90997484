"""What a path of the configuration names: something on this machine, or something on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rlhf_dist.config.did_you_mean import suggest_path
from rlhf_dist.errors import UserError

DATA_SUFFIXES = (".jsonl", ".parquet")
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def is_hub_name(path: str) -> bool:
    """Whether ``path``, of which nothing is on this machine, can be a hub name: `name` or `organisation/name`.

    `demo/base` is no hub name where there is a folder `demo`: a path inside it was meant.
    """
    here = Path(path)
    inside = here.parent != Path(".") and here.parent.is_dir()
    return _HUB_NAME.fullmatch(path) is not None and not here.exists() and not inside


def check_model_path(path: str, name: str, needed: tuple[str, ...] = ("config.json",)) -> None:
    """Passes for a hub name and for a directory that holds one of the files ``needed``.

    Args:
        path: the value of a `model.path`.
        name: what the message calls it, such as `actor.model.path`.
        needed: file names of which one must be there.

    Raises:
        UserError: there is no such directory, or it holds none of the files.
    """
    here = Path(path)
    if here.is_dir():
        if not any((here / file).is_file() for file in needed):
            raise UserError(f"{name}: the directory {path} has no {' or '.join(needed)}: it is not a model directory")
    elif here.exists():
        raise UserError(f"{name}: {path} is a file, expected a model directory")
    elif not is_hub_name(path):
        raise UserError(f"{name}: there is no model directory {path}{suggest_path(path)}")


def check_data_path(path: str, name: str) -> None:
    """Passes for a hub name and for a file with an extension of ``DATA_SUFFIXES``.

    Raises:
        UserError: there is no such file, it is a directory, or its extension is another one.
    """
    here = Path(path)
    if here.suffix in DATA_SUFFIXES and not here.exists():
        raise UserError(f"{name}: there is no file {path}{suggest_path(path)}")
    if here.is_dir():
        raise UserError(f"{name}: {path} is a directory, expected a {' or '.join(DATA_SUFFIXES)} file in it")
    if here.exists() and here.suffix not in DATA_SUFFIXES:
        raise UserError(f"{name}: {path} has no known extension, expected {' or '.join(DATA_SUFFIXES)}")
    if not here.exists() and not is_hub_name(path):
        hint = suggest_path(path)
        raise UserError(f"{name}: {path} is no {' or '.join(DATA_SUFFIXES)} file, nor a hub name{hint}")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of a model directory; None where the file is not there.

    Raises:
        UserError: the file is not a JSON object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content
