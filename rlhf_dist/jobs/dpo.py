"""DPO, from its configuration to its summary."""

from __future__ import annotations

from rlhf_dist.config.resolve import resolve_dpo
from rlhf_dist.config.schema import DPOConfig
from rlhf_dist.config.validate import validate_dpo
from rlhf_dist.jobs.datasets import comparisons
from rlhf_dist.jobs.shop import finish, open_desk, open_run, open_workshop


def run_dpo(config: DPOConfig) -> None:
    config = resolve_dpo(config)
    validate_dpo(config)
    from rlhf_dist.cluster.group import wait_built
    from rlhf_dist.cluster.placement import role_resources
    from rlhf_dist.cluster.roles import Actor, Reference
    from rlhf_dist.controller.dpo import DPOData, DPOJob, dpo_steps
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.view import DPO_COLUMNS
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine

    device, model = resolve(config.run.device), config.actor.model
    train, held_out = comparisons(config.data, load_tokenizer(model.path, model.trust_remote_code))
    steps = dpo_steps(config, len(train))
    directory = open_run(config.run, config)
    resources = [
        role_resources("actor", config.actor.num_workers, config.actor, device),
        role_resources("reference", config.reference.num_workers, config.reference, device),
    ]
    with (
        open_desk(config.run, config.cluster, directory, "DPO", DPO_COLUMNS, steps) as make_desk,
        open_workshop(config.run, config.cluster, device, directory, resources) as workshop,
    ):
        actor, reference = workshop.group("actor", {}), workshop.group("reference", {})
        actor_args, reference_args = (config.actor, device, 1.0, steps), (config.reference, device, 1.0)
        wait_built(
            [
                (actor, actor.build(ActorEngine, lambda _: actor_args, collective=True)),
                (reference, reference.build(ReferenceEngine, lambda _: reference_args, collective=True)),
            ],
            workshop.cluster.start_timeout_s,
        )
        desk = make_desk(workshop)
        data = DPOData(train, held_out, model.path)
        summary = run_job(DPOJob(config, Actor(actor), Reference(reference), data, desk), desk)
    finish(directory, summary)
