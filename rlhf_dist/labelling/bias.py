"""Position bias and length bias: what should not decide a judgement, and may."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rlhf_dist.labelling.estimates import Bootstrap, Estimate
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.preferences import SCORERS, Labeller, Preference, places


@dataclass(frozen=True)
class Bias:
    """How often what should not matter wins, of the pairs that are ordered; 0.5 is chance.

    Attributes:
        who: whose judgements.
        earlier: share of the pairs in which the answer shown earlier is preferred, of those that were shown at all:
            not those of functions and reward models.
        longer: share of the pairs of unequal length (characters) in which the longer answer is preferred.
    """

    who: str
    earlier: Estimate
    longer: Estimate


@dataclass(frozen=True)
class PositionWins:
    """How the answers fare that are shown at one position.

    Attributes:
        shown: how many answers are shown at a time.
        position: from 1.
        best: share of the judgements in which the answer there is the best; tied ones share it; 1 / shown is chance.
    """

    shown: int
    position: int
    best: Estimate


def biases(preferences: Sequence[Preference], bootstrap: Bootstrap) -> list[Bias]:
    """The bias of all labellers together, where there are several, and of each."""
    by_labeller: dict[Labeller, list[Preference]] = defaultdict(list)
    for one in preferences:
        by_labeller[one.labeller].append(one)
    rows = [_bias(labeller.title, by_labeller[labeller], bootstrap) for labeller in sorted(by_labeller)]
    return [_bias("all", preferences, bootstrap), *rows] if len(rows) > 1 else rows


def _bias(who: str, preferences: Sequence[Preference], bootstrap: Bootstrap) -> Bias:
    ordered = [one for one in preferences if one.sign]
    shown = [one for one in ordered if one.labeller.source not in SCORERS]
    unequal = [one for one in ordered if len(one.earlier.text) != len(one.later.text)]
    return Bias(
        who,
        _share(shown, lambda one: one.sign > 0, bootstrap),
        _share(unequal, lambda one: (one.sign > 0) == (len(one.earlier.text) > len(one.later.text)), bootstrap),
    )


def _share(preferences: Iterable[Preference], of: Callable[[Preference], bool], bootstrap: Bootstrap) -> Estimate:
    sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for one in preferences:
        true, count = sums[one.prompt]
        sums[one.prompt] = (true + of(one), count + 1)
    return bootstrap.share(dict(sums))


def wins_by_position(judgements: Iterable[Judgement], bootstrap: Bootstrap) -> list[PositionWins]:
    """For each number of answers that are shown at a time, how often the one at each position is the best.

    Judgements of functions and reward models do not count: no answer is shown to them before another.
    """
    sums: dict[tuple[int, int], dict[str, tuple[float, float]]] = defaultdict(lambda: defaultdict(lambda: (0.0, 0.0)))
    for judgement in judgements:
        shown = len(judgement.answers)
        if judgement.skipped or not judgement.ranking or shown < 2 or judgement.source in SCORERS:
            continue
        place = places(judgement.ranking)
        best = len(judgement.ranking[0])
        for number, answer in enumerate(judgement.answers, 1):
            won, count = sums[shown, number][judgement.prompt.id]
            share = 1 / best if place[answer.id] == 0 else 0.0
            sums[shown, number][judgement.prompt.id] = (won + share, count + 1)
    return [PositionWins(*where, bootstrap.share(dict(found))) for where, found in sorted(sums.items())]
