"""How well a reward model's scores agree with preferences: accuracy, calibration, and what it may go by instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from rlhf_dist.labelling.estimates import CONFIDENCE, Bootstrap, Estimate, Floats, wilson

MARGIN_BINS = 5  # of as many pairs each
CALIBRATION_BINS = 10  # of the predicted probability, from 0.5 to 1
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredRow:
    """A prompt whose answers were scored.

    Attributes:
        source: the data set it is of.
        category: of the row, or None.
        ranks: of the answers; 1 is best, equal ranks are a tie.
        scores: of the answers.
        lengths: of the answers, characters.
        models: that gave them, or None.
    """

    source: str
    category: str | None
    ranks: Sequence[int]
    scores: Sequence[float]
    lengths: Sequence[int]
    models: Sequence[str | None]


@dataclass(frozen=True)
class Pairs:
    """All pairs of a better and a worse answer, as arrays of length P.

    Attributes:
        row: number of the row that each is of.
        better, worse: numbers of its answers within the row.
        margin: score of the better answer less that of the worse one.
        length: characters of the better answer less those of the worse one.
    """

    row: Integers
    better: Integers
    worse: Integers
    margin: Floats
    length: Floats

    def __len__(self) -> int:
        return len(self.row)

    @property
    def right(self) -> Floats:
        """1 where the better answer scores higher, 0 where lower, 0.5 where both score the same."""
        return (np.sign(self.margin) + 1) / 2

    def select(self, which: Bools) -> Pairs:
        """Some of them."""
        return Pairs(self.row[which], self.better[which], self.worse[which], self.margin[which], self.length[which])


@dataclass(frozen=True)
class Accuracy:
    """How many pairs are scored right.

    Attributes:
        of: which pairs.
        rows: of the data.
        pairs: of answers of different rank.
        ties: pairs whose answers score the same: each is half right.
        accuracy: the share that is right.
    """

    of: str
    rows: int
    pairs: int
    ties: int
    accuracy: Estimate


@dataclass(frozen=True)
class Bin:
    """Pairs whose scores differ alike.

    Attributes:
        low, high: of the difference of the scores, or of the predicted probability.
        pairs: how many.
        predicted: mean of ``sigmoid(|difference|)``, the probability that the answer with the higher score is better.
        right: how often it is.
    """

    low: float
    high: float
    pairs: int
    predicted: float
    right: Estimate


@dataclass(frozen=True)
class ModelScores:
    """What the reward model and the data say of one model's answers, in pairs with other models' answers.

    Attributes:
        model: its name.
        pairs: how many.
        wins: share of them in which its answer is the better one by the data.
        wins_by_score: share in which its answer has the higher score.
    """

    model: str
    pairs: int
    wins: Estimate
    wins_by_score: Estimate


@dataclass(frozen=True)
class RewardAccuracy:
    """All of it.

    Attributes:
        accuracies: of all pairs, of each data set where there are several, and of each category.
        loss: mean of -log sigmoid(margin), nats a pair.
        margins: bins of as many pairs each, by the difference of the scores.
        calibration: bins of the predicted probability.
        calibration_error: mean difference of predicted and observed, weighted by pairs (ECE).
        by_length: accuracy where the better answer is the longer, the shorter, or as long.
        correlation: of score and length within a prompt (Pearson's).
        models: by model.
    """

    accuracies: list[Accuracy]
    loss: float
    margins: list[Bin]
    calibration: list[Bin]
    calibration_error: float
    by_length: list[Accuracy]
    correlation: Estimate
    models: list[ModelScores]

    def to_json(self) -> dict[str, object]:
        """For scripts."""
        return {"confidence": CONFIDENCE, **asdict(self)}


def pairs_of(rows: Sequence[ScoredRow]) -> Pairs:
    """All pairs of answers of different rank."""
    found: list[tuple[int, int, int, float, int]] = []
    for number, row in enumerate(rows):
        for better, rank in enumerate(row.ranks):
            for worse, other in enumerate(row.ranks):
                if rank < other:
                    margin = row.scores[better] - row.scores[worse]
                    found.append((number, better, worse, margin, row.lengths[better] - row.lengths[worse]))
    table = np.array(found, dtype=np.float64).reshape(-1, 5).T
    row, better, worse = (column.astype(np.int64) for column in table[:3])
    return Pairs(row, better, worse, table[3], table[4])


def reward_accuracy(rows: Sequence[ScoredRow], bootstrap: Bootstrap) -> RewardAccuracy:
    """The evaluation of scored rows.

    A share has Wilson's interval where each row gives one pair. Pairs of one row are not independent: where a row
    gives several, whole rows are resampled.

    Args:
        rows: at least one of them with answers of different rank.
        bootstrap: over rows.
    """
    pairs = pairs_of(rows)
    calibration = _calibration(pairs, bootstrap)
    error = sum(bin.pairs * abs(bin.predicted - (bin.right.value or 0.0)) for bin in calibration) / len(pairs)
    return RewardAccuracy(
        _accuracies(rows, pairs, bootstrap),
        float(np.logaddexp(0.0, -pairs.margin).mean()),
        _margins(pairs, bootstrap),
        calibration,
        error,
        _by_length(pairs, bootstrap),
        _correlation(rows, bootstrap),
        _models(rows, pairs, bootstrap),
    )


def _share(of: Floats, row: Integers, bootstrap: Bootstrap) -> Estimate:
    if len(row) == len(np.unique(row)):
        return wilson(float(of.sum()), len(row))
    sums, counts = np.bincount(row, of), np.bincount(row)
    return bootstrap.share({str(n): (float(sums[n]), float(counts[n])) for n in np.flatnonzero(counts)})


def _accuracy(of: str, pairs: Pairs, bootstrap: Bootstrap) -> Accuracy:
    ties = int((pairs.margin == 0).sum())
    return Accuracy(of, len(np.unique(pairs.row)), len(pairs), ties, _share(pairs.right, pairs.row, bootstrap))


def _accuracies(rows: Sequence[ScoredRow], pairs: Pairs, bootstrap: Bootstrap) -> list[Accuracy]:
    found = [_accuracy("all", pairs, bootstrap)]
    sources = [row.source for row in rows]
    categories = [row.category for row in rows]
    for names in (sources, categories):
        given = sorted({name for name in names if name is not None})
        if len(given) > (1 if names is sources else 0):
            for name in given:
                of = pairs.select(np.array([names[number] == name for number in pairs.row], dtype=bool))
                found += [_accuracy(name, of, bootstrap)] if len(of) else []
    return found


def _bin(pairs: Pairs, low: float, high: float, bootstrap: Bootstrap) -> Bin:
    predicted = float(_sigmoid(np.abs(pairs.margin)).mean())
    return Bin(low, high, len(pairs), predicted, _share(pairs.right, pairs.row, bootstrap))


def _sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def _margins(pairs: Pairs, bootstrap: Bootstrap) -> list[Bin]:
    size = np.abs(pairs.margin)
    parts = [part for part in np.array_split(np.argsort(size, kind="stable"), MARGIN_BINS) if len(part)]
    found = []
    for part in parts:
        which = np.zeros(len(pairs), dtype=bool)
        which[part] = True
        found.append(_bin(pairs.select(which), float(size[part[0]]), float(size[part[-1]]), bootstrap))
    return found


def _calibration(pairs: Pairs, bootstrap: Bootstrap) -> list[Bin]:
    predicted = _sigmoid(np.abs(pairs.margin))
    edges = np.linspace(0.5, 1.0, CALIBRATION_BINS + 1)
    place = np.clip(np.digitize(predicted, edges) - 1, 0, CALIBRATION_BINS - 1)
    return [
        _bin(pairs.select(place == number), float(edges[number]), float(edges[number + 1]), bootstrap)
        for number in np.unique(place)
    ]


def _by_length(pairs: Pairs, bootstrap: Bootstrap) -> list[Accuracy]:
    kinds = {
        "the better answer is longer": pairs.length > 0,
        "the better answer is shorter": pairs.length < 0,
        "both are as long": pairs.length == 0,
    }
    return [_accuracy(of, pairs.select(which), bootstrap) for of, which in kinds.items() if which.any()]


def _correlation(rows: Sequence[ScoredRow], bootstrap: Bootstrap) -> Estimate:
    sums = []
    for row in rows:
        scores, lengths = np.array(row.scores, dtype=np.float64), np.array(row.lengths, dtype=np.float64)
        scores, lengths = scores - scores.mean(), lengths - lengths.mean()
        sums.append((scores @ lengths, scores @ scores, lengths @ lengths))
    table = np.array(sums)

    def of(weights: Floats) -> Floats:
        both, score, length = (weights @ table).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return both / np.sqrt(score * length)

    value = float(of(np.ones((1, len(rows))))[0])
    count = sum(len(row.scores) for row in rows)
    return bootstrap.statistic(None if np.isnan(value) else value, len(rows), count, of)


def _models(rows: Sequence[ScoredRow], pairs: Pairs, bootstrap: Bootstrap) -> list[ModelScores]:
    found: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for row, better, worse, right in zip(pairs.row, pairs.better, pairs.worse, pairs.right, strict=True):
        winner, loser = rows[row].models[better], rows[row].models[worse]
        if winner is not None and loser is not None and winner != loser:
            found[winner].append((int(row), 1.0, float(right)))
            found[loser].append((int(row), 0.0, float(1 - right)))
    models = []
    for model, said in found.items():
        row_of, wins, by_score = (np.array(column) for column in zip(*said, strict=True))
        models.append(
            ModelScores(model, len(said), _share(wins, row_of, bootstrap), _share(by_score, row_of, bootstrap))
        )
    return sorted(models, key=lambda row: -(row.wins.value or 0.0))
