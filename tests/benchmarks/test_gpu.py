"""`benchmarks/gpu.py` without a CUDA device: its arithmetic, the deadlines of its parts, and all of it in small."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts.common import Findings, Settings, llama_config
from benchmarks.gpu_parts.peak import listed_peak, training_flops
from benchmarks.gpu_parts.report import Result, of_tests, page, slug
from rlhf_dist.device import CPU

ROOT = Path(__file__).resolve().parents[2]
FACTS = {
    "cards": [{"name": "NVIDIA H100 80GB HBM3", "memory": 80 << 30}],
    "versions": {"torch": "2.13.0"},
    "driver": "580.1",
    "cuda": "13.0",
    "nccl": "2.29.3",
    "processor": "one",
    "cores": 16,
    "memory": 128 << 30,
    "python": "3.11.9",
}


@pytest.mark.parametrize(
    "card,tera",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71),
        ("Tesla T4", 65),
        ("NVIDIA Unheard Of 1", None),
    ],
)
def test_a_card_has_the_peak_of_its_own_name(card: str, tera: float | None) -> None:
    assert listed_peak(card) == (None if tera is None else tera * 1e12)


def test_the_operations_of_a_step_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    config = llama_config("tiny")
    config._attn_implementation = "eager"
    model, tokens = LlamaForCausalLM(config), torch.randint(3, 300, (2, 48))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens).logits.sum().backward()
    # Its backward leaves out the gradient of the rotary positions' product and the like: a part in a thousand.
    assert training_flops(config, 2, 48, causal=False) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_shape_is_the_largest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu_parts.common import FROZEN_BYTES, TRAINING_BYTES

    def shapes(gib: float) -> list[str]:
        monkeypatch.setattr(type(CPU), "memory_bytes", lambda _: int(gib * 2**30))
        settings = Settings(CPU, False, "hf", Path(), "")
        return [settings.shape(TRAINING_BYTES), settings.shape(4 * FROZEN_BYTES)]

    assert [shapes(80), shapes(24), shapes(6)] == [["1B", "1B"], ["0.4B", "1B"], ["0.1B", "0.1B"]]


def test_the_shares_of_the_parts_are_less_than_15_minutes() -> None:
    assert sum(part.seconds for part in gpu.PARTS) <= 900
    for part in gpu.PARTS:
        assert not part.runs.endswith(".py") or (ROOT / part.runs).is_file()


TESTS = """
import pytest

def test_good(): pass

