"""Step 2, the reward model, from its configuration to its summary."""

from __future__ import annotations

from rlhf_dist.config.schema import RewardConfig
from rlhf_dist.config.validate import validate_reward
from rlhf_dist.jobs.datasets import comparisons
from rlhf_dist.jobs.preflight import preflight
from rlhf_dist.jobs.shop import build_one, finish, open_desk, open_run, open_workshop


def run_reward(config: RewardConfig) -> None:
    validate_reward(config)
    from rlhf_dist.cluster.roles import RewardTrainer
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.reward_model import RewardData, RewardJob, reward_steps
    from rlhf_dist.controller.view import REWARD_COLUMNS
    from rlhf_dist.data.demonstrations import load_demonstrations
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.scalar import RewardTrainerEngine
    from rlhf_dist.plan.pools import reward_pools

    device, data = resolve(config.run.device), config.data
    model = config.reward.model
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)

    train, held_out = comparisons(data, tokenizer)
    demonstrations = None
    if data.demonstrations_path is not None:
        demonstrations = load_demonstrations(
            data.demonstrations_path, data.split, tokenizer, data.max_tokens, data.truncate
        )
    rankings = RewardData(train, held_out, demonstrations, model.path)
    steps = reward_steps(config, len(train))
    preflight(config, device)
    directory = open_run(config.run, config)
    with (
        open_desk(config.run, config.cluster, directory, "reward model", REWARD_COLUMNS, steps) as make_desk,
        open_workshop(config.run, config.cluster, device, directory, reward_pools(config, device)) as workshop,
    ):
        role = RewardTrainer(build_one(workshop, "reward", RewardTrainerEngine, (config.reward, device, steps)))
        desk = make_desk(workshop)
        summary = run_job(RewardJob(config, role, rankings, desk), desk)
    finish(directory, summary)
