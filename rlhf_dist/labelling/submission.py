"""What the page sends when a labeller has judged: checked, and with the letters that stood for answers resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_dist.labelling.candidates import Answer, Ranking
from rlhf_dist.labelling.judgements import STRENGTHS, Judgement, Rating, Task
from rlhf_dist.labelling.questions import Question, missing

LONGEST_TEXT = 100_000  # characters of an answer that a labeller writes
LONGEST_REMARK = 5_000  # of a note, a flag, or a reason to skip
_LONGEST_DAY = 24 * 3600.0


class Malformed(Exception):
    """What was sent is no judgement. Its text says why, in one line."""


@dataclass(frozen=True)
class Submission:
    """A judgement as a labeller gave it; the fields are those of :class:`Judgement`."""

    seconds: float = 0.0
    ranking: Ranking = ()
    strength: int | None = None
    ratings: Mapping[str, Mapping[str, Rating]] = field(default_factory=dict)
    demonstration: str | None = None
    skipped: str = ""
    flag: str = ""
    note: str = ""

    def says_the_same(self, judgement: Judgement) -> bool:
        """Whether a judgement that was kept is this one, sent before."""
        fields = ("ranking", "strength", "demonstration", "skipped", "flag", "note")
        same = all(getattr(self, name) == getattr(judgement, name) for name in fields)
        return same and _plain(self.ratings) == _plain(judgement.ratings)


def letters(count: int) -> list[str]:
    """What the page calls ``count`` answers: A to Z, then AA, AB, ..."""
    names = [chr(ord("A") + place) for place in range(26)]
    return [*names, *(first + second for first in names for second in names)][:count]


def read_submission(body: object, task: Task, shown: Sequence[Answer], questions: Sequence[Question]) -> Submission:
    """Reads what the page sent.

    Args:
        body: the JSON of the request.
        task: what was asked for.
        shown: the answers, in the order in which they were shown: A, B, C, ...
        questions: of the task rate.

    Raises:
        Malformed: it is no judgement, or not a whole one; the text says what is wrong, for the labeller.
    """
    if not isinstance(body, dict):
        raise Malformed("expected an object")
    ids = dict(zip(letters(len(shown)), (answer.id for answer in shown), strict=True))
    given: dict[str, Any] = {name: _text(body, name, LONGEST_REMARK) for name in ("skipped", "flag", "note")}
    if not given["skipped"]:
        if task in ("rank", "compare") or (task == "rate" and len(shown) > 1):
            given["ranking"] = _ranking(body, ids)
        if task == "compare":
            given["strength"] = _strength(body, given["ranking"])
        if task == "rate":
            given["ratings"] = _ratings(body, ids, questions)
        if task == "demonstrate":
            given["demonstration"] = _text(body, "demonstration", LONGEST_TEXT)
            if not given["demonstration"]:
                raise Malformed("the answer is empty")
    return Submission(seconds=_seconds(body), **given)


def _text(body: Mapping[str, object], name: str, longest: int) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{name} is no text")
    if len(value) > longest:
        raise Malformed(f"{name} has {len(value)} characters, at most {longest} are kept")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} holds half of a character") from error
    return value.strip()


def _seconds(body: Mapping[str, object]) -> float:
    value = body.get("seconds", 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise Malformed("seconds is no time")
    return min(float(value), _LONGEST_DAY)


def _ranking(body: Mapping[str, object], ids: Mapping[str, str]) -> Ranking:
    groups = body.get("ranking")
    if not isinstance(groups, list) or not all(isinstance(group, list) and group for group in groups):
        raise Malformed("ranking is no list of lists of answers")
    named = [name for group in groups for name in group]
    if not all(isinstance(name, str) for name in named) or sorted(named) != sorted(ids):
        raise Malformed("ranking does not hold each answer once")
    return tuple(tuple(ids[name] for name in group) for group in groups)


def _strength(body: Mapping[str, object], ranking: Ranking) -> int:
    value = body.get("strength")
    if isinstance(value, bool) or value not in STRENGTHS:
        raise Malformed("strength is none of " + ", ".join(map(str, STRENGTHS)))
    if (value == 0) != (len(ranking) == 1):
        raise Malformed("strength and ranking contradict each other")
    return int(value)


def _ratings(
    body: Mapping[str, object], ids: Mapping[str, str], questions: Sequence[Question]
) -> dict[str, dict[str, Rating]]:
    given = body.get("ratings")
    if not isinstance(given, dict) or sorted(given) != sorted(ids):
        raise Malformed("ratings does not hold each answer once")
    ratings = {}
    for letter, answers in given.items():
        wrong = missing(questions, answers) if isinstance(answers, dict) else "all of it"
        if wrong is not None:
            raise Malformed(f"the rating of answer {letter} is not complete or not right: {wrong}")
        ratings[ids[letter]] = dict(answers)
    return ratings


def _plain(ratings: Mapping[str, Mapping[str, Rating]]) -> dict[str, dict[str, Rating]]:
    return {name: dict(given) for name, given in ratings.items()}
