#!/usr/bin/env python3
"""Counts what makes code hard to follow, to compare packages: imports inside functions, `Any`, long functions.

    tools/code_counts.py [NAME=]FOLDER ...

Prints a Markdown table with one column a folder (default: the package). Lines are those that are not blank. `Any` is
counted where it stands as a name, imports of it left out; a function's length is that of its source, docstring and
decorators left out, and functions inside it included.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG = 60


@dataclass(frozen=True)
class Counts:
    """Of one package."""

    lines: int
    inner_imports: int
    own_inner_imports: int
    anys: int
    longest: int
    long: int
    public: int
    documented: int


def count(folder: Path) -> Counts:
    """Counts all Python files under a folder; those that cannot be parsed are named on stderr and left out."""
    lines = inner = own = anys = longest = long = public = documented = 0
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            print(f"{path}: {error}", file=sys.stderr)
            continue
        lines += sum(bool(line.strip()) for line in text.splitlines())
        anys += sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
        imports: set[ast.stmt] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                imports |= {inside for inside in ast.walk(node) if isinstance(inside, ast.Import | ast.ImportFrom)}
                size = _size(node)
                longest, long = max(longest, size), long + (size > LONG)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            ):
                public, documented = public + 1, documented + (ast.get_docstring(node) is not None)
        inner += len(imports)
        own += sum(_module(node).split(".")[0] == folder.name for node in imports)
    return Counts(lines, inner, own, anys, longest, long, public, documented)


def _size(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, from its `def`, without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    size = (function.end_lineno or function.lineno) - function.lineno + 1
    return size - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1 if docstring is not None else 0)


def _module(node: ast.stmt) -> str:
    if isinstance(node, ast.ImportFrom):
        return "." * node.level + (node.module or "")
    return node.names[0].name if isinstance(node, ast.Import) else ""


def table(found: dict[str, Counts]) -> str:
    """The counts as Markdown, one column a package."""
    rows = {
        "lines": [f"{counts.lines:,}" for counts in found.values()],
        "imports inside functions, per 1,000 lines": [_per(c.inner_imports, c) for c in found.values()],
        "- of them of the package itself": [str(counts.own_inner_imports) for counts in found.values()],
        "`Any`, per 1,000 lines": [_per(counts.anys, counts) for counts in found.values()],
        f"longest function / number over {LONG} lines": [f"{c.longest} / {c.long}" for c in found.values()],
        "public docstrings": [f"{c.documented / max(c.public, 1):.0%}" for c in found.values()],
    }
    lines = [f"| | {' | '.join(found)} |", f"|{'---|' * (len(found) + 1)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def _per(amount: int, counts: Counts) -> str:
    return f"{1000 * amount / max(counts.lines, 1):.1f} ({amount})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table. Returns 0; 2 where a folder is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=[str(ROOT / "rlhf_dist")], metavar="[NAME=]FOLDER")
    found: dict[str, Counts] = {}
    for word in parser.parse_args(arguments).folders:
        name, _, folder = word.rpartition("=")
        path = Path(folder).resolve()
        if not path.is_dir():
            print(f"{folder} is not a folder", file=sys.stderr)
            return 2
        found[name or path.name] = count(path)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
