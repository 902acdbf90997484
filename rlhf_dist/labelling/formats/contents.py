"""What a file of labels holds, whatever its format; and what one format can hold of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from rlhf_dist.data.records import Record
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, Ranking, answer_id, prompt_id
from rlhf_dist.labelling.judgements import Judgement

UNKNOWN = "unknown"  # the labeller, where a format does not say who it was
NOT_RANKABLE = "not rankable"  # why a prompt was skipped of which no answer is acceptable
Row = dict[str, object]


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        judgements: that stand in it.
        candidates: prompts with answers that no judgement stands for, or whose right ranking is known.
        unread: what the file says that cannot be kept here: what it is, and how often.
    """

    judgements: Sequence[Judgement] = ()
    candidates: Sequence[Candidates] = ()
    unread: Mapping[str, int] = field(default_factory=dict)


class Part(Enum):
    """What a judgement or a candidate consists of; the value is how it is counted in messages."""

    JUDGEMENTS = "judgements"
    UNJUDGED = "prompts without a judgement"
    KNOWN = "known rankings"
    CHATS = "prompts with a system's or a tool's message"
    MODELS = "models of answers"
    SAMPLING = "answers with how they were sampled"
    LABELLERS = "labellers' names"
    SOURCES = "judges that are no people (they look like labellers)"
    TIMES = "times"
    ORDERS = "orders in which answers were shown"
    TIES = "rankings with ties"
    WHOLE = "rankings of more than two answers as a whole (each pair is a row)"
    STRENGTHS = "strengths of preference"
    RATINGS = "judgements' ratings"
    DEMONSTRATIONS = "demonstrations"
    SKIPPED = "skipped prompts"
    UNRANKABLE = "prompts that are not rankable"
    NOTES = "notes and flags"


@dataclass(frozen=True)
class LabelFormat:
    """A format.

    Attributes:
        name: by which it is asked for.
        title: what it is.
        holds: all that is kept in it; the rest is lost, and the user is told.
        read: rows of a file to what they hold. UserError where a row is malformed.
        write: the rows of a file.
        wrapped: the key that holds the rows in a .json file; "" where the file is a list of them.
    """

    name: str
    title: str
    holds: frozenset[Part]
    read: Callable[[Sequence[Record]], Contents]
    write: Callable[[Contents], Iterable[Row]]
    wrapped: str = ""


ALL = frozenset(Part)


@dataclass(frozen=True)
class Group:
    """Everything that is said of the same answers to the same prompt.

    Attributes:
        prompt: the prompt.
        answers: to it.
        known: the ranking that is held to be right.
        judgements: of these answers.
    """

    prompt: Prompt
    answers: tuple[Answer, ...]
    known: Ranking | None
    judgements: tuple[Judgement, ...]


def grouped(contents: Contents) -> list[Group]:
    """All groups, in the order in which they come first; the answers are in the order of who comes first."""
    firsts: dict[tuple[str, frozenset[str]], Candidates] = {}
    judged: dict[tuple[str, frozenset[str]], list[Judgement]] = {}
    for one in contents.candidates:
        firsts.setdefault(_key(one.prompt, one.answers), one)
    for judgement in contents.judgements:
        key = _key(judgement.prompt, judgement.answers)
        firsts.setdefault(key, Candidates(judgement.prompt, judgement.answers))
        judged.setdefault(key, []).append(judgement)
    return [Group(one.prompt, one.answers, one.known, tuple(judged.get(key, ()))) for key, one in firsts.items()]


