"""How far labellers agree: on pairs, on rankings (Kendall's tau-b), and beyond chance (Krippendorff's alpha)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import evalica
import numpy as np
import numpy.typing as npt
import pandas as pd

from rlhf_dist.labelling.estimates import Bootstrap, Estimate, Floats
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.pair_counts import PairCounts, Signs, count_prompts
from rlhf_dist.labelling.preferences import AnswerKey, Labeller, Preference, key_of, labeller_of, places

Level = Literal["nominal", "ordinal"]
Unit = tuple[str, object]
"""What was rated: the prompt's id, and what of the prompt."""


@dataclass(frozen=True)
class Agreement:
    """How far two labellers, or two kinds of them, agree.

    Attributes:
        one, other: who.
        prompts: that both judged.
        pairs: of answers that both judged.
        tied_by_one: of these, how many one of the two ties and the other orders.
        agreement: share of the pairs that both order, which both order alike; 0.5 is chance.
        tau: Kendall's tau-b, the mean over prompts on which both order something; 0 is chance.
    """

    one: str
    other: str
    prompts: int
    pairs: int
    tied_by_one: int
    agreement: Estimate
    tau: Estimate


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha.

    Attributes:
        of: what was judged.
        who: which labellers.
        level: of measurement: "ordinal" for ranks and numbers, "nominal" for yes and no.
        units: how many things two or more of the labellers judged.
        labellers: how many judged any of these.
        alpha: 1 is agreement, 0 is chance; without a value where all gave the same one.
    """

    of: str
    who: str
    level: Level
    units: int
    labellers: int
    alpha: Estimate


def agreement(one: str, other: str, both: Iterable[tuple[Signs, Signs]], bootstrap: Bootstrap) -> Agreement:
    """How far some pairs of labellers agree, taken together.

    Args:
        one, other: how the two, or the two kinds of them, are called.
        both: what the two of each pair of labellers said.
        bootstrap: over prompts.
    """
    counts = count_prompts(both)
    taus = {prompt: [c.tau for c in found if c.tau is not None] for prompt, found in counts.items()}
    every = sum((count for found in counts.values() for count in found), PairCounts())
    return Agreement(
        one,
        other,
        len(counts),
        every.pairs,
        every.tied_by_one,
        bootstrap.share(
            {p: (sum(c.alike for c in found), sum(c.ordered for c in found)) for p, found in counts.items()}
        ),
        bootstrap.ratio({prompt: (sum(found), len(found)) for prompt, found in taus.items()}),
    )


def between_labellers(signs: Mapping[Labeller, Signs], bootstrap: Bootstrap) -> list[Agreement]:
    """Each two labellers who judged the same pairs, those with the most prompts in common first."""
    rows = [
        agreement(one.title, other.title, [(signs[one], signs[other])], bootstrap)
        for one, other in combinations(signs, 2)
    ]
    return sorted((row for row in rows if row.pairs), key=lambda row: -row.prompts)


def among_people(signs: Mapping[Labeller, Signs], bootstrap: Bootstrap) -> Agreement | None:
    """People with one another, all pairs of them together; None where no two judged the same."""
    people = [labeller for labeller in signs if labeller.is_person]
    both = [(signs[one], signs[other]) for one, other in combinations(people, 2)]
    row = agreement("people", "one another", both, bootstrap)
    return row if row.pairs else None


def with_people(signs: Mapping[Labeller, Signs], bootstrap: Bootstrap) -> list[Agreement]:
    """Each labeller that is no person with all people together."""
    people = [labeller for labeller in signs if labeller.is_person]
    judges = [labeller for labeller in signs if not labeller.is_person]
    return [
        agreement(judge.title, "people", [(signs[judge], signs[person]) for person in people], bootstrap)
        for judge in judges
    ]


def with_known(signs: Mapping[Labeller, Signs], known: Signs, bootstrap: Bootstrap) -> list[Agreement]:
    """Each labeller with the rankings that are held to be right, on the prompts that have one."""
    rows = [agreement(labeller.title, "known", [(said, known)], bootstrap) for labeller, said in signs.items()]
    return [row for row in rows if row.pairs]


def rated_ranks(judgements: Iterable[Judgement]) -> dict[Labeller, dict[Unit, float]]:
    """The rank that each labeller's ranking gives each answer, from 0, the best, to 1, the worst.

    Tied answers have the mean of the ranks they share. Rankings of two at a time are left to
    :func:`rated_preferences`, as a rank means nothing without the answers it is among: only rankings of the same
    answers are comparable, and of these the set that most labellers ranked is taken.
    """
    rankings: dict[str, dict[Labeller, tuple[frozenset[AnswerKey], dict[AnswerKey, float]]]] = defaultdict(dict)
    for judgement in judgements:
        if len(judgement.answers) > 1 and judgement.ranking and judgement.task != "compare":
            ranks = _ranks(judgement)
            rankings[judgement.prompt.id][labeller_of(judgement)] = (frozenset(ranks), ranks)
    rated: dict[Labeller, dict[Unit, float]] = defaultdict(dict)
    for prompt, found in rankings.items():
        shown = [answers for answers, _ in found.values()]
        most = max(shown, key=lambda answers: (shown.count(answers), sorted(answers)))
        for labeller, (answers, ranks) in found.items():
            if answers == most:
                rated[labeller].update({(prompt, answer): rank for answer, rank in ranks.items()})
    return rated


def _ranks(judgement: Judgement) -> dict[AnswerKey, float]:
    place = places(judgement.ranking)
    keys = {answer.id: key_of(answer) for answer in judgement.answers}
    ranks, before, last = {}, 0, max(len(keys) - 1, 1)
    for tied in judgement.ranking:
        for name in tied:
            ranks[keys[name]] = (before + (len(tied) - 1) / 2) / last
        before += len(tied)
    assert place.keys() == keys.keys(), "a ranking ranks all answers"
    return ranks


def rated_preferences(preferences: Iterable[Preference], compared: set[str]) -> dict[Labeller, dict[Unit, float]]:
    """The preference that each labeller gave each pair of a prompt, with its strength where it has one.

    Args:
        preferences: all.
        compared: ids of the prompts of which answers were shown two at a time.
    """
    rated: dict[Labeller, dict[Unit, float]] = defaultdict(dict)
    for one in preferences:
        if one.prompt in compared:
            strength = 1 if one.strength is None else one.strength
            rated[one.labeller][one.prompt, one.pair] = float(one.oriented * strength)
    return rated


def rated_question(judgements: Iterable[Judgement], question: str) -> dict[Labeller, dict[Unit, float]]:
    """The rating that each labeller gave each answer; yes is 1 and no is 0."""
    rated: dict[Labeller, dict[Unit, float]] = defaultdict(dict)
    for judgement in judgements:
        if judgement.skipped:
            continue
        for answer in judgement.answers:
            value = judgement.ratings.get(answer.id, {}).get(question)
            if value is not None:
                rated[labeller_of(judgement)][judgement.prompt.id, key_of(answer)] = float(value)
    return rated


def alpha(
    of: str, who: str, level: Level, rated: Mapping[Labeller, Mapping[Unit, float]], bootstrap: Bootstrap
) -> Alpha | None:
    """Krippendorff's alpha of what labellers gave; None where no two gave a value to the same unit.

    Args:
        of, who: what was judged, and by whom, as the table says it.
        level: of measurement.
        rated: by labeller and unit.
        bootstrap: over prompts.
    """
    table, prompts = _table(rated)
    units, labellers = table.shape[1], int((~np.isnan(table)).any(1).sum())
    if not units:
        return None
    if len(np.unique(table[~np.isnan(table)])) == 1:
        return Alpha(of, who, level, units, labellers, Estimate(None, None, None, units))
    value = float(evalica.alpha(pd.DataFrame(table), distance=level).alpha)
    pieces = _Coincidences.of(table.T, prompts)
    figure = bootstrap.statistic(value, pieces.prompts, units, lambda weights: pieces.alphas(weights, level))
    return Alpha(of, who, level, units, labellers, figure)


def _table(rated: Mapping[Labeller, Mapping[Unit, float]]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Values ``[labellers, units]``, NaN where there is none, of units with two or more; each unit's prompt, from 0."""
    units = {
        unit: place for place, unit in enumerate(dict.fromkeys(unit for given in rated.values() for unit in given))
    }
    table = np.full((len(rated), len(units)), np.nan)
    for row, given in enumerate(rated.values()):
        for unit, value in given.items():
            table[row, units[unit]] = value
    kept = (~np.isnan(table)).sum(0) > 1
    prompts = [prompt for (prompt, _), keep in zip(units, kept, strict=True) if keep]
    return table[:, kept], pd.factorize(np.array(prompts, dtype=object))[0].astype(np.int64)


