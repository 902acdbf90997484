"""All that judgements say: of the labellers, of how far they agree, and of the models they judged."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rlhf_dist.labelling.agreement import (
    Agreement,
    Alpha,
    alphas,
    among_people,
    between_labellers,
    with_known,
    with_people,
)
from rlhf_dist.labelling.bias import Bias, PositionWins, biases, wins_by_position
from rlhf_dist.labelling.candidates import Ranking
from rlhf_dist.labelling.estimates import CONFIDENCE, Bootstrap
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.preferences import Labeller, known_signs, labeller_of, preferences_of, signs_by_labeller
from rlhf_dist.labelling.ratings import ModelAnswers, Ratings, answers_by_model, ratings_of


@dataclass(frozen=True)
class Work:
    """What one labeller did of one task.

    Attributes:
        labeller, source: who.
        task: which.
        judgements: that hold, skipped ones included.
        skipped, flagged: how many of these.
        seconds: median time of those that were not skipped; None where none took any.
    """

    labeller: str
    source: str
    task: str
    judgements: int
    skipped: int
    flagged: int
    seconds: float | None

    @property
    def title(self) -> str:
        """Who, as tables say it."""
        return Labeller(self.labeller, self.source).title


@dataclass(frozen=True)
class Summary:
    """All of it.

    Attributes:
        judgements, prompts: how many hold, and of how many prompts.
        bootstrap: how intervals were made.
        work: by labeller and task.
        people: people with one another; None where no two judged the same.
        judges: each labeller that is no person, with people.
        labellers: each two labellers.
        known: each labeller with the known rankings.
        alphas: of ranks, preferences and questions.
        biases: of all labellers together, and each.
        positions: how answers fare by where they are shown.
        ratings: of the models; None where none were compared.
        answers: to questions, by model.
    """

    judgements: int
    prompts: int
    bootstrap: Bootstrap
    work: list[Work]
    people: Agreement | None
    judges: list[Agreement]
    labellers: list[Agreement]
    known: list[Agreement]
    alphas: list[Alpha]
    biases: list[Bias]
    positions: list[PositionWins]
    ratings: Ratings | None
    answers: list[ModelAnswers]

    def to_json(self) -> dict[str, object]:
        """For scripts: every figure with its interval and its count; null for what the data does not determine."""
        return {"confidence": CONFIDENCE, **asdict(self)}


def summarize(judgements: Sequence[Judgement], known: Mapping[str, Ranking], bootstrap: Bootstrap) -> Summary:
    """The summary of judgements that hold.

    Args:
        judgements: any number of labellers' and tasks.
        known: the rankings that are held to be right, by prompt; of those that calibrate labellers.
        bootstrap: how intervals are made.
    """
    preferences = preferences_of(judgements)
    signs = signs_by_labeller(preferences)
    return Summary(
        len(judgements),
        len({one.prompt.id for one in judgements}),
        bootstrap,
        _work(judgements),
        among_people(signs, bootstrap),
        with_people(signs, bootstrap),
        between_labellers(signs, bootstrap),
        with_known(signs, known_signs(judgements, known), bootstrap),
        alphas(judgements, preferences, bootstrap),
        biases(preferences, bootstrap),
        wins_by_position(judgements, bootstrap),
        ratings_of(preferences, bootstrap),
        answers_by_model(judgements, bootstrap),
    )


def _work(judgements: Sequence[Judgement]) -> list[Work]:
    found: dict[tuple[Labeller, str], list[Judgement]] = defaultdict(list)
    for one in judgements:
        found[labeller_of(one), one.task].append(one)
    rows = []
    for (labeller, task), done in sorted(found.items()):
        seconds = [one.seconds for one in done if one.seconds and not one.skipped]
        rows.append(
            Work(
                labeller.name,
                labeller.source,
                task,
                len(done),
                sum(bool(one.skipped) for one in done),
                sum(bool(one.flag) for one in done),
                statistics.median(seconds) if seconds else None,
            )
        )
    return rows