def test_bad(): assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="needs two CUDA devices")
def test_left(): pass
"""


def test_tests_that_failed_and_were_skipped_are_named_with_their_reasons(tmp_path: Path) -> None:
    def outcome(*chosen: str) -> dict:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={tmp_path / 'out'}"]
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        subprocess.run([*command, *chosen], cwd=tmp_path, env=alone, capture_output=True, check=False)
        return of_tests(tmp_path / "out")

    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    whole = outcome()
    assert whole["outcome"] == "failed" and whole["reason"].startswith("test_bad: AssertionError: one is not two")
    assert whole["notes"][:2] == [
        "1 tests passed, 1 failed, 1 were skipped.",
        "1 skipped: needs two CUDA devices",
    ]
    assert outcome("-k", "good or left")["outcome"] == "passed"
    assert outcome("-k", "left") == {"outcome": "skipped", "reason": "needs two CUDA devices", "notes": []}


HANGS = "import subprocess, sys, time; subprocess.Popen(['sleep', '987']); print('begun', flush=True); time.sleep(600)"
PARTS = {
    "hangs": HANGS,
    "dies": "import os; print('a last word', flush=True); os.abort()",
    "lies": "import json, sys; json.dump({'outcome': 'passed', 'reason': ''}, open(sys.argv[1], 'w')); sys.exit(3)",
    "works": "import json, sys; json.dump({'outcome': 'passed', 'reason': '', 'figures': [['x', 1.5, 's']]}, "
    "open(sys.argv[1], 'w'))",
}


def test_parts_that_hang_die_or_fail_hide_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [gpu.Part(name, "", name, 3.0 if name == "hangs" else 30.0, ()) for name in PARTS]
    parts.append(gpu.Part("lacks", "", "", 0.0, ("torch", "no_such_package")))
    parts.append(gpu.Part("wants", "", "", 0.0, (), devices=2))
    monkeypatch.setattr(gpu, "PARTS", tuple(parts))
    monkeypatch.setattr(gpu, "PATIENCE_S", 0.5)
    monkeypatch.setattr(gpu, "command_of", lambda part, *rest: ["-c", PARTS[part.name], str(rest[-1])])
    options = argparse.Namespace(minutes=113.0 / 60, parts=[p.name for p in parts], device="cuda", logs=tmp_path)
    results = {result.part: result for result in gpu.run_all(options, FACTS, "hf")}
    said = {name: (result.outcome, result.reason) for name, result in results.items()}
    assert said["hangs"] == ("failed", "was not done after 3 s")
    assert said["dies"] == ("failed", "ended with -6 and said nothing: a last word")
    assert said["lies"] == ("failed", "ended with 3 after it had passed")
    assert said["works"] == ("passed", "") and results["works"].figures == [["x", 1.5, "s"]]
    assert said["lacks"] == ("skipped", "needs no_such_package")
    assert said["wants"] == ("skipped", "needs two CUDA devices")
    assert "begun" in (tmp_path / "hangs.log").read_text()
    deadline = time.monotonic() + 10
    while "sleep 987" in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < deadline, "what a part started has outlived it"


def test_the_time_that_a_part_leaves_is_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = []

    def run(part: gpu.Part, *rest: object) -> Result:
        deadlines.append(rest[-1])
        return Result(part.name, "passed", seconds=10.0)

    monkeypatch.setattr(gpu, "PARTS", tuple(gpu.Part(name, "", "", 40.0, ()) for name in "abcd"))
    monkeypatch.setattr(gpu, "run_part", run)
    options = argparse.Namespace(minutes=3.0, parts=["b", "c", "d"], device="cpu", logs=tmp_path)
    gpu.run_all(options, FACTS, "hf")
    assert deadlines == [80.0, 110.0, 140.0]


def test_a_page_holds_the_machine_the_command_and_every_part() -> None:
    results = [
        Result("mfu", "passed", seconds=12.0, figures=[("MFU of training", 41.5, "%")], notes=["of 989 TFLOP/s"]),
        Result("transport", "failed", "test_x: one | two", 3.0, "runs/gpu/transport.log"),
        Result("ppo-separate", "skipped", "needs two CUDA devices"),
    ]
    text = page(results, FACTS, {"command": "benchmarks/gpu.py", "commit": "abc", "date": "2026-01-01"})
    assert slug(FACTS, "cuda") == "h100-80gb-hbm3"
    for part in (
        "1 x NVIDIA H100 80GB HBM3 (80 GiB)",
        "driver 580.1, CUDA 13.0, NCCL 2.29.3",
        "Made by `benchmarks/gpu.py`, commit abc, 2026-01-01.",
        "| transport | failed | 3.0 | test_x: one \\| two (log: `runs/gpu/transport.log`) |",
        "| ppo-separate | skipped | 0.0 | needs two CUDA devices |",
        "| MFU of training | 41.5 | % |",
    ):
        assert part in text


def test_a_page_keeps_the_parts_that_did_not_run_again_and_says_when_they_did(tmp_path: Path) -> None:
    def write(facts: dict[str, Any], date: str, *results: Result) -> str:
        options = argparse.Namespace(out=tmp_path, device="cuda")
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patched:
            patched.setattr(gpu, "commit", lambda: "abc")
            patched.setattr(gpu.time, "strftime", lambda _: date)
            gpu.write(options, facts, list(results), [])
        return (tmp_path / "gpu-h100-80gb-hbm3.md").read_text()

    write(FACTS, "2026-01-01", Result("kernels", "passed"), Result("mfu", "failed", "broken"))
    text = write(FACTS | {"memory": 1}, "2026-01-02", Result("mfu", "passed", seconds=7.0))
    assert "- Of an earlier run: kernels (2026-01-01, commit abc)" in text
    assert "| kernels | passed |" in text and "| mfu | passed | 7.0 |" in text and "broken" not in text
    text = write(FACTS | {"versions": {"torch": "3"}}, "2026-01-03", Result("mfu", "passed"))
    assert "kernels" not in text, "figures of another torch are shown as this one's"


def test_a_part_says_what_it_found_before_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu_parts import common

    def main(settings: Settings, found: Findings) -> None:
        found.figure("speed", 2.0, "tokens/s")
        found.check(False, "too slow")
        raise ValueError("no more\nof it")

    answer = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["part", "--device", "cpu", "--work", str(tmp_path), "--json", str(answer)])
    assert common.run_part(main) == 1
    found = json.loads(answer.read_text())
    assert found["figures"] == [["speed", 2.0, "tokens/s"]]
    assert (found["outcome"], found["reason"], found["failures"]) == ("failed", "too slow", ["too slow", "no more"])


def without_cuda(tmp_path: Path) -> dict[str, str]:
    """An environment in which nvidia-smi finds nothing, and torch neither."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}


