"""What other tools have no place for, but carry along unseen: kept as one object beside what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

from rlhf_dist.data.records import Record
from rlhf_dist.labelling.candidates import Answer
from rlhf_dist.labelling.judgements import Judgement, Source, Task

TEXTS = ("note", "flag", "skipped", "demonstration")  # what a labeller writes, by the field of a judgement
_TASKS, _SOURCES = get_args(Task), get_args(Source)


def extras_of(judgement: Judgement) -> dict[str, object]:
    """Of a judgement: what it was asked for, who judged, when, and in which order the answers were shown."""
    return {
        "id": judgement.id,
        "task": judgement.task,
        "source": judgement.source,
        "at": judgement.at,
        "seconds": judgement.seconds,
        "order": [answer.id for answer in judgement.answers],
    }


def texts_of(judgement: Judgement) -> dict[str, str]:
    """What the labeller wrote, by the field of the judgement: only what is there."""
    return {name: getattr(judgement, name) for name in TEXTS if getattr(judgement, name)}


def with_text(judgement: Judgement, name: str, text: str) -> Judgement:
    """The judgement with a text of :data:`TEXTS`."""
    match name:
        case "note":
            return replace(judgement, note=text)
        case "flag":
            return replace(judgement, flag=text)
        case "skipped":
            return replace(judgement, skipped=text)
        case _:
            return replace(judgement, demonstration=text)


def task_of(extras: Mapping[str, object], judgement: Judgement) -> Task:
    """What was asked for: as it was kept, or, in a file of others, what the answer looks like."""
    if extras.get("task") in _TASKS:
        return cast(Task, extras["task"])
    if judgement.demonstration is not None:
        return "demonstrate"
    if judgement.ratings:
        return "rate"
    return "compare" if len(judgement.answers) == 2 and judgement.strength is not None else "rank"


def source_of(extras: Mapping[str, object], other: Source = "person") -> Source:
    """Who judged: as it was kept, else ``other``."""
    return cast(Source, extras["source"]) if extras.get("source") in _SOURCES else other


def in_order(extras: Mapping[str, object], answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """The answers in the order in which they were shown, where that was kept."""
    by_name = {answer.id: answer for answer in answers}
    order = extras.get("order")
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(by_name):
        return tuple(answers)
    return tuple(by_name[str(name)] for name in order)


def seconds_of(record: Record, value: object) -> float:
    """Seconds that a judgement took; 0 where nobody knows. UserError where it is no such number."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise record.error(f"{value!r} is no number of seconds")
    return float(value)
