"""The desk: what is handed out and what is judged are on the disk, none lost and none doubled."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.errors import UserError
from rlhf_dist.labelling.assignments import Rules
from rlhf_dist.labelling.candidates import Candidates
from rlhf_dist.labelling.desk import AlreadyJudged, Desk, NotYours, Sheet
from rlhf_dist.labelling.items import items_of
from rlhf_dist.labelling.judgements import Task, load_judgements
from rlhf_dist.labelling.questions import load_questions
from rlhf_dist.labelling.submission import Malformed
from tests.labelling.test_assignments import row, rows

Open = Callable[..., Desk]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "judgements.jsonl"


@pytest.fixture
def open_desk(out: Path) -> Open:
    def make(task: Task = "rank", given: list[Candidates] | None = None, now: float = 0.0, **rules: float) -> Desk:
        items = items_of(rows(3) if given is None else given, task, rules.pop("shared", 0.0), False, 0)
        limits = Rules(0, rules.pop("known", 0.0), rules.pop("lease_s", 1800.0))
        return Desk(out, task, items, ["ann", "bob"], limits, load_questions(), clock=lambda: now)

    return make


def sheet(desk: Desk, labeller: str = "ann") -> Sheet:
    found = desk.sheet(labeller)
    assert found is not None
    return found


RANKED = {"ranking": [["B"], ["A"]], "seconds": 1.5}


def test_a_judgement_names_the_answers_that_its_letters_stood_for(open_desk: Open, out: Path) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        assert desk.save("ann", shown.id, RANKED | {"note": " fine ", "flag": "odd"})
    (kept,) = load_judgements(str(out))
    assert kept.id == shown.id and kept.labeller == "ann" and kept.answers == shown.answers
    assert kept.ranking == ((shown.answers[1].id,), (shown.answers[0].id,))
    assert (kept.note, kept.flag, kept.seconds, kept.at) == ("fine", "odd", 1.5, "1970-01-01T00:00:00Z")


def test_reloading_shows_the_same_sheet_also_after_a_restart(open_desk: Open) -> None:
    with open_desk() as desk:
        first = sheet(desk)
        assert sheet(desk) == first
    with open_desk() as desk:
        assert sheet(desk) == first


def test_the_same_judgement_sent_twice_is_one_also_after_a_restart(open_desk: Open, out: Path) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        assert desk.save("ann", shown.id, RANKED) and not desk.save("ann", shown.id, RANKED)
    with open_desk() as desk:
        assert not desk.save("ann", shown.id, RANKED)
    assert len(out.read_text().splitlines()) == 1


def test_another_judgement_under_the_same_id_is_refused_and_the_first_holds(open_desk: Open, out: Path) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        desk.save("ann", shown.id, RANKED)
        with pytest.raises(AlreadyJudged):
            desk.save("ann", shown.id, {"ranking": [["A", "B"]]})
    assert len(load_judgements(str(out))) == 1


def test_a_judgement_is_changed_by_another_that_replaces_it(open_desk: Open, out: Path) -> None:
    with open_desk() as desk:
        first = sheet(desk)
        desk.save("ann", first.id, RANKED)
        sheet(desk)
    for number in (2, 3):
        with open_desk() as desk:  # a restart in between
            again = desk.sheet_before("ann", sheet(desk).assignment)
            assert again is not None and again.item == first.item and again.given is not None
            assert again.id == f"{first.id}-{number}"
            assert desk.save("ann", again.id, RANKED | {"note": str(number)})
            assert not desk.save("ann", again.id, RANKED | {"note": str(number)})
    assert [one.note for one in load_judgements(str(out))] == ["3"]
    assert len(out.read_text().splitlines()) == 3


def test_one_goes_back_judgement_by_judgement(open_desk: Open) -> None:
    with open_desk() as desk:
        done = []
        for _ in range(2):
            done.append(sheet(desk).assignment)
            desk.save("ann", done[-1], RANKED)
        back = desk.sheet_before("ann", sheet(desk).assignment)
        assert back is not None and back.assignment == done[1]
        back = desk.sheet_before("ann", back.assignment)
        assert back is not None and back.assignment == done[0]
        assert desk.sheet_before("ann", back.assignment) is None
        assert desk.sheet_before("bob", "") is None


@pytest.mark.parametrize("name", ["", "nonsense", "{}-1", "{}-2", "{}-02", "{}-x", "{}-", "{}--2"])
def test_an_id_that_was_never_given_out_is_refused(open_desk: Open, out: Path, name: str) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        with pytest.raises(NotYours):
            desk.save("ann", name.format(shown.id), RANKED)
    assert out.read_text() == ""


def test_nobody_judges_in_anothers_name(open_desk: Open) -> None:
    with open_desk() as desk:
        shown = sheet(desk, "ann")
        with pytest.raises(NotYours):
            desk.save("bob", shown.id, RANKED)


def test_a_judgement_that_comes_after_the_lease_is_kept_beside_the_others(open_desk: Open, out: Path) -> None:
    with open_desk(given=rows(1)) as desk:
        late = sheet(desk, "ann")
        desk.clock = lambda: 3600.0
        other = sheet(desk, "bob")
        assert other.item == late.item and other.id != late.id
        assert desk.save("bob", other.id, RANKED) and desk.save("ann", late.id, RANKED)
    assert sorted(one.labeller for one in load_judgements(str(out))) == ["ann", "bob"]


def test_a_restart_gives_what_is_in_hand_a_new_lease(open_desk: Open) -> None:
    with open_desk(given=rows(1)) as desk:
        mine = sheet(desk, "ann")
    with open_desk(given=rows(1), now=10_000.0) as desk:
        assert desk.sheet("bob") is None and sheet(desk, "ann") == mine


def test_without_the_file_of_assignments_nobody_judges_the_same_again(open_desk: Open, out: Path) -> None:
    with open_desk(given=rows(2), shared=1.0) as desk:
        first = sheet(desk)
        desk.save("ann", first.id, RANKED)
    out.with_suffix(".assignments.jsonl").unlink()
    with open_desk(given=rows(2), shared=1.0) as desk:
        assert sheet(desk).item != first.item
        back = desk.sheet_before("ann", "")
        assert back is not None and back.item == first.item


def test_a_full_disk_loses_nothing_and_the_same_judgement_is_kept_when_there_is_room(
    open_desk: Open, out: Path
) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(OSError):
                desk.save("ann", shown.id, RANKED)
            with pytest.raises(OSError):
                sheet(desk, "bob")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert out.read_text() == "" and desk.history("ann") == []
        assert desk.save("ann", shown.id, RANKED) and sheet(desk, "bob").item != shown.item


def test_the_file_of_another_task_or_of_other_candidates_is_refused(open_desk: Open) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        desk.save("ann", shown.id, RANKED)
    with pytest.raises(UserError, match="is of the task rank, not rate: choose another --out"):
        open_desk("rate")
    with pytest.raises(UserError, match="of a prompt or of answers that the candidates do not have"):
        open_desk(given=[row("other")])
    with pytest.raises(UserError, match="of a prompt or of answers that the candidates do not have"):
        open_desk(given=rows(3, answers=3))
    with open_desk(given=rows(9)):
        pass  # more prompts than before are welcome


def test_skips_are_kept_with_their_reason_and_can_be_taken_back(open_desk: Open, out: Path) -> None:
    with open_desk() as desk:
        shown = sheet(desk)
        desk.save("ann", shown.id, {"skipped": "broken"})
        assert load_judgements(str(out))[0].skipped == "broken"
        again = desk.sheet_before("ann", "")
        assert again is not None
        desk.save("ann", again.id, RANKED)
    (kept,) = load_judgements(str(out))
    assert not kept.skipped and kept.ranking


OVERALL = {"overall": 5} | {
    question.name: False for question in load_questions() if question.kind == "yes_no" and not question.optional
}


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("rank", {}),
        ("rank", {"ranking": [["A"]]}),
        ("rank", {"ranking": [["A"], ["B"], ["C"]]}),
        ("rank", {"ranking": [["A", "A"], ["B"]]}),
        ("rank", {"ranking": [["A"], [], ["B"]]}),
        ("rank", {"ranking": [["A"], [2]]}),
        ("rank", {"ranking": "AB"}),
        ("rank", [["A"], ["B"]]),
        ("rank", RANKED | {"seconds": -1}),
        ("rank", RANKED | {"seconds": float("nan")}),
        ("rank", RANKED | {"seconds": True}),
        ("rank", RANKED | {"note": 7}),
        ("rank", RANKED | {"note": "\ud800"}),
        ("rank", RANKED | {"note": "x" * 5001}),
        ("rank", {"skipped": "   "}),
        ("compare", RANKED),
        ("compare", RANKED | {"strength": 0}),
        ("compare", RANKED | {"strength": 4}),
        ("compare", {"ranking": [["A", "B"]], "strength": 1}),
        ("rate", RANKED),
        ("rate", RANKED | {"ratings": {"A": OVERALL}}),
        ("rate", RANKED | {"ratings": {"A": OVERALL, "B": OVERALL | {"overall": 8}}}),
        ("rate", RANKED | {"ratings": {"A": OVERALL, "B": OVERALL | {"overall": True}}}),
        ("rate", RANKED | {"ratings": {"A": OVERALL, "B": OVERALL | {"hallucination": 1}}}),
        ("rate", RANKED | {"ratings": {"A": OVERALL, "B": OVERALL | {"other": True}}}),
        ("rate", RANKED | {"ratings": {"A": OVERALL, "B": {}}}),
        ("rate", {"ratings": {"A": OVERALL, "B": OVERALL}}),
        ("demonstrate", {}),
        ("demonstrate", {"demonstration": " \n"}),
        ("demonstrate", {"demonstration": "x" * 100_001}),
    ],
)
def test_what_is_no_judgement_is_not_kept(open_desk: Open, out: Path, task: Task, body: Any) -> None:
    with open_desk(task) as desk:
        with pytest.raises(Malformed):
            desk.save("ann", sheet(desk).id, body)
    assert out.read_text() == ""


@pytest.mark.parametrize(
    ("task", "body", "kept"),
    [
        ("rank", {"ranking": [["A", "B"]]}, {"strength": None}),
        ("compare", RANKED | {"strength": 3}, {"strength": 3}),
        ("compare", {"ranking": [["A", "B"]], "strength": 0}, {"strength": 0}),
        ("rate", RANKED | {"ratings": {"A": OVERALL, "B": OVERALL | {"satisfies_constraint": True}}}, {}),
        ("demonstrate", {"demonstration": "My answer."}, {"demonstration": "My answer.", "answers": ()}),
    ],
)
def test_each_task_keeps_what_it_asks_for(
    open_desk: Open, out: Path, task: Task, body: dict[str, Any], kept: dict[str, Any]
) -> None:
    with open_desk(task) as desk:
        shown = sheet(desk)
        assert desk.save("ann", shown.id, body) and not desk.save("ann", shown.id, body)
    (found,) = load_judgements(str(out))
    assert {name: getattr(found, name) for name in kept} == kept
    if task == "rate":
        assert found.ratings[shown.answers[1].id] == OVERALL | {"satisfies_constraint": True}
