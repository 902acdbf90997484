"""Step 2: a reward model from K-way rankings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_dist.algo.losses import ranking_loss
from rlhf_dist.cluster.roles import RewardTrainer, TrainedModel
from rlhf_dist.config.schema import RewardConfig
from rlhf_dist.controller.loop import Desk
from rlhf_dist.data.sampling import EpochSampler
from rlhf_dist.types import Comparisons, Demonstrations


@dataclass(frozen=True)
class RewardData:
    """What a run of reward-model training reads.

    Attributes:
        train, held_out: rankings to learn from, and to evaluate on.
        demonstrations: whose mean score shall be 0 in the end; None without.
        tokenizer_path: where the tokenizer comes from.
    """

    train: Comparisons
    held_out: Comparisons
    demonstrations: Demonstrations | None
    tokenizer_path: str


def reward_steps(config: RewardConfig, size: int) -> int:
    """Optimizer steps of the run, for ``size`` prompts."""
    per_epoch = math.ceil(size / config.training.batch_size)
    return config.training.max_steps or math.ceil(config.training.epochs * per_epoch)


class RewardJob:
    """One run of reward-model training, as the loop runs it."""

    def __init__(self, config: RewardConfig, reward: RewardTrainer, data: RewardData, desk: Desk) -> None:
        self.config, self.reward, self.data, self.desk = config, reward, data, desk
        self.total_steps = reward_steps(config, len(data.train))
        self.trained: Mapping[str, TrainedModel] = {"reward": reward}
        self._sampler = EpochSampler(len(data.train), config.training.batch_size, config.run.seed, straddle=False)
        self._before: dict[str, Any] = {}

    def before(self, start: int) -> None:
        """The held-out accuracy of the model as it is."""
        if start == 0:
            self._before = self._evaluate()

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step."""
        batch = self.data.train.select(self._sampler.indices(number - 1))
        with self.desk.timer("train"):
            stats = self._run(self.reward.fit(batch))
        metrics = {
            "loss/reward": stats.loss,
            "accuracy/pair": stats.accuracy,
            "optim/grad_norm": stats.grad_norm,
            "optim/lr": stats.lr,
            "tokens": float(stats.tokens),
        }
        every = self.config.run.eval_every
        if every and number % every == 0:
            with self.desk.timer("evaluate"):
                metrics |= {f"eval/{name}": value for name, value in self._evaluate().items()}
        return metrics

    def after(self) -> dict[str, Any]:
        """The held-out accuracy of the model that was learned, and the model saved."""
        after = self._evaluate() | self._centre()
        with self.desk.timer("save"):
            self._run(self.reward.save_model(self.desk.directory.model.absolute(), self.data.tokenizer_path))
        return {"before": self._before, "after": after}

    def state(self) -> dict[str, Any]:
        """The first evaluation."""
        return {"before": self._before}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""
        self._before = state["before"]

    def _evaluate(self) -> dict[str, float]:
        """Mean loss and share of pairs ranked right, over the held-out rankings."""
        held_out = self.data.held_out
        with self.desk.timer("held-out"):
            scores = self._run(self.reward.scores(held_out))
        losses, right = ranking_loss(scores, held_out.ranks, held_out.answers)
        return {"loss": float(losses.mean()), "accuracy": float(right.float().mean())}

    def _centre(self) -> dict[str, float]:
        """Shifts the scores so that the demonstrations' mean is 0 (arXiv 2203.02155, section 3.5)."""
        if self.data.demonstrations is None:
            return {}
        with self.desk.timer("centre"):
            mean = float(self._run(self.reward.sequence_scores(self.data.demonstrations)).mean())
            self._run(self.reward.shift(-mean))
        return {"score_bias": -mean}

    def _run(self, call: Any) -> Any:
        return self.desk.placement.run(call, timeout_s=self.desk.timeout_s)[0]
