"""An engine's part of a device, alone and beside others."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import ModelConfig, PPOConfig, RolloutConfig
from rlhf_dist.device import CPU, CUDA, Device
from rlhf_dist.plan.job import job_models
from rlhf_dist.plan.pools import job_pools
from rlhf_dist.plan.share import AWAY_BYTES, memory_share
from rlhf_dist.rollout.vllm_engine import _arguments

GIB = 2**30


def test_alone_it_takes_nine_tenths_and_beside_others_what_they_leave() -> None:
    open_share = RolloutConfig()
    for gib in (8, 24, 40, 80, 192):
        alone = memory_share(open_share, gib * GIB, 0)
        assert alone == 0.9
        shares = [memory_share(open_share, gib * GIB, beside) for beside in range(6)]
        assert shares == sorted(shares, reverse=True)
        for beside, share in enumerate(shares):
            assert share * gib * GIB + beside * AWAY_BYTES < 0.97 * gib * GIB, "all of them fit"
    assert memory_share(open_share, 80 * GIB, 4) == 0.85
    assert memory_share(open_share, 8 * GIB, 4) == 0.45


def test_a_share_that_was_set_stands() -> None:
    assert memory_share(RolloutConfig(memory_utilization=0.3), 80 * GIB, 4) == 0.3


def test_the_plan_and_the_engine_take_the_same_share(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "memory_bytes", lambda _: 8 * GIB)
    for placement, share in (("separate", 0.9), ("colocated", 0.45)):
        job = PPOConfig(placement=placement)
        job.actor.model.path = job.reward.model.path = str(tiny_model)
        job = resolve_ppo(job)
        planned = job_models(job, CUDA)["rollout"].colocated_roles
        told = _arguments(job.actor.model, job.rollout, CUDA, ppo_beside(job))
        assert memory_share(job.rollout, 8 * GIB, planned) == told["gpu_memory_utilization"] == share


def ppo_beside(job: PPOConfig) -> int:
    (pool,) = (pool for pool in job_pools(job, CUDA) if "rollout" in pool.name)
    return len(pool.roles) - 1


def test_the_prefix_cache_is_on_where_samples_have_something_in_common() -> None:
    for settings, on in (({}, False), ({"samples_per_prompt": 4}, True), ({"environment": "game.py:reply"}, True)):
        rollout = RolloutConfig(**settings)  # type: ignore[arg-type]
        assert _arguments(ModelConfig(path="model"), rollout, CPU, 0)["enable_prefix_caching"] is on
