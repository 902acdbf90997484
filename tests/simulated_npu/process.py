"""Processes in which `npu` is the simulated device. No other process may know it: torch takes its name for good."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.simulated_npu.build import library

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).resolve().parent / "site"


def environment(devices: int = 2) -> dict[str, str]:
    """The environment of a process on a machine with so many simulated NPUs, and without the hub.

    Raises:
        NoCompiler: the simulation is not built yet, and there is no C++ compiler to build it.
    """
    made = library()
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "SIMULATED_NPU_LIBRARY": str(made),
        "ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, range(devices))),
        "ASCEND_HOME_PATH": str(made.parent),  # where CANN would be: DeepSpeed wants to know
        "DS_ACCELERATOR": "npu",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 64}',  # Ray's count: each worker with an NPU asks for one
    }


def start(*arguments: str, **changes: str) -> subprocess.Popen[str]:
    """Python with ``arguments``, in the repository's root and :func:`environment`, with ``changes`` to it."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**environment(), **changes},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]], timeout_s: float = 240) -> list[str]:
    """Waits for all, which must end well, and gives what they printed. When one fails, the others are ended."""
    with ThreadPoolExecutor(len(processes)) as pool:
        waiting = {pool.submit(process.communicate, timeout=timeout_s): process for process in processes}
        try:
            for ended in as_completed(waiting):
                output, _ = ended.result()
                assert waiting[ended].returncode == 0, output
        finally:
            for process in processes:
                process.kill()
        return [ended.result()[0] for ended in waiting]
