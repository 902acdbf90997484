"""Argilla's records with their responses, as its REST API has them (its SDK leaves the ranks out of a ranking).

Fields are `prompt`, a text or the messages of a chat, and `answer_1`, `answer_2` and so on. The question `ranking`
ranks these names, ties allowed; ratings of an answer are questions called after it (`quality_2`). What Argilla has no
place for stands in `metadata`, as JSON in texts: Argilla's metadata holds no objects.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
    answers_of,
    by_rank,
    grouped,
    made_id,
    ranks_of,
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
from rlhf_dist.labelling.judgements import STRENGTHS, Judgement, Rating

_ANSWER = re.compile(r"answer_(\d+)")
_RATED = re.compile(r"(.+)_(\d+)")
_YES_NO = {"yes": True, "no": False}
_USERS = uuid.UUID("6f1c1f0e-6a53-4f0b-9d38-6c1b1c3f7a11")  # names of labellers that are no ids are ids of this space


def _write(contents: Contents) -> Iterable[Row]:
    for group in grouped(contents):
        for place, judgements in enumerate(_once_each(group.judgements)):
            yield _record(group, judgements, group.known if place == 0 else None)


def _once_each(judgements: Sequence[Judgement]) -> list[list[Judgement]]:
    """The judgements of each record: a record has one response a user. At least one record, though nobody judged."""
    records: list[list[Judgement]] = [[]]
    seen: Counter[str] = Counter()
    for judgement in judgements:
        place = seen[judgement.labeller]
        seen[judgement.labeller] += 1
        records += [[]] if place == len(records) else []
        records[place].append(judgement)
    return records


def _record(group: Group, judgements: Sequence[Judgement], known: Ranking | None) -> Row:
    prompt = group.prompt
    fields: Row = {"prompt": list(prompt.messages) if prompt.plain is None else prompt.plain}
    fields |= {f"answer_{place}": answer.text for place, answer in enumerate(group.answers, 1)}
    metadata: Row = {}
    for place, answer in enumerate(group.answers, 1):
        named = {key: value for key, value in answer.to_json().items() if key != "text"}
        metadata[f"answer_{place}"] = json.dumps(named, ensure_ascii=False)
    if known is not None:
        metadata["known"] = json.dumps(known, ensure_ascii=False)
    for judgement in judgements:
        kept = extras_of(judgement) | {"labeller": judgement.labeller}
        metadata[f"response_{_user(judgement.labeller)}"] = json.dumps(kept, ensure_ascii=False)
    responses = [_response(group, judgement) for judgement in judgements]
    return {"external_id": prompt.id, "fields": fields, "metadata": metadata, "responses": responses}


def _user(labeller: str) -> str:
    try:
        return str(uuid.UUID(labeller))
    except ValueError:
        return str(uuid.uuid5(_USERS, labeller))


def _response(group: Group, judgement: Judgement) -> Row:
    values: Row = {}
    if judgement.ranking:
        ranks = ranks_of(group.answers, judgement.ranking)
        ranking = [{"value": f"answer_{place}", "rank": rank} for place, rank in enumerate(ranks, 1)]
        values["ranking"] = {"value": ranking}
    places = {answer.id: place for place, answer in enumerate(group.answers, 1)}
    for name, given in judgement.ratings.items():
        for question, value in given.items():
            shown: object = ("yes" if value else "no") if isinstance(value, bool) else value
            values[f"{question}_{places[name]}"] = {"value": shown}
    if judgement.strength is not None:
        values["strength"] = {"value": judgement.strength}
    values |= {said: {"value": text} for said, text in texts_of(judgement).items()}
    status = "discarded" if judgement.skipped else "submitted"
    return {"user_id": _user(judgement.labeller), "values": values, "status": status}


def _read(rows: Sequence[Record]) -> Contents:
    judgements: list[Judgement] = []
    candidates: list[Candidates] = []
    unread: Counter[str] = Counter()
    for row in rows:
        metadata = row.object("metadata") if row.has("metadata") else {}
        prompt = _prompt(row)
        answers = _answers(row, prompt, metadata)
        found = []
        for place, item in enumerate(row.list("responses") if row.has("responses") else [], 1):
            if not isinstance(item, dict):
                raise row.error(f"response {place} is {kind_of(item)}, expected an object")
            response = Record(f"{row.where}: response {place}", item)
            if item.get("status") == "draft":
                unread["drafts"] += 1
            else:
                found.append(_judgement(response, prompt, answers, metadata, unread))
        judgements += found
        known = _kept(metadata, "known")
        if isinstance(known, list) or not found:
            ranking = tuple(tuple(tied) for tied in known) if isinstance(known, list) else None
            candidates.append(Candidates(prompt, answers, ranking))
    return Contents(judgements, candidates, unread)


def _prompt(row: Record) -> Prompt:
    fields = Record(f"{row.where}: fields", row.object("fields"))
    chat = isinstance(fields.fields.get("prompt"), list)
    if chat:
        messages = read_messages(Record(fields.where, {"messages": fields.list("prompt")}))
    else:
        messages = [{"role": "user", "content": fields.text("prompt")}]
    name = row.text("external_id") if row.has("external_id") else prompt_id(messages)
    return Prompt(name, tuple(messages), None if chat else fields.text("prompt"))


def _answers(row: Record, prompt: Prompt, metadata: Mapping[str, object]) -> tuple[Answer, ...]:
    fields = Record(f"{row.where}: fields", row.object("fields"))
    names = sorted((name for name in fields.fields if _ANSWER.fullmatch(name)), key=lambda name: int(name[7:]))
    if names != [f"answer_{place}" for place in range(1, len(names) + 1)]:
        raise row.error(f"the answers are called {', '.join(names)}, expected answer_1, answer_2 and so on")
    plain = answers_of(prompt, [fields.text(name) for name in names])
    found = []
    for name, answer in zip(names, plain, strict=True):
        kept = _kept(metadata, name)
        if isinstance(kept, dict) and isinstance(kept.get("id"), str):
            details = {key: value for key, value in kept.items() if key not in ("id", "text", "model")}
            answer = Answer(kept["id"], answer.text, kept.get("model"), details)
        found.append(answer)
    if len({answer.id for answer in found}) < len(found):
        raise row.error("two answers have the same id in 'metadata'")
    return tuple(found)


def _kept(metadata: Mapping[str, Any], name: str) -> object:
    """What a text of the metadata holds; None where it is no JSON."""
    try:
        return json.loads(metadata[name])
    except (KeyError, TypeError, ValueError):
        return None


def _judgement(
    response: Record,
    prompt: Prompt,
    answers: tuple[Answer, ...],
    metadata: Mapping[str, object],
    unread: Counter[str],
) -> Judgement:
    user = response.fields.get("user_id")
    extras = _kept(metadata, f"response_{user}")
    kept: Mapping[str, object] = extras if isinstance(extras, dict) else {}
    labeller = str(kept.get("labeller") or user or UNKNOWN)
    judgement = Judgement(
        str(kept.get("id") or response.fields.get("id") or made_id("argilla", response.where, prompt.id, labeller)),
        "rank",
        prompt,
        in_order(kept, answers),
        labeller,
        source_of(kept),
        str(kept.get("at", response.fields.get("updated_at") or "")),
        seconds_of(response, kept.get("seconds")),
        skipped="skipped" if response.fields.get("status") == "discarded" else "",
    )
    for name, item in (response.object("values") if response.has("values") else {}).items():
        if not isinstance(item, dict):
            raise response.error(f"the value of {name!r} is {kind_of(item)}, expected an object with value")
        judgement = _with(judgement, response, name, item.get("value"), answers, unread)
    return replace(judgement, task=task_of(kept, judgement))


def _with(
    judgement: Judgement,
    response: Record,
    name: str,
    value: object,
    answers: tuple[Answer, ...],
    unread: Counter[str],
) -> Judgement:
    """The judgement with the answer to one question."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "rank" in item for item in value):
        ranking = _ranking(response, name, value, answers)
        if ranking is None:
            unread["rankings that leave answers out"] += 1
            return judgement
        return replace(judgement, ranking=ranking)
    if name in TEXTS and isinstance(value, str):
        return with_text(judgement, name, value)
    if name == "strength" and type(value) is int and value in STRENGTHS:
        return replace(judgement, strength=value)
    rated, given = _RATED.fullmatch(name), _given(value)
    if rated is None or given is None or not 1 <= int(rated.group(2)) <= len(answers):
        unread["answers to other questions"] += 1
        return judgement
    ratings = {answer: dict(values) for answer, values in judgement.ratings.items()}
    ratings.setdefault(answers[int(rated.group(2)) - 1].id, {})[rated.group(1)] = given
    return replace(judgement, ratings=ratings)


def _ranking(
    response: Record, name: str, items: list[dict[str, object]], answers: tuple[Answer, ...]
) -> Ranking | None:
    """The ranking of a ranking question; None where an answer has no rank. UserError where it ranks something else."""
    ranks: dict[int, int] = {}
    for item in items:
        match = _ANSWER.fullmatch(str(item.get("value")))
        if match is None or not 1 <= int(match.group(1)) <= len(answers):
            raise response.error(
                f"the question {name!r} ranks {item.get('value')!r}; expected answer_1 to answer_{len(answers)}"
            )
        if type(item["rank"]) is int:
            ranks[int(match.group(1))] = item["rank"]
    if len(ranks) < len(answers):
        return None
    return by_rank(answers, [ranks[place] for place in range(1, len(answers) + 1)])


def _given(value: object) -> Rating | None:
    if isinstance(value, str):
        return _YES_NO.get(value.lower())
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


FORMAT = LabelFormat("argilla", "Argilla's records, as its REST API has them", ALL, _read, _write, wrapped="items")
