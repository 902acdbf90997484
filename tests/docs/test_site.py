"""The documentation site: Sphinx builds it without a warning, and every link leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does it: a warning, such as that of a link to nowhere, is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-c", "docs", ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_built_without_a_warning_and_its_first_page_is_found(site: Path) -> None:
    assert "docs/index.html" in (site / "index.html").read_text()
    assert "Architecture" in (site / "docs" / "index.html").read_text()
