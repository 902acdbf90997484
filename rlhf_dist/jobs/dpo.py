"""DPO: from its configuration to its trainer."""

from __future__ import annotations

from rlhf_dist.cluster.roles import Actor, Reference
from rlhf_dist.config.resolve import unsharded_alone
from rlhf_dist.config.roles import ACTOR, REFERENCE
from rlhf_dist.config.schema import DPOConfig
from rlhf_dist.controller.dpo import DPOData, DPOTrainer
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.controller.view import DPO_COLUMNS
from rlhf_dist.data.samplers import steps_of
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import Device
from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine
from rlhf_dist.jobs.datasets import comparisons
from rlhf_dist.jobs.run import Prepared, build_models
from rlhf_dist.plan.pools import job_pools


def prepare(config: DPOConfig, device: Device) -> Prepared:
    """Reads the job's data, for workers on ``device``; see :func:`rlhf_dist.jobs.run.run_job`."""
    model = config.actor.model
    train, held_out = comparisons(config.data, load_tokenizer(model.path, model.trust_remote_code))
    data, steps = DPOData(train, held_out, model.path), steps_of(config.dpo, len(train))

    def build(context: RunContext) -> Trainer:
        learner = (unsharded_alone(config.actor, device), device, 1.0, steps)
        frozen = (unsharded_alone(config.reference, device), device, 1.0)
        actor, reference = build_models(context, {ACTOR: (ActorEngine, learner), REFERENCE: (ReferenceEngine, frozen)})
        return DPOTrainer(config, Actor(actor), Reference(reference), data, context)

    return Prepared("DPO", DPO_COLUMNS, steps, data, job_pools(config, device), build)
