"""The reward model's job: what the scores are shifted by in all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rlhf_dist.controller.reward_model import RewardJob
from rlhf_dist.controller.trace import Timer


class Shifted:
    """A model that scores every demonstration ``raw``, plus what it was shifted by."""

    def __init__(self, raw: float) -> None:
        self.raw, self.bias = raw, 0.0

    def sequence_scores(self, batch: object) -> torch.Tensor:
        return torch.tensor([self.raw - 1.0, self.raw + 1.0]) + self.bias

    def shift(self, amount: float) -> None:
        self.bias += amount


def test_the_bias_that_is_told_is_the_whole_one_also_where_a_centred_run_went_on() -> None:
    model = Shifted(2.0)
    job = RewardJob.__new__(RewardJob)  # its data set is not needed
    job.reward, job._bias = model, None  # type: ignore[assignment]
    job.data = SimpleNamespace(demonstrations=object())  # type: ignore[assignment]
    job.desk = SimpleNamespace(timer=Timer(), run=lambda *results: list(results))  # type: ignore[assignment]
    job.complete()
    kept = job.state()
    model.raw = 5.0  # what the further steps learned
    job.load_state(kept)
    job.complete()
    assert model.sequence_scores(None).mean() == pytest.approx(0.0)
    assert job.summary({}, {})["after"]["score_bias"] == pytest.approx(model.bias) == pytest.approx(-5.0)
