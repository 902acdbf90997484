"""What the loop needs to know of a job, and what both of them work with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_dist.config.schema import RunConfig
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.errors import RunError

if TYPE_CHECKING:
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.prometheus import RunGauges
    from rlhf_dist.cluster.roles import TrainedModel
    from rlhf_dist.controller.identity import Identity
    from rlhf_dist.controller.signals import StopSignal
    from rlhf_dist.controller.start import Start
    from rlhf_dist.controller.trace import Timer
    from rlhf_dist.controller.view import LiveView


@dataclass(frozen=True)
class RunContext:
    """What a job and its loop write to, and whom they ask to run calls."""

    config: RunConfig
    start: Start
    gauges: RunGauges
    view: LiveView
    timer: Timer
    stop: StopSignal
    placement: Placement
    timeout_s: float
    identity: Identity

    @property
    def directory(self) -> RunDir:
        """The run's directory."""
        return self.start.directory

    def run(self, *calls: Any) -> list[Any]:
        """The answers to calls on roles, each waited for until the deadline."""
        return self.placement.run(*calls, timeout_s=self.timeout_s)

    def write_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to samples.jsonl."""
        self.start.lock.check()
        with writing(self.directory.samples):
            self.directory.append_samples(samples)


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
        result: the one of them whose model the run is for.
        tokenizer_path: where its tokenizer comes from.
    """

    total_steps: int
    trained: Mapping[str, TrainedModel]
    result: TrainedModel
    tokenizer_path: str

    def prepare(self) -> None:  # noqa: B027 - most jobs have nothing to do here
        """Called once before the first step or evaluation, whatever was taken up being there."""

    @abstractmethod
    def step(self, number: int) -> dict[str, float]:
        """Does step ``number`` (from 1). Returns its metrics, tokens of the step as `tokens` among them."""

    @abstractmethod
    def evaluate(self, number: int) -> dict[str, float | None]:
        """The figures of what ``number`` steps have learned, over what is held out; None for one that cannot be had."""

    def complete(self) -> bool:
        """Called when all steps are done: does what the model still lacks. Returns whether that changed it."""
        return False

    def summary(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """summary.json without its times, from the first evaluation and the last."""
        return {"before": before, "after": after}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep beside the roles' states (JSON)."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most jobs keep nothing
        """Takes up what :meth:`state` gave."""
