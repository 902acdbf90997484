"""DPO, from its configuration to its summary."""

from __future__ import annotations

from rlhf_dist.config.resolve import resolve_dpo
from rlhf_dist.config.schema import DPOConfig
from rlhf_dist.config.validate import validate_dpo
from rlhf_dist.jobs.datasets import comparisons
from rlhf_dist.jobs.preflight import preflight
from rlhf_dist.jobs.shop import finish, open_desk, open_run, open_workshop


def run_dpo(config: DPOConfig) -> None:
    config = resolve_dpo(config)
    validate_dpo(config)
    from rlhf_dist.cluster.group import Construction
    from rlhf_dist.cluster.roles import Actor, Reference
    from rlhf_dist.controller.dpo import DPOData, DPOJob, dpo_steps
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.view import DPO_COLUMNS
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine
    from rlhf_dist.plan.pools import dpo_pools

    device, model = resolve(config.run.device), config.actor.model
    train, held_out = comparisons(config.data, load_tokenizer(model.path, model.trust_remote_code))
    steps = dpo_steps(config, len(train))
    preflight(config, device)
    directory = open_run(config.run, config)
    with (
        open_desk(config.run, config.cluster, directory, "DPO", DPO_COLUMNS, steps) as make_desk,
        open_workshop(config.run, config.cluster, device, directory, dpo_pools(config, device)) as workshop,
    ):
        actor, reference = workshop.group("actor", {}), workshop.group("reference", {})
        actor_args, reference_args = (config.actor, device, 1.0, steps), (config.reference, device, 1.0)
        workshop.build(
            [
                Construction(actor, ActorEngine, lambda _: actor_args, collective=True),
                Construction(reference, ReferenceEngine, lambda _: reference_args, collective=True),
            ]
        )
        desk = make_desk(workshop)
        data = DPOData(train, held_out, model.path)
        summary = run_job(DPOJob(config, Actor(actor), Reference(reference), data, desk), desk)
    finish(directory, summary)
