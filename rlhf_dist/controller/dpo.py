"""Direct preference optimization: a policy from rankings, without a reward model and without sampling."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_dist.algo.losses import dpo_loss, ranked_right
from rlhf_dist.cluster.roles import Actor, Reference
from rlhf_dist.config.roles import ACTOR
from rlhf_dist.config.schema import DPOConfig
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.data.samplers import EpochSampler, steps_of
from rlhf_dist.types import Comparisons, PreferenceBatch


@dataclass(frozen=True)
class DPOData:
    """Rankings to learn from and to evaluate on, and where the tokenizer comes from."""

    train: Comparisons
    held_out: Comparisons
    tokenizer_path: str


class DPOTrainer(Trainer):
    """One DPO run (arXiv 2305.18290), as the loop runs it."""

    def __init__(
        self, config: DPOConfig, actor: Actor, reference: Reference, data: DPOData, context: RunContext
    ) -> None:
        self.config, self.actor, self.reference, self.data, self.context = config, actor, reference, data, context
        self.total_steps = steps_of(config.dpo, len(data.train))
        self.trained, self.result, self.tokenizer_path = {ACTOR: actor}, actor, data.tokenizer_path
        self._sampler = EpochSampler(len(data.train), config.dpo.batch_size, config.run.seed, straddle=False)

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step."""
        batch = self.data.train.select(self._sampler.indices(number - 1))
        with self.context.timer("score"):
            reference = self.context.run(self.reference.answer_logprobs(batch))
        with self.context.timer("train"):
            dpo = self.config.dpo
            stats = self.context.run(
                self.actor.dpo_step(PreferenceBatch(batch, reference), dpo.beta, dpo.label_smoothing)
            )
        return {
            "loss/dpo": stats.loss,
            "accuracy/pair": stats.accuracy,
            "reward/margin": stats.margin,
            "optim/grad_norm": stats.grad_norm,
            "optim/lr": stats.lr,
            "tokens": float(stats.tokens),
        }

    def evaluate(self, number: int) -> dict[str, float | None]:
        """Mean loss, and share of pairs whose implicit rewards are ranked right, over the held-out rankings."""
        held_out, dpo = self.data.held_out, self.config.dpo
        with self.context.timer("held-out"):
            logprobs, reference = self.context.scheduler.run(
                self.actor.answer_logprobs(held_out),
                self.reference.answer_logprobs(held_out),
                timeout_s=self.context.cluster.call_timeout_s,
            )
        losses, margins = dpo_loss(logprobs, reference, held_out.ranks, held_out.answers, dpo.beta, dpo.label_smoothing)
        return {"loss": float(losses.mean()), "accuracy": float(ranked_right(margins).mean())}
