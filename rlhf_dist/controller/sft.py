"""Step 1: supervised fine-tuning on demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_dist.cluster.roles import Actor
from rlhf_dist.config.roles import ACTOR
from rlhf_dist.config.schema import SFTConfig
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.data.pretraining import TextSampler
from rlhf_dist.data.samplers import EpochSampler, steps_of
from rlhf_dist.types import Demonstrations


@dataclass(frozen=True)
class SFTData:
    """What an SFT run reads.

    Attributes:
        train, held_out: demonstrations to learn from, and to evaluate on.
        pretrain: text to learn beside them; None without.
        tokenizer_path: where the tokenizer comes from.
    """

    train: Demonstrations
    held_out: Demonstrations
    pretrain: TextSampler | None
    tokenizer_path: str


class SFTTrainer(Trainer):
    """One SFT run, as the loop runs it."""

    def __init__(self, config: SFTConfig, actor: Actor, data: SFTData, context: RunContext) -> None:
        self.config, self.actor, self.data, self.context = config, actor, data, context
        self.total_steps = steps_of(config.sft, len(data.train))
        self.trained, self.result, self.tokenizer_path = {ACTOR: actor}, actor, data.tokenizer_path
        self._sampler = EpochSampler(len(data.train), config.sft.batch_size, config.run.seed, straddle=False)

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step."""
        batch = self.data.train.select(self._sampler.indices(number - 1))
        with self.context.timer("train"):
            pretrain = self.data.pretrain.batch(number - 1) if self.data.pretrain is not None else None
            stats = self.context.run(self.actor.fit(batch, pretrain))
        return {
            "loss/sft": stats.loss,
            "optim/grad_norm": stats.grad_norm,
            "optim/lr": stats.lr,
            "tokens": float(stats.tokens),
        }

    def evaluate(self, number: int) -> dict[str, float | None]:
        """The held-out loss, nats a token."""
        with self.context.timer("held-out"):
            losses = self.context.run(self.actor.token_losses(self.data.held_out))
        return {"loss": float(losses.mean())}
