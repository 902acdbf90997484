"""Step 1, supervised fine-tuning: from its configuration to its trainer."""

from __future__ import annotations

from rlhf_dist.cluster.roles import Actor
from rlhf_dist.config.resolve import unsharded_alone
from rlhf_dist.config.roles import ACTOR
from rlhf_dist.config.schema import SFTConfig
from rlhf_dist.controller.sft import SFTData, SFTTrainer
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.controller.view import SFT_COLUMNS
from rlhf_dist.data.demonstrations import load_demonstrations
from rlhf_dist.data.samplers import steps_of
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import Device
from rlhf_dist.engine.policy import ActorEngine
from rlhf_dist.jobs.datasets import pretraining_text, with_held_out
from rlhf_dist.jobs.run import Prepared, build_models
from rlhf_dist.plan.pools import job_pools


def prepare(config: SFTConfig, device: Device) -> Prepared:
    """Reads the job's data, for workers on ``device``; see :func:`rlhf_dist.jobs.run.run_job`."""
    data, model = config.data, config.actor.model
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)
    train, held_out = with_held_out(
        lambda path, split: load_demonstrations(path, split, tokenizer, data.max_tokens, data.truncate), data
    )
    pretrain = None
    if config.sft.pretrain_share:
        beside = config.sft.batch_size * config.sft.pretrain_share
        pretrain, _ = pretraining_text(config.pretrain, tokenizer, beside, config.run.seed)
    examples = SFTData(train, held_out, pretrain, model.path)
    steps = steps_of(config.sft, len(train))

    def build(context: RunContext) -> Trainer:
        arguments = (unsharded_alone(config.actor, device), device, 1.0, steps)
        (actor,) = build_models(context, {ACTOR: (ActorEngine, arguments)})
        return SFTTrainer(config, Actor(actor), examples, context)

    return Prepared("SFT", SFT_COLUMNS, steps, examples, job_pools(config, device), build)
