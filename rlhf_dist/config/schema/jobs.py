"""The configuration of each job: its sections, and what they are for in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from rlhf_dist.config.schema.data import (
    ComparisonDataConfig,
    DemonstrationDataConfig,
    PromptDataConfig,
    RewardModelDataConfig,
    TextDataConfig,
)
from rlhf_dist.config.schema.define import FUNCTION, key, section
from rlhf_dist.config.schema.roles import FrozenRoleConfig, RewardSourceConfig, TrainedRoleConfig
from rlhf_dist.config.schema.rollout import RolloutConfig, WeightsConfig
from rlhf_dist.config.schema.run import ClusterConfig, RunConfig
from rlhf_dist.config.schema.training import (
    DPOTrainingConfig,
    PPOAlgoConfig,
    RewardTrainingConfig,
    SFTTrainingConfig,
)

_MODEL = "model.path"
_ANOTHER_SCORES = {_MODEL: "function or endpoint scores instead"}


def _run() -> Any:
    return section(RunConfig, "where the run is kept, and how often it saves, evaluates and logs")


def _cluster() -> Any:
    return section(ClusterConfig, "the Ray cluster, and how long anything may take")


def _reference() -> Any:
    return section(
        FrozenRoleConfig, "the frozen policy that the KL is measured against", unset={_MODEL: "the actor's model"}
    )


def _placement(example: str) -> Any:
    return key(
        "separate",
        "which roles share devices (docs/placement.md): separate (none) | colocated (all, in turns) | the lists of "
        f"roles that share, such as {example}",
    )


@dataclass
class SFTConfig:
    """The configuration of `rlhf-dist sft` (`launch/sft_llama.py`)."""

    run: RunConfig = _run()
    data: DemonstrationDataConfig = section(DemonstrationDataConfig, "prompts with answers")
    pretrain: TextDataConfig = section(TextDataConfig, "pretraining text that is learned beside the demonstrations")
    actor: TrainedRoleConfig = section(TrainedRoleConfig, "the model that learns")
    sft: SFTTrainingConfig = section(SFTTrainingConfig, "length of the training and batch size")
    cluster: ClusterConfig = _cluster()


@dataclass
class RewardModelConfig:
    """The configuration of `rlhf-dist reward` (`launch/reward_llama.py`)."""

    run: RunConfig = _run()
    data: RewardModelDataConfig = section(RewardModelDataConfig, "K-way rankings")
    reward: TrainedRoleConfig = section(
        TrainedRoleConfig, "the model that learns: a language model that gets a head for the score"
    )
    training: RewardTrainingConfig = section(RewardTrainingConfig, "length of the training and batch size")
    cluster: ClusterConfig = _cluster()


@dataclass
class DPOConfig:
    """The configuration of `rlhf-dist dpo` (`launch/dpo_llama.py`)."""

    run: RunConfig = _run()
    data: ComparisonDataConfig = section(ComparisonDataConfig, "K-way rankings")
    actor: TrainedRoleConfig = section(TrainedRoleConfig, "the policy that learns")
    reference: FrozenRoleConfig = _reference()
    dpo: DPOTrainingConfig = section(
        DPOTrainingConfig, "length of the training, batch size, and how close to the reference the policy stays"
    )
    placement: str = _placement("[[actor, reference]]")
    cluster: ClusterConfig = _cluster()


@dataclass
class PPOConfig:
    """The configuration of `rlhf-dist ppo` (`launch/ppo_llama.py`), whichever algorithm it runs."""

    run: RunConfig = _run()
    data: PromptDataConfig = section(PromptDataConfig, "the prompts")
    pretrain: TextDataConfig = section(TextDataConfig, "pretraining text, for PPO-ptx")
    actor: TrainedRoleConfig = section(TrainedRoleConfig, "the policy that learns")
    critic: TrainedRoleConfig = section(
        TrainedRoleConfig,
        "the value function that learns",
        unset={_MODEL: "the reward model, or the actor's model if no model rewards"},
    )
    reward: RewardSourceConfig = section(
        RewardSourceConfig,
        "what scores a response: a reward model, or a function or endpoint instead",
        unset=_ANOTHER_SCORES,
    )
    rewards: dict[str, RewardSourceConfig] = section(
        RewardSourceConfig,
        "further sources of reward, each under a name of your own and with the keys of `reward`; the reward is the "
        "weighted sum of all scores (docs/rewards.md)",
        unset=_ANOTHER_SCORES,
        named=True,
    )
    reference: FrozenRoleConfig = _reference()
    rollout: RolloutConfig = section(RolloutConfig, "the engines that sample responses, and how they do")
    weights: WeightsConfig = section(
        WeightsConfig, "how the actor's weights get to the engines, and how that is checked"
    )
    ppo: PPOAlgoConfig = section(
        PPOAlgoConfig, "PPO, after InstructGPT (arXiv 2203.02155, appendix C.4) and arXiv 2403.17031"
    )
    placement: str = _placement("[[actor, reference], [critic, reward], [rollout]]")
    judge: Optional[str] = key(None, "independent scorer of the evaluations, never trained on", form=FUNCTION)
    cluster: ClusterConfig = _cluster()
