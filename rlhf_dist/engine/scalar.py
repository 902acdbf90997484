"""The roles with a scalar model: the critic, the reward model being trained, and the frozen one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rlhf_dist.algo.losses import ppo_value_loss, ranking_loss
from rlhf_dist.config.schema import FrozenRoleConfig, TrainedRoleConfig
from rlhf_dist.device import Device
from rlhf_dist.engine.answers import forward_by_length
from rlhf_dist.engine.choose import make_forward_engine, make_train_engine
from rlhf_dist.engine.protocol import ForwardEngine, Part
from rlhf_dist.engine.role_engine import RoleEngine, TrainedRoleEngine
from rlhf_dist.engine.stats import CriticStats, RankingStats
from rlhf_dist.models.language import ScalarModel, load_scalar
from rlhf_dist.models.layout import predicting_positions
from rlhf_dist.types import Comparisons, Demonstrations, Sequences, ValueBatch


def _values(runner: ForwardEngine, sequences: Sequences) -> Tensor:
    """Values of the states before each response token ``[R]``."""
    laid = runner.lay_out(sequences.tokens, sequences.lengths)
    rows, positions = predicting_positions(sequences.lengths, sequences.response_lengths)
    return runner.forward_module(laid, rows, positions)


def _last_token_scores(runner: ForwardEngine, tokens: Tensor, lengths: Tensor) -> Tensor:
    """The output at the last token of each of N sequences ``[N]``."""
    laid = runner.lay_out(tokens, lengths)
    return runner.forward_module(laid, torch.arange(lengths.numel()), lengths - 1)


def _scores(runner: ForwardEngine, batch: Comparisons) -> Tensor:
    """The scores of the answers of this worker's rows, flat, float32 on CPU."""
    return runner.map(batch, batch.tokens_per_row, batch.answers, lambda micro: _answer_scores(runner, micro))


def _answer_scores(runner: ForwardEngine, batch: Comparisons) -> Tensor:
    """The same for the answers of rankings ``[N]``."""
    lengths = batch.token_counts
    return forward_by_length(
        batch.tokens, lengths, lambda tokens, rows: _last_token_scores(runner, tokens, lengths[rows])
    )


class CriticEngine(TrainedRoleEngine):
    """One worker's part of the critic.

    Args:
        config: the role.
        device: this worker's.
        total_steps: optimizer steps of the whole run, for the learning-rate schedule.
    """

    def __init__(self, config: TrainedRoleConfig, device: Device, total_steps: int) -> None:
        self.model: ScalarModel = load_scalar(config.model, device, zero_new_head=True, lora=config.lora)
        self.runner = make_train_engine(self.model, device, config, total_steps)

    def values(self, sequences: Sequences) -> Tensor:
        """This worker's rows' values of the states before each response token, flat, float32."""
        return self.runner.map(
            sequences, sequences.lengths, sequences.response_lengths, lambda micro: _values(self.runner, micro)
        )

    def train(self, batch: ValueBatch, minibatches: list[Tensor], clip: float) -> CriticStats:
        """One optimizer step a minibatch on the clipped squared error, averaged over the tokens the policy sampled."""
        totals, norms = torch.zeros(2, dtype=torch.float64), []
        tokens = 0
        for rows in minibatches:
            mini = batch.select(rows)
            count = max(int(mini.sequences.loss_mask.sum()), 1)
            part = Part.of(mini, mini.sequences.lengths, partial(self._loss_sums, clip), 1.0 / count)
            (sums,), norm, _ = self.runner.step([part])
            totals += sums
            tokens += count
            norms.append(norm)
        loss, clipped = (totals / tokens).tolist()
        return CriticStats(loss, clipped, sum(norms) / len(norms), self.runner.last_lr, len(norms))

    def _loss_sums(self, clip: float, micro: ValueBatch, scale: float) -> tuple[Tensor, Tensor]:
        values = _values(self.runner, micro.sequences)
        batch, mask = micro.to(values.device), micro.sequences.loss_mask.to(values.device)
        losses, clipped = ppo_value_loss(values, batch.values, batch.returns, clip)
        loss = (losses * mask).sum()
        return loss * scale, torch.stack([loss.detach(), (clipped & mask).float().sum()])


