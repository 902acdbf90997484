"""The roles as the controller sees them: shapes in, shapes out, no Ray.

Each method makes a :class:`~rlhf_dist.cluster.calls.Call`, which the scheduler runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from rlhf_dist.algo.losses import PolicyObjective
from rlhf_dist.cluster.calls import Call, call_all, call_each, nothing, same_args
from rlhf_dist.cluster.group import WorkerGroup, reassemble
from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine
from rlhf_dist.engine.role_engine import TrainedRoleEngine
from rlhf_dist.engine.scalar import CriticEngine, TrainedRewardEngine
from rlhf_dist.engine.stats import ActorStats, CriticStats, LanguageStats, PreferenceStats, RankingStats
from rlhf_dist.rollout.dealing import deal_samples
from rlhf_dist.rollout.protocol import TURN_IDS, RolloutEngine, SamplingOptions, going_on
from rlhf_dist.types import Comparisons, Demonstrations, PolicyBatch, PreferenceBatch, Prompts, Sequences, ValueBatch

_REMEMBERED = 2**18  # samples whose engine is known, for their further turns: far more than are ever open

B = TypeVar("B")
E = TypeVar("E")
P = ParamSpec("P")
R = TypeVar("R")


class ScoringEngine(Protocol):
    """What the engines of all reward sources have in common."""

    def token_scores(self, sequences: Sequences) -> Tensor:
        """This worker's rows' scores by response token, flat, float32; that of a whole response at its last token."""
        ...


class Role:
    """Base class of the roles. Methods name those of the engine (`ActorEngine.fit`), so that mypy checks them."""

    def __init__(self, group: WorkerGroup) -> None:
        self.group = group

    def _everyone(self, method: Callable[Concatenate[E, P], R], *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The same call on every worker; the first one's answer counts, as all give the same."""
        return call_all(self.group, method, *args, **kwargs)

    def _scatter(self, method: Callable[[E, B], Tensor], batch: B, lengths: Tensor, outputs: Tensor) -> Call[Tensor]:
        """Every worker answers for its share of the rows, by forward passes alone."""
        call = call_each(
            self.group, method, same_args(self.group, batch), lambda parts: reassemble(parts, lengths, outputs)
        )
        return replace(call, needs="weights")


class TrainedModel(Role):
    """A trained role, whose state can be saved and loaded."""

    def save_checkpoint(self, folder: Path) -> Call[None]:
        """Each worker writes its part into ``folder``."""
        return self._everyone(TrainedRoleEngine.save_checkpoint, folder)

    def load_checkpoint(self, folder: Path) -> Call[None]:
        """Each worker loads its part from ``folder``."""
        return self._everyone(TrainedRoleEngine.load_checkpoint, folder)

    def save_model(self, folder: Path, tokenizer_path: str) -> Call[None]:
        """The model in Hugging Face format."""
        return self._everyone(TrainedRoleEngine.save_model, folder, tokenizer_path)


class Reference(Role):
    """The frozen policy from which the KL is measured."""

    def logprobs(self, sequences: Sequences) -> Call[Tensor]:
        """``[R]`` float32, nats, of the response tokens."""
        return self._scatter(ReferenceEngine.logprobs, sequences, sequences.lengths, sequences.response_lengths)

    def answer_logprobs(self, batch: Comparisons) -> Call[Tensor]:
        """``[N]`` float32, nats, of whole answers."""
        return self._scatter(ReferenceEngine.answer_logprobs, batch, batch.tokens_per_row, batch.answers)


class Actor(TrainedModel):
    """The policy being trained, by PPO, SFT or DPO."""

    def logprobs(self, sequences: Sequences) -> Call[Tensor]:
        """``[R]`` float32, nats, of the response tokens."""
        return self._scatter(ActorEngine.logprobs, sequences, sequences.lengths, sequences.response_lengths)

    def answer_logprobs(self, batch: Comparisons) -> Call[Tensor]:
        """``[N]`` float32, nats, of whole answers."""
        return self._scatter(ActorEngine.answer_logprobs, batch, batch.tokens_per_row, batch.answers)

    def train(
        self,
        batch: PolicyBatch,
        minibatches: list[Tensor],
        objective: PolicyObjective,
        pretrain: Demonstrations | None,
    ) -> Call[ActorStats]:
        """One optimizer step for each of ``minibatches`` (rows of ``batch``), pretraining text dealt out over them."""
        return self._everyone(ActorEngine.train, batch, minibatches, objective, pretrain)

    def fit(self, batch: Demonstrations, pretrain: Demonstrations | None) -> Call[LanguageStats]:
        """One optimizer step of SFT."""
        return self._everyone(ActorEngine.fit, batch, pretrain)

    def dpo_step(self, batch: PreferenceBatch, beta: float, label_smoothing: float) -> Call[PreferenceStats]:
        """One optimizer step of DPO."""
        return self._everyone(ActorEngine.dpo_step, batch, beta, label_smoothing)

    def token_losses(self, batch: Demonstrations) -> Call[Tensor]:
        """``[R]`` float32, nats, cross-entropy of the response tokens."""
        return self._scatter(ActorEngine.token_losses, batch, batch.lengths, batch.response_lengths)


