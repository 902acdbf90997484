"""The questions of the task rate: a YAML file of them, and whether an answer to one is an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import yaml

from rlhf_dist.config.did_you_mean import suggest, suggest_path
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.judgements import Rating

DEFAULT = Path(__file__).with_name("questions.yaml")
_KINDS = ("scale", "yes_no")
_LONGEST_SCALE = 20


@dataclass(frozen=True)
class Question:
    """One question about an answer.

    Attributes:
        name: by which judgements name it.
        ask: what the labeller reads.
        kind: "scale" asks for a whole number, "yes_no" for yes or no.
        help: what explains it; "" where nothing need.
        optional: whether it may go unanswered.
        usual: the answer that most answers get, for a button that gives it; None where there is none.
        lowest: of a scale.
        highest: of a scale.
        low: what the lowest means, in a word or two.
        high: what the highest means.
    """

    name: str
    ask: str
    kind: Literal["scale", "yes_no"]
    help: str = ""
    optional: bool = False
    usual: Rating | None = None
    lowest: int = 1
    highest: int = 7
    low: str = ""
    high: str = ""

    def to_json(self) -> dict[str, object]:
        """What the page needs to ask it."""
        return asdict(self)

    def accepts(self, value: object) -> bool:
        """Whether ``value`` is an answer."""
        if self.kind == "yes_no":
            return isinstance(value, bool)
        return isinstance(value, int) and not isinstance(value, bool) and self.lowest <= value <= self.highest


def load_questions(path: Path = DEFAULT) -> tuple[Question, ...]:
    """The questions of a YAML file.

    Raises:
        UserError: the file is missing or malformed, names a question twice, or has none.
    """
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path} of questions{suggest_path(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    rows = read.get("questions") if isinstance(read, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected a list `questions:` with at least one question")
    questions = tuple(_question(row, f"{path}: question {number}") for number, row in enumerate(rows, 1))
    names = [question.name for question in questions]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two questions have the name {name!r}")
    return questions


def missing(questions: Sequence[Question], given: Mapping[str, object]) -> str | None:
    """The name of the first question without a right answer, or that is no question; None where all is well."""
    known = {question.name: question for question in questions}
    for name, value in given.items():
        if name not in known or not known[name].accepts(value):
            return name
    return next((one.name for one in questions if not one.optional and one.name not in given), None)


def _question(row: object, where: str) -> Question:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected name, ask and kind")
    known = [field.name for field in fields(Question)]
    for name in row:
        if name not in known:
            raise UserError(f"{where}: there is no {name!r}{suggest(str(name), known)}; there are {', '.join(known)}")
    for name in ("name", "ask", "kind"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: {name} is missing, or no text")
    if row["kind"] not in _KINDS:
        raise UserError(f"{where}: kind is {row['kind']!r}, expected one of {', '.join(_KINDS)}")
    for name, kind, what in _TYPES:
        if name in row and (not isinstance(row[name], kind) or (kind is int and isinstance(row[name], bool))):
            raise UserError(f"{where}: {name} is {row[name]!r}, expected {what}")
    question = Question(**row)
    if not question.lowest < question.highest <= question.lowest + _LONGEST_SCALE:
        raise UserError(f"{where}: a scale from {question.lowest} to {question.highest} has no use, or no place")
    if question.usual is not None and not question.accepts(question.usual):
        raise UserError(f"{where}: usual is {question.usual!r}, which is no answer to it")
    return question


_TYPES: tuple[tuple[str, type, str], ...] = (
    ("help", str, "a text"),
    ("low", str, "a text"),
    ("high", str, "a text"),
    ("optional", bool, "true or false"),
    ("lowest", int, "a whole number"),
    ("highest", int, "a whole number"),
)
