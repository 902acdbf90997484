"""The text of `--help`: every key with its type, its default, what it means and what it may be."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

from rlhf_dist.config.keys import Key, Section, schema_tree

_WIDEST = 120  # columns


def help_text(kind: type, default_file: Path) -> str:
    """What `--help` prints for the configuration class ``kind``, at the terminal's width."""
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = [
        "usage: [--config FILE] [key=value ...]",
        "",
        f"FILE is a YAML recipe ({default_file} where none is named); key=value goes on top of it,",
        "and null takes a value away. All keys, with the defaults of the schema, and the range of numbers in brackets:",
    ]
    whole = schema_tree(kind)
    for section in (whole, *whole.all_sections()):
        lines += _section(section, width)
    return "\n".join(lines)


def _section(section: Section, width: int) -> list[str]:
    """A section's title and its own keys."""
    title = f"{section.name}: {section.facts.sentence}" if section.name else ""
    if section.facts.named:
        title += f" {section.name}.NAME.KEY=VALUE sets one."
    head = _wrapped(title, width, "")
    keys = [item for item in section.items if isinstance(item, Key)]
    return ["", *head, *(line for key in keys for line in _entry(key, width))]


def _entry(key: Key, width: int) -> list[str]:
    head = f"  {key.name}  ({key.type_name}, {'required' if key.required else f'default {key.default_text}'})"
    text = f"{key.description} [{key.facts.range}]" if key.facts.range else key.description
    one_line = f"{head}  {text}"
    return [one_line] if len(one_line) <= width else [head, *_wrapped(text, width, " " * 6)]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent or " " * 6)
