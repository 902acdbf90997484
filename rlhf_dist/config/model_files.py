"""What the files of local model directories say, read as plain JSON: context length and vocabulary."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rlhf_dist.config.paths import read_json
from rlhf_dist.errors import UserError

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions")  # Llama and most others; GPT-2


def check_context(path: str, name: str, limits: dict[str, int]) -> None:
    """Passes where the token limits together fit into the context of the model, as far as its files are here.

    Args:
        path: model directory, or a hub name, of which nothing is known here.
        name: the key that holds ``path``.
        limits: key -> tokens; their sum must fit.

    Raises:
        UserError: they do not fit.
    """
    config = read_json(Path(path) / "config.json")
    found = [config[key] for key in _CONTEXT_KEYS if key in config] if config is not None else []
    wanted = sum(limits.values())
    if found and wanted > found[0]:
        keys = " + ".join(f"{key}={tokens}" for key, tokens in limits.items())
        raise UserError(f"{keys} is more than the context of {found[0]} tokens of {name}={path}: lower it")


def check_same_tokens(actor: str, other: str, name: str) -> None:
    """Passes where two models read the same token ids, as far as their files are here.

    Compares the tokenizers' vocabularies where both directories hold one, else the sizes of the embeddings.

    Args:
        actor: the actor's model directory or hub name.
        other: another role's.
        name: the key that holds ``other``.

    Raises:
        UserError: the same token id would mean two things.
    """
    if actor == other:
        return
    files = Path(actor) / "tokenizer.json", Path(other) / "tokenizer.json"
    if all(file.is_file() for file in files):
        if _digest(files[0]) != _digest(files[1]) and _tokens(files[0]) != _tokens(files[1]):
            raise UserError(f"{name}={other} has another tokenizer than actor.model.path={actor}: they must be equal")
        return
    sizes = _vocabulary_size(actor), _vocabulary_size(other)
    if None not in sizes and sizes[0] != sizes[1]:
        raise UserError(
            f"{name}={other} has a vocabulary of {sizes[1]} tokens, actor.model.path={actor} one of {sizes[0]}: "
            "they must be equal"
        )


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _tokens(file: Path) -> tuple[Any, Any]:
    """What the ids of a tokenizer.json mean; other settings of the file may differ without harm."""
    content = read_json(file) or {}
    try:
        return content["model"]["vocab"], {token["id"]: token["content"] for token in content["added_tokens"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: not a tokenizer: it has no {error}") from error


def _vocabulary_size(path: str) -> int | None:
    config = read_json(Path(path) / "config.json")
    return config["vocab_size"] if config is not None and "vocab_size" in config else None