@dataclass(frozen=True)
class _Coincidences:
    """The coincidence matrix (Krippendorff 2018, section 12.3) of each prompt, of which that of a resample is the sum.

    Attributes:
        values: how many different ones there are, V.
        prompts: how many.
        prompt, cell, weight: ``[E]``, the prompt, the place in the flat V x V matrix and what it adds there.
    """

    values: int
    prompts: int
    prompt: npt.NDArray[np.int64]
    cell: npt.NDArray[np.int64]
    weight: Floats

    @classmethod
    def of(cls, table: Floats, prompts: npt.NDArray[np.int64]) -> _Coincidences:
        """Of a table ``[units, labellers]``, NaN where there is no value, and the prompt of each unit."""
        codes, values = pd.factorize(table.ravel(), sort=True)
        codes = codes.reshape(table.shape)
        given = (codes >= 0).sum(1)
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]] = []
        for one in range(table.shape[1]):
            for other in range(table.shape[1]):
                both = (codes[:, one] >= 0) & (codes[:, other] >= 0)
                if one != other and both.any():
                    cells = codes[both, one] * len(values) + codes[both, other]
                    parts.append((prompts[both], cells, 1.0 / (given[both] - 1)))
        prompt, cell, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(len(values), int(prompts.max()) + 1, prompt, cell, weight)

    def alphas(self, weights: Floats, level: Level) -> Floats:
        """Alpha of each resample ``[chunk]`` with such weights ``[chunk, prompts]``; NaN where all values are one."""
        found = []
        for drawn in weights:
            size = self.values**2
            flat: Floats = np.bincount(self.cell, self.weight * drawn[self.prompt], size).astype(np.float64)
            found.append(_alpha_of(flat.reshape(self.values, self.values), level))
        return np.array(found)


