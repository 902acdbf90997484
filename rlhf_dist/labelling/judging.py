"""Judgements by what is no person: from scores of the answers, or from verdicts on pairs of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum

from rlhf_dist.labelling.candidates import Answer, Candidates, Ranking
from rlhf_dist.labelling.formats.contents import made_id
from rlhf_dist.labelling.judgements import Judgement, Source, Task

NO_VERDICT = "no verdict"  # why a prompt was skipped whose judge said nothing that can be read
Pair = tuple[str, str]
"""Ids of two answers."""


class Verdict(Enum):
    """What a judge says of two answers."""

    FIRST = "A"
    SECOND = "B"
    TIE = "TIE"

    @property
    def swapped(self) -> Verdict:
        """The same verdict, with the answers in the other order."""
        return {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST}.get(self, self)


def both_ways(there: Verdict | None, back: Verdict | None) -> Verdict | None:
    """The verdict on two answers that were shown in both orders: a tie, where it turned with the order.

    Args:
        there: on the answers in their order; None where it cannot be read.
        back: on the same answers in the other order.
    """
    if there is None or back is None:
        return None
    return there if there == back.swapped else Verdict.TIE


def ranking_by_scores(answers: Sequence[Answer], scores: Sequence[float]) -> Ranking:
    """The ranking by score, the highest first; equal scores tie."""
    levels: dict[float, list[str]] = {}
    for answer, score in zip(answers, scores, strict=True):
        levels.setdefault(score, []).append(answer.id)
    return tuple(tuple(levels[score]) for score in sorted(levels, reverse=True))


def ranking_by_pairs(answers: Sequence[Answer], verdicts: Mapping[Pair, Verdict | None]) -> Ranking:
    """The ranking by how many others an answer beats, a tie counting half (Copeland's rule); equal counts tie.

    Args:
        answers: to be ranked.
        verdicts: on each pair of them.

    Returns:
        the ranking; empty where a verdict is missing.
    """
    points = dict.fromkeys((answer.id for answer in answers), 0.0)
    for (first, second), verdict in verdicts.items():
        if verdict is None:
            return ()
        points[first] += {Verdict.FIRST: 1.0, Verdict.TIE: 0.5, Verdict.SECOND: 0.0}[verdict]
        points[second] += {Verdict.FIRST: 0.0, Verdict.TIE: 0.5, Verdict.SECOND: 1.0}[verdict]
    return ranking_by_scores(answers, [points[answer.id] for answer in answers])


def tasks_of(row: Candidates, task: Task) -> list[tuple[Answer, ...]]:
    """What is judged of a prompt: all of its answers at once, or each pair of them. Nothing of a single answer."""
    if task == "compare":
        return list(itertools.combinations(row.answers, 2))
    return [row.answers] if len(row.answers) > 1 else []


def judgement_id(row: Candidates, answers: Sequence[Answer], task: Task, labeller: str) -> str:
    """The id of a judge's judgement: the same each time, so none is written twice."""
    return made_id("judge", labeller, task, row.prompt.id, [answer.id for answer in answers])


def judged(
    row: Candidates, answers: Sequence[Answer], task: Task, labeller: str, source: Source, ranking: Ranking
) -> Judgement:
    """The judgement of a judge; without a ranking, the prompt is skipped."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Judgement(
        judgement_id(row, answers, task, labeller),
        task,
        row.prompt,
        tuple(answers),
        labeller,
        source,
        now,
        ranking=ranking,
        skipped="" if ranking else NO_VERDICT,
    )
