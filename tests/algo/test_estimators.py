"""Advantage estimators, aggregations and corrections against loops that do one number at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhf_dist.algo.advantages import ESTIMATORS, Episodes, gae_advantages
from rlhf_dist.algo.aggregation import normalize_weights
from rlhf_dist.algo.kl import ESTIMATORS as KL_ESTIMATORS
from rlhf_dist.algo.mismatch import correction_weights, mismatch_figures
from rlhf_dist.algo.rewards import shape_rewards
from rlhf_dist.config import algorithms
from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.schema import PPOConfig

seeds = st.integers(0, 2**31 - 1)
# Responses of a token or more, in groups of samples of the same prompt.
groups_of_lengths = st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=4), min_size=1, max_size=4)


def episodes(groups: list[list[int]], seed: int, gamma: float = 0.9, lam: float = 0.8, masked: bool = True) -> Episodes:
    """Random rewards and values; with ``masked`` about a third of the tokens are an environment's, up to all of one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length for group in groups for length in group]
    size = sum(lengths)
    mask = torch.rand(size, generator=generator) > 0.35 if masked else torch.ones(size, dtype=torch.bool)
    if masked:
        mask[: lengths[0]] = False  # a response without any token of the policy's
    rewards = torch.randn(size, generator=generator) * mask
    values = torch.randn(size, generator=generator)
    numbers = [number for number, group in enumerate(groups) for _ in group]
    return Episodes(rewards, torch.tensor(lengths), mask, torch.tensor(numbers), values, gamma, lam)


def per_row(flat: torch.Tensor, lengths: torch.Tensor) -> list[list[float]]:
    return [part.tolist() for part in torch.split(flat, lengths.tolist())]


def close(got: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=got.dtype), rtol=1e-4, atol=1e-5)


@given(groups_of_lengths, seeds)
def test_gae_steps_over_masked_tokens_as_if_they_were_not_there(groups: list[list[int]], seed: int) -> None:
    given_episodes = episodes(groups, seed)
    advantages, returns = gae_advantages(given_episodes)
    assert returns is not None
    lengths, mask = given_episodes.lengths, given_episodes.mask
    for r, v, m, a, g in zip(
        *(per_row(x, lengths) for x in (given_episodes.rewards, given_episodes.values, mask, advantages, returns)),  # type: ignore[arg-type]
        strict=True,
    ):
        places = [t for t, sampled in enumerate(m) if sampled]
        for i, t in enumerate(places):
            wanted = 0.0
            for k, place in enumerate(places[i:]):
                after = places[i:][k + 1 :]
                following = v[after[0]] if after else 0.0
                delta = r[place] + given_episodes.gamma * following - v[place]
                wanted += (given_episodes.gamma * given_episodes.lam) ** k * delta
            assert a[t] == pytest.approx(wanted, abs=1e-4)
            assert g[t] == pytest.approx(wanted + v[t], abs=1e-4)


def test_the_advantage_reaches_across_a_tools_answer() -> None:
    """Zeroing values and advantages at masked tokens, instead of stepping over them, would lose the reward."""
    mask = torch.tensor([True, False, False, True])
    rewards, values = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.zeros(4)
    lengths, groups = torch.tensor([4]), torch.tensor([0])
    advantages, _ = gae_advantages(Episodes(rewards, lengths, mask, groups, values, gamma=1.0, lam=1.0))
    assert advantages.tolist() == [1.0, 0.0, 0.0, 1.0]


@given(groups_of_lengths, seeds)
def test_grpo_is_each_reward_in_standard_deviations_of_its_group(groups: list[list[int]], seed: int) -> None:
    given_episodes = episodes(groups, seed)
    advantages, returns = ESTIMATORS["grpo"](given_episodes)
    assert returns is None
    totals = [sum(row) for row in per_row(given_episodes.rewards, given_episodes.lengths)]
    wanted, place = [], 0
    for group in groups:
        mine = totals[place : place + len(group)]
        std = statistics.stdev(mine)
        for length, total in zip(group, mine, strict=True):
            wanted += [(total - statistics.fmean(mine)) / (std + 1e-6)] * length
        place += len(group)
    close(advantages, wanted)


@given(groups_of_lengths, seeds)
def test_dr_grpo_is_each_reward_less_the_mean_of_its_group(groups: list[list[int]], seed: int) -> None:
    given_episodes = episodes(groups, seed)
    advantages, returns = ESTIMATORS["dr_grpo"](given_episodes)
    assert returns is None
    totals = [sum(row) for row in per_row(given_episodes.rewards, given_episodes.lengths)]
    wanted, place = [], 0
    for group in groups:
        mine = totals[place : place + len(group)]
        for length, total in zip(group, mine, strict=True):
            wanted += [total - statistics.fmean(mine)] * length
        place += len(group)
    close(advantages, wanted)