class AdapterOff(Role):
    """The actor's base model as the reference: the actor's own workers, with their adapter switched off."""

    def logprobs(self, sequences: Sequences) -> Call[Tensor]:
        """``[R]`` float32, nats, of the response tokens."""
        return self._scatter(ActorEngine.ref_logprobs, sequences, sequences.lengths, sequences.response_lengths)


class Critic(TrainedModel):
    """The value model."""

    def values(self, sequences: Sequences) -> Call[Tensor]:
        """``[R]`` float32, the value of the state before each response token."""
        return self._scatter(CriticEngine.values, sequences, sequences.lengths, sequences.response_lengths)

    def train(self, batch: ValueBatch, minibatches: list[Tensor], clip: float) -> Call[CriticStats]:
        """One optimizer step for each of ``minibatches`` (rows of ``batch``)."""
        return self._everyone(CriticEngine.train, batch, minibatches, clip)


class Reward(Role):
    """What scores responses: a frozen reward model, a function or an endpoint."""

    def token_scores(self, sequences: Sequences) -> Call[Tensor]:
        """``[R]`` float32, the scores of a response by its tokens; that of the whole at its last one."""
        return self._scatter(ScoringEngine.token_scores, sequences, sequences.lengths, sequences.response_lengths)


class TrainedReward(TrainedModel):
    """The reward model while step 2 trains it."""

    def fit(self, batch: Comparisons) -> Call[RankingStats]:
        """One optimizer step on the K-way ranking loss."""
        return self._everyone(TrainedRewardEngine.fit, batch)

    def scores(self, batch: Comparisons) -> Call[Tensor]:
        """``[N]`` float32, one for each answer."""
        return self._scatter(TrainedRewardEngine.scores, batch, batch.tokens_per_row, batch.answers)

    def sequence_scores(self, batch: Demonstrations) -> Call[Tensor]:
        """``[B]`` float32, one for each sequence."""
        return self._scatter(TrainedRewardEngine.sequence_scores, batch, batch.lengths, torch.ones_like(batch.lengths))

    def shift(self, amount: float) -> Call[None]:
        """Adds ``amount`` to every score from now on."""
        return self._everyone(TrainedRewardEngine.shift, amount)


class Rollout(Role):
    """The engines that sample; :class:`rlhf_dist.cluster.sample_stream.SampleStream` works with them."""

    def __init__(self, group: WorkerGroup) -> None:
        super().__init__(group)
        self._engine_of: dict[int, int] = {}  # of the latest samples, by their ids in the first turn

    def deal(self, prompts: Prompts) -> list[Prompts]:
        """For each engine the prompts that are its own. Further turns go to the engines that drew the earlier ones."""
        return [prompts.select(rows) for rows in self._shards(prompts)]

    def add(self, parts: Sequence[Prompts], options: SamplingOptions) -> Call[None]:
        """Asks each engine for one response to each prompt of its part; see :meth:`deal`."""
        return call_each(self.group, RolloutEngine.add, [(part, options) for part in parts], nothing)

    def _shards(self, prompts: Prompts) -> list[Tensor]:
        ids = prompts.ids % TURN_IDS
        if going_on(prompts.ids):
            engines = torch.tensor([self._engine_of[sample] for sample in ids.tolist()])
            return [torch.nonzero(engines == rank).flatten() for rank in range(self.group.size)]
        shards = deal_samples(prompts.rows, self.group.size)
        for sample in list(self._engine_of)[: max(len(self._engine_of) + len(ids) - _REMEMBERED, 0)]:
            del self._engine_of[sample]
        self._engine_of |= {sample: rank for rank, rows in enumerate(shards) for sample in ids[rows].tolist()}
        return shards