def test_without_a_card_it_ends_in_one_line_before_anything_is_installed(tmp_path: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=without_cuda(tmp_path), capture_output=True, text=True, timeout=120, check=False
        )

    made = run("make", "test-gpu")
    lines = [line for line in (made.stdout + made.stderr).splitlines() if not line.startswith("make")]
    assert made.returncode == 2
    assert lines == ["test-gpu: there is no CUDA device here (nvidia-smi lists none): nothing to test"]
    direct = run(sys.executable, "benchmarks/gpu.py")
    assert direct.returncode == 2
    assert direct.stdout + direct.stderr == "gpu.py: torch sees no CUDA device here: nothing to test\n"
    wrong = run(sys.executable, "benchmarks/gpu.py", "--parts", "mfu,speed")
    assert wrong.returncode == 2 and "--parts speed: there are device,kernels," in wrong.stderr


@pytest.mark.slow
def test_tests_marked_gpu_are_skipped_with_their_reason_and_cost_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--durations=1", "tests/gpu"]
    done = subprocess.run(
        command, cwd=ROOT, env=without_cuda(tmp_path), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout
    summary = done.stdout.strip().splitlines()[-1]
    assert "skipped" in summary and "passed" not in summary
    assert done.stdout.count("needs a CUDA device") >= 5


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_the_parts_run_in_small_on_a_cpu(tmp_path: Path) -> None:
    """Nothing of a GPU is shown by it, but that the parts do what they say, and that the page is written.

    Left out are those that other tests do on a CPU anyway (ZeRO, engines) and PPO's other placements.
    """
    parts = ["device", "kernels", "transport", "mfu", "transfer", "generation", "ppo-colocated"]
    before = sorted((ROOT / "benchmarks/results").iterdir())
    places = ["--out", str(tmp_path / "out"), "--logs", str(tmp_path / "logs"), "--minutes", "30"]
    chosen = ["--device", "cpu", "--tiny", "--rollout", "hf", "--parts", ",".join(parts)]
    command = [sys.executable, "benchmarks/gpu.py", *chosen, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1850, check=False)
    logs = "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in (tmp_path / "logs").iterdir())
    assert done.returncode == 0, done.stdout + done.stderr + logs
    written = json.loads((tmp_path / "out/gpu-cpu.json").read_text())
    outcomes = {part["part"]: part["outcome"] for part in written["parts"]}
    assert outcomes == dict.fromkeys(parts, "passed")
    figures = {part["part"]: dict(row[:2] for row in part["figures"]) for part in written["parts"]}
    assert figures["mfu"]["MFU of training"] > 0
    assert figures["ppo-colocated"]["largest rollout/logprob_gap"] < 1e-3
    text = (tmp_path / "out/gpu-cpu.md").read_text()
    assert "gap of the log-probabilities, after sleep, wake and other weights" in text
    assert sorted((ROOT / "benchmarks/results").iterdir()) == before
