"""Both engines, each in a process of its own, against transformers, before and after weights from another process."""

from dataclasses import replace

import pytest
import torch

from rlhf_dist.device import CPU
from rlhf_dist.rollout.protocol import TURN_IDS, SamplingOptions
from rlhf_dist.rollout.vllm_engine import engine_env
from rlhf_dist.types import Prompts, Sequences
from tests.rollout.engines import EOS, ROLLOUT, RemoteEngine, load, prompts, push, reference_logprobs, sender_to
from tests.tiny import write_model

OPTIONS = SamplingOptions(temperature=0.8, max_tokens=20, seed=5)


@pytest.fixture(scope="module", params=["tied", "untied"])
def models(request, tmp_path_factory):
    """Directories of three models of one shape with different weights."""
    root = tmp_path_factory.mktemp(request.param)
    tied = request.param == "tied"
    return [write_model(root / str(seed), tied=tied, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=pytest.mark.slow)])
def engine(request, models):
    remote = RemoteEngine(request.param, models[0], {**engine_env(CPU), **CPU.worker_env(threads=1)})
    yield remote
    remote.call("close")
    remote.stop()


@pytest.fixture(scope="module")
def sender(engine):
    group = sender_to([engine])
    yield group
    group.close()


def largest_gap(folder, sequences, temperature):
    return float((sequences.rollout_logprobs - reference_logprobs(folder, sequences, temperature)).abs().max())


def test_logprobs_are_transformers_own_and_follow_every_transfer(engine, sender, models):
    """Also the second and third transfer, and back to the first weights: what a tied head on CPU gets wrong."""
    sequences = engine.call("generate", prompts(11), OPTIONS)
    assert sequences.weight_version.tolist() == [0] * 11
    assert largest_gap(models[0], sequences, OPTIONS.temperature) < 1e-4
    for version, (new, old) in enumerate([(1, 0), (2, 1), (0, 2)], start=7):
        push(sender, [engine], models[new], version)
        sequences = engine.call("generate", prompts(11), OPTIONS)
        assert sequences.weight_version.tolist() == [version] * 11
        assert largest_gap(models[new], sequences, OPTIONS.temperature) < 1e-4
        assert largest_gap(models[old], sequences, OPTIONS.temperature) > 0.1


def polled(engine, count):
    """What ``count`` open requests are answered, and in how many polls."""
    parts = []
    while sum(len(part) for part in parts) < count:
        parts.append(engine.call("poll", 0.0))
    return Sequences.cat(parts), sum(len(part) > 0 for part in parts)


def by_id(sequences):
    return dict(zip(sequences.ids.tolist(), sequences.response_lists(), strict=True))


def test_requests_are_answered_one_by_one_whenever_they_come(engine):
    """Each once, with what it would be answered among others; the last ones come while the first are worked on."""
    whole = engine.call("generate", prompts(20), OPTIONS)
    engine.call("add", prompts(20).select(range(12)), OPTIONS)
    early = engine.call("poll", 0.0)
    engine.call("add", prompts(20).select(range(12, 20)), OPTIONS)
    late, times = polled(engine, 20 - len(early))
    assert len(early) < 12
    assert times > 1
    assert sorted([*early.ids.tolist(), *late.ids.tolist()]) == list(range(20))
    assert by_id(Sequences.cat([early, late])) == by_id(whole)
    assert len(engine.call("poll", 5.0)) == 0  # there is nothing to wait for


