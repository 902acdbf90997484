"""The language-model roles: the actor, SFT's model, and the frozen reference."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rlhf_dist.algo.aggregation import normalize_weights
from rlhf_dist.algo.kl import ESTIMATORS, k3
from rlhf_dist.algo.losses import PolicyObjective, dpo_loss, ppo_policy_loss, ranked_right
from rlhf_dist.config.schema import FrozenRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.answers import forward_by_length
from rlhf_dist.engine.choose import make_forward_engine, make_train_engine
from rlhf_dist.engine.protocol import ForwardEngine, Part
from rlhf_dist.engine.role_engine import RoleEngine, TrainedRoleEngine
from rlhf_dist.engine.stats import ActorStats, LanguageStats, PreferenceStats
from rlhf_dist.models.heads import TokenLosses
from rlhf_dist.models.language import PolicyModel, load_policy
from rlhf_dist.models.lora import without_adapter
from rlhf_dist.types import Comparisons, Demonstrations, PolicyBatch, PreferenceBatch, Sequences
from rlhf_dist.weights.groups import TransferPlan, dial
from rlhf_dist.weights.source import WeightSource
from rlhf_dist.weights.transport import Endpoint, ParamInfo, TransferGroup


def _forward(runner: ForwardEngine, batch: Sequences | Demonstrations, temperature: float) -> Tensor:
    """Log-probabilities ``[R]`` of a micro-batch's response tokens, float32, nats."""
    laid = runner.lay_out(batch.tokens, batch.lengths)
    logprobs: Tensor = runner.forward_module(laid, batch.tokens, batch.response_lengths, temperature)
    return logprobs


