"""What runs on an Ascend NPU, run on a simulated one: host memory under a device of its own, hccl over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.ranks import Ranks
from tests.engine.test_zero import ALONE, BFLOAT16, SMOOTH, Case, check_bfloat16, numbers, train
from tests.simulated_npu import build
from tests.simulated_npu.process import ROOT, finish, start

WORK = "tests.engine.test_zero:work"


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
def test_zero_3_never_has_the_whole_model_on_a_device() -> None:
    port = str(free_port())
    finish(
        [
            start("-m", "tests.simulated_npu.loading", str(rank), port, ASCEND_RT_VISIBLE_DEVICES=str(rank))
            for rank in range(2)
        ],
        timeout_s=120,
    )


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


def start_on_npu(rank: int, arguments: list[str]) -> subprocess.Popen[str]:
    """A rank's process, which sees one simulated NPU."""
    return start(*arguments, ASCEND_RT_VISIBLE_DEVICES=str(rank))


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    ranks = Ranks(WORK, "npu", start_on_npu)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """One rank on the CPU, no ZeRO, float32: with the usual optimizer, and with that of the bfloat16 cases."""
    ranks = Ranks(WORK)
    try:
        return tuple(train(tmp_path_factory.mktemp("cpu"), ranks, case) for case in (ALONE, SMOOTH))
    finally:
        ranks.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [Case(1, 0, 30, engine="torch"), *(Case(*layout, 30) for layout in ((2, 0), (2, 1), (2, 2), (1, 3), (2, 3)))],
    ids=lambda case: f"{case.engine}-{case.world}-{case.stage}",
)
def test_training_is_the_cpus(tmp_path: Path, ranks: Ranks, on_cpu: tuple[dict, dict], case: Case) -> None:
    seen = train(tmp_path, ranks, case, "npu")
    assert numbers(seen) == pytest.approx(numbers(on_cpu[0]), rel=1e-4, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", BFLOAT16, ids=lambda case: f"{case.engine}-{case.world}-{case.stage}")
def test_training_in_bfloat16_is_the_cpus_within_rounding(
    tmp_path: Path, ranks: Ranks, on_cpu: tuple[dict, dict], case: Case
) -> None:
    check_bfloat16(train(tmp_path, ranks, case, "npu"), on_cpu[1])


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
