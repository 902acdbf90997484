"""When a checkpoint is due, and which of those that are there is the best."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.config.schema import RunConfig
from rlhf_dist.controller.checkpoints import Checkpoint
from rlhf_dist.errors import UserError

STATE_FILE = "state.json"
_EVALUATION = "eval/"
_DOWN = "-"


@dataclass(frozen=True)
class Best:
    """The figure by which the best checkpoint is found.

    Attributes:
        metric: its name, as in metrics.jsonl.
        sign: 1 where more is better, -1 where less is.
    """

    metric: str
    sign: int

    @classmethod
    def of(cls, keep_best: str | None) -> Best | None:
        """What `run.keep_best` says: `reward/score_mean`, or `-eval/loss` where less is better."""
        if keep_best is None:
            return None
        return cls(keep_best.removeprefix(_DOWN), -1 if keep_best.startswith(_DOWN) else 1)

    @property
    def is_evaluated(self) -> bool:
        """Whether only evaluations give the figure, and not every step."""
        return self.metric.startswith(_EVALUATION)

    def checkpoint(self, whole: Iterable[Checkpoint]) -> Checkpoint | None:
        """The best of the checkpoints, by what each one's step has measured; the newest of equal ones."""
        rated = [(figure, found.step, found) for found in whole if (figure := self.rating(_figures(found))) is not None]
        return max(rated, key=lambda item: item[:2])[2] if rated else None

    def rating(self, figures: Mapping[str, float]) -> float | None:
        """The figure of a step, the higher the better; None where the step has not measured it."""
        return self.sign * figures[self.metric] if self.metric in figures else None

    def check_name(self, known: Collection[str]) -> None:
        """Passes for the name of a figure that there is.

        Raises:
            UserError: there is none of that name.
        """
        if self.metric not in known:
            sign = _DOWN if self.sign < 0 else ""
            raise UserError(
                f"run.keep_best={sign}{self.metric}: this run has no metric of that name{suggest(self.metric, known)}"
            )


class SavePolicy:
    """When a checkpoint is due on the way.

    Args:
        config: `save_every`, `save_every_minutes` and `keep_best`.
        clock: seconds, from any beginning.
    """

    def __init__(self, config: RunConfig, clock: Callable[[], float]) -> None:
        self._steps, self._seconds = config.save_every, 60 * config.save_every_minutes
        self.best = Best.of(config.keep_best)
        self._clock = clock
        self._last = clock()

    def tried(self) -> None:
        """Called when a checkpoint is written, whether or not that works: the minutes count from here."""
        self._last = self._clock()

    def is_due(self, step: int, figures: Mapping[str, float], whole: Callable[[], Iterable[Checkpoint]]) -> bool:
        """Whether a checkpoint is due after ``step``.

        An evaluation that is the best yet is a reason by itself, as the next checkpoint would be of another step. A
        figure that every step has is not: each step of a run that learns may be the best yet.

        Args:
            step: the number of the step.
            figures: what it has measured, by name.
            whole: gives the checkpoints that are there.
        """
        if self._steps and step % self._steps == 0:
            return True
        if self._seconds and self._clock() - self._last >= self._seconds:
            return True
        if self.best is None or not self.best.is_evaluated or (rating := self.best.rating(figures)) is None:
            return False
        there = self.best.checkpoint(whole())
        return there is None or rating > (self.best.rating(_figures(there)) or 0.0)


def _figures(checkpoint: Checkpoint) -> dict[str, float]:
    state = json.loads((Path(checkpoint.path) / STATE_FILE).read_text(encoding="utf-8"))
    figures: dict[str, float] = state["figures"]
    return figures
