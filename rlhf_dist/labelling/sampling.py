"""Sampling answers for labellers: how many of each model, with which random numbers, and none of them twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rlhf_dist.errors import UserError
from rlhf_dist.labelling.candidates import Answer, Prompt, answer_id

_ID_BITS = 43  # rollout engines take the bits above for further turns of a response


@dataclass(frozen=True)
class SampledModel:
    """A model that is sampled from.

    Attributes:
        name: under which its answers are compared with those of others.
        path: its directory, or hub name.
        version: the step of the run that made it; None where it is not the model of a run.
        fingerprint: of its configuration and weights.
    """

    name: str
    path: str
    version: int | None
    fingerprint: str


@dataclass(frozen=True)
class SampleSettings:
    """What the answers depend on, beside prompts and models.

    Attributes:
        answers: of all models together, for each prompt.
        temperature, top_p, top_k: of the sampling.
        max_tokens: at which an answer is cut off.
        seed: of all random numbers.
        backend: the inference engine.
        redraws: how often a duplicate is drawn again.
    """

    answers: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int
    backend: str
    redraws: int


@dataclass(frozen=True)
class Draw:
    """One answer to be drawn.

    Attributes:
        prompt: its place among the prompts of the batch.
        sample: the number that, with the seed, its random numbers are made from.
    """

    prompt: int
    sample: int


@dataclass(frozen=True)
class Drawn:
    """A text that a model has drawn.

    Attributes:
        text: without special tokens.
        tokens: how many there were, the end-of-sequence token included.
        finished: whether the model ended it, rather than the length limit.
    """

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Wanted:
    """A prompt that one model is to answer.

    Attributes:
        prompt: the prompt.
        count: of answers that are wanted.
        taken: texts of other models' answers to it (:func:`same_text`).
    """

    prompt: Prompt
    count: int
    taken: AbstractSet[str]


@dataclass(frozen=True)
class Answered:
    """What one model gave to a batch of prompts.

    Attributes:
        answers: to each prompt, no two with the same text; fewer than wanted where only duplicates came.
        drawn_again: how many draws stood in for duplicates.
    """

    answers: Sequence[tuple[Answer, ...]]
    drawn_again: int


def check_models(names: Sequence[str], answers: int, temperature: float) -> None:
    """Passes where each model can give its share of different answers.

    Raises:
        UserError: two models have one name, there are more models than answers, or the same answer would come twice.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--model: two models are called {twice[0]!r}: call them apart, --model NAME={twice[0]}")
    if answers < len(names):
        raise UserError(f"--k {answers} is fewer than the {len(names)} models: each gives at least one answer a prompt")
    if temperature == 0 and answers > len(names):
        raise UserError(
            f"--temperature 0 gives the same answer each time, so --k can be at most the number of models, "
            f"{len(names)}: raise the temperature"
        )


def share(answers: int, models: int, model: int, row: int) -> int:
    """How many of a prompt's answers one of the models gives.

    Equal parts; what is left over goes round: with 5 answers of 2 models, each of them gives the third every other
    prompt.

    Args:
        answers: wanted for each prompt.
        models: how many there are, at most ``answers``.
        model: which of them, from 0.
        row: the prompt's number, from 0.
    """
    whole, rest = divmod(answers, models)
    return whole + ((model - row) % models < rest)


def sample_number(prompt: str, model: str, draw: int) -> int:
    """The number in [0, 2^43) of a model's draw ``draw`` (from 0) for the prompt with this id.

    It depends on nothing else, so an answer does not change with the prompts beside it.
    """
    said = json.dumps([prompt, model, draw], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big") >> (64 - _ID_BITS)


def same_text(text: str) -> str:
    """What two answers have in common that a reader cannot tell apart: the words and what stands between them."""
    return " ".join(text.split())


def draw_distinct(
    wanted: Sequence[Wanted],
    model: SampledModel,
    settings: SampleSettings,
    draw: Callable[[Sequence[Draw]], Sequence[Drawn]],
) -> Answered:
    """A model's answers to a batch of prompts. What stands there already is drawn again, with other random numbers.

    Args:
        wanted: the prompts.
        model: who answers.
        settings: of the sampling.
        draw: gives a text for each draw, in order. It is called once, and once more for each round of duplicates.
    """
    answers: list[list[Answer]] = [[] for _ in wanted]
    taken = [set(one.taken) for one in wanted]
    made = [0 for _ in wanted]  # draws so far
    drawn_again = 0
    for attempt in range(settings.redraws + 1):
        draws = []
        for place, one in enumerate(wanted):
            for _ in range(one.count - len(answers[place])):
                draws.append(Draw(place, sample_number(one.prompt.id, model.name, made[place])))
                made[place] += 1
        if not draws:
            break
        drawn_again += len(draws) if attempt else 0
        for asked, drawn in zip(draws, draw(draws), strict=True):
            key = same_text(drawn.text)
            if key not in taken[asked.prompt]:
                taken[asked.prompt].add(key)
                answers[asked.prompt].append(_answer(wanted[asked.prompt].prompt, model, settings, asked, drawn))
    return Answered([tuple(given) for given in answers], drawn_again)


def _answer(prompt: Prompt, model: SampledModel, settings: SampleSettings, asked: Draw, drawn: Drawn) -> Answer:
    details: Mapping[str, object] = {
        "path": model.path,
        "weight_version": model.version,
        "backend": settings.backend,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "seed": settings.seed,
        "sample": asked.sample,
        "tokens": drawn.tokens,
        "finished": drawn.finished,
    }
    return Answer(answer_id(prompt.id, drawn.text, model.name), drawn.text, model.name, details)
