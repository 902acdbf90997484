"""Packed sequences without flash attention: said before the start."""

from __future__ import annotations

from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import CPU, CUDA
from rlhf_dist.plan.attention import costly_layouts


def job() -> PPOConfig:
    made = PPOConfig()
    made.actor.model.path = made.reward.model.path = "model"
    return resolve_ppo(made)


def test_a_mask_over_all_pairs_of_a_micro_batch_is_named_with_its_size_and_the_way_out() -> None:
    made = job()
    made.critic.layout = "packed"
    (line,) = costly_layouts(made, CPU)
    assert line.startswith("critic.layout=packed with attention sdpa: a mask of up to 4096 x 4096")
    assert "use critic.layout=auto" in line and "critic.model.attention" in line


def test_nothing_is_said_where_nothing_is_lost() -> None:
    made = job()
    assert not list(costly_layouts(made, CPU))
    made.actor.layout, made.actor.model.attention = "packed", "flash_attention_2"
    made.ppo.use_critic, made.critic.layout = False, "packed"  # there is no critic
    assert not list(costly_layouts(made, CUDA))
