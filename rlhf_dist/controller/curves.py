"""Curves of runs: which charts their metrics give, as lines for a report, and as one PNG for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_dist.controller.loaded_run import Rows
from rlhf_dist.controller.metric_table import metric_named
from rlhf_dist.controller.plot import Line
from rlhf_dist.controller.rundir import RunDir, read_jsonl

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Chart:
    """One chart: its first key decides whether a run has it.

    Attributes:
        keys: names of metrics, each with the curve's label.
    """

    keys: Mapping[str, str]

    @property
    def title(self) -> str:
        """What is drawn: the title of the first metric, or its name where nobody knows it."""
        metric = metric_named(self._first)
        return self._first if metric is None else metric.title.replace("NAME", metric.source_in(self._first))

    @property
    def unit(self) -> str:
        """The unit of the vertical axis, or what the figure says; empty where nobody knows it."""
        metric = metric_named(self._first)
        return "" if metric is None else metric.unit

    @property
    def _first(self) -> str:
        return next(iter(self.keys))


#: The charts in their order; those of other metrics come behind them.
CHARTS = (
    Chart({"reward/score_mean": "score", "reward/total_mean": "less KL penalty"}),
    Chart({"kl/sequence_mean": "KL"}),
    Chart({"loss/sft": "training", "eval/loss": "held out"}),
    Chart({"loss/reward": "training", "eval/loss": "held out"}),
    Chart({"loss/dpo": "training", "eval/loss": "held out"}),
    Chart({"reward/margin": "margin"}),
    Chart({"accuracy/pair": "training", "eval/accuracy": "held out"}),
    Chart({"eval/score_mean": "score"}),
    Chart({"eval/judge_mean": "judge"}),
    Chart({"eval/distinct_2": "distinct-2"}),
    Chart({"response/length_mean": "length"}),
    Chart({"response/finished": "share"}),
    Chart({"policy/entropy": "entropy"}),
    Chart({"loss/policy": "loss"}),
    Chart({"policy/clip_fraction": "share"}),
    Chart({"loss/value": "loss"}),
    Chart({"value/explained_variance": "share"}),
    Chart({"rollout/logprob_gap": "gap"}),
    Chart({"optim/lr": "lr"}),
    Chart({"optim/grad_norm": "norm"}),
    Chart({"throughput/tokens_per_s": "tokens/s"}),
    Chart({"time/step_s": "seconds"}),
)

_NO_CHART = {"step", "weights/version"}
_README_KEYS = (
    "loss/sft", "loss/reward", "accuracy/pair", "reward/score_mean", "eval/judge_mean", "kl/sequence_mean"
)  # fmt: skip
_FEW_POINTS = 40  # fewer are drawn as they are, more with their running mean
_SINGLE_POINTS = 12  # so few are marked one by one

# Of the picture for a README, on white.
_INK, _MUTED, _GRID = "#1d2327", "#5d6770", "#e2e5e8"
_SERIES = ("#2563eb", "#d97706", "#059669")


def charts_of(rows: Rows) -> list[Chart]:
    """The charts that a run's metrics give: the known ones in their order, then one each for any other metric."""
    present = {key for row in rows for key in row}
    known = [chart for chart in CHARTS if next(iter(chart.keys)) in present]
    drawn = {key for chart in known for key in chart.keys} | _NO_CHART
    other = sorted(key for key in present - drawn if not key.startswith("time/"))
    return known + [Chart({key: key}) for key in other]


def series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, of the lines that have it."""
    points = [(row["step"], row[key]) for row in rows if key in row]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value with its neighbours, ``window`` at most in all, fewer at the ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    edges = [(max(i - half, 0), min(i + half + 1, len(values))) for i in range(len(values))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in edges]


def chart_lines(chart: Chart, rows: Rows) -> list[Line]:
    """The curves of a chart that a run has, many points as their running mean with the values behind it."""
    drawn = [(label, *series(rows, key)) for key, label in chart.keys.items()]
    return [
        curve(label, number, steps, values)
        for number, (label, steps, values) in enumerate(curve for curve in drawn if curve[1])
    ]


def curve(label: str, number: int, steps: Sequence[int], values: Sequence[float]) -> Line:
    """One metric as a line of a chart. ``number`` decides its colour."""
    if len(values) <= _FEW_POINTS:
        return Line(label, number, steps, values, dots=len(values) <= _SINGLE_POINTS)
    return Line(label, number, steps, smoothed(values), faint=values)


def smoothed(values: Sequence[float]) -> Sequence[float]:
    """The values themselves where they are few, else their running mean."""
    return values if len(values) <= _FEW_POINTS else running_mean(values, smoothing_window(len(values)))


def smoothing_window(count: int) -> int:
    """Over how many neighbours the running mean of ``count`` values goes; 1 where they are drawn as they are."""
    return 1 if count <= _FEW_POINTS else max(count // 20, 5)


def save_curves_png(run_dirs: Sequence[Path], path: Path) -> None:
    """One picture of the main curves of several runs (SFT, reward model, PPO), on white, for a README."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = []
    for run in run_dirs:
        rows = read_jsonl(RunDir(run).metrics)
        panels += [(run.name, chart, rows) for chart in charts_of(rows) if next(iter(chart.keys)) in _README_KEYS]
    columns = min(len(panels), 3) or 1
    lines = -(-len(panels) // columns) or 1
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.0 * columns, 2.6 * lines), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        for number, (name, chart, rows) in enumerate(panels, start=1):
            axes = figure.add_subplot(lines, columns, number)
            _draw(axes, chart, rows)
            axes.set_title(f"{name}: {chart.title}", loc="left", fontsize=10, fontweight="bold", color=_INK)
            axes.set_ylabel(chart.unit, color=_MUTED)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, facecolor="white")


def _draw(axes: Axes, chart: Chart, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = chart_lines(chart, rows)
    for colour, line in zip(_SERIES, drawn, strict=False):
        if line.faint:
            axes.plot(line.xs, line.faint, color=colour, linewidth=0.8, alpha=0.3)
        marker = "o" if line.dots else None
        axes.plot(line.xs, line.ys, color=colour, linewidth=1.7, label=line.label, marker=marker, markersize=3.5)
    if len(drawn) > 1:
        axes.legend(frameon=False, labelcolor=_MUTED, fontsize=9, handlelength=1.2, borderaxespad=0.1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_MUTED, length=0, labelsize=9)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", nbins=5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(y=0.12)
    first, last = rows[0]["step"], rows[-1]["step"]
    room = max(0.02 * (last - first), 0.5 if last == first else 0.0)
    axes.set_xlim(first - room, last + room)
