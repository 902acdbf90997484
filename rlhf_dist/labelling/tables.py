"""Tables of figures with intervals, for a terminal and for a page: what is in them is said once for both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from rlhf_dist.errors import one_line
from rlhf_dist.labelling.estimates import Estimate
from rlhf_dist.page import escaped, long_class, named, scrolled, text_cell

Cell = str | int | float | Estimate | None
Form = Literal["text", "count", "share", "number", "points", "seconds"]

DASH = "–"
_WIDTH, _HEIGHT = 88, 14  # of an interval's drawing, in the units of its viewBox


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        form: of its cells: a share is shown as percent, points without decimals.
        chance: the figure that says nothing, where the column's estimates are drawn with one.
        scale: the two figures between which its estimates are drawn; None: the smallest and the largest of the column.
    """

    title: str
    form: Form = "text"
    chance: float | None = None
    scale: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: its heading.
        lead: what it shows and how to read it, in a sentence or more.
        columns: of which the first names the row.
        rows: as many cells each as there are columns.
        notes: what is to be said of these very rows.
    """

    title: str
    lead: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def share(title: str, chance: float | None = 0.5) -> Column:
    """A column of shares, from 0 to 1."""
    return Column(title, "share", chance, (0.0, 1.0))


def cell_text(cell: Cell, form: Form) -> str:
    """A cell as text: an estimate with its interval, a dash for what is not known."""
    if isinstance(cell, Estimate):
        if cell.value is None:
            return DASH
        return cell_text(cell.value, form) + (f" ({ends})" if (ends := _ends(cell, form)) else "")
    match cell:
        case None:
            return DASH
        case str():
            return one_line(cell)
    match form:
        case "share":
            return f"{100 * cell:.1f}%"
        case "number":
            return f"{cell:.2f}"
        case "points":
            return f"{cell:.0f}"
        case "seconds":
            return f"{cell:.1f} s"
        case _:
            return f"{cell:,}"


def _ends(estimate: Estimate, form: Form) -> str:
    """The interval: open where the data bounds it on one side only, and nothing where on neither."""
    low, high = (
        None if end is None else cell_text(end, form).removesuffix("%") for end in (estimate.low, estimate.high)
    )
    if low is None or high is None:
        return f"below {high}" if high is not None else f"above {low}" if low is not None else ""
    return f"{low} to {high}"


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Prints tables to a terminal, or as plain text to a file."""
    for table in tables:
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in table.columns:
            shown.add_column(Text(one_line(column.title)), justify="left" if column.form == "text" else "right")
        for row in table.rows:
            shown.add_row(*(Text(cell_text(cell, c.form)) for cell, c in zip(row, table.columns, strict=True)))
        console.print(Text(table.title, "bold"))
        if table.lead:
            console.print(Text(table.lead, "dim"))
        console.print(shown)
        for note in table.notes:
            console.print(Text(one_line(note)))
        if table.notes:
            console.print()


def html_tables(tables: Iterable[Table]) -> str:
    """Tables as the body of a page. Whatever comes from data is escaped."""
    return "\n".join(_html_table(table) for table in tables)


def _html_table(table: Table) -> str:
    heads = "".join(
        f'<th class="{_side(column)}{long_class(column.title)}">{named(one_line(column.title))}</th>'
        for column in table.columns
    )
    scales = [_scale(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)]
    lines = "".join(
        "<tr>" + "".join(_html_cell(*cell) for cell in zip(row, table.columns, scales, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{escaped(one_line(note))}</p>' for note in table.notes)
    lead = f'<p class="lead">{escaped(table.lead)}</p>' if table.lead else ""
    return f"<h2>{escaped(table.title)}</h2>\n{lead}" + scrolled(
        table.title, f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{lines}</tbody></table>{notes}"
    )


def _side(column: Column) -> str:
    return "words" if column.form == "text" else "figure"


def _scale(column: Column, cells: Sequence[Cell]) -> tuple[float, float]:
    if column.scale is not None:
        return column.scale
    there = [end for cell in cells if isinstance(cell, Estimate) for end in (cell.low, cell.value, cell.high)]
    figures = [end for end in there if end is not None] + ([] if column.chance is None else [column.chance])
    return (min(figures), max(figures)) if figures else (0.0, 1.0)


def _html_cell(cell: Cell, column: Column, scale: tuple[float, float]) -> str:
    side = _side(column)
    if not isinstance(cell, Estimate) or cell.value is None:
        text = cell_text(cell, column.form)
        return text_cell(text) if side == "words" else f'<td class="{side}">{escaped(text)}</td>'
    value = cell_text(cell.value, column.form)
    ends = _ends(cell, column.form)
    small = f"<small>{escaped(ends)}</small>" if ends else ""
    return f'<td class="{side} estimate"><b>{escaped(value)}</b>{small}{_drawn(cell, column.chance, scale)}</td>'


def _drawn(estimate: Estimate, chance: float | None, scale: tuple[float, float]) -> str:
    """The estimate as a dot on the line of its interval, with a stroke where chance is; for the eye alone."""
    low, high = scale
    if estimate.value is None or high <= low:
        return ""

    def at(figure: float) -> str:
        return f"{4 + (_WIDTH - 8) * (min(max(figure, low), high) - low) / (high - low):.1f}"

    middle = _HEIGHT / 2
    parts = [f'<line class="axis" x1="4" x2="{_WIDTH - 4}" y1="{middle}" y2="{middle}"/>']
    if chance is not None:
        parts.append(f'<line class="chance" x1="{at(chance)}" x2="{at(chance)}" y1="1" y2="{_HEIGHT - 1}"/>')
    if estimate.low is not None or estimate.high is not None:
        left = at(low if estimate.low is None else estimate.low)
        right = at(high if estimate.high is None else estimate.high)
        parts.append(f'<line class="interval" x1="{left}" x2="{right}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle cx="{at(estimate.value)}" cy="{middle}" r="3"/>')
    return f'<svg class="estimate" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'
