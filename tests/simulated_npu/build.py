"""Compiles the simulated NPU, once for each version of its sources, torch and Python, and keeps it in `.cache/`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "simulated_npu"
SOURCES = sorted((HERE / "csrc").glob("*.cpp"))
HEADERS = sorted((HERE / "csrc").glob("*.h"))
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-w", "-D_GLIBCXX_USE_CXX11_ABI=1"]


class NoCompiler(RuntimeError):
    """The machine has no C++ compiler."""


def library() -> Path:
    """The compiled extension, made first where need be (about a minute). Other processes wait for one that makes it.

    Raises:
        NoCompiler: it is not there yet and cannot be made.
    """
    import torch

    digest = hashlib.sha256(repr((torch.__version__, platform.python_version(), FLAGS)).encode())
    for source in SOURCES + HEADERS:
        digest.update(source.read_bytes())
    target = CACHE / digest.hexdigest()[:16] / "simulated_npu.so"
    if target.exists():
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NoCompiler("the simulated NPU needs a C++ compiler: install g++, or set CXX")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(compiler, target)
    return target


def _compile(compiler: str, target: Path) -> None:
    import torch

    root = Path(torch.__file__).parent
    includes = [root / "include", root / "include/torch/csrc/api/include", Path(sysconfig.get_paths()["include"])]
    defines = ["-DTORCH_EXTENSION_NAME=simulated_npu", "-DUSE_DISTRIBUTED", "-DUSE_C10D_GLOO"]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = [Path(folder, f"{source.stem}.o") for source in SOURCES]
        common = [compiler, *FLAGS, *defines, *(f"-I{include}" for include in includes)]
        jobs = [
            subprocess.Popen([*common, "-c", str(source), "-o", str(made)], stderr=subprocess.PIPE, text=True)
            for source, made in zip(SOURCES, objects, strict=True)
        ]
        for job in jobs:
            _, errors = job.communicate()
            if job.returncode:
                raise RuntimeError(f"the simulated NPU does not compile:\n{errors[-4000:]}")
        made = Path(folder, target.name)
        libraries = [f"-L{root / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-ltorch", "-lc10"]
        subprocess.run([compiler, "-shared", *map(str, objects), *libraries, "-o", str(made)], check=True)
        made.rename(target)


if __name__ == "__main__":
    print(library())
