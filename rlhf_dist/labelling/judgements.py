"""Judgements: what a labeller, or a judge in a labeller's place, said of a prompt's answers. A JSONL file of them.

The file only ever grows. A judgement that is changed stays, and a later line names it in `replaces`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_dist.data.records import Record, read_records
from rlhf_dist.labelling.candidates import Answer, Prompt, Ranking, read_answers, read_ranking
from rlhf_dist.labelling.lines import LineLog

Task = Literal["rank", "compare", "rate", "demonstrate"]
Source = Literal["person", "function", "model", "endpoint"]
Rating = int | float | bool
#: Of a preference between two answers: none (a tie), slight, clear, strong.
STRENGTHS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Judgement:
    """One judgement.

    Attributes:
        id: of this judgement; a second one with the same id is the same, sent again.
        task: what was asked for.
        prompt: of the answers.
        answers: in the order in which they were shown.
        labeller: who judged.
        source: what the labeller is.
        at: when it was given, ISO 8601 in UTC.
        seconds: that it took, without the time in which nothing was done.
        ranking: of all answers; empty where none was asked for, or the prompt was skipped.
        strength: of a preference between two answers, one of :data:`STRENGTHS`; None where it was not asked for.
        ratings: by the answer's id, by the name of a question: a number, or yes or no.
        demonstration: the answer that the labeller wrote.
        skipped: why the labeller gave no judgement; "" where there is one.
        flag: why somebody should look at this prompt; "" where nobody need.
        note: whatever the labeller wanted to say.
        replaces: id of the judgement that this one stands in for.
    """

    id: str
    task: Task
    prompt: Prompt
    answers: tuple[Answer, ...]
    labeller: str
    source: Source = "person"
    at: str = ""
    seconds: float = 0.0
    ranking: Ranking = ()
    strength: int | None = None
    ratings: Mapping[str, Mapping[str, Rating]] = field(default_factory=dict)
    demonstration: str | None = None
    skipped: str = ""
    flag: str = ""
    note: str = ""
    replaces: str | None = None

    def to_json(self) -> dict[str, object]:
        """As one line of a file: what is not there, or says nothing, is left out."""
        row: dict[str, object] = {"id": self.id, "task": self.task, **self.prompt.to_json()}
        row |= {"answers": [answer.to_json() for answer in self.answers]}
        row |= {"labeller": self.labeller, "source": self.source, "at": self.at, "seconds": round(self.seconds, 3)}
        row |= {"ranking": [list(tied) for tied in self.ranking]} if self.ranking else {}
        row |= {"ratings": {name: dict(given) for name, given in self.ratings.items()}} if self.ratings else {}
        optional = ("strength", "demonstration", "skipped", "flag", "note", "replaces")
        given = {name: getattr(self, name) for name in optional}
        return row | {name: value for name, value in given.items() if value not in (None, "")}

    @staticmethod
    def read(record: Record) -> Judgement:
        """One row of a file. UserError where it is malformed."""
        task = _one_of(record, "task", get_args(Task))
        prompt = Prompt.read(record)
        answers = read_answers(record, prompt.id)
        return Judgement(
            record.text("id"),
            task,
            prompt,
            answers,
            record.text("labeller"),
            _one_of(record, "source", get_args(Source)) if record.has("source") else "person",
            _text(record, "at"),
            _number(record, "seconds"),
            read_ranking(record, "ranking", answers) if record.has("ranking") else (),
            _strength(record),
            _ratings(record, answers),
            record.text("demonstration") if record.has("demonstration") else None,
            _text(record, "skipped"),
            _text(record, "flag"),
            _text(record, "note"),
            record.text("replaces") if record.has("replaces") else None,
        )


def new_id() -> str:
    """The id of a new judgement: 16 random hexadecimal digits."""
    return secrets.token_hex(8)


def load_judgements(path: str) -> list[Judgement]:
    """The judgements of a file that hold: without those that others replace, each id once, in order.

    A last line without an end, which a writer that was killed has left, is none: nobody was told that it was kept.

    Raises:
        UserError: the file is missing, empty or malformed.
    """
    return standing(Judgement.read(record) for record in read_records(path, "train", growing=True))


def standing(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Those of a file's judgements that hold, in order: of the same id the first, and none that another replaces."""
    by_id: dict[str, Judgement] = {}
    for judgement in judgements:
        by_id.setdefault(judgement.id, judgement)
    replaced = {judgement.replaces for judgement in by_id.values()}
    return [one for one in by_id.values() if one.id not in replaced]


class JudgementLog:
    """A file of judgements that is being written: each is on the disk when :meth:`append` returns.

    Only one process writes to a file at a time. What a killed one left half written is cut off.

    Args:
        path: of the file, made if it is not there.

    Raises:
        UserError: the file is malformed, cannot be written, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = LineLog(path)
        self._judgements = {one.id: one for one in map(Judgement.read, self._lines.rows())}

    def __enter__(self) -> JudgementLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def standing(self) -> list[Judgement]:
        """The judgements that hold, in order."""
        return standing(self._judgements.values())

    def append(self, judgement: Judgement) -> bool:
        """Writes a judgement, and brings it to the disk.

        Returns:
            False where one of this id is there already: then nothing is written.

        Raises:
            OSError: the disk is full, or gone; nothing of the judgement is in the file then.
        """
        if judgement.id in self._judgements:
            return False
        self._lines.append(judgement.to_json())
        self._judgements[judgement.id] = judgement
        return True

    def close(self) -> None:
        """Gives the file free for other processes."""
        self._lines.close()


def _one_of(record: Record, name: str, choices: tuple[Any, ...]) -> Any:
    value = record.text(name)
    if value not in choices:
        raise record.error(f"the field {name!r} is {value!r}, expected one of {', '.join(choices)}")
    return value


def _text(record: Record, name: str) -> str:
    return record.text(name) if record.has(name) else ""


def _number(record: Record, name: str) -> float:
    value = record.fields.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise record.error(f"the field {name!r} is {value!r}, expected seconds")
    return float(value)


def _strength(record: Record) -> int | None:
    if not record.has("strength"):
        return None
    value = record.fields["strength"]
    if isinstance(value, bool) or value not in STRENGTHS:
        raise record.error(f"the field 'strength' is {value!r}, expected one of {', '.join(map(str, STRENGTHS))}")
    return int(value)


def _ratings(record: Record, answers: tuple[Answer, ...]) -> dict[str, dict[str, Rating]]:
    ratings = record.object("ratings") if record.has("ratings") else {}
    names = {answer.id for answer in answers}
    for name, given in ratings.items():
        if name not in names or not isinstance(given, dict):
            raise record.error("the field 'ratings' must hold, by the id of an answer, an object of questions")
        for question, value in given.items():
            if not isinstance(value, (bool, int, float)):
                raise record.error(
                    f"the rating {question!r} of {name} is {value!r}, expected a number, or true or false"
                )
    return dict(ratings)