def losses(contents: Contents, holds: frozenset[Part]) -> dict[str, int]:
    """What is in ``contents`` and not in ``holds``: how it is called, and how often it is there."""
    found: Counter[Part] = Counter()
    for group in grouped(contents):
        found[Part.UNJUDGED] += not group.judgements and group.known is None
        found[Part.KNOWN] += group.known is not None
        found[Part.CHATS] += any(message["role"] in ("system", "tool") for message in group.prompt.messages)
        found[Part.MODELS] += sum(answer.model is not None for answer in group.answers)
        found[Part.SAMPLING] += sum(bool(answer.details) for answer in group.answers)
        order = tuple(answer.id for answer in group.answers)
        for judgement in group.judgements:
            found += _parts(judgement)
            found[Part.ORDERS] += tuple(answer.id for answer in judgement.answers) != order
    if Part.JUDGEMENTS not in holds:  # then nothing of them is
        beside = {Part.UNJUDGED, Part.KNOWN, Part.CHATS, Part.MODELS, Part.SAMPLING, Part.JUDGEMENTS}
        found = Counter({part: count for part, count in found.items() if part in beside})
    return {part.value: found[part] for part in Part if part not in holds and found[part]}


def _parts(judgement: Judgement) -> Counter[Part]:
    return Counter(
        {
            Part.JUDGEMENTS: 1,
            Part.LABELLERS: int(judgement.labeller != UNKNOWN),
            Part.SOURCES: int(judgement.source != "person"),
            Part.TIMES: int(bool(judgement.at or judgement.seconds)),
            Part.TIES: int(any(len(tied) > 1 for tied in judgement.ranking)),
            Part.WHOLE: int(len(judgement.answers) > 2 and len(judgement.ranking) > 1),
            Part.STRENGTHS: int(judgement.strength is not None),
            Part.RATINGS: int(bool(judgement.ratings)),
            Part.DEMONSTRATIONS: int(judgement.demonstration is not None),
            Part.SKIPPED: int(judgement.skipped not in ("", NOT_RANKABLE)),
            Part.UNRANKABLE: int(judgement.skipped == NOT_RANKABLE),
            Part.NOTES: int(bool(judgement.note or judgement.flag)),
        }
    )


def _key(prompt: Prompt, answers: Sequence[Answer]) -> tuple[str, frozenset[str]]:
    return prompt.id, frozenset(answer.id for answer in answers)


def made_id(*said: object) -> str:
    """An id for a judgement that its file does not name: the same each time the file is read."""
    return hashlib.sha256(json.dumps(said, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def plain_prompt(text: str) -> Prompt:
    """A prompt that is a text."""
    message = {"role": "user", "content": text}
    return Prompt(prompt_id([message]), (message,), text)


def chat_prompt(messages: Sequence[dict[str, str]]) -> Prompt:
    """A prompt that is a chat."""
    return Prompt(prompt_id(messages), tuple(messages), None)


def answers_of(prompt: Prompt, texts: Sequence[str], models: Sequence[str | None] = ()) -> tuple[Answer, ...]:
    """Answers with ids of their own; where a text stands twice, the place is in its id."""
    found: dict[str, Answer] = {}
    for place, text in enumerate(texts):
        model = models[place] if models else None
        name = answer_id(prompt.id, text, model)
        name = f"{name}-{place}" if name in found else name
        found[name] = Answer(name, text, model)
    return tuple(found.values())


def by_rank(answers: Sequence[Answer], ranks: Sequence[int]) -> Ranking:
    """The ranking by each answer's rank, the lowest first; equal ranks tie."""
    return tuple(
        tuple(answer.id for answer, own in zip(answers, ranks, strict=True) if own == rank)
        for rank in sorted(set(ranks))
    )


def ranks_of(answers: Sequence[Answer], ranking: Ranking) -> list[int]:
    """The rank of each answer, from 1; those that tie have the same, and the next one follows without a gap."""
    place = {name: rank for rank, tied in enumerate(ranking, 1) for name in tied}
    return [place[answer.id] for answer in answers]


def ranked(contents: Contents) -> list[Judgement]:
    """The judgements that rank answers."""
    return [judgement for judgement in contents.judgements if len(judgement.answers) > 1 and judgement.ranking]


def pairs_of(judgement: Judgement) -> list[tuple[Answer, Answer]]:
    """The pairs of which one answer is ranked above the other: the better one first."""
    by_name = {answer.id: answer for answer in judgement.answers}
    levels = judgement.ranking
    return [
        (by_name[better], by_name[worse])
        for place, tied in enumerate(levels)
        for better in tied
        for below in levels[place + 1 :]
        for worse in below
    ]
