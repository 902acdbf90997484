"""The table of roles, and that whoever needs to know the roles of a job reads it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf_dist.config import roles
from rlhf_dist.config.resolve import resolve_dpo, resolve_ppo
from rlhf_dist.config.roles import JobConfig, Role, RoleKind, declared_roles, job_roles, result_role
from rlhf_dist.config.schema import (
    DPOConfig,
    FrozenRoleConfig,
    PPOConfig,
    RewardModelConfig,
    RewardSourceConfig,
    SFTConfig,
)
from rlhf_dist.config.schema.define import section
from rlhf_dist.config.validate import validate_ppo
from rlhf_dist.device import CPU, CUDA
from rlhf_dist.errors import MemoryRanOut, RunError, UserError
from rlhf_dist.jobs import memory_advice, preflight
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.cost import Speeds
from rlhf_dist.plan.job import job_models
from rlhf_dist.plan.loads import Hardware
from rlhf_dist.plan.pools import job_pools
from rlhf_dist.plan.suggest import suggest_plans

POLICY, SCALAR, ENGINE, FUNCTION = RoleKind.POLICY, RoleKind.SCALAR, RoleKind.ENGINE, RoleKind.FUNCTION
WHOLE_PPO = [
    ("actor", "actor", POLICY, True, "actor.model.path"),
    ("critic", "critic", SCALAR, True, "critic.model.path"),
    ("reward", "reward", SCALAR, False, "reward.model.path"),
    ("reference", "reference", POLICY, False, "reference.model.path"),
    ("rollout", "rollout", ENGINE, False, "actor.model.path"),
]


def ppo(model: str = "model") -> PPOConfig:
    config = PPOConfig()
    config.actor.model.path = config.reward.model.path = model
    return config


def rows(config: JobConfig) -> list[tuple[str, str, RoleKind, bool, str]]:
    return [(role.name, role.section, role.kind, role.learns, role.model_key) for role in job_roles(config)]


def test_the_roles_of_ppo() -> None:
    config = resolve_ppo(ppo())
    config.critic.num_workers, config.rollout.num_engines, config.rollout.tensor_parallel = 3, 2, 4
    assert rows(config) == WHOLE_PPO
    counts = {role.workers_key: (role.workers, role.processes_per_worker) for role in job_roles(config)}
    one_each = {f"{name}.num_workers": (1, 1) for name in ("actor", "reward", "reference")}
    assert counts == one_each | {"critic.num_workers": (3, 1), "rollout.num_engines": (2, 4)}
    assert [role.config for role in job_roles(config)] == [
        config.actor,
        config.critic,
        config.reward,
        config.reference,
        config.rollout,
    ]
    assert all(role.model is config.actor.model for role in job_roles(config) if role.kind is ENGINE)


def test_an_estimator_without_values_has_no_critic() -> None:
    config = ppo()
    config.ppo.advantage = "rloo"
    config = resolve_ppo(config)
    assert rows(config) == [row for row in WHOLE_PPO if row[0] != "critic"]
    (critic,) = [role for role in declared_roles(config) if not role.has_workers]
    assert (critic.name, critic.workers) == ("critic", 0)


def test_an_adapter_of_the_references_model_is_the_reference_when_it_is_off() -> None:
    config = ppo()
    config.actor.lora.rank = 8
    assert rows(resolve_ppo(config)) == [row for row in WHOLE_PPO if row[0] != "reference"]
    config.reference.model.path = "another model"
    assert rows(resolve_ppo(config)) == WHOLE_PPO


def test_every_source_of_reward_is_a_role_with_a_model_or_without() -> None:
    config = ppo()
    config.rewards["polite"] = RewardSourceConfig(endpoint="http://localhost/score")
    config.rewards["safe"] = RewardSourceConfig()
    config.rewards["safe"].model.path = "safety"
    config.reward.function = "score.py:length"
    assert rows(resolve_ppo(config))[2:5] == [
        ("reward", "reward", FUNCTION, False, "actor.model.path"),
        ("reward-polite", "rewards.polite", FUNCTION, False, "actor.model.path"),
        ("reward-safe", "rewards.safe", SCALAR, False, "rewards.safe.model.path"),
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SFTConfig(), [("actor", "actor", POLICY, True, "actor.model.path")]),
        (RewardModelConfig(), [("reward", "reward", SCALAR, True, "reward.model.path")]),
        (
            resolve_dpo(DPOConfig()),
            [
                ("actor", "actor", POLICY, True, "actor.model.path"),
                ("reference", "reference", POLICY, False, "reference.model.path"),
            ],
        ),
    ],
    ids=["sft", "reward model", "dpo"],
)
def test_the_roles_of_the_supervised_jobs(
    config: JobConfig, expected: list[tuple[str, str, RoleKind, bool, str]]
) -> None:
    assert rows(config) == expected


@pytest.mark.parametrize("config", [resolve_ppo(ppo()), SFTConfig(), RewardModelConfig(), DPOConfig()])
def test_what_a_run_leaves_behind_is_the_model_of_its_first_role_that_learns(config: JobConfig) -> None:
    assert result_role(config).name == ("reward" if isinstance(config, RewardModelConfig) else "actor")


@pytest.mark.parametrize("changes", [{}, {"advantage": "grpo"}, {"rank": 4}, {"function": "score.py:length"}], ids=str)
def test_planner_placement_and_the_checks_before_a_launch_see_the_rows_of_the_table(
    changes: dict[str, object], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ppo(str(tiny_model))
    config.rewards["second"] = RewardSourceConfig()
    config.rewards["second"].model.path = config.actor.model.path
    config.reward.function = changes.get("function")  # type: ignore[assignment]
    config.ppo.advantage = str(changes.get("advantage", "gae"))
    config.actor.lora.rank = int(changes.get("rank", 0))  # type: ignore[call-overload]
    config = resolve_ppo(config)
    table = job_roles(config)
    with_model = [role.name for role in table if role.kind is not FUNCTION]

    placed = [(role.role, role.workers) for pool in job_pools(config, CUDA) for role in pool.roles]
    assert placed == [(role.name, role.workers) for role in table]
    models = job_models(config, CPU)
    assert list(models) == with_model
    outputs = {role.name: 1 if role.kind is SCALAR else 320 for role in table}  # the vocabulary has 320 tokens
    assert {name: model.facts.outputs for name, model in models.items()} == {name: outputs[name] for name in with_model}

    seen: list[str] = []
    monkeypatch.setattr(preflight, "_file_bytes", lambda path: seen.append(path) or 0)
    assert preflight._all_small(config, CUDA, 2**60)
    assert len(seen) == len(with_model) - 1  # engines hold the actor's

    monkeypatch.setattr(memory_advice, "_planned_change", lambda *_: None)
    for role in table:
        with pytest.raises(RunError) as caught, memory_advice.memory_advice(config, CPU):
            raise MemoryRanOut("killed", "", {role.name: 1}, 1)
        assert (role.workers_key in str(caught.value)) == (role.kind is not FUNCTION)


@dataclass
class WithProcess(PPOConfig):
    """A configuration with the section of one more role."""

    process: FrozenRoleConfig = section(FrozenRoleConfig, "scores steps")


def process_row(config: PPOConfig) -> Role:
    """The row of that role."""
    assert isinstance(config, WithProcess)
    return Role("process", "process", config.process, SCALAR, config.process.model, "process.model.path")


def test_a_further_row_is_all_that_placement_planner_and_checks_need_of_a_new_role(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = WithProcess()
    config.actor.model.path = config.reward.model.path = config.process.model.path = str(tiny_model)
    config.placement = "[[actor, process], [critic, reward]]"
    config.process.num_workers, config.process.zero_stage = 3, 3
    table = roles._ppo_roles
    monkeypatch.setattr(roles, "_ppo_roles", lambda config: (*table(config), process_row(config)))
    config = resolve_ppo(config)
    assert isinstance(config, WithProcess)
    process = config.process
    config.run.name, config.data.path = "new", "some/prompts"
    config.rollout.max_prompt_tokens = config.rollout.max_response_tokens = 64

    validate_ppo(config)
    shared = job_pools(config, CUDA)[0]
    assert (shared.name, shared.devices) == ("actor+process", 3)
    plan = make_plan(config, CUDA, Hardware(1, 8, 80 * 2**30))
    assert plan.footprints["process"].weights == plan.footprints["reward"].weights // 3
    suggested = suggest_plans(config, CUDA, Hardware(1, 4, 80 * 2**30), Speeds(), 1)
    assert {"process.num_workers", "process.zero_stage"} <= suggested[0].settings.keys()
    process.zero_stage = 2
    with pytest.raises(UserError, match=r"process\.zero_stage=2"):
        validate_ppo(config)
    process.zero_stage, process.model.path = 3, "nowhere/model/of/mine"
    with pytest.raises(UserError, match=r"process\.model\.path"):
        validate_ppo(config)


def test_the_table_is_read_without_torch_and_ray() -> None:
    code = "import sys, rlhf_dist.config.roles; print([name for name in ('ray', 'torch') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
