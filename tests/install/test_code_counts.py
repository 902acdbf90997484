"""The table that packages are compared by counts what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.code_counts import count, main

SOURCE = '''"""A module."""

from typing import Any


def outer(x: Any) -> "list[Any]":
    """Two imports, one of them of the package itself."""
    import json
    def inner():
        from sample.part import thing
        return thing
    y: Any = json
    return [y, inner]


class _Private:
    pass


def long():
'''


def test_imports_any_long_functions_and_docstrings_are_counted(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    body = "".join(f"    x{n} = {n}\n" for n in range(60))
    (package / "part.py").write_text(SOURCE + body)
    counts = count(package)
    assert counts.inner_imports == 2 and counts.own_inner_imports == 1
    assert counts.anys == 2  # a name in a text is not one, nor is the import
    assert counts.longest == 61 and counts.long == 1
    assert (counts.public, counts.documented) == (3, 1)  # outer, inner and long
    assert counts.lines == sum(bool(line.strip()) for line in (SOURCE + body).splitlines())


def test_a_folder_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["old=/nowhere"]) == 2
    assert capsys.readouterr().err == "/nowhere is not a folder\n"
