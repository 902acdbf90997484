"""The report of a run: one HTML file that needs nothing else, and a short table for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from rlhf_dist.controller.curves import chart_lines, charts_of, save_curves_png, series
from rlhf_dist.controller.loaded_run import Row, Rows, load_run
from rlhf_dist.controller.plot import number_text
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.controller.sections import (
    MOST_PROMPTS,
    chart_card,
    curve_key,
    prompt_line,
    sample_side,
    spread_out,
    through_time,
    warnings_section,
)
from rlhf_dist.controller.view import duration
from rlhf_dist.controller.warning_signs import warning_signs
from rlhf_dist.durable import write_text_atomic
from rlhf_dist.page import escaped, named, page

__all__ = ["print_summary", "save_curves_png", "summary_rows", "write_report"]

_LABELS = {
    "score_mean": "learned reward",
    "judge_mean": "judge (independent)",
    "distinct_2": "distinct-2",
    "length_mean": "response length, tokens",
    "loss": "held-out loss",
    "accuracy": "held-out accuracy",
    "pair_accuracy": "held-out pair accuracy",
    "perplexity": "held-out perplexity",
    "pretrain_loss": "loss on pretraining text",
    "score_bias": "bias (demonstrations score 0)",
}
_JOBS = {"loss/policy": "PPO", "loss/sft": "supervised fine-tuning", "loss/reward": "reward model", "loss/dpo": "DPO"}
_COLOURS = 6  # of the style sheet's --c1.., before the grey for what is left


@dataclass(frozen=True)
class SummaryRow:
    """One figure before and after the run, as text; a dash stands for one that was not measured."""

    label: str
    before: str
    after: str
    change: str


def summary_rows(summary: Row) -> list[SummaryRow]:
    """The figures of summary.json that have a before and an after, known ones first."""
    before: Mapping[str, float | None] = summary["before"]
    after: Mapping[str, float | None] = summary["after"]
    keys = dict.fromkeys([*before, *after])
    measured = [key for key in keys if before.get(key) is not None or after.get(key) is not None]
    order = [key for key in _LABELS if key in measured] + [key for key in measured if key not in _LABELS]
    return [_summary_row(_LABELS.get(key, key), before.get(key), after.get(key)) for key in order]


def _summary_row(label: str, before: float | None, after: float | None) -> SummaryRow:
    change = "–" if before is None or after is None else f"{after - before:+.3f}"
    return SummaryRow(label, _figure(before), _figure(after), change)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def summary_facts(summary: Row) -> dict[str, str]:
    """The figures of summary.json that belong to the whole run, as text: KL, time, tokens."""
    facts = {}
    if summary.get("kl_sequence_mean") is not None:
        facts["KL to the reference"] = f"{summary['kl_sequence_mean']:.2f} nats a sequence"
    if summary.get("wall_s") is not None:
        facts["time"] = duration(summary["wall_s"])
    if summary.get("tokens") is not None:
        facts["tokens"] = f"{summary['tokens']:,}"
    return facts


def print_summary(summary: Row, console: Console, *, title: str = "on held-out data") -> None:
    """Prints what a run changed as a short table: before, after, and the run's own figures below."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for row in summary_rows(summary):
        table.add_row(row.label, row.before, row.after, row.change)
    console.print(table)
    console.print("  " + " · ".join(f"{name} {value}" for name, value in summary_facts(summary).items()))


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a run, finished or not. Returns where it is.

    Args:
        run_dir: the run's directory.
        out: the file to write; None: `report.html` in it.

    Raises:
        UserError: there is no run in ``run_dir``.
    """
    loaded = load_run(run_dir)
    run, rows, summary = loaded.directory, loaded.rows, loaded.summary
    sections = [
        _head(run, rows, summary),
        warnings_section([("", sign) for sign in warning_signs(rows, summary)]),
        _summary(summary),
        _curves(rows),
        _samples(loaded.samples),
        _phases(rows),
        _config(run),
    ]
    path = run.report if out is None else out
    write_text_atomic(path, page(run.name, "\n".join(filter(None, sections)), "page.js"))
    return path


def _head(run: RunDir, rows: Rows, summary: Row | None) -> str:
    keys = {key for row in rows for key in row}
    job = next((name for key, name in _JOBS.items() if key in keys), "run")
    badge = '<span class="badge done">finished</span>' if summary else '<span class="badge open">unfinished</span>'
    last = rows[-1]["step"] if rows else 0
    seconds = sum(series(rows, "time/step_s")[1])
    lead = f"{job}, {last} step{'' if last == 1 else 's'}, {duration(seconds)} of training"
    return f'<h1>{named(run.name)}{badge}</h1>\n<p class="lead">{escaped(lead)}</p>'


def _summary(summary: Row | None) -> str:
    if summary is None:
        return ""
    lines = [
        f'<tr><td>{escaped(row.label)}</td><td class="figure">{row.before}</td><td class="figure">{row.after}</td>'
        f'<td class="figure">{row.change}</td></tr>'
        for row in summary_rows(summary)
    ]
    facts = "".join(
        f"<div>{escaped(name)} <b>{escaped(value)}</b></div>" for name, value in summary_facts(summary).items()
    )
    table = (
        "<table><thead><tr><td></td><th>before</th><th>after</th><th>change</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
        if lines
        else ""
    )
    return f'<h2>Before and after, held out</h2>\n<div class="card">{table}<div class="facts">{facts}</div></div>'


def _curves(rows: Rows) -> str:
    if not rows:
        return '<h2>Curves</h2>\n<p class="lead">No step has ended yet.</p>'
    cards = []
    for chart in charts_of(rows):
        lines = chart_lines(chart, rows)
        last = number_text((lines[0].faint or lines[0].ys)[-1])
        cards.append(chart_card(chart.title, chart.unit, lines, last=last, key=curve_key(lines)))
    return '<h2>Curves</h2>\n<div class="grid">\n' + "\n".join(cards) + "\n</div>"


def _pairs(samples: Rows) -> list[tuple[Row, Row | None]]:
    """The samples of the first step, each with one of the last step that has the same prompt."""
    first, last = samples[0]["step"], samples[-1]["step"]
    before = [sample for sample in samples if sample["step"] == first]
    if last == first:
        return [(sample, None) for sample in before]
    after: dict[str, list[Row]] = {}
    for sample in samples:
        if sample["step"] == last:
            after.setdefault(sample["prompt"], []).append(sample)
    return [(sample, after[sample["prompt"]].pop(0)) for sample in before if after.get(sample["prompt"])]


def _samples(samples: Rows) -> str:
    if not samples:
        return ""
    first, last = samples[0]["step"], samples[-1]["step"]
    pairs = _pairs(samples)
    if pairs:
        between = _between(samples, first, last)
        cards = [_pair(before, after, between) for before, after in pairs[:MOST_PROMPTS]]
        heading = "Samples, before and after" if last != first else "Samples"
    else:
        newest = [sample for sample in samples if sample["step"] == last]
        cards = [_pair(sample, None, {}) for sample in newest[:MOST_PROMPTS]]
        heading = "Samples of the last step"
    return f"<h2>{heading}</h2>\n" + "\n".join(cards)


def _between(samples: Rows, first: int, last: int) -> dict[int, list[Row]]:
    """By the identity of each sample of the ``first`` step: those of the same prompt after it and before ``last``."""
    found = {}
    for rows in through_time(samples).values():
        if rows[0]["step"] == first:
            found[id(rows[0])] = [row for row in rows if first < row["step"] < last]
    return found


def _pair(before: Row, after: Row | None, between: Mapping[int, Sequence[Row]]) -> str:
    sides = "".join(sample_side(sample) for sample in (before, after) if sample is not None)
    one = "" if after is not None else " one"
    on_the_way = between.get(id(before), ())
    steps = spread_out([row["step"] for row in on_the_way])
    middle = "".join(sample_side(row) for row in on_the_way if row["step"] in steps)
    details = f"<details><summary>{len(steps)} of the steps between</summary>{middle}</details>" if middle else ""
    return (
        f'<div class="card sample">{prompt_line(before["prompt"])}<div class="pair{one}">{sides}</div>{details}</div>'
    )


def phase_seconds(rows: Rows) -> dict[str, float]:
    """Median seconds of each phase of a step, longest first, with what is left of the step as "other"."""
    keys = {key for row in rows for key in row if key.startswith("time/") and key.count("/") == 1} - {"time/step_s"}
    totals = series(rows, "time/step_s")[1]
    if not keys or not totals:
        return {}
    phases = {key[len("time/") : -len("_s")]: statistics.median(series(rows, key)[1]) for key in keys}
    ordered = dict(sorted(phases.items(), key=lambda item: -item[1]))
    return {**ordered, "other": max(statistics.median(totals) - sum(ordered.values()), 0.0)}


def _phases(rows: Rows) -> str:
    phases = phase_seconds(rows)
    total = sum(phases.values())
    if not total:
        return ""
    names = list(phases)
    colour = {name: f"var(--c{number if number <= _COLOURS else 7})" for number, name in enumerate(names, start=1)}
    colour["other"] = "var(--c7)"
    bars = "".join(
        f'<div style="width:{100 * seconds / total:.2f}%;background:{colour[name]}" title="{escaped(name)}"></div>'
        for name, seconds in phases.items()
    )
    lines = "".join(
        f'<tr><td><span class="key" style="background:{colour[name]}"></span>{escaped(name)}</td>'
        f'<td class="figure">{seconds:.2f} s</td><td class="figure">{100 * seconds / total:.0f}%</td></tr>'
        for name, seconds in phases.items()
    )
    return (
        f'<h2>Where a step\'s time goes</h2>\n<div class="card"><div class="bar">{bars}</div>'
        "<table><thead><tr><th>phase</th><th>median of a step</th><th>share</th></tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _config(run: RunDir) -> str:
    if not run.config.exists():
        return ""
    config = escaped(run.config.read_text(encoding="utf-8"))
    shown = f'<pre tabindex="0" role="region" aria-label="config.yaml">{config}</pre>'
    details = f"<details><summary>config.yaml</summary>{shown}</details>"
    return f'<h2>Configuration</h2>\n<div class="card">{details}</div>'
