"""Training under every ZeRO stage on the device against the CPU, and models that leave the device and come back."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_parts.pair import visible_device
from tests.engine.ranks import Ranks
from tests.engine.test_zero import BFLOAT16, SMOOTH, check_bfloat16, numbers, train
from tests.tiny import write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _needs_deepspeed():
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs DeepSpeed")


def ranks_on(device, function):
    """Ranks that see one device each."""

    def start(rank, arguments):
        visible = {} if device.visible_variable is None else {device.visible_variable: visible_device(device, rank)}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"DS_ACCELERATOR": device.name, "PYTHONPATH": os.pathsep.join(paths), **visible}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, text=True, **pipes
        )

    return Ranks(function, device.name, start)


@pytest.fixture(scope="module")
def ranks(device):
    ranks = ranks_on(device, "tests.engine.test_zero:work")
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def on_cpu(device, tmp_path_factory) -> dict:
    """One rank on the CPU, no ZeRO, float32, with an optimizer whose steps no rounding decides."""
    from rlhf_dist.device import CPU

    ranks = ranks_on(CPU, "tests.engine.test_zero:work")
    try:
        return train(tmp_path_factory.mktemp("cpu"), ranks, SMOOTH)
    finally:
        ranks.close()


def check(device, ranks, on_cpu, folder, world, stage, engine="zero") -> None:
    seen = train(folder, ranks, replace(SMOOTH, world=world, stage=stage, budget=30, engine=engine), device.name)
    assert numbers(seen) == pytest.approx(numbers(on_cpu), rel=2e-3, abs=1e-3)


def test_training_by_plain_torch_is_the_cpus(device, ranks, on_cpu, tmp_path) -> None:
    check(device, ranks, on_cpu, tmp_path, 1, 0, "torch")


@pytest.mark.parametrize("stage", range(4))
def test_training_is_the_cpus(device, ranks, on_cpu, tmp_path, stage) -> None:
    check(device, ranks, on_cpu, tmp_path, 1, stage)


@pytest.mark.parametrize("stage", range(4))
def test_training_on_two_devices_is_the_cpus(device, needs_two, ranks, on_cpu, tmp_path, stage) -> None:
    check(device, ranks, on_cpu, tmp_path, 2, stage)


@pytest.mark.parametrize("case", BFLOAT16, ids=lambda case: f"{case.engine}-{case.world}-{case.stage}")
def test_training_in_bfloat16_is_the_cpus_within_its_rounding(device, ranks, on_cpu, tmp_path, case, request) -> None:
    if case.world > 1:
        request.getfixturevalue("needs_two")
    check_bfloat16(train(tmp_path, ranks, case, device.name), on_cpu)


@pytest.fixture(scope="module")
def leaving(device):
    ranks = ranks_on(device, "tests.gpu.residency:work")
    yield ranks
    ranks.close()


@pytest.mark.parametrize("stage,dtype", [(0, "float32"), (2, "bfloat16"), (3, "bfloat16")], ids=str)
def test_a_model_that_learns_leaves_the_device_and_comes_back_as_it_was(device, leaving, tmp_path, stage, dtype):
    leaving.run(1, str(write_model(tmp_path / "model")), stage, dtype, device.name)
