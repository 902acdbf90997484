"""Every equation of `rlhf_dist.algo` against a loop that does it one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.algo.advantages import explained_variance, gae, whiten
from rlhf_dist.algo.kl import AdaptiveKL, FixedKL, k1, k2, k3
from rlhf_dist.algo.losses import dpo_loss, ppo_policy_loss, ppo_value_loss, ranked_pairs, ranking_loss
from rlhf_dist.algo.minibatches import minibatch_plan, steps_per_batch
from rlhf_dist.algo.rewards import (
    RunningMoments,
    at_last_tokens,
    clip_scores,
    penalize_missing_eos,
    penalize_overlong,
    sequence_sums,
    shape_rewards,
)
from rlhf_dist.algo.schedule import lr_factor
from rlhf_dist.algo.text import distinct_n

ragged = st.lists(st.integers(1, 9), min_size=1, max_size=6)
seeds = st.integers(0, 2**31 - 1)


def rows(flat: torch.Tensor, lengths: list[int]) -> list[list[float]]:
    return [part.tolist() for part in torch.split(flat, lengths)]


def close(got: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=got.dtype), rtol=1e-5, atol=1e-6)


@given(ragged, seeds, st.sampled_from([1.0, 0.9]), st.sampled_from([1.0, 0.95, 0.0]))
def test_gae_equals_the_sum_over_future_deltas(lengths: list[int], seed: int, gamma: float, lam: float) -> None:
    torch.manual_seed(seed)
    rewards, values = torch.randn(sum(lengths)), torch.randn(sum(lengths))
    wanted = []
    for r, v in zip(rows(rewards, lengths), rows(values, lengths), strict=True):
        n = len(r)
        deltas = [r[t] + gamma * (v[t + 1] if t + 1 < n else 0.0) - v[t] for t in range(n)]
        wanted += [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]
    advantages, returns = gae(rewards, values, torch.tensor(lengths), gamma, lam)
    close(advantages, wanted)
    close(returns - values, wanted)


def test_gae_with_lambda_and_gamma_one_is_the_rest_of_the_rewards_less_the_value() -> None:
    rewards, values = torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.5, 1.0, -1.0])
    advantages, returns = gae(rewards, values, torch.tensor([3]), 1.0, 1.0)
    close(returns, [3.0, 3.0, 3.0])
    close(advantages, [2.5, 2.0, 4.0])


def test_gae_of_no_sequences_is_empty() -> None:
    advantages, returns = gae(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 1.0, 0.95)
    assert advantages.numel() == returns.numel() == 0


@given(st.integers(2, 50), seeds)
def test_whitened_values_have_mean_zero_and_variance_one(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    values = torch.randn(size) * 3 + 5
    whitened = whiten(values)
    assert abs(float(whitened.mean())) < 1e-4
    assert abs(float(whitened.var(unbiased=False)) - 1.0) < 1e-3
    kept = whiten(values, shift_mean=False)
    assert abs(float(kept.mean() - values.mean())) < 1e-4


@pytest.mark.parametrize("values", [[], [2.0], [3.0, 3.0, 3.0]])
def test_whitening_without_variance_stays_finite(values: list[float]) -> None:
    assert torch.isfinite(whiten(torch.tensor(values))).all()


def test_explained_variance_is_one_for_perfect_values_and_zero_for_constant_ones() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == pytest.approx(1.0)
    assert explained_variance(torch.full((3,), 2.0), returns) == pytest.approx(0.0)
    assert explained_variance(returns, torch.ones(3)) == 0.0


@given(ragged, seeds, st.floats(0.0, 1.0))
def test_rewards_are_the_kl_share_of_each_token_and_the_score_on_the_last(
    lengths: list[int], seed: int, beta: float
) -> None:
    torch.manual_seed(seed)
    logprobs, reference = -torch.rand(sum(lengths)), -torch.rand(sum(lengths))
    scores = torch.randn(len(lengths))
    wanted = []
    for p, q, score in zip(rows(logprobs, lengths), rows(reference, lengths), scores.tolist(), strict=True):
        token = [-beta * (a - b) for a, b in zip(p, q, strict=True)]
        token[-1] += score
        wanted += token
    everything = torch.ones(sum(lengths), dtype=torch.bool)
    scored = at_last_tokens(scores, torch.tensor(lengths))
    rewards = shape_rewards(scored, beta * k1(logprobs, reference), torch.tensor(lengths), everything)
    close(rewards, wanted)
    close(sequence_sums(rewards, torch.tensor(lengths)), [sum(part) for part in rows(rewards, lengths)])


def test_a_cut_off_response_pays_the_penalty_and_a_finished_one_does_not() -> None:
    scores, lengths, finished = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2, 2]), torch.tensor([True, False])
    close(penalize_missing_eos(scores, lengths, finished, 0.75), [1.0, 2.0, 3.0, 3.25])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 12), st.floats(0, 3))
def test_an_overlong_response_pays_by_how_far_it_reaches_into_the_buffer(
    lengths: list[int], buffer: int, penalty: float
) -> None:
    paid = [0.0 if n <= 12 - buffer else penalty * (n - (12 - buffer)) / buffer for n in lengths]
    scores = torch.ones(sum(lengths))
    got = penalize_overlong(scores, torch.tensor(lengths), 12, buffer, penalty)
    close(got, [1.0 - (cost if at + 1 == n else 0.0) for n, cost in zip(lengths, paid, strict=True) for at in range(n)])


def test_scores_are_clipped_on_both_sides_and_not_at_all_at_zero() -> None:
    scores = torch.tensor([-7.0, 0.5, 7.0])
    close(clip_scores(scores, 5.0), [-5.0, 0.5, 5.0])
    close(clip_scores(scores, 0.0), [-7.0, 0.5, 7.0])


@given(ragged, seeds)
def test_normalized_scores_of_a_response_sum_to_its_own_less_the_mean_in_deviations(
    lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    scores, moments = torch.randn(sum(lengths)), RunningMoments()
    moments.update(torch.tensor([1.0, 4.0, 7.0]))
    normalized = rows(moments.normalize(scores, torch.tensor(lengths)), lengths)
    for ours, given_row in zip(normalized, rows(scores, lengths), strict=True):
        assert sum(ours) == pytest.approx((sum(given_row) - 4.0) / math.sqrt(6), abs=1e-4)
        assert ours[:-1] == pytest.approx([score / math.sqrt(6) for score in given_row[:-1]], abs=1e-4)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=1, max_size=8), min_size=1, max_size=5))
def test_running_moments_equal_those_of_all_values_at_once(parts: list[list[float]]) -> None:
    moments = RunningMoments()
    for part in parts:
        moments.update(torch.tensor(part, dtype=torch.float64))
    values = [value for part in parts for value in part]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert moments.mean == pytest.approx(mean, abs=1e-6)
    if len(values) > 1:
        assert moments.std == pytest.approx(max(std, 1e-6), abs=1e-5)


@given(ragged, seeds, st.floats(0.05, 0.5))
def test_policy_loss_equals_the_clipped_surrogate_token_by_token(lengths: list[int], seed: int, clip: float) -> None:
    torch.manual_seed(seed)
    new, old, advantages = torch.randn(3, sum(lengths)).unbind(0)
    wanted, outside = [], []
    for a, b, advantage in zip(new.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(a - b)
        clipped = min(max(ratio, 1 - clip), 1 + clip)
        wanted.append(-min(ratio * advantage, clipped * advantage))
        outside.append(abs(ratio - 1) > clip)
    loss, mask = ppo_policy_loss(new, old, advantages, clip, clip)
    close(loss, wanted)
    assert sum(a != b for a, b in zip(mask.tolist(), outside, strict=True)) == 0


def test_policy_loss_has_no_gradient_where_clipping_holds_the_ratio_back() -> None:
    new = torch.tensor([1.0, 1.0, -1.0], requires_grad=True)
    loss, _ = ppo_policy_loss(new, torch.zeros(3), torch.tensor([1.0, -1.0, -1.0]), 0.2, 0.2)
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad[0] == 0  # good, and already more likely than it may become
    assert new.grad[1] > 0  # bad, and more likely: must come down
    assert new.grad[2] == 0  # bad, and already less likely than it may become


@given(ragged, seeds, st.sampled_from([0.0, 0.2]))
def test_value_loss_equals_the_larger_of_both_errors_token_by_token(lengths: list[int], seed: int, clip: float) -> None:
    torch.manual_seed(seed)
    values, old, returns = torch.randn(3, sum(lengths)).unbind(0)
    wanted = []
    for v, o, r in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        near = o + min(max(v - o, -clip), clip)
        wanted.append(0.5 * max((v - r) ** 2, (near - r) ** 2) if clip else 0.5 * (v - r) ** 2)
    loss, _ = ppo_value_loss(values, old, returns, clip)
    close(loss, wanted)


answer_sets = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=4)


@given(answer_sets, seeds)
def test_ranking_loss_is_the_mean_over_pairs_done_one_by_one(ranks: list[list[int]], seed: int) -> None:
    torch.manual_seed(seed)
    flat = torch.tensor([rank for row in ranks for rank in row])
    scores = torch.randn(flat.numel(), requires_grad=True)
    wanted, right, start = [], [], 0
    for row in ranks:
        losses = []
        for i in range(len(row)):
            for j in range(len(row)):
                if row[i] < row[j]:
                    margin = float((scores[start + i] - scores[start + j]).detach())
                    losses.append(math.log1p(math.exp(-margin)))
                    right.append(margin > 0)
        wanted.append(sum(losses) / len(losses) if losses else 0.0)
        start += len(row)
    loss, correct = ranking_loss(scores, flat, torch.tensor([len(row) for row in ranks]))
    close(loss.detach(), wanted)
    assert int(correct.sum()) == sum(right)
    assert correct.numel() == len(right)


def test_ranking_loss_gradient_is_the_sigmoid_of_the_margin() -> None:
    scores = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    loss, _ = ranking_loss(scores, torch.tensor([2, 1, 2]), torch.tensor([3]))
    loss.sum().backward()
    # Answer 1 is better than 0 and than 2, which tie: two pairs.
    pull = [1 / (1 + math.exp(-0.2 - 0.3)), 1 / (1 + math.exp(-0.2 - 0.9))]
    assert scores.grad is not None
    close(scores.grad, [pull[0] / 2, -(pull[0] + pull[1]) / 2, pull[1] / 2])


@given(answer_sets, seeds, st.sampled_from([0.0, 0.2]))
def test_dpo_loss_is_the_mean_over_pairs_done_one_by_one(ranks: list[list[int]], seed: int, smoothing: float) -> None:
    torch.manual_seed(seed)
    flat, beta = torch.tensor([rank for row in ranks for rank in row]), 0.3
    logprobs, reference = -5.0 + torch.randn(2, flat.numel())
    wanted, margins, start = [], [], 0
    for row in ranks:
        losses = []
        for i in range(len(row)):
            for j in range(len(row)):
                if row[i] < row[j]:
                    a, b = start + i, start + j
                    margin = beta * float(logprobs[a] - reference[a] - logprobs[b] + reference[b])
                    losses.append(
                        (1 - smoothing) * math.log1p(math.exp(-margin)) + smoothing * math.log1p(math.exp(margin))
                    )
                    margins.append(margin)
        wanted.append(sum(losses) / len(losses) if losses else 0.0)
        start += len(row)
    loss, got = dpo_loss(logprobs, reference, flat, torch.tensor([len(row) for row in ranks]), beta, smoothing)
    close(loss, wanted)
    close(got.sort().values, sorted(margins))


def test_dpo_gradient_weighs_a_pair_by_how_wrong_its_implicit_rewards_are() -> None:
    """arXiv 2305.18290, section 4: beta * sigmoid(reward of the worse - reward of the better)."""
    logprobs = torch.tensor([-3.0, -2.0], requires_grad=True)
    loss, _ = dpo_loss(logprobs, torch.tensor([-2.5, -2.5]), torch.tensor([1, 2]), torch.tensor([2]), 0.3, 0.0)
    loss.sum().backward()
    weight = 0.3 / (1 + math.exp(0.3 * ((-3.0 + 2.5) - (-2.0 + 2.5))))
    assert logprobs.grad is not None
    close(logprobs.grad, [-weight, weight])


def test_no_answers_make_no_pairs() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert all(part.numel() == 0 for part in ranked_pairs(empty, empty))


@given(seeds)
def test_kl_estimators_agree_in_expectation_and_k3_is_never_negative(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0)
    q = torch.softmax(torch.log(p) + 0.1 * torch.randn(6, generator=generator, dtype=torch.float64), 0)
    exact = float((p * (p / q).log()).sum())
    assert float((p * k1(p.log(), q.log())).sum()) == pytest.approx(exact)
    assert float((p * k3(p.log(), q.log())).sum()) == pytest.approx(exact)
    assert float((p * k2(p.log(), q.log())).sum()) == pytest.approx(exact, rel=0.5, abs=1e-4)
    assert (k3(p.log(), q.log()) >= 0).all()


def test_adaptive_kl_rises_above_the_target_falls_below_it_and_never_jumps() -> None:
    controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    controller.update(600.0, 100)
    assert controller.coef == pytest.approx(0.1 * 1.02)
    controller.update(0.0, 100)
    assert controller.coef == pytest.approx(0.1 * 1.02 * 0.98)
    fixed = FixedKL(0.1)
    fixed.update(600.0, 100)
    assert fixed.coef == 0.1


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 3), seeds)
def test_every_epoch_of_minibatches_holds_every_row_once(size: int, minibatch: int, epochs: int, seed: int) -> None:
    plan = minibatch_plan(size, minibatch, epochs, seed)
    assert len(plan) == steps_per_batch(size, minibatch, epochs)
    each = len(plan) // epochs
    for epoch in range(epochs):
        parts = plan[epoch * each : (epoch + 1) * each]
        assert sorted(torch.cat(parts).tolist()) == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert max(map(len, parts)) <= minibatch


def test_learning_rate_warms_up_and_ends_at_its_share() -> None:
    factors = [lr_factor(step, 100, "cosine", 10, 0.1, 0.1) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert 0.1 < factors[0] < 0.25
    assert max(factors) == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.1)
    assert {lr_factor(step, 100, "constant", 0, 0.0, 0.1) for step in range(100)} == {1.0}


@settings(max_examples=30)
@given(st.lists(st.text("ab ", max_size=12), max_size=5))
def test_distinct_2_counts_pairs_of_words(texts: list[str]) -> None:
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    assert distinct_n(texts) == (len(set(pairs)) / len(pairs) if pairs else 0.0)
