"""Direct preference optimization: a policy from rankings, without a reward model and without sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_dist.algo.losses import dpo_loss, ranked_right
from rlhf_dist.cluster.roles import Actor, Reference, TrainedModel
from rlhf_dist.config.schema import DPOConfig
from rlhf_dist.controller.loop import Desk
from rlhf_dist.data.sampling import EpochSampler
from rlhf_dist.types import Comparisons, PreferenceBatch


@dataclass(frozen=True)
class DPOData:
    """Rankings to learn from and to evaluate on, and where the tokenizer comes from."""

    train: Comparisons
    held_out: Comparisons
    tokenizer_path: str


def dpo_steps(config: DPOConfig, size: int) -> int:
    """Optimizer steps of the run, for ``size`` prompts."""
    per_epoch = math.ceil(size / config.dpo.batch_size)
    return config.dpo.max_steps or math.ceil(config.dpo.epochs * per_epoch)


class DPOJob:
    """One DPO run (arXiv 2305.18290), as the loop runs it."""

    def __init__(self, config: DPOConfig, actor: Actor, reference: Reference, data: DPOData, desk: Desk) -> None:
        self.config, self.actor, self.reference, self.data, self.desk = config, actor, reference, data, desk
        self.total_steps = dpo_steps(config, len(data.train))
        self.trained: Mapping[str, TrainedModel] = {"actor": actor}
        self._sampler = EpochSampler(len(data.train), config.dpo.batch_size, config.run.seed, straddle=False)
        self._before: dict[str, Any] = {}

    def before(self, start: int) -> None:
        """The held-out figures of the model as it is."""
        if start == 0:
            self._before = self._evaluate()

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step."""
        batch = self.data.train.select(self._sampler.indices(number - 1))
        with self.desk.timer("score"):
            (reference,) = self._run(self.reference.answer_logprobs(batch))
        with self.desk.timer("train"):
            dpo = self.config.dpo
            (stats,) = self._run(self.actor.prefer(PreferenceBatch(batch, reference), dpo.beta, dpo.label_smoothing))
        metrics = {
            "loss/dpo": stats.loss,
            "accuracy/pair": stats.accuracy,
            "reward/margin": stats.margin,
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
        """The held-out figures of the model that was learned, and the model saved."""
        after = self._evaluate()
        with self.desk.timer("save"):
            self._run(self.actor.save_model(self.desk.directory.model.absolute(), self.data.tokenizer_path))
        return {"before": self._before, "after": after}

    def state(self) -> dict[str, Any]:
        """The first evaluation."""
        return {"before": self._before}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""
        self._before = state["before"]

    def _evaluate(self) -> dict[str, float]:
        """Mean loss, and share of pairs whose implicit rewards are ranked right, over the held-out rankings."""
        held_out, dpo = self.data.held_out, self.config.dpo
        with self.desk.timer("held-out"):
            logprobs, reference = self._run(
                self.actor.answer_logprobs(held_out), self.reference.answer_logprobs(held_out)
            )
        losses, margins = dpo_loss(logprobs, reference, held_out.ranks, held_out.answers, dpo.beta, dpo.label_smoothing)
        return {"loss": float(losses.mean()), "accuracy": float(ranked_right(margins).mean())}

    def _run(self, *calls: Any) -> list[Any]:
        return self.desk.placement.run(*calls, timeout_s=self.desk.timeout_s)
