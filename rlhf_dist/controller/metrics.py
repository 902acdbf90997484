"""The figures of each step, into metrics.jsonl and TensorBoard; `metric_table.py` says what each of them is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rlhf_dist.errors import RunError

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.tensorboard import SummaryWriter
    from typing_extensions import Self


class MetricsWriter:
    """Writes one line a step, at once, so that a run can be watched and an interrupted one is all there.

    Args:
        path: metrics.jsonl, appended to.
        tensorboard: directory of the event files; None writes none.
        resumed_after: the step a resumed run goes on from: TensorBoard hides what an earlier try wrote after it.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None, *, resumed_after: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._board = _board(tensorboard, resumed_after) if tensorboard is not None else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the line of ``step``: the step, then the metrics by name.

        Raises:
            RunError: a metric is NaN or infinite; it is named. Nothing is written then.
        """
        values = {name: _finite(step, name, metrics[name]) for name in sorted(metrics)}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _board(directory: Path, resumed_after: int | None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    purge = None if resumed_after is None else resumed_after + 1
    return SummaryWriter(str(directory), purge_step=purge)


def _finite(step: int, name: str, value: float) -> float:
    """``value`` as a plain int or float (0-dimensional tensors and numpy numbers included)."""
    number = value if type(value) is int else float(value)
    if not math.isfinite(number):
        raise RunError(f"step {step}: {name} is {number}")
    return number
