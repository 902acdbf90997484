"""Open-Assistant's message trees with their ranking events, and its flat messages.

A prompt is the way from the root of a tree to a message of the prompter's; its answers are the replies to it. A ranking
event lists all of them, best first: there are no ties. Published data has no events but each reply's `rank`, the
consensus: it is read as the judgement of one labeller of that name.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_dist.data.chat import Message
from rlhf_dist.data.records import Record, kind_of
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt
from rlhf_dist.labelling.formats.contents import (
    NOT_RANKABLE,
    UNKNOWN,
    Contents,
    Group,
    LabelFormat,
    Part,
    Row,
    grouped,
    made_id,
)
from rlhf_dist.labelling.judgements import Judgement

CONSENSUS = "consensus"
_AGAIN = re.compile(r"~\d+$")  # ends the id of a prompt that stands in the file for the second time, or more often
_ROLES = {"prompter": "user", "assistant": "assistant"}
_NAMES = {role: name for name, role in _ROLES.items()}


@dataclass
class _Message:
    """A message of a tree.

    Attributes:
        row: what stands in the file.
        parent: id of the message that it replies to.
        replies: to it.
    """

    row: Record
    parent: str | None
    replies: list[str] = field(default_factory=list)


def _write(contents: Contents) -> Iterable[Row]:
    names: Counter[str] = Counter()
    for group in grouped(contents):
        if all(message["role"] in _NAMES for message in group.prompt.messages):
            names[group.prompt.id] += 1
            again = names[group.prompt.id]
            yield _tree(group, group.prompt.id if again == 1 else f"{group.prompt.id}~{again}")


def _tree(group: Group, name: str) -> Row:
    """A tree whose last prompter's message is called ``name``; an answer's id has that in front."""
    ways = group.prompt.messages
    events = [event for judgement in group.judgements for event in _events(name, judgement)]
    node: Row = _node(name, ways[-1]) | {"replies": [_reply(answer, name) for answer in group.answers]}
    node |= {"events": {"ranking": events}} if events else {}
    for depth in range(len(ways) - 2, -1, -1):
        above = f"{name}-{depth}"
        node = _node(above, ways[depth]) | {"replies": [node | {"parent_id": above}]}
    return {"message_tree_id": str(node["message_id"]), "tree_state": "ready_for_export", "prompt": node}


def _node(name: str, message: Message) -> Row:
    return {"message_id": name, "text": message["content"], "role": _NAMES[message["role"]]}


def _reply(answer: Answer, parent: str) -> Row:
    message = {"role": "assistant", "content": answer.text}
    reply = _node(f"{parent}/{answer.id}", message) | {"parent_id": parent, "replies": []}
    return reply | ({"synthetic": True, "model_name": answer.model} if answer.model is not None else {})


def _events(parent: str, judgement: Judgement) -> Iterator[Row]:
    """The event of a judgement: none where it has no ranking, or one with ties."""
    shown = [answer.id for answer in judgement.answers]
    not_rankable = judgement.skipped == NOT_RANKABLE
    ranked = shown if not_rankable else [tied[0] for tied in judgement.ranking if len(tied) == 1]
    if ranked and len(ranked) == len(shown):
        yield {
            "type": "ranking",
            "user_id": judgement.labeller,
            "ranking": [shown.index(name) for name in ranked],
            "ranked_message_ids": [f"{parent}/{name}" for name in ranked],
            "ranking_parent_id": parent,
            "not_rankable": not_rankable,
        }


def _read(rows: Sequence[Record]) -> Contents:
    messages = _messages(rows)
    for name, message in messages.items():
        if message.parent in messages and name not in messages[message.parent].replies:
            messages[message.parent].replies.append(name)
    judgements: list[Judgement] = []
    candidates: list[Candidates] = []
    unread: Counter[str] = Counter()
    for name, message in messages.items():
        replies = [messages[reply].row for reply in message.replies]
        answers = [reply for reply in replies if reply.text("role") == "assistant"]
        if message.row.text("role") != "prompter" or (replies and not answers):
            unread["rankings of prompters' messages"] += len(_rankings(message.row))
            continue
        if len(replies) == 1 and not _rankings(message.row):  # a step of a conversation
            unread["prompts with a single answer"] += not messages[message.replies[0]].replies
            continue
        way = tuple(_way(name, messages))
        prompt = Prompt(_AGAIN.sub("", name), way, way[0]["content"] if len(way) == 1 else None)
        given = tuple(_answer(reply, name) for reply in answers)
        found = list(_judgements(message.row, prompt, given, unread)) or list(_consensus(prompt, answers, given))
        judgements += found
        candidates += [] if found else [Candidates(prompt, given)]
    return Contents(judgements, candidates, +unread)


def _messages(rows: Sequence[Record]) -> dict[str, _Message]:
    """All messages of trees, and those in lines of their own, by their ids: replies follow what they reply to."""
    found: dict[str, _Message] = {}
    waiting: deque[tuple[Record, str | None]] = deque()
    for row in rows:
        if "message_id" in row.fields:
            waiting.append((row, row.text("parent_id") if row.has("parent_id") else None))
        elif row.has("prompt"):
            waiting.append((Record(row.where, row.object("prompt")), None))
        else:
            row.object("prompt")  # says what is missing
    while waiting:
        row, parent = waiting.popleft()
        name = row.text("message_id")
        if name in found:
            raise row.error(f"the message {name} stands here for the second time")
        found[name] = _Message(row, parent)
        if row.text("role") not in _ROLES:
            raise row.error(f"the role of message {name} is {row.text('role')!r}, expected prompter or assistant")
        replies = row.list("replies") if row.has("replies") else []
        for reply in replies:
            if not isinstance(reply, dict):
                raise row.error(f"a reply to message {name} is {kind_of(reply)}, expected an object")
            found[name].replies.append(str(reply.get("message_id")))
        waiting.extendleft((Record(row.where, reply), name) for reply in reversed(replies))
    return found


def _way(name: str, messages: Mapping[str, _Message]) -> list[Message]:
    """The messages from the root to one of them."""
    way: list[Message] = []
    at: str | None = name
    while at is not None and at in messages and len(way) <= len(messages):
        row = messages[at].row
        way.insert(0, {"role": _ROLES[row.text("role")], "content": row.text("text")})
        at = messages[at].parent
    return way


def _answer(reply: Record, parent: str) -> Answer:
    name = reply.text("message_id").removeprefix(f"{parent}/")
    return Answer(name, reply.text("text"), reply.text("model_name") if reply.has("model_name") else None)


def _rankings(row: Record) -> list[dict[str, object]]:
    events = row.object("events") if row.has("events") else {}
    found = events.get("ranking") or []
    if not isinstance(found, list) or not all(isinstance(event, dict) for event in found):
        raise row.error("'ranking' in 'events' must be a list of objects")
    return found


def _judgements(row: Record, prompt: Prompt, answers: tuple[Answer, ...], unread: Counter[str]) -> Iterator[Judgement]:
    by_name = {answer.id: answer for answer in answers}
    for place, fields in enumerate(_rankings(row)):
        event = Record(f"{row.where}: ranking event {place + 1}", fields)
        labeller = event.text("user_id") if event.has("user_id") else UNKNOWN
        name = made_id("open-assistant", prompt.id, place, labeller)
        ids = [str(one).removeprefix(f"{row.text('message_id')}/") for one in _listed(event, "ranked_message_ids")]
        order = _listed(event, "ranking")
        whole = sorted(ids) == sorted(by_name) and sorted(order) == list(range(len(ids)))
        shown = tuple(by_name[one] for _, one in sorted(zip(order, ids, strict=True))) if whole else answers
        if fields.get("not_rankable") is True:
            yield Judgement(name, "rank", prompt, shown, labeller, skipped=NOT_RANKABLE)
        elif whole:
            yield Judgement(name, "rank", prompt, shown, labeller, ranking=tuple((one,) for one in ids))
        else:
            unread["rankings of messages that are not there, or not of all that are"] += 1


def _listed(event: Record, name: str) -> list[Any]:
    """A list of an event; empty where nobody ranked anything."""
    return event.list(name) if event.has(name) or event.fields.get("not_rankable") is not True else []


def _consensus(prompt: Prompt, replies: Sequence[Record], answers: tuple[Answer, ...]) -> Iterator[Judgement]:
    """The ranking that the replies' own ranks make, where there are two or more."""
    ranks = {answer.id: reply.fields.get("rank") for answer, reply in zip(answers, replies, strict=True)}
    ranked = tuple(answer for answer in answers if type(ranks[answer.id]) is int)
    if len(ranked) < 2:
        return
    order = sorted(ranked, key=lambda answer: ranks[answer.id])  # type: ignore[arg-type, return-value]
    name = made_id("open-assistant", prompt.id, CONSENSUS)
    yield Judgement(name, "rank", prompt, ranked, CONSENSUS, ranking=tuple((answer.id,) for answer in order))


FORMAT = LabelFormat(
    "open-assistant",
    "Open-Assistant's message trees with ranking events",
    frozenset({Part.JUDGEMENTS, Part.UNJUDGED, Part.MODELS, Part.LABELLERS, Part.ORDERS, Part.WHOLE, Part.UNRANKABLE}),
    _read,
    _write,
)
