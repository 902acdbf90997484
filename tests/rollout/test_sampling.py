"""Seeds, the sampler of the transformers engine, and how responses become Sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.errors import RunError
from rlhf_dist.rollout.hf_engine import narrowed, sample
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.sampling import Response, engine_seed, sample_seed, to_sequences
from tests.rollout.engines import prompts


def test_neighbouring_samples_and_runs_have_unrelated_seeds():
    seeds = [sample_seed(seed, number) for seed in range(50) for number in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = [bin(seed).count("1") for seed in seeds]
    assert 31 < sum(bits) / len(bits) < 32


def test_seeds_are_the_same_on_every_machine_and_in_every_version():
    assert sample_seed(1, 0) == 3395948882924712079
    assert sample_seed(1, 1) == 8430369225095084303


def test_engines_have_seeds_of_their_own():
    seeds = [engine_seed(seed, engine) for seed in range(20) for engine in range(64)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)


@given(st.integers(0, 2**31), st.floats(0.1, 3.0))
@settings(max_examples=50, deadline=None)
def test_tokens_are_drawn_where_a_naive_walk_over_the_distribution_stops(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 7, generator=generator) * 3
    logits[0, 2:5] = -torch.inf
    uniforms = torch.rand(4, generator=generator, dtype=torch.float64)
    tokens, logprobs = sample(logits, SamplingOptions(temperature, 1, 0), uniforms)
    probabilities = (logits.double() / temperature).softmax(-1)
    for row in range(4):
        below, token = 0.0, 0
        while below + float(probabilities[row, token]) <= float(uniforms[row]):
            below += float(probabilities[row, token])
            token += 1
        edge = min(abs(below - float(uniforms[row])), abs(below + float(probabilities[row, token] - uniforms[row])))
        assert tokens[row] == token or edge < 1e-6
        torch.testing.assert_close(logprobs[row].double(), probabilities[row, tokens[row]].log(), atol=1e-5, rtol=1e-5)


def test_sampled_frequencies_are_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf, 0.5]]).expand(40_000, 5)
    uniforms = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(sample(logits, SamplingOptions(0.7, 1, 0), uniforms)[0], minlength=5)
    expected = (logits[0] / 0.7).softmax(-1) * 40_000
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert counts[3] == 0
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_the_largest_uniform_number_still_draws_a_possible_token():
    logits = torch.zeros(1, 3)
    tokens, _ = sample(logits, SamplingOptions(1.0, 1, 0), torch.tensor([1.0 - 2**-53], dtype=torch.float64))
    assert tokens.tolist() == [2]


@given(st.integers(0, 2**31 - 1), st.sampled_from([1.0, 0.9, 0.5, 0.05]), st.integers(0, 8))
def test_top_p_and_top_k_leave_the_likeliest_tokens_and_nothing_else(seed: int, top_p: float, top_k: int):
    torch.manual_seed(seed)
    probabilities = torch.randn(3, 6, dtype=torch.float64).softmax(-1)
    for row, left in zip(probabilities.tolist(), narrowed(probabilities.clone(), top_p, top_k).tolist(), strict=True):
        order = sorted(range(6), key=lambda token: -row[token])[: top_k or 6]
        whole, kept, mass = sum(row[token] for token in order), [], 0.0
        for token in order:
            if mass >= top_p * whole and top_p < 1:
                break
            kept.append(token)
            mass += row[token]
        assert left == pytest.approx([row[token] if token in kept else 0.0 for token in range(6)])


def test_top_k_narrows_the_draw_and_not_the_log_probability():
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.5]]).expand(500, 4)
    uniforms = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, logprobs = sample(logits, SamplingOptions(1.0, 1, 0, top_k=2), uniforms)
    assert set(tokens.tolist()) == {1, 2}
    assert torch.equal(logprobs, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])


def test_responses_stand_behind_their_prompts():
    given_prompts = prompts(3)
    responses = [Response([5, 2], [-0.5, -0.25], True), Response([7], [-1.0], False), Response([9], [-2.0], False)]
    sequences = to_sequences(given_prompts, responses, 4)
    assert sequences.prompt_lists() == given_prompts.token_lists()
    assert sequences.response_lists() == [[5, 2], [7], [9]]
    assert sequences.rollout_logprobs.tolist() == [-0.5, -0.25, -1.0, -2.0]
    assert sequences.finished.tolist() == [True, False, False]
    assert sequences.weight_version.tolist() == [4, 4, 4]
    assert sequences.rows.tolist() == [100, 101, 102]


def test_broken_weights_are_noticed_by_their_logprobs():
    with pytest.raises(RunError, match="not finite at weight version 9"):
        to_sequences(prompts(1), [Response([5], [float("nan")], False)], 9)
