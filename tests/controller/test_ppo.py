"""PPO's checks of what its roles answer."""

from __future__ import annotations

import pytest
import torch

from rlhf_dist.controller.ppo import require_finite
from rlhf_dist.errors import RunError
from rlhf_dist.types import Sequences


def test_a_score_that_is_not_finite_names_its_sample_and_where_the_prompt_stands() -> None:
    two = torch.tensor([1, 1])
    rows = torch.tensor([4, 6])
    sequences = Sequences(torch.arange(4), two, two, torch.zeros(2), two > 0, two > 0, two, rows, ids=two)
    require_finite("reward", torch.tensor([1.0, -2.0]), sequences)
    expected = r"reward of 1 of 2 samples is not finite: sample 1, prompt 7 of its data set, score nan, tokens \[3\]"
    with pytest.raises(RunError, match=expected):
        require_finite("reward", torch.tensor([0.5, torch.nan]), sequences)
