"""Every key of the configuration: its type, its default, what it means and what it may be. It all stands here only.

`--help`, the base files of configs/ and docs/configuration_keys.md are made from it (`tools/config_files.py` writes the
files; a test holds them equal), and so are the checks of single keys.
"""

# OmegaConf reads these modules' annotations at run time, so they are Optional[X], not X | None, for Python 3.10's sake.

from __future__ import annotations

from rlhf_dist.config.schema.data import (
    ComparisonDataConfig,
    DemonstrationDataConfig,
    ExamplesDataConfig,
    PromptDataConfig,
    RewardModelDataConfig,
    TextDataConfig,
)
from rlhf_dist.config.schema.jobs import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.config.schema.roles import (
    AdapterConfig,
    FrozenRoleConfig,
    ModelConfig,
    ModelRoleConfig,
    OptimConfig,
    RewardSourceConfig,
    TrainedRoleConfig,
    WorkerConfig,
)
from rlhf_dist.config.schema.rollout import RolloutConfig, WeightsConfig
from rlhf_dist.config.schema.run import ClusterConfig, RunConfig
from rlhf_dist.config.schema.training import (
    DPOTrainingConfig,
    KLConfig,
    PPOAlgoConfig,
    RewardTrainingConfig,
    SFTTrainingConfig,
    SupervisedTrainingConfig,
)

__all__ = [
    "AdapterConfig",
    "ClusterConfig",
    "ComparisonDataConfig",
    "DPOConfig",
    "DPOTrainingConfig",
    "DemonstrationDataConfig",
    "ExamplesDataConfig",
    "FrozenRoleConfig",
    "KLConfig",
    "ModelConfig",
    "ModelRoleConfig",
    "OptimConfig",
    "PPOAlgoConfig",
    "PPOConfig",
    "PromptDataConfig",
    "RewardModelConfig",
    "RewardModelDataConfig",
    "RewardSourceConfig",
    "RewardTrainingConfig",
    "RolloutConfig",
    "RunConfig",
    "SFTConfig",
    "SFTTrainingConfig",
    "SupervisedTrainingConfig",
    "TextDataConfig",
    "TrainedRoleConfig",
    "WeightsConfig",
    "WorkerConfig",
]