def _alpha_of(coincidences: Floats, level: Level) -> float:
    margins = coincidences.sum(0)
    middles = np.cumsum(margins) - margins / 2
    distances = (middles[:, None] - middles) ** 2 if level == "ordinal" else 1.0 - np.eye(len(margins))
    expected = margins @ distances @ margins / (margins.sum() - 1)
    return float(1 - (coincidences * distances).sum() / expected) if expected else math.nan


def alphas(judgements: Sequence[Judgement], preferences: Sequence[Preference], bootstrap: Bootstrap) -> list[Alpha]:
    """Alpha of ranks, of preferences between two, and of each question: among people, and all where others judged."""
    compared = {one.prompt.id for one in judgements if one.task == "compare"}
    rated: list[tuple[str, Level, dict[Labeller, dict[Unit, float]]]] = [
        ("rank", "ordinal", rated_ranks(judgements)),
        ("preference between two", "ordinal", rated_preferences(preferences, compared)),
    ]
    for question, level in questions_of(judgements).items():
        rated.append((question, level, rated_question(judgements, question)))
    found = []
    for of, level, values in rated:
        people = {labeller: given for labeller, given in values.items() if labeller.is_person}
        groups = {"people": people} if len(people) == len(values) else {"people": people, "all": values}
        found += [alpha(of, who, level, group, bootstrap) for who, group in groups.items()]
    return [row for row in found if row is not None]


def questions_of(judgements: Iterable[Judgement]) -> dict[str, Level]:
    """The questions that were answered, in order: "nominal" those of yes and no, "ordinal" those of numbers."""
    levels: dict[str, Level] = {}
    for judgement in judgements:
        for given in judgement.ratings.values():
            for question, value in given.items():
                number: Level = "nominal" if isinstance(value, bool) else "ordinal"
                levels[question] = "ordinal" if levels.get(question) == "ordinal" else number
    return levels
