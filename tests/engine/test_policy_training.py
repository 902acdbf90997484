"""What the actor reports of its training: how far the old log-probabilities were from its own before any update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_dist.algo.kl import k3
from rlhf_dist.algo.losses import PolicyObjective
from rlhf_dist.config.schema import ModelConfig, OptimConfig, TrainedRoleConfig
from rlhf_dist.device import CPU
from rlhf_dist.engine.policy import ActorEngine
from rlhf_dist.types import PolicyBatch, Sequences
from tests.tiny import VOCABULARY, write_model

PROMPTS, RESPONSES = torch.tensor([3, 1, 2, 4]), torch.tensor([4, 2, 6, 3])


def sequences() -> Sequences:
    size, rows = int(RESPONSES.sum()), len(RESPONSES)
    tokens = torch.randint(
        3, VOCABULARY, (int((PROMPTS + RESPONSES).sum()),), generator=torch.Generator().manual_seed(1)
    )
    return Sequences(
        tokens=tokens,
        prompt_lengths=PROMPTS,
        response_lengths=RESPONSES,
        rollout_logprobs=torch.zeros(size),
        loss_mask=torch.ones(size, dtype=torch.bool),
        finished=torch.ones(rows, dtype=torch.bool),
        weight_version=torch.zeros(rows, dtype=torch.int64),
        ids=torch.arange(rows),
        rows=torch.arange(rows),
    )


def test_the_gap_to_the_old_logprobs_is_that_of_the_first_minibatch(alone: None, tmp_path: Path) -> None:
    config = TrainedRoleConfig(
        model=ModelConfig(path=str(write_model(tmp_path / "model"))),
        micro_batch_sequences=1,
        optim=OptimConfig(lr=1e-2, warmup_steps=0),
    )
    actor, given = ActorEngine(config, CPU, 1.0, 10), sequences()
    own = actor.logprobs(given)
    old = own + torch.linspace(-0.2, 0.3, own.numel())
    weights = torch.ones_like(own)
    weights[0] = 0.0  # masked
    batch = PolicyBatch(given, old, own, torch.ones_like(own), weights)
    objective = PolicyObjective(0.2, 0.2, "token-mean", 6, 0.0, "k1", 0.0)
    stats = actor.train(batch, [torch.tensor([0, 1]), torch.tensor([2, 3])], objective, None)
    first = slice(1, int(RESPONSES[:2].sum()))
    assert stats.first_gap == pytest.approx(float((old - own)[first].abs().mean()), rel=1e-4)
    assert stats.first_kl == pytest.approx(float(k3(old, own)[first].mean()), rel=1e-3)
    assert stats.approx_kl != pytest.approx(stats.first_kl, rel=0.1)  # that one is over both minibatches
