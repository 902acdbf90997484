"""The report of several runs: one HTML file with their curves on the same axes, and what differs between them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf_dist.config.diff import comparable, is_by_content
from rlhf_dist.controller.curves import charts_of, curve, series, smoothed
from rlhf_dist.controller.loaded_run import Group, LoadedRun, Rows, groups_of, load_runs
from rlhf_dist.controller.plot import Line, number_text
from rlhf_dist.controller.report import write_report
from rlhf_dist.controller.sections import (
    MOST_PROMPTS,
    chart_card,
    prompt_line,
    sample_side,
    spread_out,
    swatch,
    through_time,
    warnings_section,
)
from rlhf_dist.controller.warning_signs import warning_signs
from rlhf_dist.durable import write_text_atomic
from rlhf_dist.errors import UserError
from rlhf_dist.page import escaped, named, page, scrolled, text_cell

# Score against KL: of the steps' own samples, and of the held-out prompts by the score and by the judge.
_PLANES = (
    ("Score", "mean of a step", "kl/sequence_mean", "reward/score_mean"),
    ("Held-out score", "mean over the held-out prompts", "eval/kl_sequence_mean", "eval/score_mean"),
    ("Judge", "held out, independent scorer", "eval/kl_sequence_mean", "eval/judge_mean"),
)
_OUT = "runs-report.html"
_SUMMARY = ("score_mean", "judge_mean", "distinct_2", "loss", "accuracy")
_SUMMARY_NAMES = ("score", "judge", "distinct-2", "loss", "accuracy")


def report(run_dirs: Sequence[Path], out: Path | None) -> Path:
    """The command `rlhf-dist report`: the report of one run, or of several. Returns where it is.

    Args:
        run_dirs: the runs' directories.
        out: the file to write; None: `report.html` of the only run, or `runs-report.html` here.

    Raises:
        UserError: one of them is no run, or is named twice; or the file cannot be written.
    """
    try:
        if len(run_dirs) == 1:
            return write_report(run_dirs[0], out)
        return write_comparison(run_dirs, Path(_OUT) if out is None else out)
    except OSError as error:
        raise UserError(f"the report cannot be written: {error}") from error


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Writes the report of several runs. Returns where it is.

    Args:
        run_dirs: the runs' directories.
        out: the file to write.

    Raises:
        UserError: one of them is no run, or is named twice.
    """
    runs = load_runs(run_dirs)
    groups = groups_of(runs)
    sections = [
        _head(runs, groups),
        _legend(groups),
        warnings_section([(run.label, sign) for run in runs for sign in warning_signs(run.rows, run.summary)]),
        _results(groups),
        _planes(groups),
        _curves(groups),
        _differences(groups),
        _samples(groups),
    ]
    title = ", ".join(group.label for group in groups)
    write_text_atomic(out, page(title, "\n".join(filter(None, sections)), "page.js"))
    return out


def _head(runs: Sequence[LoadedRun], groups: Sequence[Group]) -> str:
    several = "" if len(groups) == len(runs) else f" of {len(groups)} configuration{'s' * (len(groups) > 1)}"
    return f'<h1>{len(runs)} runs</h1>\n<p class="lead">{len(runs)} runs{several} on the same axes</p>'


def _legend(groups: Sequence[Group]) -> str:
    """The page's key: a button a group, which shows or hides its curves."""
    buttons = "".join(
        f'<button type="button" disabled aria-pressed="true" data-toggle="{group.number}">{swatch(group.number)}'
        f"{named(group.label)}</button>"
        for group in groups
    )
    bands = [_band_words(group) for group in groups if len(group.runs) > 1]
    said = "".join(f"<p>{words}</p>" for words in bands)
    return f'<div class="legend" role="group" aria-label="Curves shown">{buttons}</div>\n{said and _note(said)}'


def _note(inside: str) -> str:
    return f'<div class="note">{inside}</div>'


def _band_words(group: Group) -> str:
    seeds = ", ".join(str(run.config.get("run.seed", "?")) for run in group.runs)
    ends = sorted({run.rows[-1]["step"] for run in group.runs if run.rows})
    shortest = f", up to step {ends[0]}, where the shortest run ends" if len(ends) > 1 else ""
    return (
        f"{named(group.label)}: mean of the seeds {escaped(seeds)}; the band is from the least of them to the most"
        f"{shortest}."
    )


