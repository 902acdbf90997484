"""Sections of the training itself: the algorithms' settings, how long, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from rlhf_dist.config.algorithms import ADVANTAGE_ESTIMATORS, AGGREGATIONS, CORRECTIONS, KL_ESTIMATORS, OLD_LOGPROBS
from rlhf_dist.config.schema.define import FUNCTION, key, section

_WHITENED = " and ".join(name for name, estimator in ADVANTAGE_ESTIMATORS.items() if estimator.whitens)


@dataclass
class KLConfig:
    """The penalty that keeps the policy near the reference."""

    coef: float = key(0.02, "coefficient beta of the penalty; the adaptive controller starts from it", least=0)
    place: str = key(
        "reward",
        "where the penalty is applied",
        choices={"reward": "subtracted from each token's reward", "loss": "added to the policy loss"},
    )
    estimator: str = key("k1", "estimator of the KL per token (docs/algorithms.md)", choices=KL_ESTIMATORS)
    controller: str = key(
        "fixed",
        "how coef changes",
        choices={"fixed": "not at all", "adaptive": "steers the KL to target, arXiv 1909.08593"},
    )
    target: float = key(6.0, "KL that the adaptive controller aims at, in nats per sequence", above=0)
    horizon: int = key(10000, "samples over which the adaptive controller changes coef by at most 20%", least=1)


@dataclass
class PPOAlgoConfig:
    """PPO, after InstructGPT (arXiv 2203.02155, appendix C.4) and arXiv 2403.17031."""

    steps: int = key(100, "steps of the run; each samples responses, trains on them and discards them", least=1)
    prompts_per_step: int = key(512, "prompts per step", least=1)
    minibatch_size: int = key(64, "sequences per optimizer step, over all workers", least=1)
    epochs: int = key(1, "passes over the samples of a step", least=1)
    advantage: str = key(
        "gae",
        "advantage estimator (docs/algorithms.md)",
        choices={name: estimator.title for name, estimator in ADVANTAGE_ESTIMATORS.items()},
        form=FUNCTION,
    )
    use_critic: Optional[bool] = key(
        None, "train a critic; null: if the estimator needs one; true: also for an estimator of your own"
    )
    aggregation: str = key("token-mean", "how a minibatch's token losses are averaged", choices=AGGREGATIONS)
    clip: float = key(0.2, "ratios of new to old probability are clipped to 1 - clip and 1 + clip", above=0)
    clip_high: Optional[float] = key(None, "clips the ratios to 1 + clip_high instead; null: as clip", above=0)
    value_clip: float = key(
        0.2, "the critic's values are clipped to this distance from those at sampling; 0: no clipping", least=0
    )
    gamma: float = key(1.0, "discount factor per token", least=0, most=1)
    lam: float = key(0.95, "lambda of GAE: 0 relies on the critic, 1 on the observed returns", least=0, most=1)
    whiten_advantages: Optional[bool] = key(
        None, f"scale the advantages of a step to mean 0 and variance 1; null: with {_WHITENED}"
    )
    whiten_rewards: bool = key(False, "scale the token rewards of a step to variance 1, with their mean unchanged")
    missing_eos_penalty: float = key(
        0.0, "subtracted from the score of a response without an end-of-sequence token", least=0
    )
    overlong_buffer: int = key(
        0, "last tokens of rollout.max_response_tokens over which a penalty grows with the length; 0: none", least=0
    )
    overlong_penalty: float = key(
        1.0, "subtracted from the score of a response of full length, with overlong_buffer", least=0
    )
    score_clip: float = key(
        0.0, "scores are clipped to the range from -score_clip to score_clip; 0: no clipping", least=0
    )
    normalize_scores: bool = key(
        False, "subtract the running mean of the scores, and divide by their running standard deviation"
    )
    critic_warmup_steps: int = key(0, "steps at the beginning in which only the critic is trained", least=0)
    old_logprobs: str = key(
        "actor",
        "log-probabilities of the policy that sampled, from which ratios and the KL penalty are taken",
        choices=OLD_LOGPROBS,
    )
    rollout_correction: str = key(
        "auto",
        "correction by the importance ratio, the trainer's probability over that of the weights that sampled",
        choices={"auto": "truncate where rollout.staleness is not 0, else off", **CORRECTIONS},
    )
    rollout_cap: float = key(2.0, "largest importance ratio that the correction lets through", above=1)
    pretrain_coef: float = key(
        0.0, "coefficient gamma of PPO-ptx's pretraining loss (InstructGPT: 27.8); 0: no pretraining text", least=0
    )
    pretrain_per_sample: float = key(1.0, "pretraining examples per sample (InstructGPT: 8)", least=0)
    function_timeout_s: float = key(
        600.0, "seconds that one call of a judge, rollout.environment or ppo.advantage of your own may take", above=0
    )
    kl: KLConfig = section(KLConfig, "the penalty that keeps the policy near the reference")


@dataclass
class SupervisedTrainingConfig:
    """How long a model learns from a data set, and how much of it at once."""

    epochs: float = key(1.0, "passes over the data; fractions count", above=0)
    max_steps: int = key(0, "optimizer steps after which training ends; 0: as epochs says", least=0)
    batch_size: int = key(64, "examples per optimizer step, over all workers", least=1)


@dataclass
class SFTTrainingConfig(SupervisedTrainingConfig):
    """Step 1."""

    pretrain_share: float = key(0.0, "pretraining examples per demonstration (InstructGPT, before RL: 0.1)", least=0)


@dataclass
class RankingTrainingConfig(SupervisedTrainingConfig):
    """Training on K-way rankings."""

    batch_size: int = key(
        64, "prompts per optimizer step, over all workers; all C(K,2) pairs of a prompt are one element", least=1
    )


@dataclass
class RewardTrainingConfig(RankingTrainingConfig):
    """Step 2 (arXiv 2203.02155, section 3.5 and appendix C.2)."""


@dataclass
class DPOTrainingConfig(RankingTrainingConfig):
    """Direct preference optimization (arXiv 2305.18290)."""

    beta: float = key(0.1, "coefficient beta: the larger, the closer the policy stays to the reference", above=0)
    label_smoothing: float = key(
        0.0, "share of the pairs that are assumed to be ranked the wrong way round", least=0, most=0.5
    )
