"""The schema as a flat list of dotted keys, with the comment that stands beside each in `schema.py`."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import sys
import tokenize
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from omegaconf import MISSING


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: the dotted key, as on the command line.
        base: int, float, bool, str, or list.
        optional: whether null is one of its values.
        default: the schema's default; ``omegaconf.MISSING`` where the user must say.
        comment: what the schema says of it, in one line; may be empty.
    """

    name: str
    base: type
    optional: bool
    default: Any
    comment: str
    element: type | None = None  # of a list

    @property
    def required(self) -> bool:
        """Whether the schema has no default for it."""
        return isinstance(self.default, str) and self.default == MISSING

    @property
    def expected(self) -> str:
        """What a value must be, in words: "an integer", "a number or null", ..."""
        words = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
        words[list] = "a list of texts, as [A, B]" if self.element is str else "a list of numbers"
        return words[self.base] + (" or null" if self.optional else "")


def schema_keys(kind: type, mentioned: Iterable[str] = ()) -> dict[str, Key]:
    """All keys of the configuration class ``kind`` by their dotted names, in the schema's order.

    Of a section whose parts the user names (:func:`named_sections`), those parts are there that one of the dotted
    keys of ``mentioned`` stands in.
    """
    keys = {key.name: key for key in _walk(kind, "")}
    for prefix, part in _named_parts(kind, mentioned):
        keys |= {key.name: key for key in _walk(part, prefix)}
    return keys


def named_sections(kind: type) -> dict[str, type]:
    """The sections of ``kind`` that hold parts under names of the user's, with the class of their parts."""
    hints = typing.get_type_hints(kind)
    return {name: typing.get_args(hint)[1] for name, hint in hints.items() if typing.get_origin(hint) is dict}


def _named_parts(kind: type, mentioned: Iterable[str]) -> list[tuple[str, type]]:
    """The dotted prefix and the class of each named part that ``mentioned`` keys stand in, each once."""
    named = named_sections(kind)
    found = {}
    for key in mentioned:
        section, name, *rest = [*key.split("."), ""][:3]
        if section in named and name and rest != [""]:
            found[f"{section}.{name}."] = named[section]
    return list(found.items())


def schema_sections(kind: type, prefix: str = "", mentioned: Iterable[str] = ()) -> dict[str, type]:
    """The sections of ``kind`` by their dotted names, nested ones included, in the schema's order."""
    found: dict[str, type] = {}
    for part_prefix, part in _named_parts(kind, mentioned):
        found |= schema_sections(part, part_prefix)
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found[prefix + name] = typing.cast(type, hint)
            found.update(schema_sections(found[prefix + name], f"{prefix}{name}."))
    return found


def _walk(kind: type, prefix: str) -> list[Key]:
    hints = typing.get_type_hints(kind)
    keys: list[Key] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            keys += _walk(typing.cast(type, hint), f"{prefix}{field.name}.")
            continue
        if typing.get_origin(hint) is dict:
            continue
        base, optional, element = _leaf_type(hint)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        keys.append(Key(prefix + field.name, base, optional, default, _comment(kind, field.name), element))
    return keys


def _leaf_type(hint: Any) -> tuple[type, bool, type | None]:
    """(the type without Optional and element type, whether it was Optional, the element type of a list)."""
    parts = typing.get_args(hint)
    optional = type(None) in parts
    if optional:
        (hint,) = [part for part in parts if part is not type(None)]
    element = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
    return (typing.get_origin(hint) or hint), optional, element


def _comment(kind: type, field: str) -> str:
    """The comment of a field, from the class of ``kind``'s line that defines it."""
    for cls in kind.__mro__:
        if field in inspect.get_annotations(cls):
            return _comments(sys.modules[cls.__module__])[cls.__name__, field]
    raise KeyError(f"{kind.__name__} has no field {field}")


@functools.lru_cache
def _comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """(class, field) -> the comments on the field's lines and on the comment lines that follow them."""
    source = inspect.getsource(module)
    notes, bare = _comment_lines(source)
    found: dict[tuple[str, str], str] = {}
    for cls in ast.parse(source).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for node in cls.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            end = node.end_lineno or node.lineno
            parts = [notes[line] for line in range(node.lineno, end + 1) if line in notes]
            while parts and end + 1 in bare:
                end += 1
                parts.append(notes[end])
            found[cls.name, node.target.id] = " ".join(parts)
    return found


def _comment_lines(source: str) -> tuple[dict[int, str], set[int]]:
    """The comments of a source text by line, and the lines that hold nothing but a comment."""
    notes: dict[int, str] = {}
    bare: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            notes[token.start[0]] = token.string.lstrip("# ").rstrip()
            if not token.line[: token.start[1]].strip():
                bare.add(token.start[0])
    return notes, bare
