"""PPO: one step of the algorithm, independent of where its roles run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlhf_dist.algo.advantages import Episodes, Estimator, explained_variance, whiten
from rlhf_dist.algo.kl import ESTIMATORS as KL_ESTIMATORS
from rlhf_dist.algo.kl import AdaptiveKL, FixedKL, KLController, k1
from rlhf_dist.algo.losses import PolicyObjective
from rlhf_dist.algo.minibatches import minibatch_plan
from rlhf_dist.algo.mismatch import correction_weights, mismatch_figures
from rlhf_dist.algo.rewards import (
    RunningMoments,
    clip_scores,
    penalize_missing_eos,
    penalize_overlong,
    sequence_sums,
    shape_rewards,
)
from rlhf_dist.cluster.roles import Actor, AdapterOff, Critic, Reference, Reward
from rlhf_dist.cluster.sample_stream import SampleStream
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.cluster.weight_sync import WeightSync
from rlhf_dist.config.resolve import rollout_correction
from rlhf_dist.config.schema import KLConfig, PPOConfig
from rlhf_dist.controller.parity import check_parity
from rlhf_dist.controller.trace import Timer
from rlhf_dist.controller.turns import Environment, converse
from rlhf_dist.engine.stats import ActorStats, CriticStats
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.types import Demonstrations, Experience, PolicyBatch, Prompts, Sequences, ValueBatch


@dataclass(frozen=True)
class RewardSource:
    """One source of scores for the responses.

    Attributes:
        name: its name in the metrics.
        weight: factor of its score in the sum.
        role: the workers that score.
    """

    name: str
    weight: float
    role: Reward


@dataclass(frozen=True)
class PPORoles:
    """The roles that take part in a step, and what connects them.

    Attributes:
        actor: the policy that is trained.
        critic: predicts values; None if the advantage estimator needs none.
        rewards: what scores the responses, one entry a source; at least one.
        reference: the frozen policy from which the KL is measured.
        rollout: the engines that sample.
        weights: brings the actor's weights to the engines.
        scheduler: runs the roles' calls, at once or in turns.
    """

    actor: Actor
    critic: Critic | None
    rewards: tuple[RewardSource, ...]
    reference: Reference | AdapterOff
    rollout: SampleStream
    weights: WeightSync
    scheduler: Scheduler


@dataclass(frozen=True)
class StepResult:
    """One step's figures, and the batch they were taken from.

    Attributes:
        metrics: by their names in metrics.jsonl.
        experience: the responses that were sampled, with what all roles said of them.
        kl: ``[R]`` float32, nats, the k1 estimate of each response token's KL to the reference; 0 where masked.
    """

    metrics: dict[str, float]
    experience: Experience
    kl: Tensor


def make_kl_controller(config: KLConfig) -> KLController:
    """The controller that `ppo.kl` names."""
    if config.controller == "adaptive":
        return AdaptiveKL(config.coef, config.target, config.horizon)
    return FixedKL(config.coef)


class PPO:
    """The algorithm of InstructGPT's step 3 (arXiv 2203.02155, section 3.5).

    A step is: :meth:`generate`, :meth:`collect`, :meth:`learn`, :meth:`publish`.

    Args:
        config: the run's configuration.
        roles: the workers that sample, score and train.
        estimator: computes the advantages.
        environment: replies to the policy's turns; None if every response is a single turn.
        timer: times the phases.
        tolerance: of the check of the engines' weights, see :func:`~rlhf_dist.controller.parity.check_parity`.
    """

    def __init__(
        self,
        config: PPOConfig,
        roles: PPORoles,
        estimator: Estimator,
        environment: Environment | None,
        timer: Timer,
        tolerance: float,
    ) -> None:
        self.config, self.roles, self.timer, self.tolerance = config, roles, timer, tolerance
        self.estimator, self.environment = estimator, environment
        self.kl = make_kl_controller(config.ppo.kl)
        self.moments = RunningMoments()
        self.version = 0  # of the actor's weights: how many steps have changed them
        self._published: int | None = None  # the version that the engines have
        self._checked = False

    def generate(self, prompts: Prompts) -> Sequences:
        """One response a prompt, of one turn or, with an environment, of several."""
        return next(self.generate_each([prompts]))

    def generate_each(self, batches: Sequence[Prompts]) -> Iterator[Sequences]:
        """One response to each prompt of several batches, which come in their order; with the engines' weights."""
        rollout, environment = self.config.rollout, self.environment
        most = rollout.max_response_tokens if environment is None else environment.turn_tokens
        options = SamplingOptions(rollout.temperature, most, self.config.run.seed, rollout.top_p, rollout.top_k)
        if environment is None:
            return self.roles.rollout.sample_each(batches, options)
        return (converse(prompts, self.roles.rollout, options, environment) for prompts in batches)

    def collect(self, number: int, sequences: Sequences) -> Experience:
        """Responses to experience: has all roles score them, and compares the engines' weights where that is due.

        Args:
            number: the step's number, from 1.
            sequences: one row per sample; the samples of a prompt are adjacent.
        """
        with self.timer("score"):
            due = self._check_due(number) and bool((sequences.weight_version == self.version).all())
            experience = self.score(sequences, with_logprobs=due or not self._old_is_rollout)
            if due:
                check_parity(sequences, experience.logprobs, self.tolerance)
                self._checked = True
            if self._old_is_rollout:  # also where the actor's are there: a resumed run checks at other steps
                experience = replace(experience, logprobs=sequences.rollout_logprobs)
        return experience

    def learn(self, number: int, experience: Experience, pretrain: Demonstrations | None) -> StepResult:
        """Experience to new weights: trains actor and critic. :meth:`publish` brings the weights to the engines.

        Args:
            number: the step's number, from 1; it seeds the shuffling.
            experience: of the batch.
            pretrain: text for PPO-ptx; None without.
        """
        lag = self.version - experience.sequences.weight_version
        with self.timer("advantage"):
            rewards, kl = self.rewards(experience)
            policy_batch, value_batch = self.advantages(experience, rewards)
        with self.timer("train"):
            actor, critic = self._train(number, policy_batch, value_batch, pretrain)
        self.version += int(actor.optimizer_steps > 0)
        metrics = self._metrics(experience, rewards, kl, actor)
        if self.config.rollout.staleness:
            metrics["rollout/staleness_max"] = float(lag.max())
        if critic is not None and value_batch is not None:
            metrics |= _critic_metrics(critic, value_batch)
        self.kl.update(metrics["kl/sequence_mean"], len(experience))
        return StepResult(metrics, experience, kl)

    def publish(self) -> None:
        """Brings the actor's weights to every engine, if they are not there. Nothing may be being sampled."""
        if self._published != self.version:
            with self.timer("sync"):
                self.roles.weights.push(self.version)
            self._published = self.version

    @property
    def _old_is_rollout(self) -> bool:
        return self.config.ppo.old_logprobs == "rollout"

    def score(self, sequences: Sequences, with_values: bool = True, with_logprobs: bool = True) -> Experience:
        """Log-probabilities, values and scores of the sequences, from actor, reference, critic and rewards.

        Args:
            sequences: sampled by the engines, or from elsewhere.
            with_values: whether to ask the critic, if there is one: for training, not for evaluation.
            with_logprobs: whether to ask the actor for log-probabilities; else the engines' stand in their place.

        Raises:
            RunError: a score is NaN or infinite.
        """
        roles = self.roles
        critic = roles.critic if with_values else None
        with roles.scheduler.together(self.config.cluster.call_timeout_s) as calls:
            logprobs = calls.add(roles.actor.logprobs(sequences)) if with_logprobs else None
            reference = calls.add(roles.reference.logprobs(sequences))
            values = calls.add(critic.values(sequences)) if critic is not None else None
            scores = [calls.add(source.role.token_scores(sequences)) for source in roles.rewards]
        weighed = self._weigh(sequences, [score.value for score in scores])
        return Experience(
            sequences,
            sequences.rollout_logprobs if logprobs is None else logprobs.value,
            reference.value,
            None if values is None else values.value,
            *weighed,
        )

    def _weigh(self, sequences: Sequences, token_scores: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """From the scores ``[R]`` of each of the S sources those of whole responses ``[B, S]``, and the weighted sums.

        Returns:
            ``[B, S]``; the sum over the sources, by their weights, of responses ``[B]`` and of tokens ``[R]``.

        Raises:
            RunError: a score is NaN or infinite.
        """
        scores = [sequence_sums(given, sequences.response_lengths) for given in token_scores]
        for source, given in zip(self.roles.rewards, scores, strict=True):
            require_finite(source.name, given, sequences)
        by_source, weights = torch.stack(scores, dim=1), torch.tensor([source.weight for source in self.roles.rewards])
        return by_source, by_source @ weights, torch.stack(token_scores, dim=1) @ weights

    def rewards(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """Rewards ``[R]``, and the KL's k1 estimate ``[R]`` (nats, 0 where masked), of every response token."""
        ppo, sequences = self.config.ppo, experience.sequences
        scores, lengths = experience.token_scores, sequences.response_lengths
        longest = self.config.rollout.max_response_tokens
        if ppo.normalize_scores:
            self.moments.update(experience.scores)
            scores = self.moments.normalize(scores, lengths)
        scores = clip_scores(scores, ppo.score_clip)
        scores = penalize_missing_eos(scores, lengths, sequences.finished, ppo.missing_eos_penalty)
        scores = penalize_overlong(scores, lengths, longest, ppo.overlong_buffer, ppo.overlong_penalty)
        penalty = torch.zeros_like(experience.logprobs)
        if ppo.kl.place == "reward":
            penalty = self.kl.coef * KL_ESTIMATORS[ppo.kl.estimator](experience.logprobs, experience.ref_logprobs)
        rewards = shape_rewards(scores, penalty, lengths, sequences.loss_mask)
        if ppo.whiten_rewards:
            rewards = _whiten_sampled(rewards, sequences.loss_mask, shift_mean=False)
        return rewards, self.token_kl(experience)

    def token_kl(self, experience: Experience) -> Tensor:
        """The k1 estimate of the KL to the reference ``[R]``, nats a token, 0 where masked."""
        return k1(experience.logprobs, experience.ref_logprobs) * experience.sequences.loss_mask

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[PolicyBatch, ValueBatch | None]:
        """What the actor and, where there is one, the critic learn from."""
        ppo, sequences = self.config.ppo, experience.sequences
        groups = torch.arange(len(experience)) // self.config.rollout.samples_per_prompt
        mask = sequences.loss_mask
        advantages, returns = self.estimator(
            Episodes(rewards, sequences.response_lengths, mask, groups, experience.values, ppo.gamma, ppo.lam)
        )
        if ppo.whiten_advantages:
            advantages = _whiten_sampled(advantages, mask)
        weights = mask * correction_weights(
            experience.logprobs,
            sequences.rollout_logprobs,
            sequences.response_lengths,
            mask,
            rollout_correction(self.config),
            ppo.rollout_cap,
        )
        policy = PolicyBatch(sequences, experience.logprobs, experience.ref_logprobs, advantages, weights)
        if experience.values is None or returns is None:
            return policy, None
        return policy, ValueBatch(sequences, experience.values, returns)

    def _train(
        self, number: int, policy: PolicyBatch, value: ValueBatch | None, pretrain: Demonstrations | None
    ) -> tuple[ActorStats, CriticStats | None]:
        ppo, roles = self.config.ppo, self.roles
        plan = minibatch_plan(
            len(policy), ppo.minibatch_size, ppo.epochs, seed=self.config.run.seed * 1_000_003 + number
        )
        critic, actor = None, None
        with roles.scheduler.together(self.config.cluster.call_timeout_s) as calls:
            if roles.critic is not None and value is not None:
                critic = calls.add(roles.critic.train(value, plan, ppo.value_clip))
            if number > ppo.critic_warmup_steps:
                actor = calls.add(roles.actor.train(policy, plan, self._objective(), pretrain))
        return _at_rest(policy) if actor is None else actor.value, None if critic is None else critic.value

    def _objective(self) -> PolicyObjective:
        ppo = self.config.ppo
        return PolicyObjective(
            clip_low=ppo.clip,
            clip_high=ppo.clip if ppo.clip_high is None else ppo.clip_high,
            aggregation=ppo.aggregation,
            horizon=self.config.rollout.max_response_tokens,
            kl_coef=self.kl.coef if ppo.kl.place == "loss" else 0.0,
            kl_estimator=ppo.kl.estimator,
            pretrain_coef=ppo.pretrain_coef,
        )

    def _check_due(self, number: int) -> bool:
        """Whether the engines' weights are compared: always after the first transfer, that of a resumed run too."""
        every = self.config.weights.verify_every
        return not self._checked or (every > 0 and number % every == 0)

    def _metrics(self, experience: Experience, rewards: Tensor, kl: Tensor, actor: ActorStats) -> dict[str, float]:
        sequences, lengths = experience.sequences, experience.response_lengths
        mask = sequences.loss_mask
        if self._old_is_rollout:  # the actor's are known where training begins
            mismatch = {"logprob_gap": actor.first_gap, "kl": actor.first_kl}
        else:
            mismatch = mismatch_figures(experience.logprobs[mask], sequences.rollout_logprobs[mask])
        metrics = {
            "reward/score_mean": float(experience.scores.mean()),
            "reward/score_std": float(experience.scores.std(unbiased=False)),
            "reward/total_mean": float(sequence_sums(rewards, lengths).mean()),
            "kl/sequence_mean": float(sequence_sums(kl, lengths).mean()),
            "kl/coef": self.kl.coef,
            "response/length_mean": float(lengths.float().mean()),
            "response/finished": float(sequences.finished.float().mean()),
            "weights/version": float(self.version),
            "loss/policy": actor.loss,
            "policy/clip_fraction": actor.clip_fraction,
            "policy/entropy": actor.entropy,
            "policy/approx_kl": actor.approx_kl,
            "policy/grad_norm": actor.grad_norm,
            "policy/lr": actor.lr,
        } | {f"rollout/{name}": value for name, value in mismatch.items()}
        if len(self.roles.rewards) > 1:
            means = experience.source_scores.mean(0).tolist()
            metrics |= {f"reward/{source.name}_mean": m for source, m in zip(self.roles.rewards, means, strict=True)}
        if self.config.ppo.kl.place == "loss":
            metrics["loss/kl"] = actor.kl_loss
        if self.config.ppo.pretrain_coef:
            metrics["loss/pretrain"] = actor.pretrain_loss
        return metrics

    def state(self) -> dict[str, object]:
        """The controller's part of a checkpoint."""
        return {"kl_coef": self.kl.coef, "moments": asdict(self.moments), "version": self.version}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state` returned."""
        self.kl.coef = state["kl_coef"]
        self.moments = RunningMoments(**state["moments"])
        self.version = state["version"]


def require_finite(source: str, scores: Tensor, sequences: Sequences) -> None:
    """Checks the scores ``[B]`` that a source, by its name in the metrics, gave to sequences.

    Raises:
        RunError: a score is NaN or infinite; names the first such sample, and where its prompt stands in the data.
    """
    bad = torch.nonzero(~torch.isfinite(scores)).flatten().tolist()
    if bad:
        row = bad[0]
        raise RunError(
            f"{source} of {len(bad)} of {len(sequences)} samples is not finite: sample {row}, prompt "
            f"{int(sequences.rows[row]) + 1} of its data set, score {float(scores[row])}, "
            f"tokens {sequences.response_lists()[row]}"
        )


def _critic_metrics(critic: CriticStats, batch: ValueBatch) -> dict[str, float]:
    mask = batch.sequences.loss_mask
    return {
        "loss/value": critic.loss,
        "value/explained_variance": explained_variance(batch.values[mask], batch.returns[mask]),
        "value/clip_fraction": critic.clip_fraction,
        "value/grad_norm": critic.grad_norm,
        "value/lr": critic.lr,
    }


def _whiten_sampled(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """``[R]`` whitened over the tokens that the policy sampled; the others are 0."""
    whitened = torch.zeros_like(values)
    whitened[mask] = whiten(values[mask], shift_mean)
    return whitened


def _at_rest(batch: PolicyBatch) -> ActorStats:
    """What holds of a policy that is not trained: all ratios are 1, and the entropy is the mean of -log p."""
    mask = batch.sequences.loss_mask
    loss, entropy = -float(batch.advantages[mask].mean()), -float(batch.logprobs[mask].mean())
    return ActorStats(loss, clip_fraction=0.0, approx_kl=0.0, entropy=entropy, grad_norm=0.0, lr=0.0, optimizer_steps=0)
