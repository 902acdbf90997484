"""Step 1: supervised fine-tuning on demonstrations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_dist.cluster.roles import Actor, TrainedModel
from rlhf_dist.config.schema import SFTConfig
from rlhf_dist.controller.loop import Desk
from rlhf_dist.data.pretraining import TextSampler
from rlhf_dist.data.sampling import EpochSampler
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


def sft_steps(config: SFTConfig, size: int) -> int:
    """Optimizer steps of the run, for ``size`` demonstrations."""
    per_epoch = math.ceil(size / config.sft.batch_size)
    return config.sft.max_steps or math.ceil(config.sft.epochs * per_epoch)


class SFTJob:
    """One SFT run, as the loop runs it."""

    def __init__(self, config: SFTConfig, actor: Actor, data: SFTData, desk: Desk) -> None:
        self.config, self.actor, self.data, self.desk = config, actor, data, desk
        self.total_steps = sft_steps(config, len(data.train))
        self.trained: Mapping[str, TrainedModel] = {"actor": actor}
        self._sampler = EpochSampler(len(data.train), config.sft.batch_size, config.run.seed, straddle=False)
        self._before: dict[str, Any] = {}

    def before(self, start: int) -> None:
        """The held-out loss of the model as it is."""
        if start == 0:
            self._before = self._evaluate()

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step."""
        batch = self.data.train.select(self._sampler.indices(number - 1))
        with self.desk.timer("train"):
            pretrain = self.data.pretrain.batch(number - 1) if self.data.pretrain is not None else None
            stats = self._run(self.actor.fit(batch, pretrain))
        metrics = {
            "loss/sft": stats.loss,
            "optim/grad_norm": stats.grad_norm,
            "optim/lr": stats.lr,
            "tokens": float(stats.tokens),
        }
        every = self.config.run.eval_every
        if every and number % every == 0:
            with self.desk.timer("evaluate"):
                metrics["eval/loss"] = self._evaluate()["loss"]
        return metrics

    def after(self) -> dict[str, Any]:
        """The held-out loss of the model that was learned, and the model saved."""
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
        with self.desk.timer("held-out"):
            losses = self._run(self.actor.token_losses(self.data.held_out))
        return {"loss": float(losses.mean())}

    def _run(self, call: Any) -> Any:
        return self.desk.placement.run(call, timeout_s=self.desk.timeout_s)[0]
