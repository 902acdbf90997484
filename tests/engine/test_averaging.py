"""The moving average of weights, without ZeRO; tests/engine/test_zero.py has it under every stage."""

from __future__ import annotations

import pytest
import torch

from rlhf_dist.engine.averaging import WeightAverage


def test_the_average_follows_the_weights_and_leaves_frozen_ones_alone() -> None:
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(model, decay=0.9)
    wanted = 1.0
    for value in (2.0, 5.0, -3.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        wanted = 0.9 * wanted + 0.1 * value
    ((name, start, part),) = average.parts()
    assert (name, start, part.tolist()) == ("weight", 0, pytest.approx([wanted, wanted]))
    with average.applied():
        assert model.weight.flatten().tolist() == pytest.approx([wanted, wanted])
    assert model.weight.flatten().tolist() == [-3.0, -3.0]
