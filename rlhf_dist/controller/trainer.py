"""What the loop needs to know of a job, and what both of them work with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from rlhf_dist.cluster.calls import Call
from rlhf_dist.cluster.fork_server import ForkServer
from rlhf_dist.cluster.group import Construction, WorkerGroup
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.prometheus import RunGauges
from rlhf_dist.cluster.roles import TrainedModel
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.config.schema import ClusterConfig, RunConfig
from rlhf_dist.controller.loggers import Loggers
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.errors import RunError

if TYPE_CHECKING:
    from rlhf_dist.controller.identity import Identity
    from rlhf_dist.controller.signals import StopSignal
    from rlhf_dist.controller.start import Start
    from rlhf_dist.controller.trace import Timer
    from rlhf_dist.controller.view import LiveView

T = TypeVar("T")
Scores: TypeAlias = "dict[str, float | None]"  # of an evaluation, by the figure


@dataclass(frozen=True)
class RunContext:
    """What a run works with: its directory and logs, the placement of its workers, and the scheduler of their calls.

    Attributes:
        config: the section `run`.
        cluster: the section `cluster`.
        start: what the run goes on from, and its directory.
        view: what the terminal shows.
        timer: of the phases of a step.
        stop: whether somebody asked the run to stop.
        gauges: for Prometheus.
        scheduler: runs calls on the roles, and makes their engines.
        identity: what the run's result depends on.
        listen_address: at which workers listen for one another; None: their nodes' own addresses.
        forks: starts worker processes quickly; None: Ray starts them.
        loggers: the services that keep the run's figures too.
    """

    config: RunConfig
    cluster: ClusterConfig
    start: Start
    view: LiveView
    timer: Timer
    stop: StopSignal
    gauges: RunGauges
    scheduler: Scheduler
    identity: Identity
    listen_address: str | None
    forks: ForkServer | None
    loggers: Loggers = field(default_factory=Loggers)

    @property
    def directory(self) -> RunDir:
        """The run's directory."""
        return self.start.directory

    @property
    def placement(self) -> Placement:
        """Where each role lives."""
        return self.scheduler.placement

    def group(self, role: str, env: Mapping[str, str] | None = None) -> WorkerGroup:
        """Starts the worker processes of ``role``, with further environment variables ``env``."""
        return WorkerGroup(
            self.config.name,
            role,
            self.placement,
            self.directory.logs.absolute(),
            {} if env is None else dict(env),
            self.config.seed,
            self.cluster,
            self.gauges,
            self.listen_address,
            self.forks.py_executable if self.forks is not None else None,
            self.timer.record,
        )

    def build(self, constructions: Sequence[Construction]) -> None:
        """Makes the engines of the groups, and waits until they are there."""
        self.scheduler.build(constructions, self.cluster.start_timeout_s)

    def run(self, call: Call[T]) -> T:
        """The result of a call on a role, waited for until the deadline."""
        return self.scheduler.run(call, timeout_s=self.cluster.call_timeout_s)

    def write_samples(self, samples: Iterable[Mapping[str, object]]) -> None:
        """Appends lines to samples.jsonl."""
        rows = list(samples)
        self.start.lock.check()
        with writing(self.directory.samples):
            self.directory.append_samples(rows)
        self.loggers.samples(rows)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that takes nothing more ends the run with a line that names ``path``: RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


class Trainer(ABC):
    """What the loop runs: PPO, SFT, reward-model training, DPO.

    Attributes:
        total_steps: of the run.
        trained: the roles whose state a checkpoint holds, by name.
        result: the one whose model is the result of the run.
        tokenizer_path: where its tokenizer comes from.
    """

    total_steps: int
    trained: Mapping[str, TrainedModel]
    result: TrainedModel
    tokenizer_path: str

    def prepare(self) -> None:  # noqa: B027 - most jobs have nothing to do here
        """Called once before the first step or evaluation, after a checkpoint, if there is one, was loaded."""

    @abstractmethod
    def step(self, number: int) -> dict[str, float]:
        """Does step ``number`` (from 1). Returns its metrics, tokens of the step as `tokens` among them."""

    @abstractmethod
    def evaluate(self, number: int) -> Scores:
        """The figures of what ``number`` steps have learned, over what is held out; None for one that cannot be had."""

    def complete(self) -> bool:
        """Called when all steps are done: does what the model still lacks. Returns whether that changed it."""
        return False

    def summary(self, before: Scores, after: Scores) -> dict[str, object]:
        """summary.json without its times, from the first evaluation and the last."""
        return {"before": before, "after": after}

    def state(self) -> dict[str, object]:
        """The trainer's part of a checkpoint, besides the roles' states (JSON)."""
        return {}

    def load_state(self, state: dict[str, object]) -> None:  # noqa: B027 - most jobs keep nothing
        """Restores what :meth:`state` returned."""

    def save_files(self, folder: Path) -> None:  # noqa: B027 - most jobs keep nothing
        """Writes into a checkpoint's ``folder`` what is no JSON."""

    def load_files(self, folder: Path) -> None:  # noqa: B027 - most jobs keep nothing
        """Restores what :meth:`save_files` wrote."""
