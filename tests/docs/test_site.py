"""The documentation site: Sphinx builds it without a warning, and every page is in its list of contents.

That links between pages lead somewhere is tested without building, too, in tests/install/test_repository.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BUILD = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-c", "docs", "."]  # as `make docs`


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. A warning, such as that of a link or a name in a docstring that leads nowhere, is an error."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run([*BUILD, str(out)], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def listed(index: Path) -> list[str]:
    """The pages that an index.md lists, counted from the repository's root."""
    links = re.findall(r"^- \[.+\]\((.+\.md)\)$", index.read_text(), re.MULTILINE)
    return [str((index.parent / link).resolve().relative_to(ROOT)) for link in links]


def test_every_page_is_listed_once() -> None:
    """A list names its pages in the order of reading; docs/conf.py makes the site's navigation of it."""
    folder = ROOT / "docs"
    names = listed(folder / "index.md") + listed(folder / "api" / "index.md")
    files = [*folder.rglob("*.md"), *(ROOT / "benchmarks" / "results").glob("*.md")]
    pages = {str(page.relative_to(ROOT)) for page in files if "_build" not in page.parts}
    assert pages - set(names) == {"docs/index.md"}, "each needs a line in docs/index.md"
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    assert "docs/index.html" in (site / "index.html").read_text(), "the first page is found"
    assert "of the softmax" in (site / "docs/api/rollout_engines.html").read_text(), "docstrings are shown"
    assert (site / "searchindex.js").stat().st_size > 100_000


@pytest.mark.slow
def test_links_that_leave_the_pages_lead_to_files_of_the_checkout(site: Path) -> None:
    for page in ("README.html", "docs/labelling.html"):
        links = re.findall(r'href="([^":#]+)"', (site / page).read_text())
        outside = [link for link in links if link.endswith((".py", ".yaml", "LICENSE"))]
        assert outside
        assert all(((site / page).parent / link).resolve().is_file() for link in outside)


def test_what_is_published_is_what_make_docs_builds() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text())["jobs"]
    steps = jobs["build"]["steps"]
    (folder,) = [step["with"]["path"] for step in steps if "upload-pages" in step.get("uses", "")]
    (made,) = [step["run"] for step in steps if "run" in step]
    shown = subprocess.run(["make", "-n", *made.split()[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert f"-c docs . {folder}\n" in shown.stdout
    assert "-D source_url=" in shown.stdout
