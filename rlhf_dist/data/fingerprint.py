"""What tells one content from another: of tokenized rows, of a model, of a function's file."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf_dist.data.pretraining import TextSampler
from rlhf_dist.data.prompts import PromptSet
from rlhf_dist.types import Ragged

_BYTES = 8  # of a fingerprint
_PIECES, _PIECE = 16, 1 << 16  # of a file of weights, which may have hundreds of gigabytes, so much is read
_WEIGHTS = ("*.safetensors", "*.bin")


def rows_fingerprints(data: Any) -> dict[str, str]:
    """The rows that a job reads, by the name of the field of ``data`` (a dataclass) that holds them.

    Returns:
        for each its number of rows and a fingerprint of its tokens. Fields that hold no rows are left out.
    """
    found = {}
    for field in fields(data):
        rows = _rows(getattr(data, field.name))
        if rows is not None:
            found[field.name] = f"{len(rows):,} rows ({_digest(_tensors(rows))})"
    return found


def model_fingerprint(path: str) -> str:
    """Of a model directory: its configuration whole, its weights by size and samples. Of a hub name: the revision.

    A hub name of which nothing is in the local cache stands for itself.
    """
    folder = Path(path)
    if not folder.is_dir():
        return _revision(path) or path
    files = [folder / "config.json", *sorted(file for kind in _WEIGHTS for file in folder.glob(kind))]
    return _digest(part for file in files if file.is_file() for part in _samples(file))


def function_fingerprint(function: Callable[..., object]) -> str:
    """Of the file that a function stands in; its name where it has none."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    file = inspect.getsourcefile(module) if module is not None else None
    return _digest([Path(file).read_bytes()]) if file is not None and Path(file).is_file() else repr(function)


def _rows(value: Any) -> Ragged | None:
    if isinstance(value, PromptSet):
        return value.prompts
    if isinstance(value, TextSampler):
        return value.text
    return value if isinstance(value, Ragged) else None


def _tensors(rows: Ragged) -> Iterator[bytes | memoryview]:
    for field in fields(rows):  # type: ignore[arg-type]  # all of them are dataclasses
        value: Tensor = getattr(rows, field.name)
        yield f"{field.name} {tuple(value.shape)}".encode()
        yield value.contiguous().numpy().data.cast("B") if value.numel() else b""


def _samples(file: Path) -> Iterator[bytes]:
    """Name, size, and pieces from all over a file: training changes every weight, so it shows in any of them."""
    size = file.stat().st_size
    yield f"{file.name} {size}".encode()
    with file.open("rb") as opened:
        if size <= _PIECES * _PIECE:
            yield opened.read()
            return
        for piece in range(_PIECES):
            opened.seek(piece * (size - _PIECE) // (_PIECES - 1))
            yield opened.read(_PIECE)


def _revision(name: str) -> str | None:
    """The commit of a hub name's configuration in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "tokenizer_config.json"):
        cached = try_to_load_from_cache(name, file)
        if isinstance(cached, str):
            return f"{name} at {Path(cached).parent.name[:12]}"
    return None


def _digest(parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
