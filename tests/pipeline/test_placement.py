"""Roles on shared devices, engines of several processes, and nodes: the step is the same wherever the roles live."""

from __future__ import annotations

import pytest

from tests.pipeline.conftest import Outcome, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HF = ["rollout.backend=hf", "ppo.prompts_per_step=5", "weights.verify_every=1"]
# Two steps that leave the policy as it is, and two that do not; the engine is asked after each.
STEPS = ["ppo.steps=4", "ppo.critic_warmup_steps=2", "run.eval_every=1"]
TWO = ["actor.num_workers=2", "critic.num_workers=2", "rollout.num_engines=2"]


def same_learning(one: Outcome, other: Outcome) -> None:
    """Losses, KL and gradient norms agree in every step."""
    assert len(one.metrics) == len(other.metrics)
    for ours, theirs in zip(one.metrics, other.metrics, strict=True):
        for name in ("reward/score_mean", "kl/sequence_mean", "loss/policy", "loss/value", "policy/grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-4), (name, ours["step"])


@pytest.fixture(scope="module")
def separate(place: Workspace) -> Outcome:
    """Every role by itself."""
    return place.run("ppo", "separate", *HF, *STEPS)


def test_roles_that_share_devices_learn_the_same(place: Workspace, separate: Outcome) -> None:
    """The engines drop their weights while others are on the devices, and have them again for each evaluation, too:
    also while only the critic learns, and no new ones come. (All roles on the same ones: tests/simulated_npu.)"""
    groups = ["placement=[[actor, rollout], [critic, reward, reference]]", "weights.transport=host"]
    sharded = [f"{role}.zero_stage=3" for role in ("actor", "critic", "reference")]
    outcome = place.run("ppo", "shared", *HF, *STEPS, *groups, *TWO, *sharded)
    same_learning(outcome, separate)
    assert outcome.summary["after"]["score_mean"] == pytest.approx(separate.summary["after"]["score_mean"], rel=1e-3)


def test_an_engine_of_two_processes_takes_the_weights_of_each_step(place: Workspace) -> None:
    """Tensor parallelism inside a Ray actor; parity is checked after every transfer."""
    split = ["rollout.tensor_parallel=2", "weights.verify_every=1", "ppo.prompts_per_step=5"]
    outcome = place.run("ppo", "split", *split)
    assert all(line["rollout/logprob_gap"] < 1e-4 for line in outcome.metrics)
