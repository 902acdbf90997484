"""Label Studio's tasks with their annotations, as its JSON export and import have them.

A ranking is a `ranker` result. Label Studio has no ties: a ranking with some is written, and read, as buckets
`rank_1`, `rank_2` and so on. Ratings of an answer are `rating`, `number` or `choices` results of controls that are
called after question and answer (`quality_2`, to `answer_2`), what was written is a `textarea`. What Label Studio has
no place for stands in the first result's `meta`, which it keeps. So do labellers' names: a file whose `completed_by`
names somebody without an account there is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rlhf_dist.data.chat import read_messages
from rlhf_dist.data.records import Record, kind_of
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, Ranking, prompt_id
from rlhf_dist.labelling.formats.contents import (
    ALL,
    UNKNOWN,
    Contents,
    Group,
    LabelFormat,
    Row,
    grouped,
    made_id,
)
from rlhf_dist.labelling.formats.extras import (
    TEXTS,
    extras_of,
    in_order,
    seconds_of,
    source_of,
    task_of,
    texts_of,
    with_text,
)
from rlhf_dist.labelling.judgements import Judgement, Rating

_KEPT = "rlhf_dist"  # key of `meta`
_NUMBERED = re.compile(r".*?(\d+)")
_PLACE = re.compile(r"answer_(\d+)")
_UNSORTED = "_"
_YES_NO = {"yes": True, "no": False}
_STRENGTHS = ("equal", "slight", "clear", "strong")


def _write(contents: Contents) -> Iterable[Row]:
    return (_task(number, group) for number, group in enumerate(grouped(contents), 1))


def _task(number: int, group: Group) -> Row:
    prompt = group.prompt
    data: Row = {"prompt_id": prompt.id}
    data |= {"messages": list(prompt.messages)} if prompt.plain is None else {"prompt": prompt.plain}
    data["items"] = [_item(place, answer) for place, answer in enumerate(group.answers, 1)]
    annotations = [_annotation(group, judgement) for judgement in group.judgements]
    if group.known is not None:
        annotations.append({"ground_truth": True, "result": [_ranker(group.known)]})
    return {"id": number, "data": data, "annotations": annotations}


def _item(place: int, answer: Answer) -> Row:
    """Its title gives no hint of where it comes from."""
    item: Row = {"id": answer.id, "title": f"Answer {place}", "body": answer.text}
    item |= {"model": answer.model} if answer.model is not None else {}
    return item | ({"details": dict(answer.details)} if answer.details else {})


def _annotation(group: Group, judgement: Judgement) -> Row:
    results = [_ranker(judgement.ranking)] if judgement.ranking else []
    places = {answer.id: place for place, answer in enumerate(group.answers, 1)}
    for name, given in judgement.ratings.items():
        results += [_rating(question, places[name], value) for question, value in given.items()]
    if judgement.strength is not None:
        results.append(_result("strength", "results", "choices", {"choices": [_STRENGTHS[judgement.strength]]}))
    results += [_result(said, "results", "textarea", {"text": [text]}) for said, text in texts_of(judgement).items()]
    if not results:
        results.append(_result("note", "results", "textarea", {"text": [""]}))
    results[0]["meta"] = {_KEPT: extras_of(judgement) | {"labeller": judgement.labeller}}
    return {
        "completed_by": {"email": judgement.labeller} if "@" in judgement.labeller else None,
        "was_cancelled": bool(judgement.skipped),
        "ground_truth": False,
        "created_at": judgement.at,
        "lead_time": judgement.seconds,
        "result": results,
    }


def _ranker(ranking: Ranking) -> Row:
    """A plain list, or a bucket for each rank where some tie: never one bucket, which would read as a list."""
    if all(len(tied) == 1 for tied in ranking):
        return _result("rank", "results", "ranker", {"ranker": {"rank": [tied[0] for tied in ranking]}})
    levels = [*ranking, ()] if len(ranking) == 1 else ranking
    buckets = {f"rank_{place}": list(tied) for place, tied in enumerate(levels, 1)}
    return _result("rank", "results", "ranker", {"ranker": buckets})


def _rating(question: str, place: int, value: Rating) -> Row:
    name, to = f"{question}_{place}", f"answer_{place}"
    if isinstance(value, bool):
        return _result(name, to, "choices", {"choices": ["Yes" if value else "No"]})
    is_star = isinstance(value, int) and value >= 1
    return _result(name, to, "rating" if is_star else "number", {"rating" if is_star else "number": value})


def _result(name: str, to: str, kind: str, value: Row) -> Row:
    return {"from_name": name, "to_name": to, "type": kind, "value": value}


def _read(rows: Sequence[Record]) -> Contents:
    judgements: list[Judgement] = []
    candidates: list[Candidates] = []
    unread: Counter[str] = Counter()
    for row in rows:
        data = Record(f"{row.where}: data", row.object("data"))
        prompt, answers = _prompt(data), _answers(data)
        found, known = _judgements(row, prompt, answers, unread)
        judgements += found
        if known is not None or not found:
            candidates.append(Candidates(prompt, answers, known))
    return Contents(judgements, candidates, unread)


def _judgements(
    row: Record, prompt: Prompt, answers: tuple[Answer, ...], unread: Counter[str]
) -> tuple[list[Judgement], Ranking | None]:
    """The judgements of a task, and the ranking of its ground truth, where it has one."""
    found, known = [], None
    for kind in ("annotations", "predictions"):
        for place, item in enumerate(row.list(kind) if row.has(kind) else [], 1):
            if not isinstance(item, dict):
                raise row.error(f"entry {place} of {kind!r} is {kind_of(item)}, expected an object")
            annotation = Record(f"{row.where}: {kind} {place}", item)
            judgement = _judgement(annotation, prompt, answers, unread)
            if item.get("ground_truth") is True and judgement.ranking:
                known = judgement.ranking
            elif _says_something(judgement) or any(map(_kept, _results(annotation))):
                found.append(judgement)
            else:
                unread["annotations that say nothing of the answers"] += 1
    return found, known


def _says_something(judgement: Judgement) -> bool:
    return bool(judgement.ranking or judgement.ratings or judgement.strength is not None or texts_of(judgement))


def _judgement(annotation: Record, prompt: Prompt, answers: tuple[Answer, ...], unread: Counter[str]) -> Judgement:
    fields = annotation.fields
    results = _results(annotation)
    kept = next((_kept(result) for result in results if _kept(result)), {})
    shown = in_order(kept, answers)
    labeller = str(kept.get("labeller") or _labeller(fields))
    judgement = Judgement(
        str(kept.get("id") or made_id("label-studio", annotation.where, fields.get("id"), prompt.id, labeller)),
        "rank",
        prompt,
        shown,
        labeller,
        source_of(kept, "model" if "model_version" in fields else "person"),
        str(kept.get("at", fields.get("created_at") or "")),
        seconds_of(annotation, kept.get("seconds", fields.get("lead_time"))),
        skipped="skipped" if fields.get("was_cancelled") is True else "",
    )
    for result in results:
        judgement = _with(judgement, result, answers, unread)
    return replace(judgement, task=task_of(kept, judgement))


def _results(annotation: Record) -> list[Record]:
    results = []
    for place, item in enumerate(annotation.list("result"), 1):
        if not isinstance(item, dict):
            raise annotation.error(f"result {place} is {kind_of(item)}, expected an object")
        results.append(Record(f"{annotation.where}: result {place}", item))
    return results


def _kept(result: Record) -> Mapping[str, object]:
    meta = result.fields.get("meta")
    kept = meta.get(_KEPT) if isinstance(meta, dict) else None
    return kept if isinstance(kept, dict) else {}


def _labeller(fields: Mapping[str, object]) -> str:
    """Who annotated: an account's number, or an object of it; of a prediction, the model."""
    who = fields.get("completed_by", fields.get("model_version"))
    if isinstance(who, dict):
        who = next((who[key] for key in ("email", "username", "id") if who.get(key) not in (None, "")), None)
    return UNKNOWN if who is None else str(who)


