"""Step 2, the reward model: from its configuration to its trainer."""

from __future__ import annotations

from rlhf_dist.cluster.roles import TrainedReward
from rlhf_dist.config.resolve import unsharded_alone
from rlhf_dist.config.roles import REWARD
from rlhf_dist.config.schema import RewardModelConfig
from rlhf_dist.controller.reward_model import RewardData, RewardModelTrainer
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.controller.view import REWARD_COLUMNS
from rlhf_dist.data.demonstrations import load_demonstrations
from rlhf_dist.data.samplers import steps_of
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import Device
from rlhf_dist.engine.scalar import TrainedRewardEngine
from rlhf_dist.jobs.datasets import comparisons
from rlhf_dist.jobs.run import Prepared, build_models
from rlhf_dist.plan.pools import job_pools


def prepare(config: RewardModelConfig, device: Device) -> Prepared:
    """Reads the job's data, for workers on ``device``; see :func:`rlhf_dist.jobs.run.run_job`."""
    data, model = config.data, config.reward.model
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)
    train, held_out = comparisons(data, tokenizer)
    demonstrations = None
    if data.demonstrations_path is not None:
        demonstrations = load_demonstrations(
            data.demonstrations_path, data.split, tokenizer, data.max_tokens, data.truncate
        )
    rankings = RewardData(train, held_out, demonstrations, model.path)
    steps = steps_of(config.training, len(train))

    def build(context: RunContext) -> Trainer:
        arguments = (unsharded_alone(config.reward, device), device, steps)
        (reward,) = build_models(context, {REWARD: (TrainedRewardEngine, arguments)})
        return RewardModelTrainer(config, TrainedReward(reward), rankings, context)

    return Prepared("reward model", REWARD_COLUMNS, steps, rankings, job_pools(config, device), build)
