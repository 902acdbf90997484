"""How two labellers, or two kinds of them, order the same pairs of answers: what all figures of agreement count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlhf_dist.labelling.preferences import Pair

Signs = Mapping[str, Mapping[Pair, int]]
"""What one labeller said, by prompt and pair: 1, -1, or 0 for a tie."""


@dataclass(frozen=True)
class PairCounts:
    """Pairs that both order alike, that they order in opposite ways, and that only one of them, or both, tie."""

    alike: int = 0
    contrary: int = 0
    tied_one: int = 0
    tied_other: int = 0
    tied_both: int = 0

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            self.alike + other.alike,
            self.contrary + other.contrary,
            self.tied_one + other.tied_one,
            self.tied_other + other.tied_other,
            self.tied_both + other.tied_both,
        )

    @property
    def ordered(self) -> int:
        """By both."""
        return self.alike + self.contrary

    @property
    def tied_by_one(self) -> int:
        """Tied by one of the two, and ordered by the other."""
        return self.tied_one + self.tied_other

    @property
    def pairs(self) -> int:
        """That both judged."""
        return self.ordered + self.tied_by_one + self.tied_both

    @property
    def share(self) -> float | None:
        """The agreement: of the pairs that both order, the share that they order alike; None where there are none."""
        return self.alike / self.ordered if self.ordered else None

    @property
    def tau(self) -> float | None:
        """Kendall's tau-b of the pairs (Biometrika 33, 239-251, 1945); None where either ties them all."""
        orders_one, orders_other = self.ordered + self.tied_other, self.ordered + self.tied_one
        if not orders_one or not orders_other:
            return None
        return (self.alike - self.contrary) / math.sqrt(orders_one * orders_other)


def count_pairs(said: Mapping[Pair, int], heard: Mapping[Pair, int]) -> PairCounts:
    """The pairs of one prompt that both judged."""
    both = [(said[pair], heard[pair]) for pair in said.keys() & heard.keys()]
    return PairCounts(
        sum(one * other == 1 for one, other in both),
        sum(one * other == -1 for one, other in both),
        sum(not one and other != 0 for one, other in both),
        sum(one != 0 and not other for one, other in both),
        sum(not one and not other for one, other in both),
    )


def count_prompts(both: Iterable[tuple[Signs, Signs]]) -> dict[str, list[PairCounts]]:
    """The counts of each prompt, of each two labellers of ``both`` who judged the same pairs of its answers."""
    counts: dict[str, list[PairCounts]] = {}
    for said, heard in both:
        for prompt in sorted(said.keys() & heard.keys()):
            count = count_pairs(said[prompt], heard[prompt])
            if count.pairs:
                counts.setdefault(prompt, []).append(count)
    return counts
