"""The task whose optimum is known: its arithmetic against counting, and that PPO reaches it, in step and ahead."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.learning import exact

LEAST_GAIN = 0.99


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    exact.write_task(folder)
    return folder


@pytest.fixture(scope="module")
def task(folder: Path) -> exact.Task:
    return exact.task_in(folder)


def test_the_best_policy_is_one_and_has_the_best_value_and_all_the_gain(task: exact.Task) -> None:
    optimum = task.optimum()
    for logprobs in (task.reference, optimum):
        assert torch.allclose(logprobs.exp().sum(1), torch.ones(len(exact.PROMPTS), dtype=torch.float64))
    assert torch.allclose(task.value(optimum), task.best)
    assert task.gain(task.reference) == 0
    assert task.gain(optimum) == pytest.approx(1)


def test_what_a_policy_lacks_is_beta_times_its_kl_to_the_best_one(task: exact.Task) -> None:
    generator = torch.Generator().manual_seed(1)
    policy = torch.randn(task.rewards.shape, generator=generator, dtype=torch.float64).log_softmax(1)
    kl = (policy.exp() * (policy - task.optimum())).sum(1)
    assert torch.allclose(task.best - task.value(policy), exact.BETA * kl)
    worst = (task.reference - task.rewards / exact.BETA).log_softmax(1)  # what a wrong sign would learn
    assert task.gain(worst) < -1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("staleness", [0, 1])
def test_ppo_reaches_the_optimum_within_one_percent(folder: Path, task: exact.Task, staleness: int) -> None:
    name = f"ppo-{staleness}"
    settings = [*exact.ALGORITHMS["PPO"], f"rollout.staleness={staleness}"]
    subprocess.run(exact.command(name, settings, 1, exact.STEPS), cwd=folder, check=True, timeout=800)
    assert task.gain(exact.all_logprobs(exact.trained(folder, name))) > LEAST_GAIN
