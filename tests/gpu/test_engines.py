"""Rollout engines on the device against transformers, before and after weights came by each transport."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf_dist.controller.parity import TOLERANCES
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.vllm_engine import engine_env
from rlhf_dist.weights.groups import TransferPlan
from rlhf_dist.weights.source import WeightSource
from tests.rollout.engines import ROLLOUT, RemoteEngine, load, prompts, reference_logprobs
from tests.tiny import write_model

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = SamplingOptions(temperature=0.8, max_tokens=20, seed=5)
# An engine beside others on the device; the tiny model needs next to nothing, and starts without recorded graphs.
SMALL = replace(ROLLOUT, memory_utilization=0.2, enforce_eager=True)


@pytest.fixture(scope="module")
def models(device, tmp_path_factory):
    """Directories of two models of one shape with different weights, rounded as the device's dtype is."""
    root = tmp_path_factory.mktemp("models")
    folders = [write_model(root / str(seed), tied=True, seed=seed) for seed in (1, 2)]
    for folder in folders:
        load(folder).to(device.dtype("auto")).save_pretrained(folder)
    return folders


@pytest.fixture(scope="module", params=["hf", "vllm"])
def engine(request, device, models):
    if request.param == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM")
    environment = {**engine_env(device), **device.worker_env(threads=1)}
    remote = RemoteEngine(request.param, models[0], environment, SMALL, device)
    yield remote
    remote.call("close")
    remote.stop()


def largest_gap(folder, sequences):
    """Largest mean |difference| of a sequence's log-probabilities from those of float32 on the CPU."""
    gaps = (sequences.rollout_logprobs - reference_logprobs(folder, sequences, OPTIONS.temperature)).abs()
    return max(float(part.mean()) for part in torch.split(gaps, sequences.response_lengths.tolist()))


def carriers(device):
    """The transports between this process and an engine on the same device, or, where there are two, on another."""
    return ("shared", "host") if device.is_accelerator else ("collective", "shared", "host")


def test_log_probabilities_are_transformers_own(engine, device, models) -> None:
    sequences = engine.call("generate", prompts(11), OPTIONS)
    assert largest_gap(models[0], sequences) < TOLERANCES[device.dtype("auto")]
    assert largest_gap(models[1], sequences) > 2 * TOLERANCES[device.dtype("auto")]


def test_a_sample_depends_on_its_id_and_the_seed(engine) -> None:
    one, same = (engine.call("generate", prompts(5), OPTIONS) for _ in range(2))
    other = engine.call("generate", prompts(5), replace(OPTIONS, seed=6))
    assert one.response_lists() == same.response_lists() != other.response_lists()


def test_weights_arrive_by_each_transport(engine, device, models) -> None:
    """Each brings the other model's weights, from this process: it sends from the device that the engine is on."""
    device.set_current()
    for version, transport in enumerate(carriers(device), start=1):
        new, old = models[version % 2], models[(version + 1) % 2]
        source = WeightSource(load(new).to(device.torch_device(), device.dtype("auto")), 1 << 16)
        plan = TransferPlan(transport, ("actor 0", "rollout 0"), 50_000, 60.0, None)
        group = plan.listen("127.0.0.1", device)
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(engine.call, "join", group.endpoint, 1)
            group.connect()
            joining.result()
            receiving = pool.submit(engine.call, "receive", source.metadata(), version)
            group.send(source.metadata(), source)
            receiving.result()
        group.close()
        sequences = engine.call("generate", prompts(11), OPTIONS)
        assert set(sequences.weight_version.tolist()) == {version}
        assert largest_gap(new, sequences) < TOLERANCES[device.dtype("auto")], transport
        assert largest_gap(old, sequences) > 2 * TOLERANCES[device.dtype("auto")], transport


@pytest.mark.parametrize("rollout", ["hf", "vllm"])
def test_an_engine_sleeps_wakes_and_serves_new_weights(rollout, device, needs_accelerator, tmp_path) -> None:
    """Memory and log-probabilities, by the part that measures the same on a model of a billion parameters."""
    if rollout == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM")
    command = [sys.executable, "-m", "benchmarks.gpu_parts.generation", "--tiny", "--rollout", rollout]
    places = ["--device", device.name, "--work", str(tmp_path), "--json", str(tmp_path / "found.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    done = subprocess.run(
        [*command, *places], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["outcome"] == "passed", found