def _with(judgement: Judgement, result: Record, answers: tuple[Answer, ...], unread: Counter[str]) -> Judgement:
    """The judgement with what one result says."""
    kind, name, value = result.text("type"), result.text("from_name"), Record(result.where, result.object("value"))
    if kind == "ranker":
        ranking = _ranking(value, answers)
        if ranking is None:
            unread["rankings that leave answers unsorted"] += 1
            return judgement
        return replace(judgement, ranking=ranking)
    if kind == "textarea" and name in TEXTS:
        texts = value.fields.get("text")
        text = texts if isinstance(texts, str) else "\n".join(map(str, texts)) if isinstance(texts, list) else ""
        return with_text(judgement, name, text)
    if kind == "choices" and name == "strength" and value.list("choices")[0] in _STRENGTHS:
        return replace(judgement, strength=_STRENGTHS.index(value.list("choices")[0]))
    given = _given(kind, value)
    answer, question = _rated(name, str(result.fields.get("to_name", "")), answers)
    if given is None or answer is None:
        unread["results of other kinds, or not of one answer"] += 1
        return judgement
    ratings = {rated: dict(values) for rated, values in judgement.ratings.items()}
    ratings.setdefault(answer.id, {})[question] = given
    return replace(judgement, ratings=ratings)


def _ranking(value: Record, answers: tuple[Answer, ...]) -> Ranking | None:
    """The ranking of a ranker; None where answers are left unsorted. UserError where it is none."""
    buckets = value.object("ranker")
    names = [name for name in buckets if name != _UNSORTED]
    if not all(isinstance(ids, list) for ids in buckets.values()):
        raise value.error("'ranker' must hold lists of items' ids")
    if buckets.get(_UNSORTED) and names:
        return None
    if len(buckets) == 1:
        levels = [[name] for ids in buckets.values() for name in ids]
    else:
        numbered = {name: _NUMBERED.fullmatch(name) for name in names}
        unordered = sorted(name for name, match in numbered.items() if match is None)
        if unordered:
            raise value.error(
                f"nobody can tell which bucket of {', '.join(sorted(names))} is the best: let their names end with "
                "numbers, 1 for the best"
            )
        order = sorted(names, key=lambda name: int(numbered[name].group(1)))  # type: ignore[union-attr]
        levels = [buckets[name] for name in order if buckets[name]]
    ranking = tuple(tuple(str(name) for name in tied) for tied in levels)
    said = [name for tied in ranking for name in tied]
    there = sorted(answer.id for answer in answers)
    if len(set(said)) < len(said) or not set(said) <= set(there):
        raise value.error(f"'ranker' ranks {', '.join(said)}; the items are {', '.join(there)}")
    return ranking if sorted(said) == there else None


