"""The algorithms that a configuration can name, and what the checks of it must know of each.

This is the one list of them. The functions stand in the packages above, which import torch; the configuration is
checked without it. A test holds the names here and the functions there equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdvantageEstimator:
    """What is special about an advantage estimator. A function of the user's own has none of it by default.

    Attributes:
        title: what it is, in a few words.
        needs_critic: whether it computes with a critic's values; a critic is started where `ppo.use_critic` is null.
        needs_groups: whether it compares the responses to one prompt, so that one response is not enough.
        whitens: whether its advantages are whitened over the step where `ppo.whiten_advantages` is null.
        sums_rewards: whether all tokens of a response get the same advantage, by the sum of its rewards: which of its
            steps earned what is lost.
    """

    title: str = ""
    needs_critic: bool = False
    needs_groups: bool = False
    whitens: bool = False
    sums_rewards: bool = False


#: The choices of `ppo.advantage`; the functions are `rlhf_dist.algo.advantages.ESTIMATORS`.
ADVANTAGE_ESTIMATORS = {
    "gae": AdvantageEstimator("generalized advantage estimation, with a critic", needs_critic=True, whitens=True),
    "grpo": AdvantageEstimator(
        "a response's reward less the mean of its prompt's responses, over their standard deviation",
        needs_groups=True,
        sums_rewards=True,
    ),
    "dr_grpo": AdvantageEstimator(
        "as grpo, not divided by the standard deviation", needs_groups=True, sums_rewards=True
    ),
    "rloo": AdvantageEstimator(
        "a response's reward less the mean of its prompt's others", needs_groups=True, sums_rewards=True
    ),
    "reinforce++": AdvantageEstimator("the discounted rewards from each token on", whitens=True),
}

#: The choices of `ppo.aggregation` with their meanings, see `rlhf_dist.algo.aggregation`.
AGGREGATIONS = {
    "token-mean": "over tokens",
    "sequence-mean": "over each sequence's tokens, then over sequences",
    "constant": "summed, over sequences * rollout.max_response_tokens",
}

#: The choices of `ppo.old_logprobs` with their meanings.
OLD_LOGPROBS = {
    "actor": "the actor's own, by a forward pass over all samples",
    "rollout": "the engine's, which saves that pass; where engine and actor compute alike, as in float32",
}

#: The choices of `ppo.rollout_correction` with their meanings, see `rlhf_dist.algo.mismatch`.
CORRECTIONS = {
    "off": "none",
    "truncate": "tokens are weighted by the ratio, at most by rollout_cap",
    "mask": "tokens with a ratio above rollout_cap or below 1 / rollout_cap are left out",
    "sequence": "responses are weighted by the product of their tokens' ratios, at most by rollout_cap",
    "sequence-mask": "responses whose tokens' ratios have a geometric mean beyond these bounds are left out",
}

#: The choices of `ppo.kl.estimator` with their meanings; the functions are `rlhf_dist.algo.kl.ESTIMATORS`.
KL_ESTIMATORS = {
    "k1": "log-ratio; not for the loss",
    "k2": "half its square",
    "k3": "GRPO's, never negative",
}

#: Those of them that can be a loss (`ppo.kl.place=loss`). k1's gradient is that of the log-probability itself, whose
#: mean is 0: it does not pull to the reference. k2's gradient on samples of the policy is that of the KL; k3's is that
#: of the reverse one (and GRPO's choice).
KL_LOSS_ESTIMATORS = ("k2", "k3")

#: The layouts of a batch with their meanings, see `rlhf_dist.models.layout`; `auto` chooses among them.
LAYOUTS = {
    "right": "padded on the right",
    "left": "padded on the left",
    "packed": "without padding",
}


def advantage_estimator(name: str) -> AdvantageEstimator:
    """What is special about the estimator that `ppo.advantage` names; nothing of a function of the user's own."""
    return ADVANTAGE_ESTIMATORS[name] if name in ADVANTAGE_ESTIMATORS else AdvantageEstimator()
