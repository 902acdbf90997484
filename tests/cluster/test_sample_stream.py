"""The stream of requests, on real Ray: whatever comes when, each request is answered once, by its own answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_dist.cluster.roles import Rollout
from rlhf_dist.cluster.sample_stream import SampleStream
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.rollout.requests import Request, RequestEngine
from rlhf_dist.rollout.sampling import Response
from rlhf_dist.types import Prompts

pytestmark = pytest.mark.slow

OPTIONS = SamplingOptions(temperature=1.0, max_tokens=8, seed=1)
NEVER, REFUSED = 10**6, 10**6 + 1  # samples that are never finished, and that an engine does not take


class Echo(RequestEngine):
    """Answers a sample with its own number, after a number of steps that follows from it."""

    def __init__(self) -> None:
        super().__init__()
        self._left: dict[int, int] = {}

    def _enqueue(self, requests: Sequence[Request]) -> None:
        if any(request.sample == REFUSED for request in requests):
            raise RunError("the prompt is too long")
        self._left |= {request.sample: request.sample * 7 % 11 for request in requests}

    def _advance(self) -> dict[int, Response]:
        time.sleep(0.0005)
        ended = [sample for sample, left in self._left.items() if left == 0 and sample != NEVER]
        self._left = {sample: max(left - 1, 0) for sample, left in self._left.items() if sample not in ended}
        return {sample: Response([sample], [-1.0], True) for sample in ended}

    def _drop(self, samples: Sequence[int]) -> None:
        for sample in samples:
            del self._left[sample]


class EchoWorker:
    """What a Worker offers, with that engine."""

    def __init__(self) -> None:
        self.engine = Echo()

    def call(self, method: str, *args: object) -> object:
        return getattr(self.engine, method)(*args)

    def poll(self, most_s: float) -> object:
        return self.engine.poll(most_s)


class Group:
    """Three such workers."""

    role, size = "rollout", 3

    def __init__(self, folder: Path) -> None:
        self.workers = [ray.remote(EchoWorker).options(num_cpus=0).remote() for _ in range(self.size)]
        self.worker_names = [f"rollout-{rank}" for rank in range(self.size)]
        self._logs = {name: str(folder / f"{name}.log") for name in self.worker_names}
        self.unanswered = 0
        self.spans: list[tuple[str, str]] = []

    def waiting(self, calls: int) -> None:
        self.unanswered += calls

    def answered(self, worker: str, method: str, started_at: float) -> None:
        assert 0 <= time.time() - started_at < 60
        self.spans.append((worker, method))

    def log_of(self) -> dict[str, str]:
        return self._logs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
    yield tmp_path_factory.mktemp("logs")
    ray.shutdown()


@pytest.fixture(scope="module")
def group(place: Path) -> Any:
    return Group(place)


def stream_of(group: Any, timeout_s: float = 60.0) -> SampleStream:
    scheduler: Any = SimpleNamespace(start=lambda call, timeout_s: call.start())
    return SampleStream(Rollout(group), scheduler, timeout_s)


def drain(stream: SampleStream) -> None:
    while len(stream):
        stream.take()


def prompts(ids: Sequence[int], copies: int = 1) -> Prompts:
    one = torch.ones(len(ids), dtype=torch.int64)
    return Prompts(one, one, torch.tensor(ids, dtype=torch.int64), torch.arange(len(ids)) // copies)


@settings(max_examples=15)
@given(
    additions=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    copies=st.integers(1, 4),
    taken=st.lists(st.integers(0, 3), max_size=6),
)
def test_each_request_is_answered_once_by_its_own_answer(
    group: Any, additions: list[int], copies: int, taken: list[int]
) -> None:
    stream, answered, first = stream_of(group), [], 0
    before = len(group.spans)
    for number, count in enumerate(additions):
        stream.add(prompts(range(first, first + count), copies), OPTIONS)
        first += count
        for _ in range(taken[number] if number < len(taken) else 0):
            if len(stream):
                answered.append(stream.take())
    while len(stream):
        answered.append(stream.take())
    ids = [sample for part in answered for sample in part.ids.tolist()]
    assert sorted(ids) == list(range(first))
    assert [response for part in answered for response in part.response_lists()] == [[sample] for sample in ids]
    assert group.unanswered == 0
    assert all(method == "generate" for _, method in group.spans)
    assert (len(group.spans) > before) == (first > 0)


def test_a_whole_batch_comes_back_in_its_order(group: Any) -> None:
    ids = [5, 17, 2, 40, 8, 9]
    assert stream_of(group).sample(prompts(ids), OPTIONS).ids.tolist() == ids


def test_nothing_within_the_time_is_none_and_what_comes_later_is_not_lost(group: Any) -> None:
    stream = stream_of(group)
    stream.add(prompts([NEVER, 3]), OPTIONS)
    first = stream.take()
    assert first is not None and first.ids.tolist() == [3]
    assert stream.take(0.05) is None
    ray.get([worker.call.remote("abort", torch.tensor([NEVER])) for worker in group.workers])


def test_what_an_engine_refuses_is_said(group: Any) -> None:
    stream = stream_of(group)
    stream.add(prompts([REFUSED]), OPTIONS)
    with pytest.raises(RunError, match="the prompt is too long"):
        stream.take()


def test_a_request_without_an_answer_is_named_at_the_deadline_and_a_dead_engine_at_once(place: Path) -> None:
    own = Group(place)
    stream_of(own).sample(prompts([1, 2, 3]), OPTIONS)  # they are there
    stream = stream_of(own, timeout_s=3.0)
    stream.add(prompts([1, NEVER, 2]), OPTIONS)
    with pytest.raises(RunError, match=rf"generate: no answer within 3 s \(1 from rollout-1, as of sample {NEVER}\)"):
        drain(stream)
    ray.kill(own.workers[2])
    stream = stream_of(own)
    stream.add(prompts([1, 2, 3]), OPTIONS)
    with pytest.raises(RunError, match="rollout-2"):
        drain(stream)