def _forward_losses(
    runner: ForwardEngine,
    batch: Sequences | Demonstrations,
    temperature: float,
    losses: TokenLosses,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the losses of a micro-batch's response tokens, and, without gradient, their log-probabilities ``[R]``
    and entropies ``[R]``, float32, nats."""
    laid = runner.lay_out(batch.tokens, batch.lengths)
    arguments = (laid, batch.tokens, batch.response_lengths, temperature, losses)
    loss, logprobs, entropies = runner.forward_module(*arguments)
    return loss, logprobs, entropies


def _logprobs(runner: ForwardEngine, sequences: Sequences, temperature: float) -> Tensor:
    return runner.map(
        sequences,
        sequences.lengths,
        sequences.response_lengths,
        lambda micro: _forward(runner, micro, temperature),
    )


def _answer_logprobs(runner: ForwardEngine, batch: Comparisons) -> Tensor:
    """Log-probability of each whole answer ``[N]``, nats, given its prompt."""
    lengths, responses = batch.token_counts, batch.token_counts - batch.prompt_counts

    def forward(tokens: Tensor, rows: Tensor) -> Tensor:
        laid = runner.lay_out(tokens, lengths[rows])
        logprobs: Tensor = runner.forward_module(laid, tokens, responses[rows], 1.0)
        of_row = torch.repeat_interleave(torch.arange(rows.numel()), responses[rows]).to(logprobs.device)
        return torch.zeros(rows.numel(), device=logprobs.device).index_add(0, of_row, logprobs)

    return forward_by_length(batch.tokens, lengths, forward)


def _map_answers(runner: ForwardEngine, batch: Comparisons) -> Tensor:
    return runner.map(batch, batch.tokens_per_row, batch.answers, partial(_answer_logprobs, runner))


class ReferenceEngine(RoleEngine):
    """One worker's part of the frozen reference.

    Args:
        config: the role.
        device: this worker's.
        temperature: of the rollout, by which all log-probabilities are taken.
    """

    def __init__(self, config: FrozenRoleConfig, device: Device, temperature: float) -> None:
        self.temperature = temperature
        model = load_policy(config.model, device)
        self.runner = make_forward_engine(model, device, config)

    def logprobs(self, sequences: Sequences) -> Tensor:
        """This worker's rows' log-probabilities of the response tokens, flat, float32, nats."""
        return _logprobs(self.runner, sequences, self.temperature)

    def answer_logprobs(self, batch: Comparisons) -> Tensor:
        """This worker's rows' log-probabilities of whole answers, flat, float32, nats."""
        return _map_answers(self.runner, batch)


class ActorEngine(TrainedRoleEngine):
    """One worker's part of the actor (PPO), or of the model that SFT trains.

    Args:
        config: the role.
        device: this worker's.
        temperature: of the rollout; 1 for SFT.
        total_steps: optimizer steps of the whole run, for the learning-rate schedule.
    """

    def __init__(self, config: TrainedRoleConfig, device: Device, temperature: float, total_steps: int) -> None:
        self.temperature = temperature
        self.policy: PolicyModel = load_policy(config.model, device, config.lora)
        self.runner = make_train_engine(self.policy, device, config, total_steps)
        self._group: TransferGroup | None = None
        self._sends = False
        self._source: WeightSource | None = None

    def logprobs(self, sequences: Sequences) -> Tensor:
        """This worker's rows' log-probabilities of the response tokens, flat, float32, nats."""
        return _logprobs(self.runner, sequences, self.temperature)

    def ref_logprobs(self, sequences: Sequences) -> Tensor:
        """:meth:`logprobs` with the adapter off: those of the reference, without a second copy of the model."""
        with without_adapter(self.policy):
            return _logprobs(self.runner, sequences, self.temperature)

    def train(
        self,
        batch: PolicyBatch,
        minibatches: list[Tensor],
        objective: PolicyObjective,
        pretrain: Demonstrations | None,
    ) -> ActorStats:
        """One optimizer step a minibatch on the objective.

        Args:
            batch: all samples.
            minibatches: rows of ``batch``, one tensor an optimizer step.
            objective: what to minimize.
            pretrain: text dealt out over the optimizer steps, whose loss is added to the same gradient (PPO-ptx);
                None without.
        """
        reported, loss, text_loss, norms = [], 0.0, 0.0, []
        texts = [None] * len(minibatches) if pretrain is None else _deal(pretrain, len(minibatches))
        for rows, text in zip(minibatches, texts, strict=True):
            parts = [self._policy_part(batch.select(rows), objective)]
            if text is not None:
                parts.append(self._language_part(text, objective.pretrain_coef))
            (sums, *text_sums), norm, _ = self.runner.step(parts)
            loss += float(sums[0])
            reported.append(sums[1:])
            text_loss += float(text_sums[0][0]) * parts[1].scale / objective.pretrain_coef if text_sums else 0.0
            norms.append(norm)
        steps = len(norms)
        clipped, kl, entropy, kl_loss, _ = _means(torch.stack(reported).sum(0))
        _, first_kl, _, _, first_gap = _means(reported[0])
        return ActorStats(
            loss / steps,
            clipped,
            kl,
            entropy,
            sum(norms) / steps,
            self.runner.last_lr,
            steps,
            kl_loss,
            text_loss / steps,
            first_gap,
            first_kl,
        )

    def _policy_part(self, mini: PolicyBatch, objective: PolicyObjective) -> Part:
        weights = normalize_weights(mini.weights, mini.response_lengths, objective.aggregation, objective.horizon)
        weighted = replace(mini, weights=weights)
        return Part.of(weighted, mini.sequences.lengths, partial(self._policy_sums, objective), scale=1.0)

    def _policy_sums(self, objective: PolicyObjective, micro: PolicyBatch, scale: float) -> tuple[Tensor, Tensor]:
        """The weighted loss of a micro-batch, scaled, and sums over its tokens that count: see :func:`_figures`."""
        batch = micro.to(self.runner.device.torch_device())

        def losses(logprobs: Tensor, rows: slice) -> Tensor:
            return _token_losses(objective, batch, logprobs, rows) * scale

        loss, logprobs, entropy = _forward_losses(self.runner, micro.sequences, self.temperature, losses)
        return loss, _figures(objective, batch, logprobs, entropy)

    def fit(self, batch: Demonstrations, pretrain: Demonstrations | None) -> LanguageStats:
        """One optimizer step of SFT: cross-entropy averaged over all response tokens, pretraining text's included."""
        both = batch if pretrain is None else Demonstrations.cat([batch, pretrain])
        part = self._language_part(both, 1.0)
        (sums,), norm, lr = self.runner.step([part])
        return LanguageStats(float(sums[0]) * part.scale, norm, lr, int(both.lengths.sum()))

    def _language_part(self, text: Demonstrations, coef: float) -> Part:
        return Part.of(text, text.lengths, self._language_sums, coef / int(text.response_lengths.sum()))

    def _language_sums(self, micro: Demonstrations, scale: float) -> tuple[Tensor, Tensor]:
        loss, logprobs, _ = _forward_losses(self.runner, micro, 1.0, lambda logprobs, _: logprobs * -scale)
        return loss, -logprobs.sum()[None]

    def answer_logprobs(self, batch: Comparisons) -> Tensor:
        """This worker's rows' log-probabilities of whole answers, flat, float32, nats."""
        return _map_answers(self.runner, batch)

    def dpo_step(self, batch: PreferenceBatch, beta: float, label_smoothing: float) -> PreferenceStats:
        """One optimizer step of DPO, averaged over the batch's prompts."""
        lengths = batch.comparisons.tokens_per_row
        loss_sums = partial(self._preference_sums, beta, label_smoothing)
        (sums,), norm, lr = self.runner.step([Part.of(batch, lengths, loss_sums, 1.0 / len(batch))])
        loss, right, margin, pairs = sums.tolist()
        pairs = max(pairs, 1.0)
        return PreferenceStats(loss / len(batch), right / pairs, margin / pairs, norm, lr, int(lengths.sum()))

    def _preference_sums(
        self, beta: float, label_smoothing: float, micro: PreferenceBatch, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch, scaled, and sums over it: [loss, pairs ranked right, margins, pairs]."""
        answers = micro.comparisons
        logprobs = _answer_logprobs(self.runner, answers)
        reference = micro.ref_logprobs.to(logprobs.device)
        losses, margins = dpo_loss(logprobs, reference, answers.ranks, answers.answers, beta, label_smoothing)
        pairs = torch.tensor(float(margins.numel()), device=margins.device)
        margins = margins.detach()
        sums = torch.stack([losses.detach().sum(), ranked_right(margins).sum(), margins.sum(), pairs])
        return losses.sum() * scale, sums

    def token_losses(self, batch: Demonstrations) -> Tensor:
        """This worker's rows' cross-entropy of each response token, flat, float32, nats."""
        return self.runner.map(
            batch, batch.lengths, batch.response_lengths, lambda micro: -_forward(self.runner, micro, 1.0)
        )

    def open_weights(self, host: str, plan: TransferPlan) -> tuple[Endpoint, list[ParamInfo]] | None:
        """Prepares the sending of the weights: the first worker listens on ``host``, the others answer None.

        Returns:
            where the others find the first, and the name, dtype and shape of every weight in sending order.
        """
        self._source = WeightSource(self.policy.lm, plan.bucket_bytes, self.runner.sharding, all_ranks=plan.all_send)
        self._sends = plan.all_send or self.runner.rank == 0
        if self.runner.rank != 0:
            return None
        self._group = plan.listen(host, self.runner.device)
        return self._group.endpoint, self._source.metadata()

    def connect_weights(self, endpoint: Endpoint) -> None:
        """Meets the receivers, while they join."""
        if self._group is None and self._sends:
            self._group = dial(endpoint, self.runner.rank)
        if self._group is not None:
            self._group.connect()

    def send_weights(self) -> None:
        """Gathers the weights bucket by bucket, on all workers, and sends them from those that do."""
        assert self._source is not None, "open_weights comes first"
        if self._group is not None:
            self._group.send(self._source.metadata(), self._source)
        else:
            for _ in self._source:
                pass


def _token_losses(objective: PolicyObjective, batch: PolicyBatch, logprobs: Tensor, rows: slice) -> Tensor:
    """The weighted losses ``[n]`` of a slice of the batch's response tokens, by their log-probabilities ``[n]``."""
    losses, _ = ppo_policy_loss(
        logprobs, batch.logprobs[rows], batch.advantages[rows], objective.clip_low, objective.clip_high
    )
    if objective.kl_coef:
        kl = ESTIMATORS[objective.kl_estimator](logprobs, batch.ref_logprobs[rows])
        losses = losses + objective.kl_coef * kl
    return losses * batch.weights[rows]


def _figures(objective: PolicyObjective, batch: PolicyBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
    """The sum of a micro-batch's weighted losses, and sums over its tokens that count: [loss, tokens, clipped, KL to
    the sampling policy, entropy, KL in the loss, distance from the old log-probabilities]."""
    _, clipped = ppo_policy_loss(logprobs, batch.logprobs, batch.advantages, objective.clip_low, objective.clip_high)
    loss = _token_losses(objective, batch, logprobs, slice(None)).sum()
    reference_kl = torch.zeros_like(logprobs)
    if objective.kl_coef:
        reference_kl = ESTIMATORS[objective.kl_estimator](logprobs, batch.ref_logprobs)
    counts = batch.weights > 0
    gap = (logprobs - batch.logprobs).abs()
    seen = torch.stack([counts, clipped, k3(batch.logprobs, logprobs), entropy, reference_kl, gap])
    return torch.cat([loss[None], seen.float()[:, counts].sum(1)])


def _means(sums: Tensor) -> list[float]:
    """What :func:`_figures` sums up, but for the loss, a token."""
    means: list[float] = (sums[1:] / sums[0].clamp(min=1)).tolist()
    return means


def _deal(text: Demonstrations, steps: int) -> list[Demonstrations | None]:
    """The examples over ``steps`` optimizer steps, as evenly as they go; None for a step that gets none."""
    return [text.select(rows) if rows.numel() else None for rows in torch.tensor_split(torch.arange(len(text)), steps)]
