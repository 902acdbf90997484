"""Figures with their intervals: bootstrap over prompts, and Wilson's for a share of independent cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 1000
#: From fewer prompts, resampling says nothing of how far off a figure may be.
FEWEST_PROMPTS = 5
_CHUNK = 64  # resamples at a time: bounds the memory that their weights take


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval.

    Attributes:
        value: the figure; None where the data does not determine it.
        low, high: the interval's ends; None where the data does not bound it on that side.
        count: of how many cases it is the figure.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int

    def to_json(self) -> dict[str, object]:
        """As it stands in a JSON file."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


NOTHING = Estimate(None, None, None, 0)


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap that draws whole prompts with replacement.

    Judgements of one prompt are not independent of each other: it is hard or easy for all labellers. So a resample
    takes all that was said of a prompt, as often as the prompt is drawn.

    Attributes:
        resamples: how many.
        seed: of the draws; the same data and seed give the same intervals.
    """

    resamples: int = RESAMPLES
    seed: int = 0

    def weights(self, prompts: int) -> Iterator[Floats]:
        """How often each of so many prompts is in each resample: several ``[chunk, prompts]``, float64."""
        generator = np.random.default_rng(self.seed)
        for start in range(0, self.resamples, _CHUNK):
            size = min(_CHUNK, self.resamples - start)
            drawn = generator.integers(0, prompts, (size, prompts)) + prompts * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * prompts)
            yield counts.reshape(size, prompts).astype(np.float64)

    def share(self, sums: Mapping[str, tuple[float, float]]) -> Estimate:
        """A share: :meth:`ratio`, but where all cases or none are of the kind, resamples are all alike and say nothing.

        There the interval is Wilson's, as of one case a prompt.
        """
        found = self.ratio(sums)
        if found.value not in (0.0, 1.0) or found.low is None:
            return found
        prompts = sum(1 for _, count in sums.values() if count)
        bounds = wilson(found.value * prompts, prompts)
        return Estimate(found.value, bounds.low, bounds.high, found.count)

    def ratio(self, sums: Mapping[str, tuple[float, float]]) -> Estimate:
        """The sum of the numerators over the sum of the denominators: a mean. Its count is the latter.

        Args:
            sums: numerator and denominator of each prompt; prompts of denominator 0 are left out.
        """
        kept = np.array([pair for pair in sums.values() if pair[1]], dtype=np.float64).reshape(-1, 2)
        if not len(kept):
            return NOTHING
        tops, bottoms = kept.T
        drawn = [(weights @ tops) / (weights @ bottoms) for weights in self.weights(len(kept))]
        value = float(tops.sum() / bottoms.sum())
        return interval(value, np.concatenate(drawn), len(kept), round(bottoms.sum()))

    def statistic(self, value: float | None, prompts: int, count: int, of: Callable[[Floats], Floats]) -> Estimate:
        """Any other figure.

        Args:
            value: of the data itself; None where it has none.
            prompts: how many there are.
            count: what the estimate is said to count.
            of: weights ``[chunk, prompts]`` to the figure of each resample ``[chunk]``, NaN where it has none.
        """
        if value is None:
            return Estimate(None, None, None, count)
        drawn = np.concatenate([of(weights) for weights in self.weights(prompts)]) if prompts else np.zeros(0)
        return interval(value, drawn, prompts, count)


def interval(value: float, drawn: Floats, prompts: int, count: int) -> Estimate:
    """The estimate whose interval is the middle 95% of a figure's values in resamples; NaN ones are left out.

    An end that lies at infinity is None, and so are both where there are fewer than :data:`FEWEST_PROMPTS` prompts.
    """
    drawn = drawn[~np.isnan(drawn)]
    if prompts < FEWEST_PROMPTS or not len(drawn):
        return Estimate(value, None, None, count)
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf").tolist()
    low, high = (end if math.isfinite(end) else None for end in ends)
    return Estimate(value, low, high, count)


def wilson(successes: float, count: int) -> Estimate:
    """A share of independent cases, with Wilson's score interval (JASA 22, 209-212, 1927).

    Args:
        successes: how many; half of one for each tie.
        count: of how many.
    """
    if not count:
        return NOTHING
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), count)
