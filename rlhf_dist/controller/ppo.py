"""PPO: one step of the algorithm, and nothing of where it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_dist.algo.advantages import explained_variance, gae, whiten
from rlhf_dist.algo.kl import AdaptiveKL, FixedKL, KLController
from rlhf_dist.algo.minibatches import minibatch_plan
from rlhf_dist.algo.rewards import (
    RunningMoments,
    clip_scores,
    penalize_missing_eos,
    sequence_sums,
    shape_rewards,
)
from rlhf_dist.config.schema import KLConfig, PPOConfig
from rlhf_dist.controller.parity import check_parity, logprob_gap
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.types import ActorStats, CriticStats, Experience, Prompts, Sequences, TrainBatch

if TYPE_CHECKING:
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.roles import Actor, Critic, Reference, Reward, Rollout
    from rlhf_dist.cluster.weights import WeightSync
    from rlhf_dist.controller.trace import Timer


@dataclass(frozen=True)
class PPORoles:
    """Who takes part in a step."""

    actor: Actor
    critic: Critic
    reward: Reward
    reference: Reference
    rollout: Rollout
    weights: WeightSync
    placement: Placement


@dataclass(frozen=True)
class StepResult:
    """One step's figures, and the batch they were taken from."""

    metrics: dict[str, float]
    experience: Experience
    kl: Tensor  # [R] nats


def make_kl_controller(config: KLConfig) -> KLController:
    """The controller that `ppo.kl` names."""
    if config.controller == "adaptive":
        return AdaptiveKL(config.coef, config.target, config.horizon)
    return FixedKL(config.coef)


