"""DPO, from its configuration to its summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_dist.config.resolve import resolve_dpo, unsharded_alone
from rlhf_dist.config.schema import DPOConfig
from rlhf_dist.config.validate import validate_dpo
from rlhf_dist.jobs.datasets import comparisons
from rlhf_dist.jobs.shop import Prepared, Workshop, run_prepared

if TYPE_CHECKING:
    from rlhf_dist.controller.trainer import RunContext, Trainer
    from rlhf_dist.device import Device


def run_dpo(config: DPOConfig) -> None:
    config = resolve_dpo(config)
    validate_dpo(config)
    run_prepared(config, _prepare)


def _prepare(config: DPOConfig, device: Device) -> Prepared:
    from rlhf_dist.cluster.group import Construction
    from rlhf_dist.cluster.roles import Actor, Reference
    from rlhf_dist.controller.dpo import DPOData, DPOTrainer
    from rlhf_dist.controller.view import DPO_COLUMNS
    from rlhf_dist.data.samplers import steps_of
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine
    from rlhf_dist.plan.pools import dpo_pools

    model = config.actor.model
    train, held_out = comparisons(config.data, load_tokenizer(model.path, model.trust_remote_code))
    data, steps = DPOData(train, held_out, model.path), steps_of(config.dpo, len(train))

    def build(workshop: Workshop, context: RunContext) -> Trainer:
        actor, reference = workshop.group("actor", {}), workshop.group("reference", {})
        actor_args, reference_args = (
            (unsharded_alone(config.actor, device), device, 1.0, steps),
            (unsharded_alone(config.reference, device), device, 1.0),
        )
        workshop.build(
            [
                Construction(actor, ActorEngine, lambda _: actor_args, collective=True),
                Construction(reference, ReferenceEngine, lambda _: reference_args, collective=True),
            ]
        )
        return DPOTrainer(config, Actor(actor), Reference(reference), data, context)

    return Prepared("DPO", DPO_COLUMNS, steps, data, dpo_pools(config, device), build)
