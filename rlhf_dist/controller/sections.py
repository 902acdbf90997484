"""Sections that the report of one run and the comparison of several share, as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_dist.controller.loaded_run import Row, Rows
from rlhf_dist.controller.plot import COLOURS, Line, colour, dashes, plot_svg
from rlhf_dist.controller.warning_signs import WarningSign
from rlhf_dist.page import escaped, named

MOST_PROMPTS = 12
MOST_STEPS = 6  # of one prompt


def chart_card(
    title: str, unit: str, lines: Sequence[Line], *, last: str = "", key: str = "", x_name: str = "step"
) -> str:
    """A card with one chart.

    Args:
        title: what is drawn.
        unit: of it, or what the figure says.
        lines: the curves.
        last: a figure beside the title.
        key: to its curves, where they are not those of the page's own: HTML.
        x_name: of the horizontal axis.
    """
    described = f"{title}, {unit}" if unit else title
    shown = f"<span>{escaped(last)}</span>" if last else ""
    return (
        f'<div class="card chart"><h3>{escaped(title)}{shown}</h3><p>{escaped(unit)}</p>'
        f"{key}{plot_svg(lines, described, x_name)}</div>"
    )


def curve_key(lines: Sequence[Line]) -> str:
    """The names of a chart's own curves, each beside its colour; nothing where there is only one."""
    if len(lines) < 2:
        return ""
    names = "".join(f"<span>{swatch(line.number)}{escaped(line.label)}</span>" for line in lines)
    return f'<div class="curve-key">{names}</div>'


def swatch(number: int) -> str:
    """A short piece of the line ``number``, as it stands beside its name."""
    dashed = f' stroke-dasharray="{dashes(number)}"' if number >= COLOURS else ""
    return (
        f'<svg class="swatch" width="20" height="8" aria-hidden="true"><path d="M0 4H20" stroke="{colour(number)}" '
        f'stroke-width="3"{dashed}/></svg>'
    )


def warnings_section(signs: Sequence[tuple[str, WarningSign]]) -> str:
    """What should be looked at, each with the name of the run that raised it; empty names are left out."""
    if not signs:
        return ""
    cards = "".join(
        f'<li class="card warning"><h3>{escaped(sign.title)}<span>{f"{named(name)}, " if name else ""}from step '
        f"{sign.step}</span></h3><p>{escaped(sign.figure)}.</p><p>{escaped(sign.advice)}</p></li>"
        for name, sign in signs
    )
    return f'<h2>Warnings</h2>\n<ul class="warnings">{cards}</ul>'


def through_time(samples: Rows) -> dict[tuple[str, int], list[Row]]:
    """The samples that several steps have of the same prompt, in the order of the steps.

    Of a prompt that a step has more than once, the first of one step belongs to the first of another, and so on: the
    keys are the prompt and that count.
    """
    found: dict[tuple[str, int], list[Row]] = {}
    seen: dict[tuple[int, str], int] = {}
    for sample in samples:
        at = (sample["step"], sample["prompt"])
        seen[at] = seen.get(at, -1) + 1
        found.setdefault((sample["prompt"], seen[at]), []).append(sample)
    ordered = {key: sorted(rows, key=lambda row: row["step"]) for key, rows in found.items()}
    return {key: rows for key, rows in ordered.items() if len(rows) > 1}


def spread_out(steps: Sequence[int], most: int = MOST_STEPS) -> list[int]:
    """At most so many of the ``steps``, evenly among them, the first and the last included."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def sample_side(sample: Row) -> str:
    """One sampled response with its figures."""
    response = escaped(sample["response"].strip()) or '<span class="cut">[empty]</span>'
    figures = [
        f"{name} <b>{sample[key]:.2f}</b>"
        for key, name in (("score", "score"), ("kl", "KL"), ("judge", "judge"))
        if sample.get(key) is not None
    ]
    cut = "" if sample["finished"] else ' <span class="cut">[cut at the length limit]</span>'
    return (
        f"<div><small>step {sample['step']}</small>"
        f'<div class="text" dir="auto">{response}{cut}</div>'
        f"<small>{' · '.join(figures)}</small></div>"
    )


def prompt_line(prompt: str) -> str:
    """The prompt above its responses."""
    shown = escaped(prompt) if prompt.strip() else '<span class="cut">[empty]</span>'
    return f'<p dir="auto"><span>prompt</span>{shown}</p>'
