"""The summary of judgements as tables, each with what its figures mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf_dist.labelling.agreement import Agreement
from rlhf_dist.labelling.consensus import RULE, Consensus
from rlhf_dist.labelling.estimates import FEWEST_PROMPTS
from rlhf_dist.labelling.ratings import ELO_STEP, ModelRating, Ratings
from rlhf_dist.labelling.summary import Summary
from rlhf_dist.labelling.tables import Cell, Column, Table, share

MOST_PAIRS = 20  # of labellers in the table; a JSON file has all
MOST_MODELS = 8  # in the matrix of win rates; all pairs are in the table behind it
_TAU = Column("Kendall's tau-b", "number", 0.0, (-1.0, 1.0))
_AGREE = (
    Column("prompts", "count"),
    Column("pairs", "count"),
    Column("tied by one", "count"),
    share("agreement"),
    _TAU,
)


def headline(summary: Summary) -> str:
    """What was judged, and how intervals were made, in a line."""
    labellers = len({(work.labeller, work.source) for work in summary.work})
    return (
        f"{summary.judgements:,} judgements of {summary.prompts:,} prompts by {labellers} "
        f"labeller{'' if labellers == 1 else 's'}. Intervals are 95%, by {summary.bootstrap.resamples:,} bootstrap "
        f"resamples of whole prompts (none from fewer than {FEWEST_PROMPTS} prompts)."
    )


def summary_tables(summary: Summary) -> list[Table]:
    """All tables that the judgements give, those on labellers first."""
    return [*_on_labellers(summary), *_on_models(summary)]


def _on_labellers(summary: Summary) -> Iterator[Table]:
    work = [(w.title, w.task, w.judgements, w.skipped, w.flagged, w.seconds) for w in summary.work]
    columns = (
        Column("labeller"),
        Column("task"),
        Column("judgements", "count"),
        Column("skipped", "count"),
        Column("flagged", "count"),
        Column("median time", "seconds"),
    )
    yield Table(
        "Labellers", "Time is that of a judgement, without idle time; skipped ones do not count.", columns, work
    )
    yield from _agreement(summary)
    if summary.alphas:
        yield _alphas(summary)
    if summary.biases:
        yield _biases(summary)
    if summary.positions:
        yield _positions(summary)


def _agreement(summary: Summary) -> Iterator[Table]:
    pairs = _people_pairs(summary)
    if summary.people is not None:
        yield Table(
            "Agreement between people",
            "Agreement: of the pairs of answers that both order, the share that both order alike; 50% is chance. "
            "Tau-b: 1 is the same ranking, 0 chance, -1 the reverse; the mean over prompts.",
            (Column("labeller"), Column("with"), *_AGREE),
            [_agreement_row(row) for row in ([summary.people] if len(pairs) > 1 else []) + pairs[:MOST_PAIRS]],
            _left(len(pairs)),
        )
    judges = [row for row in summary.judges if row.prompts]
    if judges:
        people = [] if summary.people is None else [summary.people]
        yield Table(
            "Agreement of judges with people",
            "Each labeller that is no person, with all people who judged the same pairs. People with one another are "
            "what to compare it with.",
            (Column("labeller"), Column("with"), *_AGREE),
            [_agreement_row(row) for row in [*judges, *people]],
        )
    if summary.known:
        yield Table(
            "Agreement with the known rankings",
            "Of the prompts whose ranking is held to be right; 50% is chance.",
            (Column("labeller"), *_AGREE),
            [(row.one, *_agreement_row(row)[2:]) for row in summary.known],
        )


def _people_pairs(summary: Summary) -> list[Agreement]:
    people = {work.title for work in summary.work if work.source == "person"}
    return [row for row in summary.labellers if row.one in people and row.other in people]


def _left(pairs: int) -> list[str]:
    return [f"The {MOST_PAIRS} pairs of {pairs} with the most prompts in common."] if pairs > MOST_PAIRS else []


def _agreement_row(row: Agreement) -> tuple[Cell, ...]:
    return (row.one, row.other, row.prompts, row.pairs, row.tied_by_one, row.agreement, row.tau)


def _alphas(summary: Summary) -> Table:
    return Table(
        "Krippendorff's alpha",
        "1 is agreement, 0 is chance. Ranks count from 0 (best) to 1 (worst), tied ones in the middle. Ordinal for "
        "ranks, preferences and numbers, nominal for yes and no.",
        (
            Column("rating"),
            Column("level"),
            Column("labellers"),
            Column("number", "count"),
            Column("units", "count"),
            Column("alpha", "number", 0.0, (-1.0, 1.0)),
        ),
        [(row.of, row.level, row.who, row.labellers, row.units, row.alpha) for row in summary.alphas],
        ["A dash: all gave the same value, so that there is no chance to compare agreement with."]
        if any(row.alpha.value is None for row in summary.alphas)
        else [],
    )


def _biases(summary: Summary) -> Table:
    return Table(
        "Position and length bias",
        "Of the pairs that are ordered: how often the answer shown earlier wins, and how often the longer one (in "
        "characters); 50% is none. Longer answers may be better ones, too: length is a bias as far as they are not.",
        (
            Column("labeller"),
            share("earlier wins"),
            Column("pairs", "count"),
            share("longer wins"),
            Column("pairs", "count"),
        ),
        [(row.who, row.earlier, row.earlier.count, row.longer, row.longer.count) for row in summary.biases],
    )


def _positions(summary: Summary) -> Table:
    return Table(
        "Best answer by position",
        "How often the answer shown at a position is the best of those shown; tied ones share it. Chance: 1 / answers.",
        (
            Column("answers shown", "count"),
            Column("position", "count"),
            Column("judgements", "count"),
            share("best", None),
        ),
        [(row.shown, row.position, row.best.count, row.best) for row in summary.positions],
    )


def _on_models(summary: Summary) -> Iterator[Table]:
    if summary.ratings is not None:
        yield _models(summary.ratings)
        if 2 < len(summary.ratings.models) <= MOST_MODELS:
            yield _matrix(summary.ratings)
        yield Table(
            "Model against model",
            "Of the comparisons of the two models' answers; a tie is half of a win.",
            (
                Column("model"),
                Column("against"),
                Column("won", "count"),
                Column("tied", "count"),
                Column("lost", "count"),
                share("win rate"),
            ),
            [(row.model, row.other, row.wins, row.ties, row.losses, row.win_rate) for row in summary.ratings.pairs],
        )
    numbers = [row for row in summary.answers if row.level == "ordinal"]
    if numbers:
        yield Table(
            "Ratings by model",
            "The mean over labellers and answers.",
            (Column("question"), Column("model"), Column("ratings", "count"), Column("mean", "number")),
            [(row.question, row.model, row.mean.count, row.mean) for row in numbers],
        )
    if len(numbers) < len(summary.answers):
        yield Table(
            "Yes by model",
            "The share of the answers to each question that are yes.",
            (Column("question"), Column("model"), Column("answers", "count"), share("yes", None)),
            [(row.question, row.model, row.mean.count, row.mean) for row in summary.answers if row.level == "nominal"],
        )


def _models(ratings: Ratings) -> Table:
    groups = {row.group for row in ratings.models if row.group is not None}
    columns = [
        Column("model"),
        Column("comparisons", "count"),
        share("win rate"),
        Column("Bradley-Terry", "points", 1000.0),
        Column("Elo", "points", 1000.0),
    ]
    several = len(groups) > 1
    rows = [
        (row.model, row.comparisons, row.win_rate, row.bradley_terry, row.elo, *((row.group,) if several else ()))
        for row in ratings.models
    ]
    return Table(
        "Models",
        "Each pair of two models' answers is a comparison, whoever judged it; a tie is half a win. Bradley-Terry: "
        f"maximum likelihood; Elo: K = {ELO_STEP:.0f}, the mean over random orders. Both have a mean of 1000; 400 "
        "points are odds of 10 to 1.",
        [*columns, Column("group", "count")] if several else columns,
        rows,
        [*_unrated(ratings.models), *([_GROUPS] if several else [])],
    )


def _matrix(ratings: Ratings) -> Table:
    names = [row.model for row in ratings.models]
    rates: dict[tuple[str, str], float | None] = {}
    for row in ratings.pairs:
        rate = row.win_rate.value
        rates[row.model, row.other], rates[row.other, row.model] = rate, None if rate is None else 1 - rate
    return Table(
        "Win rates",
        "How often the row's model wins against the column's; a tie is half of a win, a dash: never compared.",
        [Column("model"), *(Column(f"against {name}", "share") for name in names)],
        [(name, *(None if name == other else rates.get((name, other)) for other in names)) for name in names],
    )


_GROUPS = "Ratings of different groups cannot be compared: no chain of comparisons connects them both ways."


def _unrated(models: Sequence[ModelRating]) -> list[str]:
    return [f"{row.model} has no rating: it {row.why}, so that no finite one fits." for row in models if row.why]


def consensus_notes(consensus: Consensus, path: str) -> list[str]:
    """What was written for the reward model, from whose judgements, by which rule, and what was left out."""
    used = ", ".join("people" if source == "person" else source for source in consensus.sources)
    count = len(consensus.rows)
    notes = [
        f"{path}: {count:,} ranking{'' if count == 1 else 's'} from judgements of {used}; in "
        f"{consensus.contradicted:,} of them labellers contradict each other.",
        f"Rule: {RULE}",
    ]
    left = "; ".join(f"{why}: {number:,}" for why, number in sorted(consensus.left_out.items()))
    return notes + ([f"Left out: {left}."] if left else [])
