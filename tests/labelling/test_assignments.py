"""Who judges what: shared and known items go to everyone, each other one to one labeller, none twice to the same."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.labelling.assignments import Assignment, Assignments, Rules
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, prompt_id
from rlhf_dist.labelling.items import Item, items_of, ring
from rlhf_dist.labelling.judgements import Task

LEASE_S = 100.0


def row(text: str, answers: int = 2, known: bool = False) -> Candidates:
    messages = ({"role": "user", "content": text},)
    given = tuple(Answer(f"{text}-{number}", f"answer {number}") for number in range(answers))
    right = tuple((answer.id,) for answer in given) if known else None
    return Candidates(Prompt(prompt_id(messages), messages, text), given, right)


def rows(count: int, known: int = 0, answers: int = 2) -> list[Candidates]:
    return [row(f"p{place}", answers) for place in range(count)] + [
        row(f"k{place}", answers, True) for place in range(known)
    ]


def dealt_out(assignments: Assignments, order: Iterator[str], now: float = 0.0) -> list[Assignment]:
    """All that is assigned when labellers ask, and judge at once, in this order."""
    found = []
    for number, labeller in enumerate(order):
        if (item := assignments.choose(labeller, now)) is not None:
            found.append(Assignment(str(number), labeller, item.key, now))
            assignments.add(found[-1])
            assignments.judged(labeller, item.key, skipped=False)
    return found


def everyone_until_done(names: list[str], tasks: int, seed: int) -> Iterator[str]:
    drawn = random.Random(seed)
    return iter([drawn.choice(names) for _ in range(4 * tasks * len(names))] + names * (tasks + 1))


@given(
    st.integers(1, 12),
    st.integers(0, 4),
    st.integers(1, 4),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from(["rank", "compare"]),
    st.integers(2, 4),
    st.integers(0, 99),
)
def test_shared_items_go_to_all_others_to_one_and_none_twice_to_the_same(
    count: int, known: int, people: int, shared: float, rate: float, task: Task, answers: int, seed: int
) -> None:
    items = items_of(rows(count, known, answers), task, shared, False, seed)
    names = [f"labeller {number}" for number in range(people)]
    assignments = Assignments(items, names, Rules(seed, rate, LEASE_S))
    found = dealt_out(assignments, everyone_until_done(names, len(items), seed))
    times = Counter((one.labeller, one.item) for one in found)
    assert set(times.values()) <= {1}, "an item came twice to the same labeller"
    for item in items:
        holders = {one.labeller for one in found if one.item == item.key}
        if item.group == "single":
            assert len(holders) == 1
        elif item.group == "shared":
            assert holders == set(names)
        assert item.group != "known" or rate > 0 or not holders, "a known item was asked, and none was to be"


@given(st.integers(0, 10_000))
def test_known_items_come_at_their_rate_at_places_of_each_labellers_own(seed: int) -> None:
    items = items_of(rows(60, known=20), "rank", 0.0, False, seed)
    assignments = Assignments(items, ["ann", "bob"], Rules(seed, 0.2, LEASE_S))
    found = dealt_out(assignments, iter(["ann", "bob"] * 25))
    for name in ("ann", "bob"):
        mine = [assignments.items[one.item].group for one in found if one.labeller == name]
        for block in range(5):
            assert mine[5 * block : 5 * block + 5].count("known") == 1


def test_the_share_of_shared_prompts_is_the_one_that_was_set() -> None:
    groups = Counter(item.group for item in items_of(rows(50, known=7), "rank", 0.3, False, 0))
    assert groups == {"shared": 15, "single": 35, "known": 7}


def test_shared_items_are_spread_over_the_others() -> None:
    items = items_of(rows(100), "rank", 0.5, False, 1)
    found = dealt_out(Assignments(items, ["ann"], Rules(1, 0.0, LEASE_S)), iter(["ann"] * 100))
    groups = {item.key: item.group for item in items}
    first = Counter(groups[one.item] for one in found[:50])
    assert 15 <= first["shared"] <= 35


def only(count: int, *names: str) -> Assignments:
    return Assignments(items_of(rows(count), "rank", 0.0, False, 0), names, Rules(0, 0.0, LEASE_S))


def hand_out(assignments: Assignments, labeller: str, now: float) -> Assignment:
    item = assignments.choose(labeller, now)
    assert item is not None
    given = Assignment(f"{labeller} {item.key}", labeller, item.key, now)
    assignments.add(given)
    return given


def test_what_is_in_hand_stays_there_until_the_lease_is_over_then_it_goes_to_another() -> None:
    desk = only(1, "ann", "bob")
    mine = hand_out(desk, "ann", 0)
    assert desk.current("ann", 50) == mine and desk.choose("bob", LEASE_S - 1) is None
    taken = hand_out(desk, "bob", LEASE_S + 1)
    assert taken.item == mine.item
    assert desk.current("ann", LEASE_S + 2) is None, "two have it in hand"
    assert desk.choose("ann", LEASE_S + 2) is None


def test_what_another_has_judged_meanwhile_does_not_come_back() -> None:
    desk = only(1, "ann", "bob")
    mine = hand_out(desk, "ann", 0)
    hand_out(desk, "bob", LEASE_S + 1)
    desk.judged("bob", mine.item, skipped=False)
    assert desk.current("ann", 9 * LEASE_S) is None and desk.choose("ann", 9 * LEASE_S) is None


def test_a_labeller_at_work_keeps_what_is_in_hand() -> None:
    desk = only(1, "ann", "bob")
    hand_out(desk, "ann", 0)
    desk.renew("ann", LEASE_S - 1)
    assert desk.choose("bob", LEASE_S + 1) is None


def test_a_labeller_who_comes_back_late_to_what_nobody_took_still_has_it() -> None:
    desk = only(1, "ann", "bob")
    mine = hand_out(desk, "ann", 0)
    assert desk.current("ann", 10 * LEASE_S) == mine


def test_what_one_skipped_goes_to_another_after_what_is_new() -> None:
    desk = only(2, "ann", "bob")
    skipped = hand_out(desk, "ann", 0)
    desk.judged("ann", skipped.item, skipped=True)
    first, second = hand_out(desk, "bob", 1), None
    desk.judged("bob", first.item, skipped=False)
    second = hand_out(desk, "bob", 2)
    assert first.item != skipped.item and second.item == skipped.item
    desk.judged("bob", second.item, skipped=True)
    assert desk.choose("ann", 3) is None and desk.choose("bob", 3) is None


def test_the_pairs_of_a_prompt_come_one_after_the_other() -> None:
    items = items_of(rows(4, answers=4), "compare", 0.0, False, 0)
    assignments = Assignments(items, ["ann", "bob"], Rules(0, 0.0, LEASE_S))
    found = dealt_out(assignments, iter(["ann", "bob"] * 8))
    for name in ("ann", "bob"):
        prompts = [assignments.items[one.item].prompt.id for one in found if one.labeller == name]
        assert len(prompts) == 8 and len(set(prompts)) == 2 and len(set(prompts[:4])) == 1


@given(st.integers(2, 9), st.integers(0, 99))
def test_pairs_connect_all_answers_and_show_each_equally_often(count: int, seed: int) -> None:
    answers = row("a", count).answers
    pairs = ring(answers, str(seed))
    times = Counter(answer.id for pair in pairs for answer in pair)
    assert set(times) == {answer.id for answer in answers} and len(set(times.values())) == 1
    assert len({frozenset(answer.id for answer in pair) for pair in pairs}) == len(pairs)
    seen = {answers[0].id}
    for _ in range(count):
        for one, other in pairs:
            if one.id in seen or other.id in seen:
                seen |= {one.id, other.id}
    assert len(seen) == count


def test_all_pairs_are_asked_where_that_is_wanted() -> None:
    assert len(items_of([row("a", 5)], "compare", 0.0, True, 0)) == 10
    assert len(items_of([row("a", 5)], "compare", 0.0, False, 0)) == 5


def test_answers_are_mixed_for_each_labeller_and_prompt_and_stay_as_they_are() -> None:
    items = items_of(rows(20, answers=5), "rank", 0.0, False, 0)
    orders = [item.shown(name, 0) for item in items for name in ("ann", "bob")]
    assert orders == [item.shown(name, 0) for item in items for name in ("ann", "bob")]
    places = [
        [answer.id for answer in item.answers].index(shown[0].id)
        for item, shown in zip(items, orders[::2], strict=True)
    ]
    assert len(set(places)) == 5, "an answer's place in the file tells its place on the page"
    assert sum(one != other for one, other in zip(orders[::2], orders[1::2], strict=True)) > 10


@pytest.mark.parametrize(("task", "fewest"), [("demonstrate", 0), ("rate", 1), ("rank", 2), ("compare", 2)])
def test_prompts_with_too_few_answers_are_left_out(task: Task, fewest: int) -> None:
    found: list[Item] = items_of([row(str(count), count) for count in range(3)], task, 0.0, False, 0)
    assert sorted({item.prompt.plain for item in found}) == [str(count) for count in range(fewest, 3)]
