"""An advantage estimator of the user's own, and what is said where it fails."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from rlhf_dist.algo.advantages import Episodes
from rlhf_dist.controller.user_estimator import UserEstimator
from rlhf_dist.errors import RunError

EPISODES = Episodes(
    rewards=torch.arange(5.0),
    lengths=torch.tensor([2, 0, 3]),
    mask=torch.ones(5, dtype=torch.bool),
    groups=torch.tensor([0, 0, 1]),
    values=None,
    gamma=1.0,
    lam=1.0,
)


def test_what_the_function_gives_is_taken() -> None:
    advantages, returns = UserEstimator("a:f", lambda e: (e.rewards * 2, None), 60)(EPISODES)
    assert advantages.tolist() == [0, 2, 4, 6, 8]
    assert returns is None


@pytest.mark.parametrize(
    "function,said",
    [
        (lambda e: time.sleep(9), "returned no advantages for 3 responses within 0.2 s (ppo.function_timeout_s)"),
        (lambda e: e.reward, "failed: AttributeError: 'Episodes' object has no attribute 'reward'"),
        (lambda e: e.rewards, "returned Tensor: expected (advantages, returns)"),
        (lambda e: ([1.0] * 5, None), "returned advantages of type list: expected a tensor"),
        (
            lambda e: (e.rewards, e.rewards[:3]),
            "returned returns of shape (3,), expected (5,): one for each response token",
        ),
        (
            lambda e: (torch.tensor([0, 1, 2, float("nan"), 4]), None),
            "returned advantages that are not finite for 1 of 5 tokens, the first of them nan in response 2",
        ),
    ],
)
def test_a_function_that_fails_or_hangs_is_named(function: Any, said: str) -> None:
    with pytest.raises(RunError) as caught:
        UserEstimator("mine.py:f", function, 0.2)(EPISODES)
    assert str(caught.value).startswith(f"ppo.advantage mine.py:f {said}")
    assert "\n" not in str(caught.value)
