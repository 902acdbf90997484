"""The language-model roles: the actor, SFT's model, and the frozen reference."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_dist.algo.kl import k3
from rlhf_dist.algo.losses import ppo_policy_loss
from rlhf_dist.config.schema import FrozenRole, TrainedRole
from rlhf_dist.device import Device
from rlhf_dist.engine.export import save_pretrained
from rlhf_dist.engine.zero import ZeroRunner, ZeroTrainer
from rlhf_dist.models.language import PolicyModel, load_policy
from rlhf_dist.models.layout import pad
from rlhf_dist.types import ActorStats, Demonstrations, LanguageStats, Sequences, TrainBatch
from rlhf_dist.weights.source import ZeroWeightSource
from rlhf_dist.weights.transport import BroadcastGroup, Endpoint, ParamInfo


def _forward(runner: ZeroRunner, batch: Sequences | Demonstrations, temperature: float) -> Any:
    padded = pad(batch.tokens, batch.lengths, runner.torch_device)
    return runner.forward_module(padded, batch.tokens, batch.response_lengths, temperature)


def _logprobs(runner: ZeroRunner, sequences: Sequences, temperature: float) -> Tensor:
    return runner.map(
        sequences,
        sequences.lengths,
        sequences.response_lengths,
        lambda micro: _forward(runner, micro, temperature)[0],
    )


class ReferenceEngine:
    """One worker's part of the frozen reference.

    Args:
        config: the role.
        device: this worker's.
        temperature: of the rollout, by which all log-probabilities are taken.
    """

    def __init__(self, config: FrozenRole, device: Device, temperature: float) -> None:
        self.temperature = temperature
        model = load_policy(config.model, device)
        self.runner = ZeroRunner(model, device, config.zero_stage, config.micro_batch_tokens)

    def logprobs(self, sequences: Sequences) -> Tensor:
        """This worker's rows' log-probabilities of the response tokens, flat, float32, nats."""
        return _logprobs(self.runner, sequences, self.temperature)


class ActorEngine:
    """One worker's part of the actor (PPO), or of the model that SFT trains.

    Args:
        config: the role.
        device: this worker's.
        temperature: of the rollout; 1 for SFT.
        total_steps: optimizer steps of the whole run, for the learning-rate schedule.
    """

    def __init__(self, config: TrainedRole, device: Device, temperature: float, total_steps: int) -> None:
        self.temperature = temperature
        self.policy: PolicyModel = load_policy(config.model, device)
        self.runner = ZeroTrainer(
            self.policy, device, config.zero_stage, config.micro_batch_tokens, config.optim, total_steps
        )
        self._group: BroadcastGroup | None = None
        self._source: ZeroWeightSource | None = None

    def logprobs(self, sequences: Sequences) -> Tensor:
        """This worker's rows' log-probabilities of the response tokens, flat, float32, nats."""
        return _logprobs(self.runner, sequences, self.temperature)

    def train(self, batch: TrainBatch, minibatches: list[Tensor], clip: float) -> ActorStats:
        """One optimizer step a minibatch on the clipped surrogate, averaged over the minibatch's response tokens."""
        totals, norms = torch.zeros(4, dtype=torch.float64), []
        for rows in minibatches:
            mini = batch.select(rows)
            sums, norm, _ = self.runner.step(
                mini, mini.sequences.lengths, int(mini.response_lengths.sum()), partial(self._ppo_sums, clip)
            )
            totals += sums
            norms.append(norm)
        loss, clipped, kl, entropy = (totals / _tokens_of(batch, minibatches)).tolist()
        return ActorStats(loss, clipped, kl, entropy, sum(norms) / len(norms), self.runner.last_lr, len(norms))

    def _ppo_sums(self, clip: float, micro: TrainBatch) -> tuple[Tensor, Tensor]:
        logprobs, entropy = _forward(self.runner, micro.sequences, self.temperature)
        old = micro.logprobs.to(logprobs.device)
        loss, clipped = ppo_policy_loss(logprobs, old, micro.advantages.to(logprobs.device), clip)
        kl = k3(old, logprobs.detach())
        sums = torch.stack([loss.detach().sum(), clipped.float().sum(), kl.sum(), entropy.sum()])
        return loss.sum(), sums

    def fit(self, batch: Demonstrations) -> LanguageStats:
        """One optimizer step of SFT: cross-entropy averaged over the batch's response tokens."""
        tokens = int(batch.response_lengths.sum())
        sums, norm, lr = self.runner.step(batch, batch.lengths, tokens, self._language_sums)
        return LanguageStats(float(sums[0]) / tokens, norm, lr, int(batch.lengths.sum()))

    def _language_sums(self, micro: Demonstrations) -> tuple[Tensor, Tensor]:
        loss = -_forward(self.runner, micro, 1.0)[0].sum()
        return loss, loss.detach()[None]

    def token_losses(self, batch: Demonstrations) -> Tensor:
        """This worker's rows' cross-entropy of each response token, flat, float32, nats."""
        return self.runner.map(
            batch, batch.lengths, batch.response_lengths, lambda micro: -_forward(self.runner, micro, 1.0)[0]
        )

    def open_weights(
        self, host: str, members: list[str], bucket_bytes: int, timeout_s: float
    ) -> tuple[Endpoint, list[ParamInfo]] | None:
        """Prepares the broadcast of the weights: the first worker listens on ``host``, the others answer None.

        Returns:
            where the receivers find the sender, and the name, dtype and shape of every weight in sending order.
        """
        self._source = ZeroWeightSource(self.policy.lm, bucket_bytes)
        if self.runner.rank != 0:
            return None
        self._group = BroadcastGroup.listen(host, members, self.runner.device, bucket_bytes, timeout_s)
        return self._group.endpoint, self._source.metadata()

    def connect_weights(self) -> None:
        """Meets the receivers, while they join."""
        if self._group is not None:
            self._group.connect()

    def send_weights(self) -> None:
        """Gathers the weights bucket by bucket, on all workers, and broadcasts them from the first one."""
        assert self._source is not None, "open_weights comes first"
        if self._group is not None:
            self._group.send(self._source.metadata(), self._source)
        else:
            for _ in self._source:
                pass

    def save_checkpoint(self, folder: Path) -> None:
        """Weights, optimizer and schedule, to go on from."""
        self.runner.save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Goes on from what :meth:`save_checkpoint` wrote."""
        self.runner.load_checkpoint(folder)

    def save_model(self, folder: Path, tokenizer_path: str) -> None:
        """Writes the model in Hugging Face format, with its tokenizer. All workers call it; the first writes."""
        save_pretrained(self.policy.lm, folder, tokenizer_path)


def _tokens_of(batch: TrainBatch, minibatches: list[Tensor]) -> int:
    return sum(int(batch.response_lengths[rows].sum()) for rows in minibatches)
