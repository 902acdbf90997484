"""Step 1, supervised fine-tuning, from its configuration to its summary."""

from __future__ import annotations

from rlhf_dist.config.schema import SFTConfig
from rlhf_dist.config.validate import validate_sft
from rlhf_dist.jobs.datasets import pretraining_text, with_held_out
from rlhf_dist.jobs.preflight import preflight
from rlhf_dist.jobs.shop import build_one, finish, open_desk, open_run, open_workshop


def run_sft(config: SFTConfig) -> None:
    validate_sft(config)
    from rlhf_dist.cluster.roles import Actor
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.sft import SFTData, SFTJob, sft_steps
    from rlhf_dist.controller.view import SFT_COLUMNS
    from rlhf_dist.data.demonstrations import load_demonstrations
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.policy import ActorEngine
    from rlhf_dist.plan.pools import sft_pools

    device, data = resolve(config.run.device), config.data
    model = config.actor.model
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)
    train, held_out = with_held_out(
        lambda path, split: load_demonstrations(path, split, tokenizer, data.max_tokens, data.truncate), data
    )
    pretrain = None
    if config.sft.pretrain_share:
        beside = config.sft.batch_size * config.sft.pretrain_share
        pretrain, _ = pretraining_text(config.pretrain, tokenizer, beside, config.run.seed)
    examples = SFTData(train, held_out, pretrain, model.path)
    steps = sft_steps(config, len(train))
    preflight(config, device)
    directory = open_run(config.run, config)
    with (
        open_desk(config.run, config.cluster, directory, "SFT", SFT_COLUMNS, steps) as make_desk,
        open_workshop(config.run, config.cluster, device, directory, sft_pools(config, device)) as workshop,
    ):
        actor = Actor(build_one(workshop, "actor", ActorEngine, (config.actor, device, 1.0, steps)))
        desk = make_desk(workshop)
        summary = run_job(SFTJob(config, actor, examples, desk), desk)
    finish(directory, summary)
