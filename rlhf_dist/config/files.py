"""Reads a recipe: a YAML file, the files it stands on, and the line each value stands in.

Nothing in a file is executed or looked up: no YAML tag makes an object, and `${...}` is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlhf_dist.config.suggest import suggest_path
from rlhf_dist.errors import UserError

BASE = "base"  # the key that names the file a recipe stands on
_DEEPEST = 16  # levels of nesting; the schema has fewer, and an alias may point at its own parent
_NULL = "tag:yaml.org,2002:null"

Value = str | list[str] | None


@dataclass(frozen=True)
class Setting:
    """One value that a file or the command line gives.

    Attributes:
        key: dotted key.
        value: the scalar's text, a list of them, or None for null; the schema says what type it becomes.
        where: `"file:line: "`, to stand in front of a message; empty for the command line.
    """

    key: str
    value: Value
    where: str


def read_recipe(path: Path, elsewhere: Iterable[Path] = ()) -> list[Setting]:
    """The settings of a recipe file, those of the files it is based on first.

    Args:
        path: the YAML file.
        elsewhere: folders in which a misspelt path is looked for, for the message.

    Raises:
        UserError: a file is missing, is not YAML, names a key twice, or the files are based on each other.
    """
    return _read_chain(path, "", elsewhere, ())


def parse_value(text: str, name: str) -> Value:
    """The value of a `key=value` of the command line, read as YAML.

    Raises:
        UserError: it is not YAML, or a mapping; the message names ``name``.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{name}={text}: cannot be read: {_problem(error)}") from error
    return None if node is None else _value(node, f"{name}={text}: ")


def _read_chain(path: Path, where: str, elsewhere: Iterable[Path], above: tuple[Path, ...]) -> list[Setting]:
    if path.resolve() in above:
        raise UserError(f"{where}base: {path} stands on itself")
    settings: list[Setting] = []
    inherited: list[Setting] = []
    for setting in _settings(_compose(path, where, elsewhere), str(path)):
        if setting.key != BASE:
            settings.append(setting)
            continue
        if not isinstance(setting.value, str):
            raise UserError(f"{setting.where}base: expected the path of a file, relative to this one")
        target = path.parent / setting.value
        inherited = _read_chain(target, setting.where, (path.parent,), (*above, path.resolve()))
    return inherited + settings


def _compose(path: Path, where: str, elsewhere: Iterable[Path]) -> yaml.Node | None:
    """The node tree of a file, which keeps the lines; None for an empty one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{where}there is no file {path}{suggest_path(path, elsewhere)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}{path} cannot be read: {error}") from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{line}: not valid YAML: {_problem(error)}") from error


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return " ".join(part for part in (error.context, error.problem) if part)
    return str(error).splitlines()[0]


def _settings(node: yaml.Node | None, file: str, prefix: str = "", depth: int = 0) -> list[Setting]:
    if node is None:
        return []
    where = f"{file}:{node.start_mark.line + 1}: "
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}expected `key: value` lines")
    if depth > _DEEPEST:
        raise UserError(f"{where}{prefix.rstrip('.')} is nested too deeply")
    found: list[Setting] = []
    seen: set[str] = set()
    for key_node, value_node in node.value:
        where = f"{file}:{key_node.start_mark.line + 1}: "
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{where}a key must be a name")
        key = prefix + key_node.value
        if key in seen:
            raise UserError(f"{where}{key} stands here for the second time")
        seen.add(key)
        if isinstance(value_node, yaml.MappingNode):
            found += _settings(value_node, file, f"{key}.", depth + 1)
        else:
            found.append(Setting(key, _value(value_node, f"{where}{key}: "), where))
    return found


def _value(node: yaml.Node, where: str) -> Value:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    if isinstance(node, yaml.SequenceNode):  # of lists: roles that share devices; who wants it reads its text
        return _flow(node, where)
    raise UserError(f"{where}expected a single value or a list of them")


def _flow(node: yaml.Node, where: str, depth: int = 0) -> str:
    """A list of lists as text: `[[a, b], [c]]`."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and depth < _DEEPEST:
        return f"[{', '.join(_flow(item, where, depth + 1) for item in node.value)}]"
    raise UserError(f"{where}expected a single value or a list of them")
