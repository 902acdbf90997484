"""Responses of several turns: the policy writes, an environment (a tool, a user) answers, the policy goes on."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline, describe_error
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import TURN_IDS, SamplingOptions
from rlhf_dist.types import Prompts, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Texts = list[str]
Answers = Sequence["str | None"]
Reply = Callable[[Texts, Texts], "Answers | Awaitable[Answers]"]

_LOOK_S = 0.05  # how long finished turns are waited for while replies may come


class Stream(Protocol):
    """What :class:`rlhf_dist.cluster.sample_stream.SampleStream` offers."""

    def __len__(self) -> int: ...

    def add(self, prompts: Prompts, options: SamplingOptions) -> None: ...

    def take(self, most_s: float) -> Sequences | None: ...


@dataclass(frozen=True)
class Environment:
    """The function that replies to the policy's turns, with its limits.

    Attributes:
        name: in messages.
        reply: prompts and responses so far, as texts, to what follows each response; None ends it. A function is
            called with all responses that wait for a reply, when its last call has returned. A coroutine function
            is called at once, with one response, however many of its calls are under way.
        tokenizer: the model's.
        max_turns: of the policy's.
        turn_tokens: most tokens of one.
        context: most tokens of prompt and response.
        timeout_s: seconds that one call of ``reply`` may take.
    """

    name: str
    reply: Reply
    tokenizer: PreTrainedTokenizerBase
    max_turns: int
    turn_tokens: int
    context: int
    timeout_s: float


@dataclass
class _Sample:
    """One sample while it grows: tokens of the prompt, then of the response, with what belongs to the latter."""

    prompt: list[int]
    row: int
    response: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    finished: bool = False
    turns: int = 0
    version: int = 0

    def add(self, tokens: list[int], logprobs: list[float], sampled: bool) -> None:
        self.response += tokens
        self.logprobs += logprobs
        self.mask += [sampled] * len(tokens)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)


def converse(prompts: Prompts, stream: Stream, options: SamplingOptions, environment: Environment) -> Sequences:
    """A response of one or more turns to each prompt; the environment's tokens are masked in ``loss_mask``.

    Each sample goes on as soon as its own reply is there, whatever the others wait for. It ends where the environment
    says so, where a turn was cut off before its end-of-sequence token, after ``max_turns``, and where no room is left
    for a further turn.

    Args:
        prompts: ``[B]``.
        stream: samples the turns.
        options: of one turn.
        environment: replies to each turn.

    Raises:
        RunError: the environment failed, took too long, or gave something else than a reply to each.
    """
    columns = zip(prompts.ids.tolist(), prompts.token_lists(), prompts.rows.tolist(), strict=True)
    samples = {sample: _Sample(tokens, row) for sample, tokens, row in columns}
    stream.add(prompts, options)
    with _Replies(environment) as replies:
        while len(stream) or replies.pending:
            if len(stream):
                turns = stream.take(_LOOK_S if replies.pending else math.inf)
                replied = [] if turns is None else _add_turns(samples, turns, environment)
                replies.ask(replied, [samples[sample] for sample in replied])
            answers = replies.take(None if not len(stream) else 0.0)
            further = [sample for sample, reply in answers if _goes_on(samples[sample], reply, environment)]
            if further:
                stream.add(_further(further, samples), options)
    return _sequences(prompts, [samples[sample] for sample in prompts.ids.tolist()])


def _add_turns(samples: dict[int, _Sample], turns: Sequences, environment: Environment) -> list[int]:
    """Adds what the policy has written; gives the samples that are to be replied to."""
    replied = []
    rows = zip(
        turns.ids.tolist(),
        turns.response_lists(),
        _rows(turns),
        turns.finished.tolist(),
        turns.weight_version.tolist(),
        strict=True,
    )
    for turn, tokens, logprobs, finished, version in rows:
        sample = samples[turn % TURN_IDS]
        sample.add(tokens, logprobs, sampled=True)
        sample.finished, sample.version, sample.turns = finished, version, sample.turns + 1
        if finished and sample.turns < environment.max_turns:
            replied.append(turn % TURN_IDS)
    return replied


def _goes_on(sample: _Sample, reply: str | None, environment: Environment) -> bool:
    """Adds the environment's reply, if the sample goes on with it."""
    if reply is None:
        return False
    tokens = environment.tokenizer(reply, add_special_tokens=False)["input_ids"]
    if not tokens or sample.length + len(tokens) + environment.turn_tokens > environment.context:
        return False
    sample.add(tokens, [0.0] * len(tokens), sampled=False)
    sample.finished = False
    return True


def _further(ids: Sequence[int], samples: dict[int, _Sample]) -> Prompts:
    """What the policy goes on from."""
    going = [samples[sample] for sample in ids]
    return Prompts(
        tokens=torch.tensor([token for one in going for token in (*one.prompt, *one.response)], dtype=torch.int64),
        lengths=torch.tensor([one.length for one in going], dtype=torch.int64),
        ids=torch.tensor([sample + samples[sample].turns * TURN_IDS for sample in ids], dtype=torch.int64),
        rows=torch.tensor([one.row for one in going], dtype=torch.int64),
    )