@given(groups_of_lengths, seeds)
def test_rloo_is_each_reward_less_the_mean_of_the_others(groups: list[list[int]], seed: int) -> None:
    given_episodes = episodes(groups, seed)
    advantages, returns = ESTIMATORS["rloo"](given_episodes)
    assert returns is None
    totals = [sum(row) for row in per_row(given_episodes.rewards, given_episodes.lengths)]
    wanted, place = [], 0
    for group in groups:
        for i, length in enumerate(group):
            others = [totals[place + j] for j in range(len(group)) if j != i]
            wanted += [totals[place + i] - statistics.fmean(others)] * length
        place += len(group)
    close(advantages, wanted)


@given(groups_of_lengths, seeds)
def test_reinforce_pp_is_the_discounted_rest_of_the_rewards(groups: list[list[int]], seed: int) -> None:
    given_episodes = episodes(groups, seed)
    advantages, returns = ESTIMATORS["reinforce++"](given_episodes)
    assert returns is None
    lengths = given_episodes.lengths
    rows = zip(*(per_row(x, lengths) for x in (given_episodes.rewards, given_episodes.mask)), strict=True)
    wanted: list[float] = []
    for r, m in rows:
        for t, sampled in enumerate(m):
            later = [place for place in range(t, len(r)) if m[place]]
            wanted.append(sum(given_episodes.gamma**k * r[p] for k, p in enumerate(later)) if sampled else 0.0)
    close(advantages, wanted)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimator_stays_finite_where_all_rewards_are_equal(name: str) -> None:
    equal = Episodes(
        torch.ones(4), torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool), torch.tensor([0, 0, 1, 1]),
        torch.zeros(4), 1.0, 0.95,
    )  # fmt: skip
    assert torch.isfinite(ESTIMATORS[name](equal)[0]).all()


def test_the_configuration_knows_the_names_of_the_algorithms() -> None:
    assert set(algorithms.ADVANTAGE_ESTIMATORS) == set(ESTIMATORS)
    assert set(algorithms.KL_ESTIMATORS) == set(KL_ESTIMATORS)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimator_needs_a_critic_just_where_the_configuration_starts_one(name: str) -> None:
    without = Episodes(
        torch.ones(2), torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.zeros(2).long(),
        None, 1.0, 0.95,
    )  # fmt: skip
    if algorithms.ADVANTAGE_ESTIMATORS[name].needs_critic:
        with pytest.raises(AssertionError):
            ESTIMATORS[name](without)
    else:
        assert ESTIMATORS[name](without)[0].shape == (2,)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimator_sees_where_in_a_response_a_reward_stands_unless_the_configuration_says_otherwise(
    name: str,
) -> None:
    def advantages(*rewards: float) -> list[float]:
        mask, lengths = torch.ones(6, dtype=torch.bool), torch.tensor([3, 3])
        flat, groups = torch.tensor([*rewards, 0.0, 0.0, 0.5]), torch.tensor([0, 0])
        return ESTIMATORS[name](Episodes(flat, lengths, mask, groups, torch.zeros(6), 1.0, 0.95))[0].tolist()

    same = advantages(1.0, 0.0, 0.0) == pytest.approx(advantages(0.0, 0.0, 1.0))
    assert same == algorithms.ADVANTAGE_ESTIMATORS[name].sums_rewards


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("ppo.advantage", algorithms.ADVANTAGE_ESTIMATORS),
        ("ppo.aggregation", algorithms.AGGREGATIONS),
        ("ppo.rollout_correction", algorithms.CORRECTIONS),
        ("ppo.kl.estimator", algorithms.KL_ESTIMATORS),
        ("actor.layout", algorithms.LAYOUTS),
    ],
)
def test_help_names_every_algorithm_of_a_key(key: str, names: Iterable[str]) -> None:
    description = schema_keys(PPOConfig)[key].description
    assert [name for name in names if name not in description] == []


