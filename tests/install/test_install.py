"""The set-up: what it chooses, what it says when something is missing, and that it does nothing twice."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rlhf_dist_installer", ROOT / "tools" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


installer = _load()


def _command(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _fake_python(folder: Path, name: str, version: str) -> Path:
    return _command(folder, name, f'echo "{version} {folder / name}"')


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose PATH holds only what a test puts there, without pyenv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(installer.sys, "executable", str(folder / "python3"))
    return folder


def _no_davinci(pattern: str) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ({}, "cpu"),
        ({"nvidia-smi": "echo 'GPU 0: H100'"}, "cuda"),
        ({"nvidia-smi": "exit 9"}, "cpu"),
        ({"nvidia-smi": "true"}, "cpu"),
        ({"npu-smi": "echo '910B'"}, "npu"),
        ({"npu-smi": "echo '910B'", "nvidia-smi": "echo 'GPU 0: H100'"}, "cuda"),
    ],
)
def test_the_device_is_what_the_machine_has(
    machine: Path, monkeypatch: pytest.MonkeyPatch, commands: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(installer.glob, "glob", _no_davinci)
    for name, script in commands.items():
        _command(machine, name, script)
    assert installer.resolve_device("auto") == expected


def test_ascend_is_known_by_its_device_files_too(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer.glob, "glob", lambda pattern: ["/dev/davinci0"])
    assert installer.detect_device() == "npu"


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(installer.InstallError, match="DEVICE=gpu: expected auto, cpu, cuda, npu"):
        installer.resolve_device("gpu")


def test_the_best_supported_python_is_chosen_not_the_first(machine: Path) -> None:
    _fake_python(machine, "python3", "3.13")
    _fake_python(machine, "python3.10", "3.10")
    best = _fake_python(machine, "python3.12", "3.12")
    assert installer.choose_python("") == ((3, 12), str(best))


def test_the_python_that_the_user_names_is_taken(machine: Path) -> None:
    _fake_python(machine, "python3.11", "3.11")
    named = _fake_python(machine, "mine", "3.10")
    assert installer.choose_python(str(named)) == ((3, 10), str(named))


def test_a_pyenv_python_is_found_behind_a_shim_that_fails(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _command(machine, "python3.11", "exit 127")
    pyenv = machine.parent / "pyenv"
    folder = pyenv / "versions" / "3.11.7" / "bin"
    folder.mkdir(parents=True)
    real = _fake_python(folder, "python", "3.11")
    monkeypatch.setenv("PYENV_ROOT", str(pyenv))
    assert installer.choose_python("") == ((3, 11), str(real))


def test_a_machine_without_a_supported_python_is_told_which_would_do(machine: Path) -> None:
    _fake_python(machine, "python3", "3.13")
    with pytest.raises(installer.InstallError) as error:
        installer.choose_python("")
    text = str(error.value)
    assert "3.10, 3.11 or 3.12" in text and "has 3.13" in text and "\n" not in text


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError: Failed to establish a "
            "new connection: [Errno -3] Temporary failure in name resolution'\nERROR: No matching distribution found",
            "cannot reach a package index: ",
        ),
        ("ERROR: Could not install: [Errno 28] No space left on device: 'x'", "the disk is full: "),
        ("Collecting x\nERROR: No matching distribution found for torch==9", "torch failed: ERROR: No matching"),
        ("Traceback ...\nModuleNotFoundError: No module named 'x'", "torch failed: ModuleNotFoundError"),
        ("", "torch failed"),
    ],
)
def test_pips_output_is_told_in_one_line(output: str, expected: str) -> None:
    cause = installer.cause_of(output, "torch failed")
    assert cause.startswith(expected) and "\n" not in cause


def test_too_little_disk_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(installer.InstallError, match=r"1\.0 GB free beside .*, about 4 are needed"):
        installer.check_disk(str(tmp_path / ".venv"), "cpu")


def test_a_directory_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("me")
    with pytest.raises(installer.InstallError, match="no virtual environment"):
        installer.Venv(str(tmp_path)).make(sys.executable, sys.version_info[:2], "cpu")
    assert (tmp_path / "keep").read_text() == "me"


def _stamped(folder: Path, device: str) -> Path:
    venv = folder / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "installed").write_text(f"{device} {installer.fingerprint(device)}\n")
    return venv


def test_with_everything_there_it_does_nothing_at_once_and_without_a_word(tmp_path: Path) -> None:
    venv = _stamped(tmp_path, "cpu")
    started = time.monotonic()
    command = [sys.executable, str(ROOT / "tools" / "install.py"), "--device", "cpu", "--venv", str(venv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 3


def test_another_device_or_changed_requirements_make_it_install_again(tmp_path: Path) -> None:
    venv = installer.Venv(str(_stamped(tmp_path, "cpu")))
    assert venv.is_ready(f"cpu {installer.fingerprint('cpu')}\n")
    assert not venv.is_ready(f"cuda {installer.fingerprint('cuda')}\n")
    Path(venv.python).unlink()
    assert not venv.is_ready(f"cpu {installer.fingerprint('cpu')}\n")


@pytest.mark.slow
def test_without_a_network_it_says_so_in_one_line(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    command = [sys.executable, str(ROOT / "tools" / "install.py"), "--device", "cpu", "--python", sys.executable]
    done = subprocess.run([*command, "--venv", str(venv)], capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 2
    assert done.stderr.startswith("install: cannot reach a package index: ")
    assert len(done.stderr.splitlines()) == 1
    assert (venv / "install.log").exists() and not (venv / "installed").exists()