def test_an_aborted_request_is_not_answered_and_its_id_may_come_again(engine):
    whole = by_id(engine.call("generate", prompts(12), OPTIONS))
    engine.call("add", prompts(12), OPTIONS)
    begun = engine.call("poll", 0.0)  # the engine works on 8 at a time: some of the aborted ones wait, some run
    left = [sample for sample in (0, 1, 10, 11) if sample not in begun.ids.tolist()]
    engine.call("abort", torch.tensor([*left, *begun.ids.tolist(), 77]))
    answered, _ = polled(engine, 12 - len(left) - len(begun))
    assert sorted([*answered.ids.tolist(), *begun.ids.tolist()]) == sorted(set(range(12)) - set(left))
    assert by_id(answered).items() <= whole.items()
    assert by_id(engine.call("generate", prompts(12).select(left), OPTIONS)) == {id: whole[id] for id in left}


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0])
def test_logprobs_are_those_of_the_sampling_distribution(engine, sender, models, temperature):
    push(sender, [engine], models[0], 1)
    sequences = engine.call("generate", prompts(6), SamplingOptions(temperature, 20, 1))
    assert largest_gap(models[0], sequences, temperature) < 1e-4


def test_a_sample_depends_on_its_id_and_the_seed_only(engine):
    """Not on the batch it is drawn in, the order, or the engine."""
    together = engine.call("generate", prompts(11), OPTIONS)
    picked = [7, 2, 10]
    alone = engine.call("generate", prompts(11).select(picked), OPTIONS)
    assert alone.response_lists() == together.select(picked).response_lists()
    assert alone.rows.tolist() == [107, 102, 110]
    again = engine.call("generate", prompts(11), OPTIONS)
    assert again.response_lists() == together.response_lists()
    other = engine.call("generate", prompts(11), SamplingOptions(OPTIONS.temperature, 20, OPTIONS.seed + 1))
    assert other.response_lists() != together.response_lists()
    moved = engine.call("generate", prompts(11, first_id=50), OPTIONS)
    assert moved.response_lists() != together.response_lists()


def test_a_response_ends_with_the_stop_token_or_at_its_limit(engine):
    sequences = engine.call("generate", prompts(64, seed=3), SamplingOptions(1.5, 20, 9))
    finished = sequences.finished.tolist()
    assert any(finished) and not all(finished)
    for response, done in zip(sequences.response_lists(), finished, strict=True):
        assert EOS not in response[:-1]
        assert done == (response[-1] == EOS)
        assert done or len(response) == 20
    assert sequences.prompt_lists() == prompts(64, seed=3).token_lists()


def test_a_batch_may_be_empty_and_a_response_one_token(engine):
    assert len(engine.call("generate", prompts(0), OPTIONS)) == 0
    sequences = engine.call("generate", prompts(3), SamplingOptions(1.0, 1, 0))
    assert sequences.response_lengths.tolist() == [1, 1, 1]


def test_first_tokens_of_many_samples_are_distributed_as_the_model_says(engine, sender, models):
    push(sender, [engine], models[0], 3)
    count, prompt = 2000, torch.tensor([5, 9, 4])
    same = Prompts(prompt.repeat(count), torch.full((count,), 3), torch.arange(count), torch.zeros(count).long())
    drawn = engine.call("generate", same, SamplingOptions(1.0, 1, 0))
    with torch.no_grad():
        probabilities = load(models[0])(prompt[None]).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(drawn.tokens[drawn.response_index], minlength=len(probabilities)).double()
    common = probabilities * count > 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([probabilities[common], probabilities[~common].sum()[None]]) * count
    degrees = len(expected) - 1
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


def test_greedy_sampling_takes_the_likeliest_token(engine, sender, models):
    push(sender, [engine], models[0], 2)
    sequences = engine.call("generate", prompts(5), SamplingOptions(0.0, 20, 0))
    model = load(models[0])
    for prompt, response in zip(sequences.prompt_lists(), sequences.response_lists(), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == response


NARROW = replace(ROLLOUT, top_k=3, top_p=0.95, seed_per_request=False)


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=pytest.mark.slow)])
def narrow(request, models):
    """An engine that draws from the likeliest tokens only and, in vLLM's case, without a seed for each sample."""
    remote = RemoteEngine(request.param, models[0], {**engine_env(CPU), **CPU.worker_env(threads=1)}, NARROW)
    yield remote
    remote.call("close")
    remote.stop()


