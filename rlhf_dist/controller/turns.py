"""Responses of several turns: the policy writes, an environment (a tool, a user) answers, the policy goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline, describe_error
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import TURN_IDS
from rlhf_dist.types import Prompts, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reply = Callable[[list[str], list[str]], Sequence["str | None"]]
Generate = Callable[[Prompts, int], Sequences]


@dataclass(frozen=True)
class Environment:
    """The function that replies to the policy's turns, with its limits.

    Attributes:
        name: in messages.
        reply: prompts and responses so far, as texts, to what follows each response; None ends it.
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
    response: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    finished: bool = False

    def add(self, tokens: list[int], logprobs: list[float], sampled: bool) -> None:
        self.response += tokens
        self.logprobs += logprobs
        self.mask += [sampled] * len(tokens)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)


def converse(prompts: Prompts, generate: Generate, environment: Environment) -> Sequences:
    """A response of one or more turns to each prompt; the environment's tokens are masked in ``loss_mask``.

    A sample ends where the environment says so, where a turn was cut off before its end-of-sequence token, after
    ``max_turns``, and where no room is left for a further turn.

    Args:
        prompts: ``[B]``.
        generate: samples one turn to each prompt, of at most so many tokens.
        environment: replies to each turn.

    Raises:
        RunError: the environment failed, took too long, or gave something else than a reply to each.
    """
    samples = [_Sample(tokens) for tokens in prompts.token_lists()]
    active, version = list(range(len(samples))), torch.zeros(len(samples), dtype=torch.int64)
    for turn in range(environment.max_turns):
        turns = generate(_further(prompts, samples, active, turn), environment.turn_tokens)
        version[active] = turns.weight_version
        rows = zip(active, turns.response_lists(), _rows(turns), turns.finished.tolist(), strict=True)
        for at, tokens, logprobs, finished in rows:
            samples[at].add(tokens, logprobs, sampled=True)
            samples[at].finished = finished
        active = [at for at in active if samples[at].finished]
        if turn + 1 == environment.max_turns or not active:
            break
        active = _answered(samples, active, environment)
    return _sequences(prompts, samples, version)


def _further(prompts: Prompts, samples: list[_Sample], active: list[int], turn: int) -> Prompts:
    """What the policy goes on from."""
    lengths = torch.tensor([samples[at].length for at in active], dtype=torch.int64)
    flat = [token for at in active for token in (*samples[at].prompt, *samples[at].response)]
    picked = prompts.select(active)
    return Prompts(torch.tensor(flat, dtype=torch.int64), lengths, picked.ids + turn * TURN_IDS, picked.rows)


def _answered(samples: list[_Sample], active: list[int], environment: Environment) -> list[int]:
    """Adds the environment's replies; gives the samples that go on."""
    decode = environment.tokenizer.batch_decode
    texts = [
        decode([getattr(samples[at], part) for at in active], skip_special_tokens=True)
        for part in ("prompt", "response")
    ]
    replies = _replies(environment, *texts)
    going_on = []
    for at, reply in zip(active, replies, strict=True):
        if reply is None:
            continue
        tokens = environment.tokenizer(reply, add_special_tokens=False)["input_ids"]
        if tokens and samples[at].length + len(tokens) + environment.turn_tokens <= environment.context:
            samples[at].add(tokens, [0.0] * len(tokens), sampled=False)
            samples[at].finished = False
            going_on.append(at)
    return going_on


def _replies(environment: Environment, prompts: list[str], responses: list[str]) -> list[str | None]:
    """What the environment says to each response. RunError as in :func:`converse`."""
    name, about = f"environment {environment.name}", f"{len(responses)} responses"
    first = f"the first of them {responses[0][:120]!r}"
    try:
        replies = call_with_deadline(lambda: list(environment.reply(prompts, responses)), environment.timeout_s)
    except DeadlinePassed as error:
        raise RunError(
            f"{name} returned no replies to {about} within {environment.timeout_s:g} s "
            f"(ppo.function_timeout_s), {first}"
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise RunError(f"{name} failed on {about}, {first}: {describe_error(error)}") from error
    if len(replies) != len(responses):
        raise RunError(f"{name} returned {len(replies)} replies to {about}")
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


def _sequences(prompts: Prompts, samples: list[_Sample], version: torch.Tensor) -> Sequences:
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
        weight_version=version,
        rows=prompts.rows,
        ids=prompts.ids,
    )
