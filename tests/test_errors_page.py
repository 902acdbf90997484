"""docs/errors.md quotes messages that the code has, and has every class of errors.py."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_dist import errors

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
HOLE = "\0"  # what an f-string fills in

PLACEHOLDERS = set(re.findall(r"`([A-Z]+)`", PAGE.partition("\n## ")[0])) | {"Z"}
_SPLIT = re.compile(rf"(?: |\b)(?:{'|'.join(sorted(PLACEHOLDERS, key=len, reverse=True))})\b")
_LEAST = 6  # letters that a quoted message must have of its own


def quoted(page: str) -> list[str]:
    """The messages of the page: what is code in the first cell of a row under the heading `message`."""
    found, inside = [], False
    for line in page.splitlines():
        inside = line.startswith("| message |") or (inside and line.startswith("|"))
        if inside and (cell := re.match(r"\| `(.+?)` \|", line)):
            found.append(cell[1].replace("``", "`"))
    return found


def texts(node: ast.AST) -> str | None:
    """A string expression with a hole for each value that is put in; None of other expressions."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [texts(node.left), texts(node.right)]
        return None if sides == [None, None] else "".join(HOLE if side is None else side for side in sides)
    return None


def strings_of_the_code() -> Iterator[str]:
    """Every string of the package, docstrings left out."""
    for path in (ROOT / "rlhf_dist").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if id(node) not in docstrings and (text := texts(node)):
                yield text


STRINGS = "\n".join(strings_of_the_code())


def is_in_the_code(message: str) -> bool:
    """Whether one string of the code has the message, whatever stands in the place of its placeholders."""
    message = re.sub(r" \(did you mean \w+\?\)", "", message)
    parts = [re.escape(part) for part in _SPLIT.split(message.replace("...", HOLE))]
    pattern = "[^\n]*".join(parts).replace(re.escape(HOLE), "[^\n]*")
    return re.search(pattern, STRINGS) is not None


MESSAGES = quoted(PAGE)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_one_of_the_code(message: str) -> None:
    assert len(re.findall(r"[a-zA-Z]", _SPLIT.sub("", message))) >= _LEAST or message == "HTTP N"
    assert is_in_the_code(message)


def test_a_message_that_the_code_does_not_have_is_noticed() -> None:
    assert len(MESSAGES) > 120
    assert not is_in_the_code("worker WORKER died of boredom in CALL (its log: FILE)")
    assert not is_in_the_code("the field X is absent; the row has: Y")


def test_every_class_of_errors_is_on_the_page_with_its_exit_code() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert len(classes) >= 5
    for cls in classes:
        assert re.search(rf"^\| {cls.exit_code} \| `{cls.__name__}`", PAGE, re.MULTILINE), cls.__name__


def test_no_message_stands_twice() -> None:
    assert sorted(set(MESSAGES)) == sorted(MESSAGES)
