"""Step 2: a reward model from K-way rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf_dist.algo.losses import ranking_loss
from rlhf_dist.cluster.roles import TrainedReward
from rlhf_dist.config.roles import REWARD
from rlhf_dist.config.schema import RewardModelConfig
from rlhf_dist.controller.trainer import RunContext, Scores, Trainer
from rlhf_dist.data.samplers import EpochSampler, steps_of
from rlhf_dist.types import Comparisons, Demonstrations


@dataclass(frozen=True)
class RewardData:
    """What a run of reward-model training reads.

    Attributes:
        train, held_out: rankings to learn from, and to evaluate on.
        demonstrations: the trained model is shifted so that their mean score is 0; None without.
        tokenizer_path: where the tokenizer comes from.
    """

    train: Comparisons
    held_out: Comparisons
    demonstrations: Demonstrations | None
    tokenizer_path: str


class RewardModelTrainer(Trainer):
    """One run of reward-model training, as the loop runs it."""

    def __init__(self, config: RewardModelConfig, reward: TrainedReward, data: RewardData, context: RunContext) -> None:
        self.config, self.reward, self.data, self.context = config, reward, data, context
        self.total_steps = steps_of(config.training, len(data.train))
        self.trained, self.result, self.tokenizer_path = {REWARD: reward}, reward, data.tokenizer_path
        self._sampler = EpochSampler(len(data.train), config.training.batch_size, config.run.seed, straddle=False)
        self._bias: float | None = None

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step."""
        batch = self.data.train.select(self._sampler.indices(number - 1))
        with self.context.timer("train"):
            stats = self.context.run(self.reward.fit(batch))
        return {
            "loss/reward": stats.loss,
            "accuracy/pair": stats.accuracy,
            "optim/grad_norm": stats.grad_norm,
            "optim/lr": stats.lr,
            "tokens": float(stats.tokens),
        }

    def evaluate(self, number: int) -> dict[str, float | None]:
        """Mean loss and share of pairs ranked right, over the held-out rankings."""
        held_out = self.data.held_out
        with self.context.timer("held-out"):
            scores = self.context.run(self.reward.scores(held_out))
        losses, right = ranking_loss(scores, held_out.ranks, held_out.answers)
        return {"loss": float(losses.mean()), "accuracy": float(right.float().mean())}

    def complete(self) -> bool:
        """Shifts the scores so that the demonstrations' mean is 0 (arXiv 2203.02155, section 3.5)."""
        if self.data.demonstrations is None:
            return False
        with self.context.timer("centre"):
            scores = self.context.run(self.reward.sequence_scores(self.data.demonstrations))
            self._bias = -float(scores.mean())
            self.context.run(self.reward.shift(self._bias))
        return True

    def summary(self, before: Scores, after: Scores) -> dict[str, object]:
        """The first and the last evaluation, and what the scores were shifted by."""
        return super().summary(before, after if self._bias is None else after | {"score_bias": self._bias})

    def state(self) -> dict[str, object]:
        """What the scores were shifted by."""
        return {"score_bias": self._bias}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state` returned."""
        self._bias = state["score_bias"]
