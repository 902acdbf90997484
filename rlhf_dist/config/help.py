"""The text of `--help`: every key with its type, its default, and the schema's comment."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from rlhf_dist.config.keys import Key, named_sections, schema_keys, schema_sections

_TYPES = {int: "int", float: "float", bool: "bool", str: "text"}
_WIDEST = 120  # columns


def help_text(kind: type, default_file: Path) -> str:
    """What `--help` prints for the configuration class ``kind``, at the terminal's width."""
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = [
        "usage: [--config FILE] [key=value ...]",
        "",
        f"FILE is a YAML recipe ({default_file} where none is named); key=value goes on top of it,",
        "and null takes a value away. Keys, with the defaults that count where no recipe says otherwise:",
    ]
    sections = schema_sections(kind)
    for section, keys in _by_section(kind).items():
        doc = (inspect.getdoc(sections[section]) or "").partition("\n")[0] if section else ""
        lines += ["", f"{section}: {doc}"] if section else [""]
        for key in keys:
            lines += _entry(key, width)
    for section, part in named_sections(kind).items():
        known = ", ".join(field.name for field in dataclasses.fields(part))
        text = f"{section}: further ones, each under a name of yours: {section}.NAME.KEY=VALUE (KEY: {known})"
        lines += ["", *textwrap.wrap(text, width, subsequent_indent=" " * 6)]
    return "\n".join(lines)


def _by_section(kind: type) -> dict[str, list[Key]]:
    """The keys by the section they stand in; a section's own keys come together, before its subsections'."""
    found: dict[str, list[Key]] = {name: [] for name in ("", *schema_sections(kind))}
    for key in schema_keys(kind).values():
        found[key.name.rpartition(".")[0]].append(key)
    return {section: keys for section, keys in found.items() if keys}


def _entry(key: Key, width: int) -> list[str]:
    null = " or null" if key.optional else ""
    value = "required" if key.required else f"default {_yaml(key.default)}"
    head = f"  {key.name}  ({_type(key)}{null}, {value})"
    if len(head) + 2 + len(key.comment) <= width or not key.comment:
        return [f"{head}  {key.comment}".rstrip()]
    return [head, *textwrap.wrap(key.comment, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _type(key: Key) -> str:
    return f"[{_TYPES[key.element]}, ...]" if key.element is not None else _TYPES[key.base]


def _yaml(value: Any) -> str:
    """A default as a user would write it."""
    if value is None:
        return "null"
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
