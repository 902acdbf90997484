"""Who may import whom: imports point downward, and each heavy library has its packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "rlhf_dist"

LAYERS = {
    "main": 5,
    "api": 5,
    "jobs": 5,
    "__main__": 5,
    "controller": 4,
    "cluster": 3,
    "engine": 2,
    "rollout": 2,
    "weights": 2,
    "plan": 1,
    "algo": 1,
    "models": 1,
    "labelling": 2,
    "data": 1,
    "types": 0,
    "device": 0,
    "config": 0,
    "network": 0,
    "hostmemory": 0,
    "errors": 0,
    "durable": 0,
    "page": 0,
    "process_output": 0,
    "process_memory": 0,
}

# Packages, or the beginnings of file names in a package.
HOMES = {
    "ray": {"cluster"},
    "deepspeed": {"engine/zero"},
    "vllm": {"rollout", "weights"},
    "omegaconf": {"config"},
}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += names if node.module == "rlhf_dist" else [str(node.module)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward_and_heavy_libraries_stay_in_their_packages(path: Path) -> None:
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "rlhf_dist" and len(parts) > 1:
            assert LAYERS[parts[1]] <= LAYERS[package_of(path)], f"{package_of(path)} imports {name}, which is above it"
        if parts[0] in HOMES:
            place = path.relative_to(PACKAGE).as_posix()
            at_home = any(place.startswith(home if "/" in home else f"{home}/") for home in HOMES[parts[0]])
            assert at_home, f"{name} is imported outside {HOMES[parts[0]]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_device_words_stand_in_one_file(path: Path) -> None:
    if path.name == "device.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in ("cuda", "npu", "nccl", "hccl"), f"line {node.lineno}: {node.value!r}"
    assert not re.search(r"torch\.(cuda|npu)\b|torch_npu", path.read_text())


def modules_imported(path: Path) -> set[str]:
    """Our own modules that a file imports, type-checking's and those inside functions included."""
    files = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in FILES}
    names = set(imports(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names & files


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Not for types only, either: such modules can only be understood, tested and changed together."""
    graph = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): modules_imported(path) for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rlhf_dist; print([m for m in ('ray', 'torch', 'vllm', 'deepspeed') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_our_own_package_is_not_imported_inside_functions() -> None:
    """But by name, where a command or a launcher brings in its job's module: importlib, in main.py and __main__.py."""
    found = []
    for path in FILES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "rlhf_dist":
                        found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.module}")
    assert not found
