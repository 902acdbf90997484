"""Which workers sit on which devices, without a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.config.parsing import port_range, shared_groups
from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.roles import declared_roles
from rlhf_dist.config.schema import PPOConfig, RewardSourceConfig
from rlhf_dist.device import CPU, CUDA, NPU
from rlhf_dist.errors import UserError
from rlhf_dist.plan.pools import Pool, RoleResources, job_pools, pools

PPO_ROLES = [role.name for role in declared_roles(PPOConfig())]


def role(name: str, workers: int, devices: int = 1, strategy: str = "pack") -> RoleResources:
    return RoleResources(name, workers, devices, 1.0, 1, strategy)


def config(**changes: object) -> PPOConfig:
    made = PPOConfig()
    made.actor.model.path = "actor"
    made.reward.model.path = "reward"
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        setattr(getattr(made, section) if section else made, name, value)
    return resolve_ppo(made)


def test_separate_gives_every_role_a_pool_of_its_own() -> None:
    assert [pool.name for pool in job_pools(config(), CUDA)] == ["actor", "critic", "reward", "reference", "rollout"]


def test_colocated_puts_all_roles_with_a_model_on_the_same_devices() -> None:
    made = config(placement="colocated", actor__num_workers=4, rollout__num_engines=2, rollout__tensor_parallel=2)
    made.rewards["polite"] = RewardSourceConfig(function="x:y")
    together, alone = sorted(job_pools(made, CUDA), key=lambda pool: -len(pool.roles))
    assert together.name == "actor+critic+reward+reference+rollout"
    assert (together.bundles, together.width, together.devices) == (2, 2, 4)
    assert (alone.name, alone.devices) == ("reward-polite", 0)  # a function needs no accelerator


def test_lists_of_roles_share_and_a_role_in_none_stays_alone() -> None:
    assert shared_groups("[[actor, reference], [reward, critic]]", PPO_ROLES) == [
        ["actor", "reference"],
        ["reward", "critic"],
        ["rollout"],
    ]


def test_roles_that_the_run_does_without_may_stand_in_the_lists() -> None:
    without_critic = ["actor", "reward", "reference", "rollout"]
    assert shared_groups("[[actor, reference], [critic, reward]]", without_critic, PPO_ROLES)[1] == ["reward"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colocate", "did you mean colocated"),
        ("[[actor, refrence]]", "did you mean reference"),
        ("[[actor], [actor, critic]]", "stands in it twice"),
        ("[actor, critic]", "expected separate, colocated, or lists"),
        ("[[actor", "expected separate"),
    ],
)
def test_a_placement_that_cannot_be_read_says_why(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        shared_groups(text, PPO_ROLES)


def test_roles_that_share_must_agree_on_the_strategy() -> None:
    roles = [role("actor", 2), role("critic", 2, strategy="spread")]
    with pytest.raises(UserError, match=r"actor\.strategy=pack, critic\.strategy=spread"):
        pools(roles, "colocated", CUDA)


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="of 2 and of 3 devices"):
        pools([role("rollout", 1, devices=3), role("reward", 1, devices=2)], "colocated", CUDA)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 4])), min_size=1, max_size=5),
)
def test_every_worker_has_its_own_devices_within_its_role_and_equal_ranks_of_roles_meet(
    shape: list[tuple[int, int]],
) -> None:
    pool = Pool(tuple(role(f"r{n}", workers, devices) for n, (workers, devices) in enumerate(shape)))
    for member in pool.roles:
        slots = [pool.slot(member, rank) for rank in range(member.workers)]
        taken = [slot.bundle * pool.width + index for slot in slots for index in slot.devices]
        assert taken == list(range(member.workers * member.devices))  # each once, in order
        assert max(taken) < pool.devices
        assert all(len(slot.devices) == member.devices for slot in slots)
    assert sum(bundle["CPU"] for bundle in pool.resources(CUDA)) == sum(workers for workers, _ in shape)
    assert all(bundle["GPU"] == pool.width for bundle in pool.resources(CUDA))


def test_bundles_ask_for_the_devices_resource_and_for_none_on_a_cpu() -> None:
    assert job_pools(config(actor__num_workers=2), NPU)[0].resources(NPU) == [{"CPU": 1.0, "NPU": 1.0}] * 2
    assert all(set(bundle) == {"CPU"} for pool in job_pools(config(), CPU) for bundle in pool.resources(CPU))


def test_ports_are_read_or_refused() -> None:
    assert port_range("20000-20099") == (20000, 20099)
    assert port_range(None) is None
    for ports in ("20000", "200-300", "30000-20000", "a-b"):
        with pytest.raises(UserError, match=r"cluster\.ports"):
            port_range(ports)