@pytest.mark.parametrize("models", ["tied"], indirect=True)
def test_top_k_narrows_the_draw_and_leaves_the_log_probabilities_whole(narrow, models):
    """Else the trainer, which knows nothing of top-k and top-p, would see a gap that is none."""
    sequences = narrow.call("generate", prompts(6), SamplingOptions(1.0, 20, 1, NARROW.top_p, NARROW.top_k))
    assert largest_gap(models[0], sequences, 1.0) < 1e-4
    model = load(models[0])
    for prompt, response in zip(sequences.prompt_lists(), sequences.response_lists(), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        for likeliest, token in zip(logits.topk(3).indices.tolist(), response, strict=True):
            assert token in likeliest


@pytest.mark.parametrize("narrow", [pytest.param("vllm", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("models", ["tied"], indirect=True)
def test_without_seeds_of_their_own_samples_do_not_repeat_and_their_log_probabilities_stay_right(narrow, models):
    one, other = (narrow.call("generate", prompts(11), SamplingOptions(1.0, 20, 5)) for _ in range(2))
    assert one.response_lists() != other.response_lists()
    for sequences in (one, other):
        assert largest_gap(models[0], sequences, 1.0) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("models", ["tied"], indirect=True)
def test_the_samples_of_a_prompt_share_its_cache_and_a_further_turn_finds_the_earlier_one(models):
    """With samples that are transformers' own, whatever was cached, and the same whatever was drawn before."""
    rollout = replace(ROLLOUT, max_prompt_tokens=100, samples_per_prompt=4)
    generator = torch.Generator().manual_seed(3)
    three = torch.randint(3, 320, (3, 70), generator=generator).repeat_interleave(4, 0)
    batch = Prompts(three.flatten(), torch.full((12,), 70), torch.arange(12), torch.arange(3).repeat_interleave(4))
    options = SamplingOptions(1.0, 20, 1)
    remote = RemoteEngine("vllm", models[0], {**engine_env(CPU), **CPU.worker_env(threads=1)}, rollout)
    try:
        first = remote.call("generate", batch, options)
        assert sorted(remote.call("cached_tokens")) == [0] * 3 + [64] * 9  # whole blocks of 32
        assert largest_gap(models[0], first, 1.0) < 1e-4
        again = remote.call("generate", batch, options)
        assert sorted(remote.call("cached_tokens")) == [0] * 3 + [64] * 9
        assert torch.equal(again.tokens, first.tokens) and torch.equal(again.rollout_logprobs, first.rollout_logprobs)
        grown = torch.split(first.tokens, first.lengths.tolist())
        further = Prompts(first.tokens, first.lengths, batch.ids + TURN_IDS, batch.rows)
        second = remote.call("generate", further, SamplingOptions(1.0, 10, 1))
        assert min(remote.call("cached_tokens")) >= 64
        assert second.prompt_lists() == [row.tolist() for row in grown]
        assert largest_gap(models[0], second, 1.0) < 1e-4
        sender = sender_to([remote])
        push(sender, [remote], models[1], 1)
        assert largest_gap(models[1], remote.call("generate", further, SamplingOptions(1.0, 10, 1)), 1.0) < 1e-4
        remote.call("close")
        sender.close()
    finally:
        remote.stop()


@pytest.mark.slow
@pytest.mark.parametrize("models", ["tied"], indirect=True)
def test_weights_also_reach_an_engine_of_several_processes(models):
    """Tensor parallelism over two processes, which vLLM starts and which know of us by the name of a class only."""
    rollout = replace(ROLLOUT, tensor_parallel=2)
    remote = RemoteEngine("vllm", models[0], {**engine_env(CPU), **CPU.worker_env(threads=1)}, rollout)
    try:
        sender = sender_to([remote], processes=2, timeout_s=90.0)
        for version, new in enumerate((1, 2), start=1):
            push(sender, [remote], models[new], version)
            sequences = remote.call("generate", prompts(11), OPTIONS)
            assert largest_gap(models[new], sequences, OPTIONS.temperature) < 1e-4
            assert largest_gap(models[0], sequences, OPTIONS.temperature) > 0.1
        remote.call("close")
        sender.close()
    finally:
        remote.stop()
