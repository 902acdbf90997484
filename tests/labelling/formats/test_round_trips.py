"""Every format gives back what it can hold, and says of the rest that it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_dist.data.records import Record
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, Ranking, prompt_id
from rlhf_dist.labelling.formats.contents import (
    NOT_RANKABLE,
    UNKNOWN,
    Contents,
    LabelFormat,
    Part,
    losses,
    pairs_of,
)
from rlhf_dist.labelling.formats.convert import FORMATS
from rlhf_dist.labelling.judgements import Judgement

WORD = st.sampled_from(["a", "Two words.", "\n\nHuman: x\n\nAssistant: y", "é\u2028\U0001f327", " ", "null", "\x00"])
SLOWLY = settings(suppress_health_check=[HealthCheck.too_slow])  # on a machine that others use
ROLES = ("user", "assistant")
NAMES = ["a", "b/c", "answer_1", "_", "x~2"]  # of answers: such as the formats give a meaning of their own


def prompts(parts: frozenset[Part]) -> st.SearchStrategy[Prompt]:
    @st.composite
    def make(draw: Callable[..., Any]) -> Prompt:
        texts = draw(st.lists(WORD, min_size=1, max_size=3).filter(lambda texts: len(texts) != 2))
        messages = [{"role": ROLES[place % 2], "content": text} for place, text in enumerate(texts)]
        if Part.CHATS in parts and draw(st.booleans()):
            messages = [{"role": "system", "content": "Be brief."}, *messages]
        plain = messages[0]["content"] if len(messages) == 1 else None
        return Prompt(prompt_id(messages), tuple(messages), plain)

    return make()


def rankings(parts: frozenset[Part], names: list[str]) -> st.SearchStrategy[Ranking]:
    @st.composite
    def make(draw: Callable[..., Any]) -> Ranking:
        order = draw(st.permutations(names))
        levels: list[list[str]] = []
        for name in order:
            if levels and Part.TIES in parts and draw(st.booleans()):
                levels[-1].append(name)
            else:
                levels.append([name])
        return tuple(tuple(sorted(tied)) for tied in levels)

    return make()


@st.composite
def contents(draw: Callable[..., Any], parts: frozenset[Part]) -> Contents:
    """Labels that have no part but these."""
    judgements: list[Judgement] = []
    candidates: list[Candidates] = []
    found = draw(st.lists(prompts(parts), min_size=1, max_size=3, unique_by=lambda prompt: prompt.id))
    for prompt in found:
        most = 4 if Part.WHOLE in parts else 2
        names = draw(
            st.lists(st.sampled_from(["a", "b/c", "answer_1", "_", "x~2"]), min_size=2, max_size=most, unique=True)
        )
        answers = tuple(draw(an_answer(parts, name, place)) for place, name in enumerate(names))
        count = draw(st.integers(0, 3)) if Part.JUDGEMENTS in parts else 0
        if Part.KNOWN in parts and draw(st.booleans()):
            candidates.append(Candidates(prompt, answers, draw(rankings(parts, names))))
        elif not count and Part.UNJUDGED in parts:
            candidates.append(Candidates(prompt, answers))
        for _ in range(count):
            judgements.append(draw(a_judgement(parts, prompt, answers, f"{len(judgements):04}")))
    return Contents(judgements, candidates)


@st.composite
def an_answer(draw: Callable[..., Any], parts: frozenset[Part], name: str, place: int) -> Answer:
    model = draw(st.sampled_from([None, "old", "new"])) if Part.MODELS in parts else None
    details = draw(st.sampled_from([{}, {"seed": 3, "temperature": 0.7}])) if Part.SAMPLING in parts else {}
    return Answer(name, f"{place} {draw(WORD)}", model, details)


@st.composite
def a_judgement(
    draw: Callable[..., Any], parts: frozenset[Part], prompt: Prompt, answers: tuple[Answer, ...], name: str
) -> Judgement:
    def some(part: Part, strategy: st.SearchStrategy[Any], nothing: Any) -> Any:
        return draw(strategy) if part in parts else nothing

    shown = tuple(draw(st.permutations(answers))) if Part.ORDERS in parts else answers
    names = [answer.id for answer in answers]
    skipped = some(Part.SKIPPED, st.sampled_from(["", "unclear"]), "")
    skipped = skipped or some(Part.UNRANKABLE, st.sampled_from(["", NOT_RANKABLE]), "")
    number = st.integers(-5, 7) | st.floats(-2, 9, allow_nan=False) | st.booleans()
    ratings = st.dictionaries(st.sampled_from(names), st.dictionaries(st.sampled_from("qr"), number, min_size=1))
    stored = Part.TIMES in parts
    return Judgement(
        name,
        draw(st.sampled_from(["rank", "rate"])) if stored else "rank",
        prompt,
        shown,
        some(Part.LABELLERS, st.sampled_from(["ann", "bob", "9b2f8f9e-0000-4000-8000-000000000001"]), UNKNOWN),
        some(Part.SOURCES, st.sampled_from(["person", "function", "model", "endpoint"]), "person"),
        some(Part.TIMES, st.sampled_from(["", "2026-01-01T00:00:00Z"]), ""),
        some(Part.TIMES, st.sampled_from([0.0, 2.5]), 0.0),
        () if skipped else draw(rankings(parts, names)),
        some(Part.STRENGTHS, st.sampled_from([None, 0, 1, 2, 3]), None),
        some(Part.RATINGS, ratings, {}),
        some(Part.DEMONSTRATIONS, st.none() | WORD, None),
        skipped,
        some(Part.NOTES, st.just("") | WORD, ""),
        some(Part.NOTES, st.just("") | WORD, ""),
    )


def through(form: LabelFormat, said: Contents) -> Contents:
    """Written and read again, as JSON."""
    rows = [json.loads(json.dumps(row, ensure_ascii=False)) for row in form.write(said)]
    return form.read([Record(f"file:{place}", row) for place, row in enumerate(rows, 1)])


def ties_sorted(judgement: Judgement) -> Judgement:
    return replace(judgement, ranking=tuple(tuple(sorted(tied)) for tied in judgement.ranking))


@pytest.mark.parametrize("name", ["judgements", "label-studio", "argilla"])
@settings(SLOWLY)
@given(st.data())
def test_what_has_a_place_for_everything_gives_everything_back(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    said = data.draw(contents(form.holds))
    read = through(form, said)
    assert sorted(map(ties_sorted, read.judgements), key=lambda one: one.id) == list(said.judgements)
    assert [replace(one, known=ranked(one.known)) for one in read.candidates] == list(said.candidates)
    assert not read.unread and not losses(said, form.holds)


def ranked(known: Ranking | None) -> Ranking | None:
    return None if known is None else tuple(tuple(sorted(tied)) for tied in known)


@settings(SLOWLY)
@given(st.data())
def test_candidates_give_back_prompts_answers_and_known_rankings(data: st.DataObject) -> None:
    form = FORMATS["candidates"]
    said = data.draw(contents(form.holds))
    assert list(through(form, said).candidates) == said.candidates


@settings(SLOWLY)
@given(st.data())
def test_open_assistant_gives_back_who_ranked_what(data: st.DataObject) -> None:
    form = FORMATS["open-assistant"]
    said = data.draw(contents(form.holds))
    read = through(form, said)
    assert [replace(one, id="") for one in read.judgements] == [
        replace(one, id="") for one in sorted(said.judgements, key=lambda one: order_of(said, one))
    ]
    assert list(read.candidates) == list(said.candidates) and not read.unread and not losses(said, form.holds)


def order_of(said: Contents, judgement: Judgement) -> int:
    return [one.prompt.id for one in said.judgements].index(judgement.prompt.id)


def as_texts(judgement: Judgement) -> tuple[Any, ...]:
    texts = {answer.id: answer.text for answer in judgement.answers}
    return judgement.prompt.messages, [sorted(texts[name] for name in tied) for tied in judgement.ranking]


@pytest.mark.parametrize("name", ["comparisons", "nemo-rl", "pairs", "conversations"])
@settings(SLOWLY)
@given(st.data())
def test_what_holds_texts_alone_gives_back_prompts_and_rankings(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    said = data.draw(contents(form.holds))
    read = through(form, said)
    assert list(map(as_texts, read.judgements)) == list(map(as_texts, said.judgements))
    assert not read.unread and not losses(said, form.holds)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@settings(SLOWLY, max_examples=25)
@given(st.data())
def test_a_file_that_is_written_again_is_the_same(form: LabelFormat, data: st.DataObject) -> None:
    said = data.draw(contents(frozenset(Part)))
    once = list(form.write(through(form, said))) if list(form.write(said)) else []
    again = list(form.write(through(form, through(form, said)))) if once else []
    assert json.dumps(once) == json.dumps(again)


@pytest.mark.parametrize("name", ["comparisons", "nemo-rl", "pairs", "conversations"])
def test_a_ranking_with_ties_is_every_pair_that_does_not_tie(name: str) -> None:
    prompt = Prompt("p", ({"role": "user", "content": "?"},), "?")
    answers = tuple(Answer(text, text) for text in "abcd")
    judgement = Judgement("1", "rank", prompt, answers, UNKNOWN, ranking=(("a",), ("b", "c"), ("d",)))
    assert [(better.text, worse.text) for better, worse in pairs_of(judgement)] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "d"),
        ("c", "d"),
    ]
    form = FORMATS[name]
    assert len(list(form.write(Contents([judgement])))) == (1 if name == "comparisons" else 5)
    lost = losses(Contents([judgement]), form.holds)
    assert lost == ({} if name == "comparisons" else {Part.TIES.value: 1, Part.WHOLE.value: 1})


def test_every_part_of_a_judgement_that_a_format_cannot_hold_is_counted() -> None:
    prompt = Prompt("p", ({"role": "system", "content": "."}, {"role": "user", "content": "?"}), None)
    answers = tuple(Answer(text, text, "old", {"seed": 1}) for text in "abc")
    ranking = (("a",), ("b", "c"))
    full = Judgement("1", "rank", prompt, answers, "ann", "model", "2026", 1.0, ranking, 2, {"a": {"q": 1}}, "d", "s")
    said = Contents(
        [replace(full, note="n"), replace(full, answers=answers[::-1], skipped=NOT_RANKABLE)],
        [Candidates(replace(prompt, id="q"), answers), Candidates(replace(prompt, id="r"), answers, ranking)],
    )
    assert set(losses(said, frozenset({Part.JUDGEMENTS}))) == {part.value for part in Part} - {"judgements"}
    assert losses(said, frozenset()) == {
        Part.JUDGEMENTS.value: 2,
        Part.UNJUDGED.value: 1,
        Part.KNOWN.value: 1,
        Part.CHATS.value: 3,
        Part.MODELS.value: 9,
        Part.SAMPLING.value: 9,
    }
