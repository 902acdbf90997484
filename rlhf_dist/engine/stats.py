"""What the engines report of a training step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActorStats:
    """What one `train` call of the actor group reports, over all its minibatches and epochs.

    Attributes:
        loss: clipped surrogate, averaged over the minibatches as the aggregation says.
        clip_fraction: share of response tokens whose ratio lay outside ``1 +- clip``.
        approx_kl: nats a token, Schulman's k3 estimate between the sampling and the updated policy.
        entropy: nats a token, of the policy's distribution at sampling temperature.
        grad_norm: mean over optimizer steps of the global gradient norm before clipping.
        lr: learning rate of the last optimizer step.
        optimizer_steps: how many were taken.
        kl_loss: mean KL to the reference over response tokens as the loss has it, before its coefficient; 0 where
            the KL is not in the loss.
        pretrain_loss: nats a token of the pretraining text (PPO-ptx), before its coefficient; 0 without.
        first_gap: nats, mean absolute difference of the first minibatch's log-probabilities, before any update, from
            the old ones: 0 where these are the actor's own, but for rounding.
        first_kl: nats a token, Schulman's k3 estimate of the KL between the two.
    """

    loss: float
    clip_fraction: float
    approx_kl: float
    entropy: float
    grad_norm: float
    lr: float
    optimizer_steps: int
    kl_loss: float = 0.0
    pretrain_loss: float = 0.0
    first_gap: float = 0.0
    first_kl: float = 0.0


@dataclass(frozen=True)
class CriticStats:
    """What one `train` call of the critic group reports.

    Attributes:
        loss: mean (clipped) squared error over response tokens, halved.
        clip_fraction: share of response tokens where the clipped error was the larger one.
        grad_norm: mean over optimizer steps of the global gradient norm before clipping.
        lr: learning rate of the last optimizer step.
        optimizer_steps: how many were taken.
    """

    loss: float
    clip_fraction: float
    grad_norm: float
    lr: float
    optimizer_steps: int


@dataclass(frozen=True)
class LanguageStats:
    """What one optimizer step of SFT reports.

    Attributes:
        loss: nats a response token, over all workers.
        grad_norm: global gradient norm before clipping.
        lr: learning rate of the step.
        tokens: prompt and response tokens of the step's batch.
    """

    loss: float
    grad_norm: float
    lr: float
    tokens: int


@dataclass(frozen=True)
class RankingStats:
    """What one optimizer step of reward-model training reports.

    Attributes:
        loss: nats, mean over prompts of the mean over their pairs.
        accuracy: share of pairs ranked right, before the step.
        grad_norm: global gradient norm before clipping.
        lr: learning rate of the step.
        tokens: tokens of the step's batch.
    """

    loss: float
    accuracy: float
    grad_norm: float
    lr: float
    tokens: int


@dataclass(frozen=True)
class PreferenceStats:
    """What one optimizer step of DPO reports.

    Attributes:
        loss: nats, mean over prompts of the mean over their pairs.
        accuracy: share of pairs whose implicit rewards are ranked right, before the step.
        margin: mean over pairs of the better answer's implicit reward less the worse one's.
        grad_norm: global gradient norm before clipping.
        lr: learning rate of the step.
        tokens: tokens of the step's batch.
    """

    loss: float
    accuracy: float
    margin: float
    grad_norm: float
    lr: float
    tokens: int
