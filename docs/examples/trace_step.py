"""Reads one step of a run's trace.json: how long each worker worked and waited, and a picture of it.

python docs/examples/trace_step.py runs/my-ppo/trace.json           # the last step, as a table
python docs/examples/trace_step.py runs/my-ppo/trace.json step.svg  # and as a picture
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

PHASES, STEPS = "step", "steps"  # the rows of the trace that are no workers


class Bar(NamedTuple):
    """One bar of the trace, in seconds from the beginning of the step."""

    row: str
    name: str
    start: float
    seconds: float


def last_step(path: Path) -> list[Bar]:
    """The bars of the last whole step, its own first."""
    events = json.loads(path.read_text())["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    bars = [
        Bar(rows[event["tid"]], event["name"], event["ts"] / 1e6, event["dur"] / 1e6)
        for event in events
        if event["ph"] == "X"
    ]
    step = [bar for bar in bars if bar.row == STEPS][-1]
    inside = [bar for bar in bars if step.start <= bar.start < step.start + step.seconds and bar.row != STEPS]
    return [bar._replace(start=bar.start - step.start) for bar in (step, *inside)]


def table(bars: list[Bar]) -> str:
    """The phases of a step, then its workers: seconds, and their share of the step."""
    step, *others = bars
    seconds: dict[tuple[bool, str], float] = defaultdict(float)
    for bar in others:
        seconds[bar.row != PHASES, bar.name if bar.row == PHASES else bar.row] += bar.seconds
    lines = [f"{step.name}: {step.seconds:.2f} s"]
    for (is_worker, name), spent in sorted(seconds.items(), key=lambda one: (one[0][0], -one[1])):
        lines.append(f"  {'worker' if is_worker else 'phase':6} {name:12} {spent:6.2f} s {spent / step.seconds:5.0%}")
    return "\n".join(lines)


def draw(bars: list[Bar], out: Path) -> None:
    """A row for each worker, time from left to right, the phases as bands behind them."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "trace"})  # text as text; the same file each time
    workers = sorted({bar.row for bar in bars[1:]} - {PHASES})
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.4 * len(workers)))
    for number, phase in enumerate(bar for bar in bars if bar.row == PHASES and "/" not in bar.name):
        axes.axvspan(phase.start, phase.start + phase.seconds, color=("#eef2f7", "#dde5ef")[number % 2], zorder=0)
        if phase.seconds > 0.04 * bars[0].seconds:
            axes.text(phase.start + phase.seconds / 2, -0.7, phase.name, ha="center", va="bottom")
    for bar in bars:
        if bar.row in workers:
            axes.barh(workers.index(bar.row), bar.seconds, left=bar.start, height=0.6, color="#2f6fb2")
    axes.set(yticks=range(len(workers)), yticklabels=workers, xlim=(0, bars[0].seconds), xlabel="seconds of the step")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    shown = last_step(Path(sys.argv[1]))
    print(table(shown))
    if len(sys.argv) > 2:
        draw(shown, Path(sys.argv[2]))