class _Replies:
    """Calls of the environment, beside the sampling. A context manager."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._waiting: list[tuple[int, _Sample]] = []
        self._calls: dict[Future[list[str | None]], list[int]] = {}
        self._loop = asyncio.new_event_loop() if inspect.iscoroutinefunction(environment.reply) else None
        self._pool = ThreadPoolExecutor(1, "environment")

    def __enter__(self) -> _Replies:
        if self._loop is not None:
            threading.Thread(target=self._loop.run_forever, name="environment", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def pending(self) -> bool:
        """Whether replies are still to come."""
        return bool(self._calls or self._waiting)

    def ask(self, ids: Sequence[int], samples: Sequence[_Sample]) -> None:
        """Asks for replies to samples, at once or when the call before has returned."""
        asked = list(zip(ids, samples, strict=True))
        if self._loop is not None:
            for one in asked:
                self._call([one])
            return
        self._waiting += asked
        if self._waiting and not self._calls:
            self._call_waiting()

    def take(self, timeout_s: float | None) -> list[tuple[int, str | None]]:
        """The replies that have come, by sample; waits for the first ones until ``timeout_s`` (None: as it takes).

        Raises:
            RunError: as :func:`converse`.
        """
        done, _ = wait(self._calls, timeout_s, FIRST_COMPLETED)
        answers: list[tuple[int, str | None]] = []
        for call in done:
            answers += zip(self._calls.pop(call), call.result(), strict=True)
        if done and self._waiting:
            self._call_waiting()
        return answers

    def _call_waiting(self) -> None:
        asked, self._waiting = self._waiting, []
        self._call(asked)

    def _call(self, asked: list[tuple[int, _Sample]]) -> None:
        environment = self._environment
        prompts, responses = ([getattr(sample, part) for _, sample in asked] for part in ("prompt", "response"))
        decode = environment.tokenizer.batch_decode
        texts = decode(prompts, skip_special_tokens=True), decode(responses, skip_special_tokens=True)
        self._calls[self._start(*texts)] = [sample for sample, _ in asked]

    def _start(self, prompts: Texts, responses: Texts) -> Future[list[str | None]]:
        if self._loop is None:
            return self._pool.submit(_replies, self._environment, prompts, responses)
        return asyncio.run_coroutine_threadsafe(_awaited(self._environment, prompts, responses), self._loop)


def _replies(environment: Environment, prompts: Texts, responses: Texts) -> list[str | None]:
    """What a function says to each response."""

    def call() -> list[Any]:
        return list(environment.reply(prompts, responses))  # type: ignore[arg-type]  # which a generator may compute

    with _errors_named(environment, responses):
        replies = call_with_deadline(call, environment.timeout_s)
    return _checked(environment, responses, replies)


async def _awaited(environment: Environment, prompts: Texts, responses: Texts) -> list[str | None]:
    """What a coroutine function says to each response."""
    with _errors_named(environment, responses):
        call = asyncio.ensure_future(environment.reply(prompts, responses))  # type: ignore[arg-type]
        await asyncio.wait({call}, timeout=environment.timeout_s)
        if not call.done():
            call.cancel()
            raise DeadlinePassed
        replies = list(call.result())
    return _checked(environment, responses, replies)


@contextmanager
def _errors_named(environment: Environment, responses: Texts) -> Iterator[None]:
    """What goes wrong in a call of the environment becomes a RunError, as in :func:`converse`."""
    name, about = f"environment {environment.name}", f"{len(responses)} responses"
    first = f"the first of them {responses[0][:120]!r}"
    try:
        yield
    except DeadlinePassed as error:
        raise RunError(
            f"{name} returned no replies to {about} within {environment.timeout_s:g} s "
            f"(ppo.function_timeout_s), {first}"
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise RunError(f"{name} failed on {about}, {first}: {describe_error(error)}") from error


def _checked(environment: Environment, responses: Texts, replies: list[Any]) -> list[str | None]:
    """The replies to each of the responses. RunError as in :func:`converse`."""
    name = f"environment {environment.name}"
    if len(replies) != len(responses):
        raise RunError(f"{name} returned {len(replies)} replies to {len(responses)} responses")
    for reply, response in zip(replies, responses, strict=True):
        if reply is not None and not _is_text(reply):
            raise RunError(f"{name} replied to {response[:120]!r} with {ascii(reply)[:120]}: expected a string or None")
    return replies


def _is_text(reply: object) -> bool:
    """Whether it is a text that can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        return isinstance(reply, str) and bool(reply.encode() or True)
    except UnicodeEncodeError:
        return False


def _rows(turns: Sequences) -> list[list[float]]:
    return [row.tolist() for row in torch.split(turns.rollout_logprobs, turns.response_lengths.tolist())]


def _sequences(prompts: Prompts, samples: list[_Sample]) -> Sequences:
    return Sequences(
        tokens=torch.tensor(
            [token for sample in samples for token in (*sample.prompt, *sample.response)],
            dtype=torch.int64,
        ),
        prompt_lengths=prompts.lengths,
        response_lengths=torch.tensor([len(sample.response) for sample in samples], dtype=torch.int64),
        rollout_logprobs=torch.tensor([value for sample in samples for value in sample.logprobs], dtype=torch.float32),
        loss_mask=torch.tensor([sampled for sample in samples for sampled in sample.mask], dtype=torch.bool),
        finished=torch.tensor([sample.finished for sample in samples], dtype=torch.bool),
        weight_version=torch.tensor([sample.version for sample in samples], dtype=torch.int64),
        rows=prompts.rows,
        ids=prompts.ids,
    )