class RewardEngine(RoleEngine):
    """One worker's part of the frozen reward model.

    Args:
        config: the role.
        device: this worker's.
    """

    def __init__(self, config: FrozenRoleConfig, device: Device) -> None:
        model = load_scalar(config.model, device)
        self.runner = make_forward_engine(model, device, config)

    def token_scores(self, sequences: Sequences) -> Tensor:
        """This worker's rows' scores by response token, flat, float32: the output where :meth:`scored` says, else 0."""
        return self.runner.map(sequences, sequences.lengths, sequences.response_lengths, self._token_scores)

    def scores(self, batch: Comparisons) -> Tensor:
        """This worker's rows' scores, one for each answer, flat, float32: as training evaluates its own model."""
        return _scores(self.runner, batch)

    def scored(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Which response tokens have a score: the last one of each.

        Returns:
            ``[N]`` rows and ``[N]`` places within the row's response, int64.
        """
        return torch.arange(len(sequences)), sequences.response_lengths - 1

    def _token_scores(self, micro: Sequences) -> Tensor:
        rows, places = self.scored(micro)
        laid = self.runner.lay_out(micro.tokens, micro.lengths)
        scores = self.runner.forward_module(laid, rows, micro.prompt_lengths[rows] + places)
        starts = torch.cumsum(micro.response_lengths, 0) - micro.response_lengths
        flat = torch.zeros(int(micro.response_lengths.sum()))
        flat[starts[rows] + places] = scores.float().cpu()
        return flat


class TrainedRewardEngine(TrainedRoleEngine):
    """One worker's part of the reward model that step 2 trains.

    Args:
        config: the role.
        device: this worker's.
        total_steps: optimizer steps of the whole run, for the learning-rate schedule.
    """

    def __init__(self, config: TrainedRoleConfig, device: Device, total_steps: int) -> None:
        self.model: ScalarModel = load_scalar(config.model, device, lora=config.lora)
        self.runner = make_train_engine(self.model, device, config, total_steps)

    def fit(self, batch: Comparisons) -> RankingStats:
        """One optimizer step on the K-way ranking loss, averaged over the batch's prompts."""
        part = Part.of(batch, batch.tokens_per_row, self._ranking_sums, 1.0 / len(batch))
        (sums,), norm, lr = self.runner.step([part])
        loss, right, pairs = sums.tolist()
        return RankingStats(loss / len(batch), right / max(pairs, 1.0), norm, lr, int(batch.tokens_per_row.sum()))

    def _ranking_sums(self, micro: Comparisons, scale: float) -> tuple[Tensor, Tensor]:
        scores = _answer_scores(self.runner, micro)
        losses, right = ranking_loss(scores, micro.ranks, micro.answers)
        pairs = torch.tensor(float(right.numel()), device=scores.device)
        return losses.sum() * scale, torch.stack([losses.detach().sum(), right.float().sum(), pairs])

    def scores(self, batch: Comparisons) -> Tensor:
        """This worker's rows' scores, one for each answer, flat, float32."""
        return _scores(self.runner, batch)

    def sequence_scores(self, batch: Demonstrations) -> Tensor:
        """This worker's rows' scores of whole sequences, flat, float32."""
        return self.runner.map(
            batch,
            batch.lengths,
            torch.ones_like(batch.lengths),
            lambda micro: _last_token_scores(self.runner, micro.tokens, micro.lengths),
        )

    def shift(self, amount: float) -> None:
        """Adds ``amount`` to every score from now on; the bias is part of what ``save_model`` writes."""
        self.model.set_bias(self.model.bias + amount)