class PPO:
    """The algorithm of InstructGPT's step 3 (arXiv 2203.02155, section 3.5), one :meth:`step` at a time.

    Args:
        config: the run's.
        roles: who samples, scores and learns.
        timer: times the phases.
        tolerance: of the check of the engines' weights, see :func:`check_parity`.
    """

    def __init__(self, config: PPOConfig, roles: PPORoles, timer: Timer, tolerance: float) -> None:
        self.config, self.roles, self.timer, self.tolerance = config, roles, timer, tolerance
        self.kl = make_kl_controller(config.ppo.kl)
        self.moments = RunningMoments()
        self.version = 0

    def step(self, number: int, prompts: Prompts) -> StepResult:
        """Samples a response to each prompt, learns from them, and brings the new weights to the engines.

        Args:
            number: of the step, from 1: seeds the shuffling, and decides what is due.
            prompts: one row a sample.
        """
        with self.timer("rollout"):
            sequences = self.generate(prompts)
        with self.timer("score"):
            experience = self.score(sequences)
            if self._check_due(number):
                check_parity(sequences, experience.logprobs, self.tolerance)
        with self.timer("advantage"):
            rewards, kl = self.rewards(experience)
            batch = self.advantages(experience, rewards)
        with self.timer("train"):
            actor, critic = self._train(number, batch)
        if actor.optimizer_steps:
            with self.timer("sync"):
                self.push(self.version + 1)
        kl_mean = float(sequence_sums(kl, experience.response_lengths).mean())
        self.kl.update(kl_mean, len(experience))
        return StepResult(self._metrics(experience, rewards, batch, kl_mean, actor, critic), experience, kl)

    def push(self, version: int) -> None:
        """Brings the actor's weights to every engine, as ``version``."""
        self.roles.weights.push(version)
        self.version = version

    def generate(self, prompts: Prompts) -> Sequences:
        """One response a prompt."""
        rollout = self.config.rollout
        options = SamplingOptions(rollout.temperature, rollout.max_response_tokens, self.config.run.seed)
        return self._run(self.roles.rollout.generate(prompts, options))[0]

    def score(self, sequences: Sequences) -> Experience:
        """What actor, reference, critic and reward model say of the sequences.

        Raises:
            RunError: a score is NaN or infinite.
        """
        roles = self.roles
        experience = Experience(
            sequences,
            *self._run(
                roles.actor.logprobs(sequences),
                roles.reference.logprobs(sequences),
                roles.critic.values(sequences),
                roles.reward.scores(sequences),
            ),
        )
        bad = torch.nonzero(~torch.isfinite(experience.scores)).flatten().tolist()
        if bad:
            raise RunError(
                f"the reward of {len(bad)} of {len(sequences)} samples is not finite: {_first(experience, bad)}"
            )
        return experience

    def rewards(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """Rewards ``[R]`` and KL ``[R]`` (nats) of every response token."""
        ppo = self.config.ppo
        scores = experience.scores
        if ppo.normalize_scores:
            self.moments.update(scores)
            scores = self.moments.normalize(scores)
        scores = clip_scores(scores, ppo.score_clip)
        scores = penalize_missing_eos(scores, experience.sequences.finished, ppo.missing_eos_penalty)
        rewards, kl = shape_rewards(
            scores, experience.logprobs, experience.ref_logprobs, experience.response_lengths, self.kl.coef
        )
        return (whiten(rewards, shift_mean=False) if ppo.whiten_rewards else rewards), kl

    def advantages(self, experience: Experience, rewards: Tensor) -> TrainBatch:
        """The batch to learn from, by GAE."""
        ppo = self.config.ppo
        advantages, returns = gae(rewards, experience.values, experience.response_lengths, ppo.gamma, ppo.lam)
        if ppo.whiten_advantages:
            advantages = whiten(advantages)
        return TrainBatch(experience.sequences, experience.logprobs, experience.values, advantages, returns)

    def _train(self, number: int, batch: TrainBatch) -> tuple[ActorStats, CriticStats]:
        ppo, roles = self.config.ppo, self.roles
        plan = minibatch_plan(
            len(batch), ppo.minibatch_size, ppo.epochs, seed=self.config.run.seed * 1_000_003 + number
        )
        critic = roles.critic.train(batch, plan, ppo.value_clip)
        if number <= ppo.critic_warmup_steps:
            return _at_rest(batch), self._run(critic)[0]
        critic_stats, actor_stats = self._run(critic, roles.actor.train(batch, plan, ppo.clip))
        return actor_stats, critic_stats

    def _check_due(self, number: int) -> bool:
        every = self.config.weights.verify_every
        return number == 1 or (every > 0 and number % every == 0)

    def _run(self, *calls: Any) -> list[Any]:
        return self.roles.placement.run(*calls, timeout_s=self.config.cluster.call_timeout_s)

    def _metrics(
        self,
        experience: Experience,
        rewards: Tensor,
        batch: TrainBatch,
        kl_mean: float,
        actor: ActorStats,
        critic: CriticStats,
    ) -> dict[str, float]:
        sequences = experience.sequences
        return {
            "reward/score_mean": float(experience.scores.mean()),
            "reward/score_std": float(experience.scores.std(unbiased=False)),
            "reward/total_mean": float(sequence_sums(rewards, experience.response_lengths).mean()),
            "kl/sequence_mean": kl_mean,
            "kl/coef": self.kl.coef,
            "response/length_mean": float(sequences.response_lengths.float().mean()),
            "response/finished": float(sequences.finished.float().mean()),
            "rollout/logprob_gap": logprob_gap(sequences, experience.logprobs),
            "weights/version": float(self.version),
            "loss/value": critic.loss,
            "value/explained_variance": explained_variance(experience.values, batch.returns),
            "value/clip_fraction": critic.clip_fraction,
            "value/grad_norm": critic.grad_norm,
            "value/lr": critic.lr,
            "loss/policy": actor.loss,
            "policy/clip_fraction": actor.clip_fraction,
            "policy/entropy": actor.entropy,
            "policy/approx_kl": actor.approx_kl,
            "policy/grad_norm": actor.grad_norm,
            "policy/lr": actor.lr,
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep of the controller."""
        return {"kl_coef": self.kl.coef, "moments": asdict(self.moments), "version": self.version}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""
        self.kl.coef = state["kl_coef"]
        self.moments = RunningMoments(**state["moments"])
        self.version = state["version"]


def _at_rest(batch: TrainBatch) -> ActorStats:
    """What holds of a policy that is not trained: all ratios are 1, and the entropy is the mean of -log p."""
    loss, entropy = -float(batch.advantages.mean()), -float(batch.logprobs.mean())
    return ActorStats(loss, clip_fraction=0.0, approx_kl=0.0, entropy=entropy, grad_norm=0.0, lr=0.0, optimizer_steps=0)


def _first(experience: Experience, rows: list[int]) -> str:
    row = rows[0]
    return f"sample {row}, score {float(experience.scores[row])}, tokens {experience.sequences.response_lists()[row]}"
