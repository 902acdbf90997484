"""What all jobs are run with: the run's directory and context, the cluster, the workers of a role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_dist.config.schema import ClusterConfig, DPOConfig, PPOConfig, RewardModelConfig, RunConfig, SFTConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.jobs.disk_space import check_room
from rlhf_dist.jobs.memory_advice import memory_advice
from rlhf_dist.jobs.preflight import preflight

if TYPE_CHECKING:
    from rlhf_dist.cluster.group import Construction, WorkerGroup
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.prometheus import RunGauges
    from rlhf_dist.controller.identity import Identity
    from rlhf_dist.controller.signals import StopSignal
    from rlhf_dist.controller.start import Start
    from rlhf_dist.controller.trainer import RunContext, Trainer
    from rlhf_dist.controller.view import Column, LiveView
    from rlhf_dist.device import Device
    from rlhf_dist.plan.pools import Pool


C = TypeVar("C", PPOConfig, DPOConfig, SFTConfig, RewardModelConfig)


@dataclass(frozen=True)
class Workshop:
    """Where the roles of a run are built."""

    device: Device
    placement: Placement
    run: RunConfig
    cluster: ClusterConfig
    log_dir: Path
    stop: StopSignal
    gauges: RunGauges
    host: str | None  # at which workers listen for one another; None: their nodes' own addresses

    def group(self, role: str, env: dict[str, str]) -> WorkerGroup:
        """Starts the worker processes of ``role``."""
        from rlhf_dist.cluster.group import WorkerGroup

        return WorkerGroup(
            self.run.name,
            role,
            self.placement,
            self.log_dir,
            env,
            self.run.seed,
            self.cluster,
            self.gauges,
            self.host,
        )

    def build(self, constructions: Sequence[Construction]) -> None:
        """Makes the engines of the groups, and waits until they are there."""
        from rlhf_dist.cluster.group import build_groups

        build_groups(constructions, self.placement, self.cluster.start_timeout_s)


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to be started, its data read.

    Attributes:
        title: in the view.
        columns: of the view.
        steps: of the run.
        data: what it reads: a dataclass whose fields hold rows.
        pools: who lives where.
        build: starts the workers, and makes the job of them.
    """

    title: str
    columns: Sequence[Column]
    steps: int
    data: Any
    pools: Sequence[Pool]
    build: Callable[[Workshop, RunContext], Trainer]


def run_prepared(config: C, prepare: Callable[[C, Device], Prepared]) -> None:
    """Runs a job from its configuration, which was validated, to its report.

    Args:
        config: of the job.
        prepare: reads its data, for workers on a device; called once the run's place is owned, before anything is
            started.

    Raises:
        UserError: a mistake in the configuration or the data, or the run's place cannot be had.
        ClusterError: the cluster cannot hold the job.
        RunError: it failed.
        StoppedByUser: after a checkpoint.
    """
    from rlhf_dist.controller.identity import check_same_run, identity_of
    from rlhf_dist.controller.loop import run_training
    from rlhf_dist.controller.start import claim_run
    from rlhf_dist.device import resolve

    device = resolve(config.run.device)
    with claim_run(config.run, config) as start:
        prepared = prepare(config, device)
        directory = start.directory
        if start.is_over(prepared.steps):
            print(f"{directory.root} is finished: {start.finished} of {prepared.steps} steps; nothing is left to do")
            return
        identity = identity_of(config, prepared.data, device.name)
        if start.checkpoint is not None:
            check_same_run(start.checkpoint.path, identity, config, partial(print, flush=True))
        preflight(config, device)
        check_room(directory.root, config, device)
        start.open()
        with (
            memory_advice(config, device),
            open_context(config.run, config.cluster, start, prepared, identity) as (make_context, view),
            open_workshop(config.run, config.cluster, device, directory, prepared.pools, view.stopping) as workshop,
        ):
            _check_nodes(config, workshop.placement, directory)
            context = make_context(workshop)
            summary = run_training(prepared.build(workshop, context), context)
        start.lock.check()
        _finish(directory, summary)


def _check_nodes(config: Any, placement: Placement, directory: RunDir) -> None:
    """Passes where all nodes see the run's folder, and the models of their workers. ClusterError otherwise."""
    from rlhf_dist.cluster.shared_folder import check_sharing
    from rlhf_dist.plan.job import model_sections

    sections = model_sections(config)
    models = {f"{section}.model.path": role.model.path for section, role in sections.values()}
    reads = {name: f"{section}.model.path" for name, (section, _) in sections.items()}
    nodes = {
        # Engines hold the actor's model, and functions that reward read its tokenizer.
        node: {reads.get(role, "actor.model.path") for role in roles}
        for node, roles in placement.roles_by_node().items()
    }
    check_sharing(nodes, directory.root.absolute(), models)


@contextmanager
def open_context(
    run: RunConfig, cluster: ClusterConfig, start: Start, prepared: Prepared, identity: Identity
) -> Iterator[tuple[Callable[[Workshop], RunContext], LiveView]]:
    """Opens what a run writes to. Yields what makes the context once the workshop is there, and the view."""
    from rlhf_dist.controller.trace import Timer
    from rlhf_dist.controller.trainer import RunContext
    from rlhf_dist.controller.view import LiveView
    from rlhf_dist.process_output import redirect_output

    directory = start.directory
    with (
        redirect_output(directory.driver_log) as terminal,
        LiveView(
            directory.name, prepared.title, prepared.steps, prepared.columns, first_step=start.done, stream=terminal
        ) as view,
    ):
        timer = Timer(directory.trace, on_phase=view.phase)
        try:
            timeout_s = cluster.call_timeout_s
            yield (
                lambda shop: RunContext(
                    run, start, shop.gauges, view, timer, shop.stop, shop.placement, timeout_s, identity
                ),
                view,
            )
        finally:
            if start.lock.is_held():
                timer.save()


@contextmanager
def open_workshop(
    run: RunConfig,
    cluster: ClusterConfig,
    device: Device,
    directory: RunDir,
    pools: Sequence[Pool],
    heard: Callable[[str], None],
) -> Iterator[Workshop]:
    """A cluster with a place for every role; all is given back at the end.

    ``heard`` is told at once of what asks the run to stop, as "Ctrl-C".
    """
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.prometheus import RunGauges
    from rlhf_dist.cluster.session import ray_session
    from rlhf_dist.controller.signals import StopSignal

    # In this order: Ray takes SIGTERM for itself when it connects.
    with ray_session(cluster, run.name) as host, StopSignal(heard) as stop, closing(RunGauges(run.name)) as gauges:
        placement = Placement(run.name, pools, device, cluster.placement_timeout_s)
        try:
            yield Workshop(device, placement, run, cluster, directory.logs.absolute(), stop, gauges, host)
        finally:
            placement.close()


def _finish(directory: RunDir, summary: dict[str, Any]) -> None:
    from rich.console import Console

    from rlhf_dist.controller.report import print_summary, write_report

    report = write_report(directory.root)
    print_summary(summary, Console())
    print(f"report: {report}")


def build_one(workshop: Workshop, role: str, factory: Callable[..., Any], args: tuple[Any, ...]) -> WorkerGroup:
    from rlhf_dist.cluster.group import Construction

    group = workshop.group(role, {})
    workshop.build([Construction(group, factory, lambda _: args, collective=True)])
    return group
