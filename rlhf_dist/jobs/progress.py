"""How far a command has come that goes through prompts: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID
    from typing_extensions import Self


class Progress:
    """One bar for each part of the work, one part after the other. A context manager.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Bars | None = None
        if stream.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bars = Bars(*columns, console=Console(file=stream))
        self._bar: TaskID | None = None
        self._title, self._total, self._done = "", 0, 0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, title: str, count: int, before: int) -> None:
        """Begins a part of ``count`` prompts, ``before`` of the same part being done already."""
        self._title, self._total, self._done = title, count + before, before
        if self._bars is not None:
            self._bar = self._bars.add_task(title, total=self._total, completed=before)

    def advance(self, count: int) -> None:
        """``count`` prompts more are done."""
        self._done += count
        if self._bars is not None and self._bar is not None:
            self._bars.advance(self._bar, count)
        else:
            print(f"{self._title}: {self._done} of {self._total} prompts", file=self._stream, flush=True)

    def stopping(self, name: str) -> None:
        """Says that the user's wish to stop was heard."""
        text = f"{name}: stops after the answers that are being written; once more stops at once"
        if self._bars is not None:
            self._bars.console.print(text)
        else:
            print(text, file=self._stream, flush=True)
