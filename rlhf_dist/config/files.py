"""Reads a recipe: a YAML file, the files it stands on, and the line each value stands in.

Nothing in a file is executed or looked up: no YAML tag makes an object, and `${...}` is an error.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlhf_dist.config.did_you_mean import suggest_path
from rlhf_dist.config.secrets import shown
from rlhf_dist.errors import UserError

BASE = "base"  # the key that names the file a recipe stands on
_DEEPEST = 16  # levels of nesting; the schema has fewer, and an alias may point at its own parent
_DEEPEST_YAML = 100
_MOST_BYTES = 2**20  # of a file
_MOST_VALUES = 10_000  # of a file, with what its aliases stand for: ten lines of them can stand for 10^10
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
    where = f"{name}={shown(name, text)}: "
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}cannot be read: {_problem(error)}") from error
    return None if node is None else _Reader("", where).value(node, where)


def _read_chain(path: Path, where: str, elsewhere: Iterable[Path], above: tuple[Path, ...]) -> list[Setting]:
    if len(above) == _DEEPEST or path.resolve() in above:
        raise UserError(f"{where}base: {path} stands on itself")
    settings: list[Setting] = []
    inherited: list[Setting] = []
    for setting in _Reader(str(path), f"{path}: ").settings(_compose(path, where, elsewhere)):
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
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{where}there is no file {path}{suggest_path(path, elsewhere)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}{path} cannot be read: {error}") from error
    if len(content) > _MOST_BYTES:
        raise UserError(f"{where}{path} has more than {_MOST_BYTES} bytes: it is no recipe")
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{line}: not valid YAML: {_problem(error)}") from error


def _problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return " ".join(part for part in (error.context, error.problem) if part)
    return str(error).splitlines()[0]


class _Loader(yaml.SafeLoader):
    """The safe loader, which counts how deep it is.

    It calls itself once a level. How many levels Python allows is a setting of the process that libraries raise.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """The node that comes next."""
        self.depth += 1
        if self.depth > _DEEPEST_YAML:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Reads the settings out of one file's nodes.

    Args:
        file: the file's path, for messages.
        where: stands in front of what is said of the file as a whole.
    """

    def __init__(self, file: str, where: str) -> None:
        self._file, self._where = file, where
        self._left = _MOST_VALUES
        self._lines: dict[str, int] = {}  # where each value stands, by its dotted key

    def settings(self, node: yaml.Node | None, prefix: str = "", depth: int = 0) -> list[Setting]:
        """The settings of a mapping and of those within it; ``prefix`` is the dotted key of it, and a dot."""
        if node is None:
            return []
        where = self._at(node)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{where}expected `key: value` lines")
        if depth > _DEEPEST:
            raise UserError(f"{where}{prefix.rstrip('.')} is nested too deeply")
        found: list[Setting] = []
        sections: dict[str, int] = {}
        for key_node, value_node in node.value:
            self._count()
            where = self._at(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{where}a key must be a name")
            key = prefix + key_node.value
            is_section = isinstance(value_node, yaml.MappingNode)
            seen = sections if is_section else self._lines  # `a.b: 1` and `a: {b: 2}` are the same key
            first = sections.get(key, self._lines.get(key))
            if first is not None:
                raise UserError(f"{where}{key} stands here for the second time, the first is in line {first}")
            seen[key] = key_node.start_mark.line + 1
            if is_section:
                found += self.settings(value_node, f"{key}.", depth + 1)
            else:
                found.append(Setting(key, self.value(value_node, f"{where}{key}: "), where))
        return found

    def value(self, node: yaml.Node, where: str) -> Value:
        """The value of a node that is no mapping; ``where`` stands in front of a message."""
        if isinstance(node, yaml.ScalarNode):
            return None if node.tag == _NULL else self._text(node, where)
        if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
            return [self._text(item, where) for item in node.value]
        if isinstance(node, yaml.SequenceNode):  # of lists: roles that share devices; who wants it reads its text
            return self._flow(node, where)
        raise UserError(f"{where}expected a single value or a list of them")

    def _flow(self, node: yaml.Node, where: str, depth: int = 0) -> str:
        """A list of lists as text: `[[a, b], [c]]`."""
        if isinstance(node, yaml.ScalarNode):
            return self._text(node, where)
        if isinstance(node, yaml.SequenceNode) and depth < _DEEPEST:
            return f"[{', '.join(self._flow(item, where, depth + 1) for item in node.value)}]"
        raise UserError(f"{where}expected a single value or a list of them")

    def _text(self, node: yaml.ScalarNode, where: str) -> str:
        """A scalar's text. Control characters and halves of surrogate pairs fail later, where files are opened."""
        self._count()
        text = str(node.value)
        bad = next((char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char not in "\t\n"), None)
        if bad is not None:
            raise UserError(f"{where}it holds a character that no value has: {bad!a}")
        return text

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UserError(f"{self._where}more than {_MOST_VALUES} values, with what its aliases stand for")

    def _at(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}: "
