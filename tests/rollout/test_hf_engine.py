"""The engine on plain transformers, in this process."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.device import CPU
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.hf_engine import HFEngine
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.weights.source import WeightSource
from rlhf_dist.weights.transport import BroadcastGroup
from tests.rollout.engines import EOS, ROLLOUT, prompts
from tests.tiny import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), tied=True, seed=1)


def hf_engine(folder, rollout=ROLLOUT):
    return HFEngine(ModelConfig(path=str(folder)), rollout, CPU, [EOS])


def group_of(engines):
    """The sender of a group that all ``engines`` have joined, in threads."""
    sender = BroadcastGroup.listen("127.0.0.1", ["actor 0", *map(str, range(len(engines)))], CPU, 1 << 16, 20.0)
    with ThreadPoolExecutor() as pool:
        joins = [pool.submit(engine.join, sender.endpoint, rank) for rank, engine in enumerate(engines, 1)]
        sender.connect()
        for join in joins:
            join.result()
    return sender


def test_two_engines_of_one_group_sample_as_one(folder, tmp_path):
    other = write_model(tmp_path / "other", tied=True, seed=2)
    engines = [hf_engine(folder), hf_engine(folder)]
    sender = group_of(engines)
    source = WeightSource(hf_engine(other)._model, 1 << 20)
    with ThreadPoolExecutor() as pool:
        receives = [pool.submit(engine.receive, source.metadata(), 3) for engine in engines]
        sender.send(source.metadata(), source)
        for receive in receives:
            receive.result()
    batch, options = prompts(7), SamplingOptions(1.0, 20, 4)
    whole = hf_engine(other).generate(batch, options)
    halves = [
        engines[0].generate(batch.select(range(4)), options),
        engines[1].generate(batch.select([4, 5, 6]), options),
    ]
    assert halves[0].response_lists() + halves[1].response_lists() == whole.response_lists()
    assert all(half.weight_version.tolist() == [3] * len(half) for half in halves)
    for engine in engines:
        engine.close()
    sender.close()


def test_weights_of_another_model_are_refused(folder, tmp_path):
    engine = hf_engine(folder)
    group_of([engine])
    untied = hf_engine(write_model(tmp_path / "untied", tied=False, seed=1))
    with pytest.raises(
        RunError, match=r"1 parameter names differ between actor and rollout model, such as lm_head\.weight"
    ):
        engine.receive(WeightSource(untied._model, 1 << 20).metadata(), 1)


def test_batches_larger_than_max_batch_are_sampled_in_turns(folder):
    options = SamplingOptions(1.0, 20, 4)
    small, large = hf_engine(folder, replace(ROLLOUT, max_batch=3)), hf_engine(folder, replace(ROLLOUT, max_batch=99))
    assert (
        small.generate(prompts(10), options).response_lists() == large.generate(prompts(10), options).response_lists()
    )
