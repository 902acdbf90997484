"""Which model's answers people prefer: win rates, Bradley-Terry and Elo ratings, and the ratings of each question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import evalica
import numpy as np
import numpy.typing as npt
import pandas as pd

from rlhf_dist.labelling.agreement import Level, questions_of
from rlhf_dist.labelling.estimates import Bootstrap, Estimate, Floats, interval
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.preferences import Preference, key_of, labeller_of

CENTRE = 1000.0  # mean rating of the models that are rated together
SCALE = 400.0  # so many points more are odds of 10 to 1
ELO_STEP = 16.0  # K: how far one comparison may move a rating
ELO_ORDERS = 2  # random orders of the comparisons whose ratings are averaged
_TOLERANCE, _LIMIT = 1e-9, 100_000

WON, TIED, LOST = (evalica.Winner.X, evalica.Winner.Draw, evalica.Winner.Y)


@dataclass(frozen=True)
class ModelRating:
    """How one model fares against the others.

    Attributes:
        model: its name.
        comparisons: of its answers with other models', over all labellers.
        win_rate: share of these that it won; a tie is half of one.
        bradley_terry: rating by maximum likelihood, 400 log10 of the strength; without a value where that is infinite.
        elo: rating by updates after each comparison; without a value where Bradley-Terry has none.
        group: models are rated together, and comparable, within one group; None where it is not rated.
        why: it is not rated; "" where it is.
    """

    model: str
    comparisons: int
    win_rate: Estimate
    bradley_terry: Estimate
    elo: Estimate
    group: int | None
    why: str


@dataclass(frozen=True)
class HeadToHead:
    """Two models against each other.

    Attributes:
        model, other: their names.
        wins, ties, losses: of the first.
        win_rate: of the first; a tie is half of a win.
    """

    model: str
    other: str
    wins: int
    ties: int
    losses: int
    win_rate: Estimate


@dataclass(frozen=True)
class ModelAnswers:
    """What labellers answered to one question about one model's answers.

    Attributes:
        model: its name.
        question: its name.
        level: "nominal" where it is yes or no.
        mean: of the numbers, or the share of yes; over all labellers and answers.
    """

    model: str
    question: str
    level: Level
    mean: Estimate


@dataclass(frozen=True)
class Ratings:
    """All of it.

    Attributes:
        models: the best first.
        pairs: those that were compared.
    """

    models: list[ModelRating]
    pairs: list[HeadToHead]


@dataclass(frozen=True)
class _Games:
    """Comparisons between models, as arrays of length C.

    Attributes:
        names: of the models.
        prompts: how many there are.
        prompt: of each comparison.
        one, other: numbers of the models.
        result: evalica's: 1 the first won, 2 the second, 0 a tie.
    """

    names: list[str]
    prompts: int
    prompt: npt.NDArray[np.int64]
    one: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    result: npt.NDArray[np.int64]

    @classmethod
    def of(cls, preferences: Iterable[Preference]) -> _Games:
        rows: list[tuple[str, str, str, evalica.Winner]] = []
        for one in preferences:
            model, other = one.earlier.model, one.later.model
            if model is not None and other is not None and model != other:
                rows.append((one.prompt, model, other, {1: WON, 0: TIED, -1: LOST}[one.sign]))
        names = sorted({name for row in rows for name in row[1:3]})
        number = {name: place for place, name in enumerate(names)}
        prompts = {name: place for place, name in enumerate(dict.fromkeys(row[0] for row in rows))}
        columns = [(prompts[row[0]], number[row[1]], number[row[2]], int(row[3])) for row in rows]
        table = np.array(columns, dtype=np.int64).reshape(-1, 4)
        return cls(names, len(prompts), *table.T)

    def among(self, models: Sequence[int]) -> _Games:
        """The comparisons of some of the models with one another, these numbered anew; prompts keep their numbers."""
        kept = np.isin(self.one, models) & np.isin(self.other, models)
        number = np.full(len(self.names), -1)
        number[list(models)] = np.arange(len(models))
        names = [self.names[model] for model in models]
        return _Games(
            names,
            self.prompts,
            self.prompt[kept],
            number[self.one[kept]],
            number[self.other[kept]],
            self.result[kept],
        )

    def counts(self, weights: Floats) -> Floats:
        """How often each result is between each two models, ``[M, M, 3]``, with weights ``[prompts]``."""
        size = len(self.names)
        cells = (self.one * size + self.other) * 3 + self.result
        flat: Floats = np.bincount(cells, weights[self.prompt], size * size * 3).astype(np.float64)
        return flat.reshape(size, size, 3)


def ratings_of(preferences: Sequence[Preference], bootstrap: Bootstrap) -> Ratings | None:
    """Ratings of the models whose answers were compared; None where none were.

    Every pair of answers of two models is a comparison, whoever judged it; a tie is half a win of each, as in Elo
    ratings. A model that won, or lost, all its comparisons with the others has no finite rating, and models that no
    chain of comparisons connects both ways cannot be rated together: they are in different groups.
    """
    games = _Games.of(preferences)
    if not games.names:
        return None
    groups = _rateable(games.counts(np.ones(games.prompts)))
    found: dict[int, tuple[Estimate, Estimate, int]] = {}
    for number, group in enumerate([group for group in groups if len(group) > 1], 1):
        part = games.among(group)
        for model, bradley_terry, elo in zip(group, *_rated(part, bootstrap), strict=True):
            found[model] = (bradley_terry, elo, number)
    models = [_rating(games, model, found.get(model), bootstrap) for model in range(len(games.names))]
    models.sort(key=lambda row: (row.group or 0, -(row.bradley_terry.value or 0.0), -(row.win_rate.value or 0.0)))
    order = [games.names.index(row.model) for row in models]
    return Ratings(models, _pairs(games, order, bootstrap))


def _rating(
    games: _Games, model: int, rated: tuple[Estimate, Estimate, int] | None, bootstrap: Bootstrap
) -> ModelRating:
    mine = (games.one == model) | (games.other == model)
    won = np.where(games.one == model, games.result == WON, games.result == LOST) + 0.5 * (games.result == TIED)
    count = int(mine.sum())
    win_rate = bootstrap.share(_by_prompt(games.prompt[mine], won[mine]))
    if rated is not None:
        return ModelRating(games.names[model], count, win_rate, *rated, "")
    nothing = Estimate(None, None, None, count)
    why = {1.0: "won every comparison", 0.0: "lost every comparison"}.get(
        win_rate.value if win_rate.value is not None else -1.0, "beat all of some models and lost all to the others"
    )
    return ModelRating(games.names[model], count, win_rate, nothing, nothing, None, why)


def _by_prompt(prompt: npt.NDArray[np.int64], value: Floats) -> dict[str, tuple[float, float]]:
    sums, counts = np.bincount(prompt, value), np.bincount(prompt)
    return {str(number): (float(sums[number]), float(counts[number])) for number in np.flatnonzero(counts)}


def _pairs(games: _Games, order: Sequence[int], bootstrap: Bootstrap) -> list[HeadToHead]:
    rows = []
    for one, other in combinations(order, 2):
        met = games.among([one, other])
        if len(met.prompt):
            won = np.where(met.one == 0, met.result == WON, met.result == LOST)
            tied = met.result == TIED
            counts = int(won.sum()), int(tied.sum()), int((~won & ~tied).sum())
            rate = bootstrap.share(_by_prompt(met.prompt, won + 0.5 * tied))
            rows.append(HeadToHead(games.names[one], games.names[other], *counts, rate))
    return rows


def _reaches(counts: Floats) -> npt.NDArray[np.bool_]:
    """``[M, M]``: whether from one model a chain of wins and ties leads to the other."""
    beat = (counts[..., WON] + counts[..., TIED] + counts[..., LOST].T + counts[..., TIED].T) > 0
    reached = beat | np.eye(len(beat), dtype=bool)
    for middle in range(len(beat)):
        reached |= reached[:, middle, None] & reached[None, middle]
    return reached


def _rateable(counts: Floats) -> list[list[int]]:
    """The models in groups in which each reaches each: there, and only there, the likelihood has a finite maximum."""
    reached = _reaches(counts)
    both = reached & reached.T
    return [np.flatnonzero(row).tolist() for number, row in enumerate(both) if row.argmax() == number]


def _rated(games: _Games, bootstrap: Bootstrap) -> tuple[list[Estimate], list[Estimate]]:
    """Bradley-Terry and Elo ratings of models that can be rated together."""
    ones = np.ones(games.prompts)
    generator = np.random.default_rng(bootstrap.seed)
    drawn = [w for chunk in bootstrap.weights(games.prompts) for w in chunk]
    played = np.bincount(games.one, minlength=len(games.names)) + np.bincount(games.other, minlength=len(games.names))
    bradley_terry = _bradley_terry(games, ones), np.array([_bradley_terry(games, weights) for weights in drawn])
    elo = _elo(games, ones, generator), np.array([_elo(games, weights, generator) for weights in drawn])
    prompts = len(np.unique(games.prompt))

    def estimates(values: Floats, resampled: Floats) -> list[Estimate]:
        return [
            interval(float(values[model]), resampled[:, model], prompts, int(played[model]))
            for model in range(len(games.names))
        ]

    return estimates(*bradley_terry), estimates(*elo)


def _bradley_terry(games: _Games, weights: Floats) -> Floats:
    """Ratings ``[M]``; those of a resample in which a model won, or lost, all are infinite, or NaN where unknown."""
    counts = games.counts(weights)
    reached = _reaches(counts)
    if not reached.all():
        above, below = reached.all(1), reached.all(0)
        return np.where(above & ~below, np.inf, np.where(below & ~above, -np.inf, np.nan))
    one, other, result = np.nonzero(counts)
    fit = evalica.bradley_terry(  # its newman(), with Davidson's ties, does not converge where ties are few
        one,
        other,
        result.tolist(),
        index=pd.RangeIndex(len(counts)),
        weights=counts[one, other, result],
        tolerance=_TOLERANCE,
        limit=_LIMIT,
    )
    logs = np.log10(fit.scores.sort_index().to_numpy())
    return CENTRE + SCALE * (logs - logs.mean())


def _elo(games: _Games, weights: Floats, generator: np.random.Generator) -> Floats:
    """Ratings ``[M]``, the mean over random orders."""
    repeated = np.repeat(np.arange(len(games.prompt)), weights[games.prompt].astype(int))
    total = np.zeros(len(games.names))
    for _ in range(ELO_ORDERS):
        order = generator.permutation(repeated)
        fit = evalica.elo(
            games.one[order],
            games.other[order],
            games.result[order].tolist(),
            index=pd.RangeIndex(len(games.names)),
            initial=CENTRE,
            scale=SCALE,
            k=ELO_STEP,
        )
        total += fit.scores.sort_index().to_numpy()
    return total / ELO_ORDERS


def answers_by_model(judgements: Sequence[Judgement], bootstrap: Bootstrap) -> list[ModelAnswers]:
    """For each question and model, the mean of what labellers answered; what one said last of an answer counts."""
    given: dict[tuple[str, str], dict[tuple[object, ...], float]] = defaultdict(dict)
    levels = questions_of(judgements)
    for judgement in judgements:
        for answer in judgement.answers if not judgement.skipped else ():
            for question, value in judgement.ratings.get(answer.id, {}).items():
                if answer.model is not None:
                    who = judgement.prompt.id, labeller_of(judgement), key_of(answer)
                    given[question, answer.model][who] = float(value)
    models = sorted({model for _, model in given})
    return [
        ModelAnswers(model, question, level, _mean(level, given[question, model], bootstrap))
        for question, level in levels.items()
        for model in models
        if given.get((question, model))
    ]


def _mean(level: Level, given: Mapping[tuple[object, ...], float], bootstrap: Bootstrap) -> Estimate:
    return bootstrap.share(_sums(given)) if level == "nominal" else bootstrap.ratio(_sums(given))


def _sums(given: Mapping[tuple[object, ...], float]) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for who, value in given.items():
        total, count = sums[str(who[0])]
        sums[str(who[0])] = (total + value, count + 1)
    return dict(sums)
