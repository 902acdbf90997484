"""Tests of what only a CUDA device shows. Without one they are skipped before anything is done.

`--gpu-device=cpu` runs them on the processor instead, which shows nothing of a GPU, but that the tests themselves run:
`benchmarks/gpu.py --device cpu --tiny` does so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-device", default="cuda", choices=("cuda", "cpu"), help="what the tests marked gpu run on")


def chosen(config: pytest.Config) -> str:
    """The device's name. The option is not known where this folder is not named on pytest's command line."""
    return config.getoption("--gpu-device", default="cuda")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.slow)
            if chosen(config) == "cuda" and not there:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> Any:
    """The device that is tested."""
    from rlhf_dist.device import DEVICES

    return DEVICES[chosen(pytestconfig)]


@pytest.fixture
def needs_two(device: Any) -> None:
    """Skips where there are fewer than two devices; processes on a CPU need none."""
    if device.is_accelerator and device.count() < 2:
        pytest.skip("needs two CUDA devices")


@pytest.fixture
def needs_accelerator(device: Any) -> None:
    """Skips on a CPU, where there is nothing to see."""
    if not device.is_accelerator:
        pytest.skip("shows something on an accelerator only")
