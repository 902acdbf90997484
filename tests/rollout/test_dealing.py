"""Who draws which samples."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.cluster.roles import Rollout
from rlhf_dist.rollout.dealing import deal_samples
from rlhf_dist.rollout.protocol import TURN_IDS
from rlhf_dist.types import Prompts


def rows(prompts: int, samples: int) -> torch.Tensor:
    return torch.arange(prompts).repeat_interleave(samples)


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 9))
def test_every_sample_goes_to_one_engine_and_the_shares_are_even(samples: list[int], engines: int) -> None:
    given_rows = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(samples, dtype=torch.int64))
    shards = deal_samples(given_rows, engines)
    assert len(shards) == engines
    assert torch.cat(shards).tolist() == list(range(sum(samples)))
    share = sum(samples) / engines
    assert all(abs(len(shard) - share) <= share / 8 + 1 for shard in shards)


def test_the_samples_of_a_prompt_stay_together() -> None:
    for engines in (2, 3, 4, 5, 7):
        shards = deal_samples(rows(64, 8), engines)
        drawn_by = [set(rows(64, 8)[shard].tolist()) for shard in shards]
        assert sum(len(prompts) for prompts in drawn_by) == 64, "no prompt is computed by two engines"


def test_engines_are_not_idle_for_it() -> None:
    assert [len(shard) for shard in deal_samples(rows(1, 64), 8)] == [8] * 8
    assert [len(shard) for shard in deal_samples(rows(9, 8), 8)] == [9] * 8
    assert sorted(len(shard) for shard in deal_samples(rows(2, 1), 3)) == [0, 1, 1]
    assert sum(len(shard) for shard in deal_samples(rows(0, 1), 3)) == 0


def test_further_turns_go_to_the_engines_that_drew_the_earlier_ones() -> None:
    """Whoever has dropped out meanwhile; a new batch is dealt anew."""
    rollout = Rollout(SimpleNamespace(size=3))  # type: ignore[arg-type]

    def engines(first_id: int, picked: list[int], turn: int) -> dict[int, int]:
        ids, one = torch.arange(first_id, first_id + 24), torch.ones(24, dtype=torch.int64)
        prompts = Prompts(one, one, ids + turn * TURN_IDS, rows(12, 2)).select(picked)
        dealt = [part.ids.tolist() for part in rollout.deal(prompts)]
        assert sorted(sample for part in dealt for sample in part) == prompts.ids.tolist()
        return {sample % TURN_IDS - first_id: rank for rank, part in enumerate(dealt) for sample in part}

    first = engines(100, list(range(24)), 0)
    assert [list(first.values()).count(rank) for rank in range(3)] == [8, 8, 8]
    left = [1, 2, 3, 5, 21, 22, 23]
    assert engines(100, left, 1) == engines(100, left, 3) == {sample: first[sample] for sample in left}
    assert set(engines(100, left, 0).values()) == {0, 1, 2}
