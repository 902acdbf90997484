"""The "did you mean" of every error message: near words and near paths."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

MOST = 3  # suggestions of one message


def did_you_mean(found: Iterable[str]) -> str:
    """`" (did you mean A or B?)"`, or nothing where nothing was found: made to stand behind a message."""
    names = list(dict.fromkeys(found))[:MOST]
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def suggest(word: str, choices: Iterable[str]) -> str:
    """:func:`did_you_mean` of the words of ``choices`` that are near ``word``."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=MOST, cutoff=0.6)
    return did_you_mean(by_lower[name] for name in near)


def near_keys(key: str, known: Iterable[str]) -> list[str]:
    """The dotted keys of ``known`` that a user who wrote ``key`` may have meant, the likeliest first.

    A right last part in the wrong place comes first (`lr` is `actor.optim.lr`), then a near spelling of the
    whole key, then a near spelling of its last part.
    """
    names = list(known)
    leaf = key.rpartition(".")[2]
    same_leaf = sorted((name for name in names if name.rpartition(".")[2] == leaf), key=lambda n: -_likeness(key, n))
    if same_leaf:
        return same_leaf[:MOST]
    whole = difflib.get_close_matches(key, names, n=1, cutoff=0.8)
    if whole:
        return whole
    leaves = {name.rpartition(".")[2] for name in names}
    near = difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.7)
    found = sorted((n for n in names if n.rpartition(".")[2] in near), key=lambda n: -_likeness(key, n))
    return (found or difflib.get_close_matches(key, names, n=1, cutoff=0.6))[:MOST]


def suggest_path(path: str | Path, elsewhere: Iterable[Path] = ()) -> str:
    """:func:`did_you_mean` of existing paths that are near ``path``.

    Looks beside the first part of the path that is missing, and in the folders of ``elsewhere`` for the same or
    a near file name.
    """
    missing = Path(path)
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    found = _near_names(missing.parent, missing.name)
    for folder in elsewhere:
        found += _near_names(folder, Path(path).name)
    return did_you_mean(str(name) for name in found)


def _near_names(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        return []
    here = [entry.name for entry in folder.iterdir()]
    return [folder / near for near in difflib.get_close_matches(name, here, n=MOST, cutoff=0.6)]


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
