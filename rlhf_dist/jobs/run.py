"""What every job runs through: from its configuration, which was checked, to its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import yaml
from rich.console import Console

from rlhf_dist.cluster.fork_server import ForkServer
from rlhf_dist.cluster.group import Construction, WorkerGroup
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.prometheus import RunGauges
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.cluster.session import ray_session
from rlhf_dist.cluster.shared_folder import check_sharing
from rlhf_dist.config.diff import flat
from rlhf_dist.config.roles import job_roles
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.controller.identity import Identity, check_same_run, identity_of
from rlhf_dist.controller.loggers import open_loggers
from rlhf_dist.controller.loop import run_training
from rlhf_dist.controller.report import print_summary, write_report
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.controller.signals import StopSignal
from rlhf_dist.controller.start import Start, claim_run
from rlhf_dist.controller.trace import Timer
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.controller.view import Column, LiveView
from rlhf_dist.device import Device, resolve
from rlhf_dist.jobs.disk_space import check_room
from rlhf_dist.jobs.memory_advice import memory_advice
from rlhf_dist.jobs.preflight import preflight
from rlhf_dist.plan.pools import Pool
from rlhf_dist.process_output import redirect_output

C = TypeVar("C", PPOConfig, DPOConfig, SFTConfig, RewardModelConfig)


@dataclass(frozen=True)
class Prepared:
    """A job whose data was read, ready to be started.

    Attributes:
        title: in the view.
        columns: of the view.
        steps: of the run.
        data: what it reads: a dataclass whose fields hold rows.
        pools: which roles live on which devices.
        build: starts the workers, and makes what trains with them.
    """

    title: str
    columns: Sequence[Column]
    steps: int
    data: Any
    pools: Sequence[Pool]
    build: Callable[[RunContext], Trainer]


def run_job(config: C, prepare: Callable[[C, Device], Prepared], forks: ForkServer | None) -> RunDir:
    """Runs a job to its report. Returns the run's directory.

    Args:
        config: of the job, resolved and checked.
        prepare: reads its data, for workers on a device; called once the run's directory is owned, before anything is
            started.
        forks: starts worker processes quickly; None: Ray starts them.

    Raises:
        UserError: a mistake in the configuration or the data, or the run's directory cannot be had.
        ClusterError: the cluster cannot hold the job.
        RunError: it failed.
        StoppedByUser: after a checkpoint.
    """
    device = resolve(config.run.device)
    with claim_run(config.run, config) as start:
        prepared = prepare(config, device)
        directory = start.directory
        if start.is_over(prepared.steps):
            print(f"{directory.root} is finished: {start.finished} of {prepared.steps} steps; nothing is left to do")
            return directory
        identity = identity_of(config, prepared.data, device.name)
        if start.checkpoint is not None:
            check_same_run(start.checkpoint.path, identity, config, partial(print, flush=True))
        preflight(config, device)
        check_room(directory.root, config, device)
        start.open()
        with (
            memory_advice(config, device),
            open_context(config, device, start, prepared, identity, forks) as context,
        ):
            _check_nodes(config, context.placement, directory)
            summary = run_training(prepared.build(context), context)
            start.lock.check()
            report = write_report(directory.root)
            context.loggers.artifact(report)
        print_summary(summary, Console())
        print(f"report: {report}")
        return directory


@contextmanager
def open_context(
    config: C, device: Device, start: Start, prepared: Prepared, identity: Identity, forks: ForkServer | None
) -> Iterator[RunContext]:
    """Opens what a run writes to, and a cluster with a place for every role; all is given back at the end."""
    directory, run, cluster = start.directory, config.run, config.cluster
    with (
        redirect_output(directory.driver_log) as terminal,
        LiveView(
            directory.name, prepared.title, prepared.steps, prepared.columns, first_step=start.done, stream=terminal
        ) as view,
        open_loggers(
            run, flat(yaml.safe_load(start.config)), directory, start.checkpoint is not None, _warning(view)
        ) as loggers,
        _saved_at_the_end(Timer(directory.trace, on_phase=view.phase), start) as timer,
        # In this order: Ray takes SIGTERM for itself when it connects.
        ray_session(cluster, run.name) as listen_address,
        StopSignal(view.stopping) as stop,
        closing(RunGauges(run.name)) as gauges,
        closing(Placement(run.name, prepared.pools, device, cluster.placement_timeout_s)) as placement,
    ):
        yield RunContext(
            run,
            cluster,
            start,
            view,
            timer,
            stop,
            gauges,
            Scheduler(placement),
            identity,
            listen_address,
            forks,
            loggers,
        )


def _warning(view: LiveView) -> Callable[[str], None]:
    """Shows a warning in the view, and keeps it in the driver's log."""

    def tell(text: str) -> None:
        view.note(f"warning: {text}")
        print(f"warning: {text}", file=sys.stderr)

    return tell


@contextmanager
def _saved_at_the_end(timer: Timer, start: Start) -> Iterator[Timer]:
    """Writes trace.json at the end, if the run's directory is still ours then."""
    try:
        yield timer
    finally:
        if start.lock.is_held():
            timer.save()


def _check_nodes(config: C, placement: Placement, directory: RunDir) -> None:
    """Passes where all nodes see the run's folder, and the models of their workers. ClusterError otherwise."""
    rows = {role.name: role for role in job_roles(config)}
    models = {role.model_key: role.model.path for role in rows.values()}
    nodes = {node: {rows[name].model_key for name in names} for node, names in placement.roles_by_node().items()}
    check_sharing(nodes, directory.root.absolute(), models)


def build_models(
    context: RunContext, roles: Mapping[str, tuple[Callable[..., object], tuple[object, ...]]]
) -> list[WorkerGroup]:
    """Starts the workers of roles, and makes their engines.

    Args:
        context: of the run.
        roles: by name, what makes an engine of the role, and its arguments: the same for all of its workers.
    """

    def construction(role: str, factory: Callable[..., object], arguments: tuple[object, ...]) -> Construction:
        return Construction(context.group(role), factory, lambda _: arguments, collective=True)

    making = [construction(role, factory, arguments) for role, (factory, arguments) in roles.items()]
    context.build(making)
    return [made.group for made in making]
