"""The evaluation of a reward model as tables, a calibration curve, and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_dist.errors import one_line
from rlhf_dist.labelling.estimates import Estimate
from rlhf_dist.labelling.reward_accuracy import Accuracy, Bin, RewardAccuracy
from rlhf_dist.labelling.rewardbench import BenchScores
from rlhf_dist.labelling.tables import Column, Table, html_tables, share
from rlhf_dist.page import escaped, page

_LONGEST = 1500  # characters of a text on the page
_SIZE, _LEFT, _TOP = 300, 44, 12  # of the curve's field and its margins, in the units of its viewBox


@dataclass(frozen=True)
class Mistake:
    """A pair of which the worse answer has the higher score.

    Attributes:
        where: the row it is of.
        prompt, better, worse: the texts.
        better_score, worse_score: of the answers.
    """

    where: str
    prompt: str
    better: str
    worse: str
    better_score: float
    worse_score: float


def reward_tables(found: RewardAccuracy) -> list[Table]:
    """All tables of an evaluation."""
    tables = [
        Table(
            "Accuracy",
            "The share of pairs whose better answer has the higher score; the same score is half right. Intervals are "
            "95%: Wilson's where each row gives one pair, else by resampling whole rows.",
            (Column("pairs of"), *_ACCURACY),
            [_accuracy_row(row) for row in found.accuracies],
            [f"Loss: {found.loss:.4f} nats a pair; ln 2 = 0.6931 is chance."],
        ),
        Table(
            "Accuracy by margin",
            "By the difference of the two scores, in parts of as many pairs each.",
            (Column("difference"), Column("pairs", "count"), share("accuracy")),
            [(f"{bin.low:.3g} to {bin.high:.3g}", bin.pairs, bin.right) for bin in found.margins],
        ),
        Table(
            "Calibration",
            "Predicted: sigmoid of the difference of the scores, the probability that the answer with the higher score "
            "is better. Observed: how often it is.",
            (
                Column("predicted"),
                Column("pairs", "count"),
                Column("mean predicted", "share"),
                share("observed"),
            ),
            [(f"{100 * b.low:.0f} to {100 * b.high:.0f}%", b.pairs, b.predicted, b.right) for b in found.calibration],
            [f"Expected calibration error: {100 * found.calibration_error:.1f}%."],
        ),
        Table(
            "Length",
            "Accuracy where the better answer is the longer one (in characters), and where it is not. A model that "
            "goes by length is right in the former and wrong in the latter.",
            (Column("pairs in which"), *_ACCURACY),
            [_accuracy_row(row) for row in found.by_length],
            [_correlation(found.correlation)],
        ),
    ]
    return tables + ([_models(found)] if found.models else [])


def bench_table(found: BenchScores) -> Table:
    """The scores on RewardBench or RewardBench 2 as a table."""
    rows: list[tuple[str, int | None, float | None]] = [(part.name, part.rows, part.score) for part in found.parts]
    rows.append(("score", sum(part.rows for part in found.parts), found.score))
    missing = [subset for part in found.parts for subset in part.missing]
    return Table(
        found.name,
        "Sections and score as on the leaderboard: the score is the mean of the sections, and an answer that shares "
        "its score with another does not win.",
        (Column("section"), Column("rows", "count"), Column("score", "share")),
        rows,
        [f"No score of the whole, as rows are missing: {', '.join(missing)}."] if missing else [],
    )


_ACCURACY = (
    Column("rows", "count"),
    Column("pairs", "count"),
    Column("same score", "count"),
    share("accuracy"),
)


def _accuracy_row(row: Accuracy) -> tuple[str | int | Estimate, ...]:
    return (row.of, row.rows, row.pairs, row.ties, row.accuracy)


def _correlation(correlation: Estimate) -> str:
    if correlation.value is None:
        return "Score and length do not both vary within prompts: they have no correlation."
    ends = (
        f" ({correlation.low:.2f} to {correlation.high:.2f})"
        if correlation.low is not None and correlation.high is not None
        else ""
    )
    return f"Correlation of score and length within prompts: {correlation.value:.2f}{ends}."


def _models(found: RewardAccuracy) -> Table:
    return Table(
        "By model",
        "In pairs of two models' answers: how often a model's answer is the better one by the data, and by its score. "
        "Where the two differ, the reward model has a favourite.",
        (Column("model"), Column("pairs", "count"), share("wins by the data"), share("wins by score")),
        [(row.model, row.pairs, row.wins, row.wins_by_score) for row in found.models],
    )


def calibration_svg(bins: Sequence[Bin]) -> str:
    """The calibration curve: observed over predicted, with intervals; on the diagonal the model is calibrated."""

    def across(predicted: float) -> str:
        return f"{_LEFT + (predicted - 0.5) * 2 * _SIZE:.1f}"

    def down(observed: float) -> str:
        return f"{_TOP + (1 - observed) * _SIZE:.1f}"

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _SIZE}" y1="{down(tick)}" y2="{down(tick)}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{down(tick)}" dy="4" text-anchor="end">{100 * tick:.0f}%</text>')
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(f'<text x="{across(tick)}" y="{_TOP + _SIZE + 18}" text-anchor="middle">{100 * tick:.0f}%</text>')
    ends = f'x1="{across(0.5)}" y1="{down(0.5)}" x2="{across(1.0)}" y2="{down(1.0)}"'
    parts.append(f'<line class="diagonal" {ends}/>')
    points = [(across(bin.predicted), bin.right) for bin in bins]
    for x, right in points:
        if right.low is not None and right.high is not None:
            parts.append(f'<line class="whisker" x1="{x}" x2="{x}" y1="{down(right.low)}" y2="{down(right.high)}"/>')
    line = " ".join(f"{x},{down(right.value or 0.0)}" for x, right in points)
    parts.append(f'<polyline points="{line}"/>')
    parts += [f'<circle cx="{x}" cy="{down(right.value or 0.0)}" r="4"/>' for x, right in points]
    label = "Calibration curve: " + "; ".join(
        f"predicted {100 * bin.predicted:.0f}%, observed {100 * (bin.right.value or 0.0):.0f}%" for bin in bins
    )
    box = f"0 0 {_LEFT + _SIZE + 20} {_TOP + _SIZE + 28}"
    return f'<svg class="calibration" viewBox="{box}" role="img" aria-label="{escaped(label)}">{"".join(parts)}</svg>'


def reward_page(
    title: str, head: str, tables: Sequence[Table], found: RewardAccuracy, mistakes: Sequence[Mistake]
) -> str:
    """The whole evaluation as a page.

    Args:
        title: of the document.
        head: what was evaluated on what, in a line.
        tables: those of :func:`bench_table` and :func:`reward_tables`.
        found: what the curve is drawn from.
        mistakes: the most confident ones, which may be none.
    """
    body = (
        f'<h1>Reward model</h1>\n<p class="lead">{escaped(one_line(head))}</p>\n{html_tables(tables)}\n'
        f"{curve_html(found)}\n{mistakes_html(mistakes)}"
    )
    return page(title, body)


def curve_html(found: RewardAccuracy) -> str:
    """The curve as a part of the page."""
    return (
        '<h2>Calibration curve</h2>\n<p class="lead">How often the answer with the higher score is the better one '
        "(up), over how often the scores say so (across). Below the diagonal the model is too sure.</p>"
        f'<div class="card">{calibration_svg(found.calibration)}</div>'
    )


def mistakes_html(mistakes: Sequence[Mistake]) -> str:
    """The mistakes as a part of the page; whatever comes from data is escaped."""
    if not mistakes:
        return ""
    cards = "\n".join(
        f'<div class="card sample"><p dir="auto"><span>{escaped(one_line(one.where))}</span>{_text(one.prompt)}</p>'
        f'<div class="pair">{_side("better", one.better, one.better_score)}'
        f"{_side('worse', one.worse, one.worse_score)}</div></div>"
        for one in mistakes
    )
    lead = "The pairs whose worse answer has the highest score above the better one."
    return f'<h2>Most confident mistakes</h2>\n<p class="lead">{lead}</p>{cards}'


def _side(which: str, text: str, score: float) -> str:
    return (
        f'<div><small>{which} by the data</small><div class="text" dir="auto">{_text(text)}</div>'
        f"<small>score <b>{score:.3f}</b></small></div>"
    )


def _text(text: str) -> str:
    shown = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text[:_LONGEST])
    if not shown.strip():
        return '<span class="cut">[empty]</span>'
    return escaped(shown) + (' <span class="cut">[...]</span>' if len(text) > _LONGEST else "")
