"""What a run shows on the terminal: a live panel, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 40
_RATE_WINDOW = 20  # steps that the time left is estimated from
_PANEL_WIDTH = 96


@dataclass(frozen=True)
class Column:
    """One figure of the view.

    Attributes:
        key: its name in the metrics.
        title: how it is headed.
        format: a format specification of a float.
    """

    key: str
    title: str
    format: str = ".3f"

    def text(self, metrics: Mapping[str, float]) -> str:
        """The figure as shown; a dash where the step has none."""
        return format(metrics[self.key], self.format) if self.key in metrics else "-"


_TOKENS = Column("throughput/tokens_per_s", "tokens/s", ",.0f")

#: The first column of each is the one whose course the sparkline shows.
PPO_COLUMNS = (
    Column("reward/score_mean", "score"),
    Column("kl/sequence_mean", "KL", ".2f"),
    Column("response/length_mean", "length", ".1f"),
    Column("policy/entropy", "entropy", ".2f"),
    _TOKENS,
)
SFT_COLUMNS = (
    Column("loss/sft", "loss"),
    Column("optim/lr", "lr", ".1e"),
    _TOKENS,
)
REWARD_COLUMNS = (
    Column("loss/reward", "loss"),
    Column("accuracy/pair", "pair accuracy"),
    Column("optim/lr", "lr", ".1e"),
    _TOKENS,
)
DPO_COLUMNS = (
    Column("loss/dpo", "loss"),
    Column("accuracy/pair", "pair accuracy"),
    Column("reward/margin", "margin"),
    _TOKENS,
)


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """The course of ``values`` as at most ``width`` block characters; longer courses are averaged."""
    if not values:
        return ""
    count = min(len(values), width)
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BLOCKS[0] * count
    return "".join(_BLOCKS[round((value - low) / (high - low) * (len(_BLOCKS) - 1))] for value in means)


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3m 07s` or `2h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


class LiveView:
    """The run's face: name, step, phase, main figures, time left. A context manager.

    On a terminal it is one panel that redraws itself; elsewhere each step is one plain line.

    Args:
        name: the run's name.
        job: what it does: "PPO", "SFT", "reward model".
        total_steps: the last step's number.
        columns: the figures to show, the sparkline's first.
        first_step: the step a resumed run goes on from.
        stream: where to write; None is stdout. Give `redirect_output`'s stream where that is in use.
    """

    def __init__(
        self,
        name: str,
        job: str,
        total_steps: int,
        columns: Sequence[Column],
        *,
        first_step: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self._name, self._job, self._total = name, job, total_steps
        self._columns = tuple(columns)
        self._console = Console(file=stream, highlight=False)
        self._live: Live | None = None
        self._step = first_step
        self._metrics: dict[str, float] = {}
        self._course: list[float] = []
        now = time.monotonic()
        self._started = self._phase_started = now
        self._ends: deque[float] = deque([now], maxlen=_RATE_WINDOW + 1)
        self._phase = "starting"
        self._running = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            # Chatter is the log file's business: this object alone writes to the terminal.
            self._live = Live(
                get_renderable=self._panel,
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="visible",
            )
            self._live.start()
        else:
            self._print(f"{self._job} {self._name}: {self._total} steps, {self._phase}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.phase("done" if kind is None else "stopped")
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def phase(self, name: str) -> None:
        """Shows what the run is at now."""
        self._phase, self._phase_started = name, time.monotonic()

    def start_clock(self) -> None:
        """Begins the time that the time left is estimated from: call it when start-up is over."""
        self._ends.clear()
        self._ends.append(time.monotonic())
        self._running = True

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the figures of a step that has ended."""
        self._step, self._metrics = step, dict(metrics)
        self._ends.append(time.monotonic())
        main = self._columns[0].key
        if main in metrics:
            self._course.append(metrics[main])
        if self._live is None:
            self._print(self._line())

    def note(self, text: str) -> None:
        """Writes a line that stays, above the panel."""
        self._print(text)

    def stopping(self, signal: str) -> None:
        """Says at once that ``signal`` ("Ctrl-C") was heard, and what the run waits for before it ends."""
        until = "after the current step" if self._running else "before the first step"
        again = "Ctrl-C" if signal == "SIGHUP" else signal
        self._print(
            f"{signal}: stopping {until} (phase {self._phase}); a second {again} stops at once without a checkpoint"
        )

    def seconds_left(self) -> float | None:
        """Estimated from the last steps' pace; None before the first step has ended."""
        if len(self._ends) < 2 or self._total <= self._step:
            return 0.0 if self._step >= self._total else None
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        since = time.monotonic() - self._ends[-1]
        return max(pace * (self._total - self._step) - since, 0.0)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
        self._console.file.flush()

    def _line(self) -> str:
        figures = "  ".join(f"{column.title} {column.text(self._metrics)}" for column in self._columns)
        left = self.seconds_left()
        ending = f"  left {duration(left)}" if left else ""
        width = len(str(self._total))
        return f"step {self._step:>{width}}/{self._total}  {figures}{ending}"

    def _panel(self) -> RenderableType:
        width = min(self._console.width, _PANEL_WIDTH)
        parts: list[RenderableType] = [self._progress(), self._figures()]
        if len(self._course) > 1:
            title = self._columns[0].title
            spark = sparkline(self._course, min(_SPARK_WIDTH, max(width - len(title) - 28, 8)))
            ends = f"{self._course[0]:.3g} → {self._course[-1]:.3g}"
            parts.append(Text.assemble((f"{title} ", "dim"), (spark, "cyan"), (f"  {ends}", "dim")))
        head = Text.assemble((self._name, "bold"), " · ", self._job)
        return Panel(Group(*parts), title=head, title_align="left", border_style="dim", width=width, padding=(0, 1))

    def _progress(self) -> RenderableType:
        now = time.monotonic()
        left = self.seconds_left()
        grid = Table.grid(padding=(0, 2), expand=True)
        for ratio, width in ((None, None), (1, None), (None, 14), (None, None)):
            grid.add_column(ratio=ratio, min_width=width, no_wrap=True)
        grid.add_row(
            Text.assemble("step ", (f"{self._step}", "bold"), f"/{self._total}"),
            ProgressBar(total=max(self._total, 1), completed=self._step, complete_style="cyan", finished_style="green"),
            Text.assemble((self._phase, "yellow"), (f" {duration(now - self._phase_started)}", "dim")),
            Text.assemble((duration(now - self._started), "dim"), "" if left is None else f", {duration(left)} left"),
        )
        return grid

    def _figures(self) -> RenderableType:
        grid = Table.grid(padding=(0, 3))
        shown = [Text.assemble((f"{c.title} ", "dim"), (c.text(self._metrics), "bold")) for c in self._columns]
        grid.add_row(*shown)
        return grid
