"""What a contributor meets first: the files are whole, and what they name is there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
PAGES = ["README.md", "CONTRIBUTING.md"] + [
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts
]


def test_ci_runs_make_targets_that_exist_within_a_time_limit() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    made = [
        word
        for job in jobs.values()
        for step in job["steps"]
        for word in re.findall(r"make (\S+)", step.get("run", ""))
    ]
    assert set(made) == {"lint", "test-fast", "test", "install"}
    assert set(made) <= set(TARGETS)
    assert all(job["timeout-minutes"] <= 90 for job in jobs.values())


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_have_what_they_need_to_be_shown(form: Path) -> None:
    shown = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= shown.keys()
    assert all({"type", "attributes"} <= field.keys() for field in shown["body"])


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_links_to_are_there(page: str) -> None:
    here = ROOT / page
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", here.read_text())
    missing = [link for link in links if not (here.parent / link).exists()]
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_headings_that_a_page_links_to_are_there(page: str) -> None:
    here = ROOT / page
    links = re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", here.read_text())
    assert not [
        f"{name}#{anchor}" for name, anchor in links if anchor not in anchors(here.parent / name if name else here)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    assert not [name for name in set(re.findall(r"tests/[\w/]+\.(?:py|json)", text)) if not (ROOT / name).is_file()]
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name in set(re.findall(r"(?<![\w.])test_\w+(?!\w*\.py)\b", text)) if not named(name, sources)]


def named(name: str, sources: str) -> bool:
    """Whether ``name`` is a test, or the name of a file of tests without its suffix."""
    return f"def {name}(" in sources or any((ROOT / "tests").rglob(f"{name}.py"))


@pytest.mark.parametrize("figure", sorted(path.name for path in (ROOT / "docs").glob("*.svg")))
def test_a_figure_is_well_formed_and_readable_on_light_and_on_dark_pages(figure: str) -> None:
    source = (ROOT / "docs" / figure).read_text()
    root = ElementTree.fromstring(source)
    assert root.find("{*}title") is not None
    assert "prefers-color-scheme: dark" in source


def test_what_contributing_and_architecture_name_as_files_is_there() -> None:
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.(?:py|yaml))`", (ROOT / page).read_text()))
        missing = [name for name in named if not any((ROOT / base / name).exists() for base in ("", "rlhf_dist"))]
        assert not missing, page


@pytest.mark.parametrize("device", ["cpu", "cuda", "npu"])
def test_an_image_has_exact_versions_where_the_manifests_look_for_them_and_no_root(device: str) -> None:
    lines = (ROOT / f"docker/{device}.Dockerfile").read_text().splitlines()
    assert sum(f"tools/install.py --device {device} --locked" in line for line in lines) == 1
    assert [line for line in lines if line.startswith("WORKDIR")] == ["WORKDIR /opt/rlhf_dist"]
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    bases = [line for line in lines if line.startswith("FROM")]
    assert len(bases) == 1 and ":" in bases[0] and "latest" not in bases[0]


def test_no_image_carries_what_git_does_not() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert ".git" in ignored
    for line in (ROOT / ".gitignore").read_text().split():
        assert line.strip("/") in {name.removeprefix("**/") for name in ignored}, line


def test_the_checks_before_a_commit_are_those_of_make_lint() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {" ".join(hook["entry"].split()[2:]).split(" --")[0] for hook in local["hooks"]}
    linted = re.findall(r"\$\(PY\) -m (ruff \w+|mypy)", (ROOT / "Makefile").read_text())
    assert local["repo"] == "local" and hooks == set(linted)
