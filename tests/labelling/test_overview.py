"""The operator's page and `rlhf-dist judgements` say the same of the same judgements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_dist.labelling.agreement import Agreement
from rlhf_dist.labelling.assignments import Rules
from rlhf_dist.labelling.candidates import Answer, Candidates
from rlhf_dist.labelling.desk import Desk
from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.items import items_of
from rlhf_dist.labelling.overview import overview
from rlhf_dist.labelling.questions import load_questions
from rlhf_dist.labelling.summary import summarize
from tests.labelling.made import prompt, ranked, write

SAID = [
    replace(one, id=f"{number:032x}")
    for number, one in enumerate(
        [
            ranked("one", "ann", "a>b>c"),
            ranked("one", "bob", "a=b>c"),  # a pair that one of the two ties
            ranked("two", "ann", "a=b=c"),
            ranked("two", "bob", "a=b>c"),  # one that both tie, two that one ties
            ranked("two", "cat", "c>a>b"),
            ranked("three", "bob", "c>b>a"),
            ranked("three", "cat", "a>c>b"),
        ]
    )
]
JUDGES = [
    replace(ranked("one", "gpt", "c>b>a"), source="model"),
    replace(ranked("three", "gpt", "c>b=a"), source="model"),
]
KNOWN = {prompt("one").id: (("b",), ("a",), ("c",)), prompt("three").id: (("c",), ("a", "b"))}


def seen(folder: Path) -> dict[str, Any]:
    out = write(folder / "judgements.jsonl", [*SAID, *JUDGES])
    answers = tuple(Answer(name, f"answer {name}", None) for name in "abc")
    rows = [Candidates(prompt(name), answers, KNOWN.get(prompt(name).id)) for name in ("one", "two", "three")]
    items = items_of(rows, "rank", 1.0, False, 0)
    with Desk(out, "rank", items, ["ann", "bob", "cat"], Rules(0, 0.0, 60.0), load_questions()) as desk:
        return overview(desk, KNOWN)


def as_page_has_it(row: Agreement | None) -> dict[str, object] | None:
    if row is None or row.agreement.value is None:
        return None
    return {"share": row.agreement.value, "pairs": row.pairs, "tied_by_one": row.tied_by_one}


def test_agreement_is_that_of_the_command(tmp_path: Path) -> None:
    page, command = seen(tmp_path), summarize([*SAID, *JUDGES], KNOWN, Bootstrap(10))
    assert page["agreement"] == as_page_has_it(command.people)
    assert page["agreement"] == {"share": 3 / 7, "pairs": 15, "tied_by_one": 7}
    rows = {row["name"]: row for row in page["labellers"]}
    assert rows.keys() == {"ann", "bob", "cat"}  # a judge that is no person has no place on the page
    known = {row.one: row for row in command.known}
    for name, row in rows.items():
        assert row["known"] == as_page_has_it(known.get(name)), name
        pairs = sum(two.pairs for two in command.labellers if name in (two.one, two.other) and "gpt" not in two.other)
        assert row["agreement"]["pairs"] == pairs, name
    assert known["bob"].tied_by_one == rows["bob"]["known"]["tied_by_one"] == 2
