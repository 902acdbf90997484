"""What all jobs are built with: the run's directory and desk, the cluster, the workers of a role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_dist.config.load import config_yaml
from rlhf_dist.config.schema import ClusterConfig, RunConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_text_atomic

if TYPE_CHECKING:
    from rlhf_dist.cluster.group import Construction, WorkerGroup
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.prometheus import RunGauges
    from rlhf_dist.controller.loop import Desk
    from rlhf_dist.controller.signals import StopSignal
    from rlhf_dist.controller.view import Column
    from rlhf_dist.device import Device
    from rlhf_dist.plan.pools import Pool


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
            self.device,
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


@contextmanager
def open_desk(
    run: RunConfig, cluster: ClusterConfig, directory: RunDir, job: str, columns: Sequence[Column], steps: int
) -> Iterator[Callable[[Workshop], Desk]]:
    """Opens all that a run writes to. Yields what makes the desk once the workshop is there."""
    from rlhf_dist.chatter import redirect_chatter
    from rlhf_dist.controller.loop import Desk
    from rlhf_dist.controller.metrics import MetricsWriter
    from rlhf_dist.controller.trace import Timer
    from rlhf_dist.controller.view import LiveView

    newest = directory.newest_checkpoint() if run.resume else None
    done = newest.step if newest else 0
    if newest is not None:
        directory.rewind(newest.step)  # before the files are opened: it replaces them
    with (
        redirect_chatter(directory.driver_log) as terminal,
        MetricsWriter(
            directory.metrics,
            directory.tensorboard if run.tensorboard else None,
            resumed_after=newest.step if newest else None,
        ) as metrics,
        LiveView(directory.name, job, steps, columns, first_step=done, stream=terminal) as view,
    ):
        timer = Timer(directory.trace, on_phase=view.phase)
        try:
            yield lambda shop: Desk(
                run, directory, metrics, shop.gauges, view, timer, shop.stop, shop.placement, cluster.call_timeout_s
            )
        finally:
            timer.save()


@contextmanager
def open_workshop(
    run: RunConfig, cluster: ClusterConfig, device: Device, directory: RunDir, pools: Sequence[Pool]
) -> Iterator[Workshop]:
    """A cluster with a place for every role; all is given back at the end."""
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.prometheus import RunGauges
    from rlhf_dist.cluster.session import ray_session
    from rlhf_dist.controller.signals import StopSignal

    # In this order: Ray takes SIGTERM for itself when it connects.
    with ray_session(cluster, run.name) as host, StopSignal() as stop, closing(RunGauges(run.name)) as gauges:
        placement = Placement(run.name, pools, device, cluster.placement_timeout_s)
        try:
            yield Workshop(device, placement, run, cluster, directory.logs.absolute(), stop, gauges, host)
        finally:
            placement.close()


def open_run(run: RunConfig, config: Any) -> RunDir:
    directory = RunDir.create(run.dir, run.name, resume=run.resume, overwrite=run.overwrite)
    write_text_atomic(directory.config, config_yaml(config))
    return directory


def finish(directory: RunDir, summary: dict[str, Any]) -> None:
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