def _results(groups: Sequence[Group]) -> str:
    """What each run has come to, held out, from summary.json."""
    shown = [(key, name) for key, name in zip(_SUMMARY, _SUMMARY_NAMES, strict=True) if _has(groups, key)]
    if not shown:
        return ""
    heads = "".join(f"<th>{name}</th>" for _, name in shown)
    lines = []
    for group in groups:
        for run in group.runs:
            after = run.summary["after"] if run.summary else {}
            cells = "".join(f'<td class="figure">{_figure(after.get(key))}</td>' for key, _ in shown)
            kl = run.summary.get("kl_sequence_mean") if run.summary else None
            name = text_cell(run.label, "th", f"{swatch(group.number)} ")
            lines.append(f'<tr>{name}{cells}<td class="figure">{_figure(kl)}</td></tr>')
    table = (
        f"<table><thead><tr><th>run</th>{heads}<th>KL, nats</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return f"<h2>Held out, after the run</h2>\n{scrolled('Held out, after the run', table)}"


def _has(groups: Sequence[Group], key: str) -> bool:
    runs = [run for group in groups for run in group.runs]
    return any(run.summary is not None and run.summary["after"].get(key) is not None for run in runs)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _planes(groups: Sequence[Group]) -> str:
    """Score against KL, one curve a run: what each run got for how far it went from the reference."""
    cards = []
    for title, unit, kl, score in _PLANES:
        lines = [line for group in groups for run in group.runs if (line := _plane_line(group, run, kl, score))]
        if lines:
            cards.append(chart_card(title, f"{unit}, against KL in nats a sequence", lines, x_name="KL"))
    if not cards:
        return ""
    return '<h2>Score against KL</h2>\n<div class="grid">\n' + "\n".join(cards) + "\n</div>"


def _plane_line(group: Group, run: LoadedRun, kl: str, score: str) -> Line | None:
    rows = [row for row in run.rows if kl in row and score in row]
    if not rows:
        return None
    steps, far = series(rows, kl)
    got = series(rows, score)[1]
    return Line(run.label, group.number, smoothed(far), smoothed(got), steps, dots=len(rows) <= 30)


def _curves(groups: Sequence[Group]) -> str:
    rows = [row for group in groups for run in group.runs for row in run.rows]
    if not rows:
        return '<h2>Curves</h2>\n<p class="lead">No step has ended yet.</p>'
    cards = []
    for chart in charts_of(rows):
        for key, label in chart.keys.items():
            lines = [line for group in groups for line in _lines(group, key)]
            if lines:
                title = chart.title if len(chart.keys) == 1 else f"{chart.title}: {label}"
                cards.append(chart_card(title, chart.unit, lines))
    return '<h2>Curves</h2>\n<div class="grid">\n' + "\n".join(cards) + "\n</div>"


def _lines(group: Group, key: str) -> Iterator[Line]:
    """The curve of a group: of its only run, or the mean and the range over its runs at the steps that all have."""
    found = [series(run.rows, key) for run in group.runs]
    found = [points for points in found if points[0]]
    if len(found) == 1:
        yield curve(group.label, group.number, *found[0])
    if len(found) < 2:
        return
    shared = sorted(set.intersection(*(set(steps) for steps, _ in found)))
    if not shared:
        return
    values = []
    for steps, given in found:
        at = dict(zip(steps, given, strict=True))
        values.append(smoothed([at[step] for step in shared]))
    means, low, high = ([of(column) for column in zip(*values, strict=True)] for of in (statistics.fmean, min, max))
    yield Line(group.label, group.number, shared, means, low=low, high=high)


def _differences(groups: Sequence[Group]) -> str:
    """The keys in which the configurations differ, those that shape a result before those that do not."""
    configs = [group.runs[0].config for group in groups]
    if len(groups) < 2 or not all(configs):
        return ""
    names = list(dict.fromkeys(name for config in configs for name in config))
    apart = [name for name in names if len({str(config.get(name, "–")) for config in configs}) > 1]
    shaping = comparable(dict.fromkeys(apart))
    first = [name for name in apart if name in shaping or is_by_content(name)]
    rest = [name for name in apart if name not in first]
    parts = [_difference_table(groups, first) if first else "<p>Nothing that a result depends on.</p>"]
    if rest:
        parts.append(
            "<details><summary>and keys that no result depends on: layout, names, how often the run saves</summary>"
            f"{_difference_table(groups, rest)}</details>"
        )
    title = "What differs between the configurations"
    return f"<h2>{title}</h2>\n{scrolled(title, ''.join(parts))}"


def _difference_table(groups: Sequence[Group], names: Sequence[str]) -> str:
    heads = "".join(text_cell(group.label, "th", f"{swatch(group.number)} ") for group in groups)
    lines = []
    for name in names:
        cells = "".join(text_cell(_values(group, name)) for group in groups)
        lines.append(f"<tr><th><code>{escaped(name)}</code></th>{cells}</tr>")
    return f"<table><thead><tr><th>key</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _values(group: Group, name: str) -> str:
    """The value of a key in a group's runs, once where they have the same."""
    return ", ".join(dict.fromkeys(_value(run.config.get(name, "–")) for run in group.runs))


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return number_text(value) if isinstance(value, float) else str(value)


def _samples(groups: Sequence[Group]) -> str:
    """The same prompt over the steps, a column a run."""
    found = [(group, run, through_time(run.samples)) for group in groups for run in group.runs]
    found = [entry for entry in found if entry[2]]
    prompts = list(dict.fromkeys(key for _, _, by_prompt in found for key in by_prompt))
    if not prompts:
        return ""
    shared = [key for key in prompts if all(key in by_prompt for *_, by_prompt in found)] or prompts
    cards = []
    for place, key in enumerate(shared[:MOST_PROMPTS]):
        columns = "".join(_column(group, run, by_prompt[key]) for group, run, by_prompt in found if key in by_prompt)
        cards.append(
            f'<details class="card sample"{" open" * (place == 0)}><summary>{prompt_line(key[0])}</summary>'
            f'<div class="columns">{columns}</div></details>'
        )
    return "<h2>Samples through time</h2>\n" + "\n".join(cards)


def _column(group: Group, run: LoadedRun, samples: Rows) -> str:
    steps = spread_out([sample["step"] for sample in samples])
    left_out = f" <small>{len(steps)} of {len(samples)} steps</small>" if len(steps) < len(samples) else ""
    sides = "".join(sample_side(sample) for sample in samples if sample["step"] in steps)
    return (
        f'<section data-line="{group.number}"><h3>{swatch(group.number)} {named(run.label)}{left_out}</h3>'
        f"{sides}</section>"
    )