@given(groups_of_lengths, seeds, st.sampled_from(list(algorithms.AGGREGATIONS)))
def test_aggregated_losses_equal_means_taken_one_by_one(groups: list[list[int]], seed: int, aggregation: str) -> None:
    given_episodes = episodes(groups, seed)
    lengths, mask = given_episodes.lengths, given_episodes.mask
    losses = torch.randn(int(lengths.sum()), generator=torch.Generator().manual_seed(seed))
    got = float((normalize_weights(mask.float(), lengths, aggregation, 9) * losses).sum())
    sampled = [
        [loss for loss, keep in zip(row, kept, strict=True) if keep]
        for row, kept in zip(per_row(losses, lengths), per_row(mask, lengths), strict=True)
    ]
    counting = [row for row in sampled if row]
    if not counting:
        assert got == 0.0
        return
    flat = [loss for row in counting for loss in row]
    wanted = {
        "token-mean": statistics.fmean(flat),
        "sequence-mean": statistics.fmean(statistics.fmean(row) for row in counting),
        "constant": sum(flat) / (len(counting) * 9),
    }[aggregation]
    assert got == pytest.approx(wanted, abs=1e-5)


@given(groups_of_lengths, seeds)
def test_a_score_stands_on_the_last_token_up_to_its_own_that_the_policy_sampled(
    groups: list[list[int]], seed: int
) -> None:
    given_episodes = episodes(groups, seed)
    lengths, mask = given_episodes.lengths, given_episodes.mask
    penalty, scores = torch.rand(int(lengths.sum())), torch.randn(int(lengths.sum()))
    wanted: list[float] = []
    for row, kept, scored in zip(*(per_row(x, lengths) for x in (penalty, mask, scores)), strict=True):
        rewards = [-p if keep else 0.0 for p, keep in zip(row, kept, strict=True)]
        for place, score in enumerate(scored):
            sampled = [t for t, keep in enumerate(kept) if keep and t <= place]
            if sampled:
                rewards[sampled[-1]] += score
        wanted += rewards
    close(shape_rewards(scores, penalty, lengths, mask), wanted)


def test_corrections_truncate_or_mask_what_engine_and_trainer_see_too_differently() -> None:
    trainer = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.1]))
    engine = torch.log(torch.tensor([0.5, 0.1, 0.4, 0.5]))
    lengths, mask = torch.tensor([1, 3]), torch.ones(4, dtype=torch.bool)
    for correction, weights in {
        "off": [1.0, 1.0, 1.0, 1.0],
        "truncate": [1.0, 2.0, 1.25, 0.2],
        "mask": [1.0, 0.0, 1.0, 0.0],
    }.items():
        close(correction_weights(trainer, engine, lengths, mask, correction, 2.0), weights)
    figures = mismatch_figures(trainer, engine)
    assert figures["ratio_max"] == pytest.approx(5.0)
    assert figures["logprob_gap"] == pytest.approx((2 * math.log(5) + math.log(1.25)) / 4)


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-3, 0), st.floats(-3, 0), st.booleans()), min_size=1, max_size=5), min_size=1
    ),
    st.floats(1.1, 4.0),
)
def test_a_sequences_correction_is_of_the_product_or_the_mean_of_what_was_sampled(
    rows: list[list[tuple[float, float, bool]]], cap: float
) -> None:
    trainer, engine = (torch.tensor([token[at] for row in rows for token in row]) for at in (0, 1))
    mask = torch.tensor([token[2] for row in rows for token in row])
    lengths = torch.tensor([len(row) for row in rows])
    products, kept = [], []
    for row in rows:
        ratios = [math.exp(a - b) for a, b, sampled in row if sampled]
        products += [min(math.prod(ratios), cap)] * len(row)
        mean = math.prod(ratios) ** (1 / max(len(ratios), 1))
        assume(abs(mean - cap) > 1e-4 and abs(mean - 1 / cap) > 1e-4)
        kept += [float(1 / cap <= mean <= cap)] * len(row)
    close(correction_weights(trainer, engine, lengths, mask, "sequence", cap), products)
    close(correction_weights(trainer, engine, lengths, mask, "sequence-mask", cap), kept)


def test_the_gradient_of_k2_is_that_of_the_kl_and_k1_has_none_on_average() -> None:
    """Over all tokens of a distribution, weighted by their probability: what samples show on average."""
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    reference = torch.tensor([0.1, 0.4, -0.5]).log_softmax(-1)
    probabilities = logits.softmax(-1).detach()

    def gradient(name: str) -> torch.Tensor:
        logprobs = logits.log_softmax(-1)
        (found,) = torch.autograd.grad((probabilities * KL_ESTIMATORS[name](logprobs, reference)).sum(), logits)
        return found

    (exact,) = torch.autograd.grad((logits.softmax(-1) * (logits.log_softmax(-1) - reference)).sum(), logits)
    torch.testing.assert_close(gradient("k2"), exact)
    torch.testing.assert_close(gradient("k1"), torch.zeros(3), atol=1e-6, rtol=0)
