"""The exact versions of requirements/: that they are what setup.py allows, and that LOCKED=1 installs them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("cpu", "cuda", "npu")
BESIDE = ("build", "test", "docs", "demo", "flash")
REWRITE = "make install, then .venv/bin/python tools/lock.py"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rlhf_dist_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = _load("lock")
installer = _load("install")


@pytest.mark.parametrize("name", [*DEVICES, *BESIDE])
def test_each_requirement_of_setup_py_is_locked_within_its_range(name: str) -> None:
    versions = lock.read(name)
    for python in lock.PYTHONS:
        for need in lock.direct(name):
            if lock.applies(need, python=python):
                version = versions.get(canonicalize_name(need.name))
                assert version is not None and need.specifier.contains(version), f"{need}: {version}; {REWRITE} {name}"


def test_the_extras_of_setup_py_have_a_file_each() -> None:
    assert {*lock.described()["extras_require"], "build"} == {*lock.INSTALLED, *lock.RESOLVED}


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_installed_together_is_locked_to_one_version(device: str) -> None:
    seen = lock.read(device)
    for name in BESIDE:
        for package, version in lock.read(name).items():
            assert seen.setdefault(package, version) == version, f"{package}: {REWRITE}"


def test_torch_is_the_one_of_the_public_index() -> None:
    """A build such as torch 2.13.0+cpu is one that PyPI does not have; pip takes it for 2.13.0 where it is offered."""
    assert lock.read("cpu")["torch"] == lock.read("cuda")["torch"] == installer.TORCH


def test_a_line_that_is_more_than_a_name_and_a_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    foreign = [
        "torch>=2",
        "torch==2.13.0 --hash=sha256:0",
        "-e .",
        "torch @ file:torch.whl",
        "torch==2.13.0+cpu",
    ]
    for line in foreign:
        (tmp_path / "cpu.txt").write_text(f"# a comment\n{line}\n")
        with pytest.raises(lock.LockError, match="no name==version"):
            lock.read("cpu")


def test_a_locked_environment_holds_what_the_files_say() -> None:
    """CI's environment: so a package that no file names fails here, and not on the day of its next release."""
    stamp = Path(sys.prefix) / "installed"
    if not stamp.exists() or stamp.read_text().split()[1] != "locked":
        pytest.skip("not installed with LOCKED=1")
    versions = lock.read(stamp.read_text().split()[0]) | lock.read("test") | lock.read("docs") | lock.read("demo")
    found = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    installed = {canonicalize_name(one.metadata["Name"]): Version(one.version).public for one in found}
    of_torch = {package for package in installed if package.startswith(("nvidia-", "cuda-")) or package == "triton"}
    assert installed.keys() - versions.keys() - of_torch == {"pip", "rlhf-dist"}
    assert {package: installed[package] for package in installed.keys() & versions.keys()}.items() <= versions.items()


def test_exact_versions_do_where_ranges_are_asked_for_but_not_the_other_way_round(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "installed").write_text(installer.stamp_of("cpu", locked=True))
    installer.install("cpu", "/nowhere/python", str(venv), locked=True)
    installer.install("cpu", "/nowhere/python", str(venv))
    (venv / "installed").write_text(installer.stamp_of("cpu"))
    installer.install("cpu", "/nowhere/python", str(venv))
    with pytest.raises(installer.InstallError, match="/nowhere/python"):
        installer.install("cpu", "/nowhere/python", str(venv), locked=True)


def test_another_version_in_a_file_makes_a_locked_environment_install_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = installer.stamp_of("cpu", locked=True), installer.stamp_of("cpu")
    for name in ("setup.py", "tools/install.py", *installer.lock_files("cpu")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(installer, "ROOT", str(tmp_path))
    assert (installer.stamp_of("cpu", locked=True), installer.stamp_of("cpu")) == before
    with (tmp_path / "requirements" / "test.txt").open("a") as file:
        file.write("another==1.0\n")
    assert installer.stamp_of("cpu", locked=True) != before[0] and installer.stamp_of("cpu") == before[1]


def test_a_python_that_the_files_are_not_for_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "choose_python", lambda wanted: ((3, 10), sys.executable))
    with pytest.raises(installer.InstallError, match=r"for Python 3\.11 and 3\.12, not for 3\.10") as error:
        installer.install("cpu", "", str(tmp_path / "venv"), locked=True)
    assert "\n" not in str(error.value)


def test_pip_is_given_the_files_of_the_device_and_the_extras() -> None:
    options = installer.constraints("cuda")
    assert options == ["--build-constraint=requirements/build.txt"] + [
        f"--constraint=requirements/{name}.txt" for name in ("cuda", "test", "docs", "demo")
    ]


def test_make_hands_on_that_exact_versions_are_wanted_and_ci_wants_them() -> None:
    def shown(*arguments: str) -> str:
        command = ["make", "-n", "install", *arguments]
        # A make that runs the tests hands its own LOCKED on in these.
        alone = {
            name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "LOCKED")
        }
        return subprocess.run(
            command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    assert "--locked" in shown("LOCKED=1")
    assert "--locked" not in shown() + shown("LOCKED=0")
    assert "make test LOCKED=1" in (ROOT / ".ci" / "run").read_text()