def _given(kind: str, value: Record) -> Rating | None:
    if kind in ("rating", "number"):
        number = value.fields.get(kind)
        return number if isinstance(number, (int, float)) and not isinstance(number, bool) else None
    choices = value.fields.get("choices") if kind == "choices" else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], str):
        return None
    return _YES_NO.get(choices[0].lower())


def _rated(name: str, to: str, answers: tuple[Answer, ...]) -> tuple[Answer | None, str]:
    """Which answer a control belongs to, and the question that it asks."""
    by_name = {answer.id: answer for answer in answers}
    place = _PLACE.fullmatch(to)
    if place is not None and 1 <= int(place.group(1)) <= len(answers):
        return answers[int(place.group(1)) - 1], name.removesuffix(f"_{place.group(1)}")
    return by_name.get(to), name


def _prompt(data: Record) -> Prompt:
    messages = read_messages(data) if data.has("messages") else [{"role": "user", "content": data.text("prompt")}]
    name = data.text("prompt_id") if data.has("prompt_id") else prompt_id(messages)
    return Prompt(name, tuple(messages), None if data.has("messages") else data.text("prompt"))


def _answers(data: Record) -> tuple[Answer, ...]:
    answers: dict[str, Answer] = {}
    for place, item in enumerate(_items(data), 1):
        read = Record(f"{data.where}: item {place}", item)
        name = str(item["id"]) if "id" in item else read.text("id")
        if name in answers:
            raise read.error(f"the id {name!r} stands for two items")
        details = dict(read.object("details")) if read.has("details") else {}
        if read.has("body") and item.get("title") not in (None, f"Answer {place}"):
            details["title"] = item["title"]
        model = read.text("model") if read.has("model") else None
        answers[name] = Answer(name, read.text("body" if read.has("body") else "title"), model, details)
    return tuple(answers.values())


def _items(data: Record) -> list[dict[str, object]]:
    """`items`, or the only list of objects with an id, whatever it is called."""
    lists = {
        name: value
        for name, value in data.fields.items()
        if isinstance(value, list) and all(isinstance(item, dict) and "id" in item for item in value)
    }
    named = {name: value for name, value in lists.items() if value and name != "messages"}
    if "items" in lists:
        return list(lists["items"])
    if len(named) != 1:
        raise data.error(f"there is no list 'items' of objects with an id, there are: {', '.join(data.fields)}")
    return list(next(iter(named.values())))


FORMAT = LabelFormat("label-studio", "Label Studio's tasks and annotations (JSON)", ALL, _read, _write)
