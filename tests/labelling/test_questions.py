"""The questions of the task rate: the default ones, and what is said of a file that will not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_dist.errors import UserError
from rlhf_dist.labelling.questions import Question, load_questions, missing

ONE = "questions:\n  - {name: q, ask: Q, kind: yes_no"


def test_the_default_questions_are_instructgpts() -> None:
    questions = load_questions()
    assert [question.name for question in questions] == [
        "overall",
        "fails_instruction",
        "inappropriate",
        "hallucination",
        "satisfies_constraint",
        "sexual_content",
        "violent_content",
        "encourages_harm",
        "denigrates",
        "harmful_advice",
        "expresses_opinion",
        "moral_judgement",
    ]
    overall, *others = questions
    assert (overall.kind, overall.lowest, overall.highest) == ("scale", 1, 7)
    assert all(question.kind == "yes_no" for question in others)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a list `questions:`"),
        ("questions: []", "expected a list `questions:`"),
        ("questions: [1]", "question 1: expected name, ask and kind"),
        ("questions: [", "not valid YAML"),
        (ONE + ", usuall: no}", "question 1: there is no 'usuall' (did you mean usual?)"),
        ("questions: [{name: q, ask: Q}]", "question 1: kind is missing"),
        ("questions: [{name: q, ask: Q, kind: stars}]", "kind is 'stars', expected one of scale, yes_no"),
        (ONE + "}\n  - {name: q, ask: R, kind: yes_no}", "two questions have the name 'q'"),
        (ONE + ", usual: 3}", "usual is 3, which is no answer to it"),
        (ONE + ", optional: 1}", "optional is 1, expected true or false"),
        ("questions: [{name: q, ask: Q, kind: scale, lowest: 7}]", "a scale from 7 to 7"),
        ("questions: [{name: q, ask: Q, kind: scale, highest: 99}]", "a scale from 1 to 99"),
        ("questions: [{name: q, ask: Q, kind: scale, highest: a}]", "highest is 'a', expected a whole number"),
    ],
)
def test_a_mistake_in_a_file_of_questions_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_questions(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


def test_a_file_that_is_not_there_is_said_with_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "questions.yaml").touch()
    with pytest.raises(UserError, match=r"there is no file .*question.yaml of questions \(did you mean"):
        load_questions(tmp_path / "question.yaml")


def test_what_is_missing_or_wrong_in_answers_is_named() -> None:
    questions = (Question("a", "A?", "yes_no"), Question("b", "B?", "scale", optional=True))
    assert missing(questions, {"a": True}) is None and missing(questions, {"a": False, "b": 7}) is None
    assert missing(questions, {}) == "a" and missing(questions, {"a": 1}) == "a"
    assert missing(questions, {"a": True, "b": 8}) == "b" and missing(questions, {"a": True, "c": 1}) == "c"
