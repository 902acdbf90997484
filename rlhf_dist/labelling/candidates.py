"""Candidates: prompts with the answers that models gave, for people to judge. One prompt a line of a JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_dist.data.chat import Message, read_prompt
from rlhf_dist.data.records import Record, kind_of, read_records

Ranking = tuple[tuple[str, ...], ...]
"""Ids of answers, best first; those in one inner tuple tie."""


@dataclass(frozen=True)
class Answer:
    """One model's answer to a prompt.

    Attributes:
        id: by which judgements name it; unique among the prompt's answers, and no hint of where it comes from.
        text: what is shown.
        model: the name under which the model is compared with others; None where nobody said.
        details: how it was sampled: temperature, top_p, seed, weight_version, tokens, finished, whatever is known.
    """

    id: str
    text: str
    model: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As it stands in a file; details stand beside the other fields."""
        named = {"id": self.id, "text": self.text} | ({} if self.model is None else {"model": self.model})
        return named | {key: value for key, value in self.details.items() if key not in ("id", "text", "model")}


@dataclass(frozen=True)
class Prompt:
    """What answers answer.

    Attributes:
        id: the same for the same prompt in every file (:func:`prompt_id`), unless the file gives one of its own.
        messages: the chat so far; a plain prompt is one message of the user's.
        plain: the plain prompt's text; None where the file has messages.
    """

    id: str
    messages: tuple[Message, ...]
    plain: str | None

    def to_json(self) -> dict[str, object]:
        """The fields of a row: `prompt_id`, and `prompt` or `messages`."""
        row = {"messages": list(self.messages)} if self.plain is None else {"prompt": self.plain}
        return {"prompt_id": self.id, **row}

    @staticmethod
    def read(record: Record) -> Prompt:
        """The prompt of a row with `prompt` or `messages`, and `prompt_id` or none. UserError where it is malformed."""
        read = read_prompt(record)
        name = record.text("prompt_id") if record.has("prompt_id") else prompt_id(read.messages)
        return Prompt(name, tuple(read.messages), read.plain)


@dataclass(frozen=True)
class Candidates:
    """A prompt with its answers.

    Attributes:
        prompt: what was asked.
        answers: to it, in no particular order; none, where labellers are to write them.
        known: the ranking that is held to be right, of a prompt that calibrates labellers; None for all others.
    """

    prompt: Prompt
    answers: tuple[Answer, ...] = ()
    known: Ranking | None = None

    def to_json(self) -> dict[str, object]:
        """As one line of a file."""
        row = self.prompt.to_json() | {"answers": [answer.to_json() for answer in self.answers]}
        return row if self.known is None else row | {"known": [list(tied) for tied in self.known]}


def prompt_id(messages: Sequence[Message]) -> str:
    """16 hexadecimal digits that a prompt always has, whichever file it stands in."""
    said = json.dumps([[message["role"], message["content"]] for message in messages], ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def answer_id(prompt: str, text: str, model: str | None) -> str:
    """12 hexadecimal digits for an answer that its file does not name: of prompt, text and model."""
    said = json.dumps([prompt, text, model], ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def load_candidates(path: str, split: str = "train") -> list[Candidates]:
    """All prompts of a file, with their answers.

    Args:
        path: .jsonl or .parquet file, or a hub name. A row has `prompt` or `messages`, and `answers`: objects with
            `text`, and where known `id`, `model` and how they were sampled. `known` is a ranking of their ids.
        split: of a hub name.

    Raises:
        UserError: the file is missing, empty or malformed, or has a prompt twice.
    """
    seen: dict[str, str] = {}
    found = []
    for record in read_records(path, split):
        row = read_candidates(record)
        if row.prompt.id in seen:
            raise record.error(f"this prompt stands here for the second time, the first is in {seen[row.prompt.id]}")
        seen[row.prompt.id] = record.where
        found.append(row)
    return found


def read_candidates(record: Record) -> Candidates:
    """One row of such a file. UserError where it is malformed."""
    prompt = Prompt.read(record)
    answers = read_answers(record, prompt.id)
    known = read_ranking(record, "known", answers) if record.has("known") else None
    return Candidates(prompt, answers, known)


def read_answers(record: Record, prompt: str) -> tuple[Answer, ...]:
    """The field `answers` of a row; none where it is missing.

    Raises:
        UserError: an answer is malformed, or an id stands twice.
    """
    answers: dict[str, Answer] = {}
    for number, item in enumerate(record.list("answers") if record.has("answers") else [], 1):
        if not isinstance(item, dict):
            raise record.error(f"answer {number} is {kind_of(item)}, expected an object with text")
        read = Record(f"{record.where}: answer {number}", item)
        text, model = read.text("text"), read.text("model") if read.has("model") else None
        name = read.text("id") if read.has("id") else answer_id(prompt, text, model)
        if name in answers:
            raise read.error(f"the id {name!r} stands for two answers")
        details = {key: value for key, value in item.items() if key not in ("id", "text", "model")}
        answers[name] = Answer(name, text, model, details)
    return tuple(answers.values())


def read_ranking(record: Record, name: str, answers: Sequence[Answer]) -> Ranking:
    """A field with a ranking of answers: lists of ids, best first, those in one list tied.

    Raises:
        UserError: it is no such list, names an answer that is not there or one twice, or leaves one out.
    """
    ranking = []
    for tied in record.list(name):
        if not isinstance(tied, list) or not all(isinstance(answer, str) for answer in tied) or not tied:
            raise record.error(f"the field {name!r} must be lists of answers' ids, best first, tied ones in one list")
        ranking.append(tuple(tied))
    named = [answer for tied in ranking for answer in tied]
    if sorted(named) != sorted(answer.id for answer in answers):
        there = ", ".join(answer.id for answer in answers) or "none"
        raise record.error(f"the field {name!r} ranks {', '.join(named) or 'nothing'}; the answers are {there}")
    return tuple(ranking)
