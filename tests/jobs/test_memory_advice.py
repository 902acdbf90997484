"""What is advised when the machine's memory has run out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import PPOConfig, RewardSourceConfig
from rlhf_dist.device import CPU
from rlhf_dist.errors import MemoryRanOut, RunError, UserError
from rlhf_dist.jobs.memory_advice import memory_advice
from rlhf_dist.plan.job import load_job

GIB = 2**30
RAN_OUT = "worker critic-0 was killed during train"


@pytest.fixture
def job(architectures: dict[str, str]) -> PPOConfig:
    """PPO with models of SmolLM2-135M's architecture, without weights."""
    model = architectures["demo/smollm2"]
    config = PPOConfig()
    config.run.name, config.data.path = "job", "prompts.jsonl"
    config.actor.model.path = config.reward.model.path = model
    config.rewards["polite"] = RewardSourceConfig(weight=1.0)
    config.rewards["polite"].model.path = model
    config.actor.micro_batch_tokens = 2**16
    config.data.eval_count = config.ppo.prompts_per_step = 512
    return resolve_ppo(config)


def advised(job: PPOConfig, roles: dict[str, int], total: int = 24 * GIB) -> str:
    with pytest.raises(RunError) as caught:
        with memory_advice(job, CPU):
            raise MemoryRanOut(RAN_OUT, "its log", roles, total)
    assert caught.value.detail == "its log"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("total", [24 * GIB, 10_000 * GIB])  # the planner thought it too large, or that it fits
def test_the_planner_says_what_to_change_and_the_change_is_a_setting(job: PPOConfig, total: int) -> None:
    said = advised(job, {"critic": 7 * GIB, "actor": 3 * GIB}, total)
    before, _, change = said.partition("; the smallest change: ")
    assert before == RAN_OUT
    assert change
    recipe = Path(__file__).resolve().parents[2] / "configs/ppo_llama.yaml"
    load_job(
        [f"actor.model.path={job.actor.model.path}", f"reward.model.path={job.actor.model.path}", *change.split()],
        recipe,
    )


@pytest.mark.parametrize(
    "roles,said",
    [
        ({"critic": 7, "actor": 3}, "critic takes most: lower critic.micro_batch_tokens, raise critic.zero_stage, or"),
        (
            {"reward-polite": 7},
            "reward-polite takes most: lower rewards.polite.micro_batch_tokens, raise rewards.polite.",
        ),
        ({"rollout": 7, "actor": 3}, "rollout takes most: lower rollout.memory_gib, rollout.max_batch or rollout.num_"),
        ({}, "give the node more memory, or the job more nodes"),
    ],
)
def test_where_the_planner_cannot_tell_the_largest_role_and_its_keys_are_named(
    job: PPOConfig, roles: dict[str, int], said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard of"}')
    job.actor.model.path = str(tmp_path)
    assert advised(job, roles).startswith(f"{RAN_OUT}; {said}")


def test_other_errors_pass(job: PPOConfig) -> None:
    with pytest.raises(UserError, match="a mistake"):
        with memory_advice(job, CPU):
            raise UserError("a mistake")
