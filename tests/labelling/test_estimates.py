"""Intervals: they hold what they should as often as they should, and claim nothing from a handful of prompts."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from rlhf_dist.labelling.estimates import Bootstrap, wilson


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (3, 7), (7, 7), (812, 1000)])
def test_wilsons_interval_is_scipys(successes: int, count: int) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    found = wilson(successes, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_share_holds_the_truth_in_about_95_of_100_data_sets() -> None:
    """Prompts differ (a share of 0.3 or 0.9 each), so an interval of independent cases would be too narrow."""
    generator, held, narrow = random.Random(0), 0, 0
    for data in range(200):
        sums = {}
        for prompt in range(60):
            share = generator.choice((0.3, 0.9))
            sums[str(prompt)] = (sum(generator.random() < share for _ in range(20)), 20)
        found = Bootstrap(300, data).share(sums)
        naive = wilson(sum(top for top, _ in sums.values()), 60 * 20)
        assert found.low is not None and found.high is not None and naive.low is not None and naive.high is not None
        held += found.low <= 0.6 <= found.high
        narrow += naive.low <= 0.6 <= naive.high
    assert 180 <= held <= 199
    assert narrow < 140


def test_the_same_seed_gives_the_same_interval() -> None:
    sums = {str(n): (n % 3, 3) for n in range(30)}
    assert Bootstrap(100, 1).ratio(sums) == Bootstrap(100, 1).ratio(sums) != Bootstrap(100, 2).ratio(sums)


def test_four_prompts_have_no_interval_and_unanimous_ones_have_no_interval_of_width_0() -> None:
    few = Bootstrap(100).share({str(n): (1, 2) for n in range(4)})
    assert (few.value, few.low, few.high, few.count) == (0.5, None, None, 8)
    same = Bootstrap(100).share({str(n): (2, 2) for n in range(10)})
    assert same.high == 1.0 and same.low == wilson(10, 10).low
