"""What runs on an Ascend NPU, run on a simulated one: host memory under a device of its own, hccl over gloo."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.engine.test_zero import numbers, train
from tests.simulated_npu import build
from tests.simulated_npu.process import ROOT, finish, start
from tests.tiny import write_model

RANK = "import json, sys; from tests.engine.test_zero import work; work(*json.loads(sys.argv[1]))"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["test_device", "test_models"])
def test_inside(module: str) -> None:
    finish([start("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/simulated_npu/inside/{module}.py")])


@pytest.mark.slow
def test_collectives() -> None:
    port = str(free_port())
    ranks = [
        start("-m", "tests.simulated_npu.ranks", str(rank), port, ASCEND_RT_VISIBLE_DEVICES=str(rank))
        for rank in range(2)
    ]
    finish(ranks, timeout_s=120)


@pytest.mark.slow
def test_two_ranks_on_one_device_are_refused() -> None:
    port = str(free_port())
    with pytest.raises(AssertionError, match="the ranks 0, 1 are on the same device, npu 1 of"):
        finish(
            [
                start("-m", "tests.simulated_npu.ranks", str(rank), port, ASCEND_RT_VISIBLE_DEVICES="1")
                for rank in range(2)
            ]
        )


def train_on_npus(folder: Path, world: int, stage: int, budget: int, dtype: str) -> dict:
    """tests/engine/test_zero.py's training, with its actor, critic and reward model on simulated NPUs."""
    write_model(folder / "model")
    port = free_port()
    finish(
        [
            start(
                "-c",
                RANK,
                json.dumps([rank, world, port, str(folder), stage, budget, dtype, "npu"]),
                ASCEND_RT_VISIBLE_DEVICES=str(rank),
            )
            for rank in range(world)
        ]
    )
    seen = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]
    for key in ("logprobs", "averaged"):
        seen[0][key] = {row: values for one in seen for row, values in one[key].items()}
    return seen[0]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """One rank on the CPU, no ZeRO, float32."""
    return train(tmp_path_factory.mktemp("cpu"), world=1, stage=0, budget=30)


@pytest.mark.slow
@pytest.mark.parametrize("world,stage", [(1, 0), (2, 0), (2, 1), (2, 2), (1, 3), (2, 3)], ids=str)
def test_training_is_the_cpus(tmp_path: Path, on_cpu: dict, world: int, stage: int) -> None:
    seen = train_on_npus(tmp_path, world, stage, 30, "float32")
    assert numbers(seen) == pytest.approx(numbers(on_cpu), rel=1e-4, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world,stage", [(1, 0), (2, 3)], ids=str)
def test_training_in_bfloat16_is_the_cpus_within_rounding(tmp_path: Path, on_cpu: dict, world: int, stage: int) -> None:
    seen = train_on_npus(tmp_path, world, stage, 30, "bfloat16")
    for role in ("actor", "critic"):
        for name in ("loss", "grad_norm", "lr"):
            assert seen[role][name] == pytest.approx(on_cpu[role][name], rel=0.05, abs=0.02), (role, name)
    assert numbers(seen["logprobs"]) == pytest.approx(numbers(on_cpu["logprobs"]), abs=0.3)


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.NoCompiler, match=r"needs a C\+\+ compiler"):
        build.library()


def test_this_process_does_not_know_it() -> None:
    import torch

    assert not hasattr(torch, "npu") and "torch_npu" not in sys.modules
    assert "SIMULATED_NPU_LIBRARY" not in os.environ and (ROOT / "rlhf_dist").is_dir()
