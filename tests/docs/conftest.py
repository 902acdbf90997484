"""The scratch folder, in which the pages' commands run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.scratch import write_scratch


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scratch folder, which nobody may change."""
    return write_scratch(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def scratch(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as current directory."""
    shutil.copytree(made, tmp_path / "scratch", symlinks=True)
    monkeypatch.chdir(tmp_path / "scratch")
    return tmp_path / "scratch"
