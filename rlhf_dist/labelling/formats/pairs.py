"""Chosen and rejected, as data sets on the hub have them: as texts, and as whole conversations::

    {"prompt": "...", "chosen": "...", "rejected": "..."}
    {"chosen": [messages], "rejected": [messages]}, with `prompt` as messages or without it

A text without `prompt` is taken for a dialogue, if it is written as one: "Human:" and "Assistant:" in turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rlhf_dist.data.chat import Message, read_messages
from rlhf_dist.data.records import Record
from rlhf_dist.labelling.candidates import Prompt
from rlhf_dist.labelling.formats.contents import (
    UNKNOWN,
    Contents,
    LabelFormat,
    Part,
    Row,
    answers_of,
    by_rank,
    chat_prompt,
    made_id,
    pairs_of,
    plain_prompt,
    ranked,
)
from rlhf_dist.labelling.judgements import Judgement

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def _read(rows: Sequence[Record]) -> Contents:
    found = []
    for place, row in enumerate(rows):
        prompt, chosen, rejected = _pair(row)
        answers = answers_of(prompt, [chosen, rejected])
        ranking = by_rank(answers, [0, 1])
        name = made_id("pairs", place, prompt.id, ranking)
        found.append(Judgement(name, "compare", prompt, answers, UNKNOWN, ranking=ranking))
    return Contents(found)


def _pair(row: Record) -> tuple[Prompt, str, str]:
    if isinstance(row.fields.get("chosen"), str):
        chosen, rejected = row.text("chosen"), row.text("rejected")
        if row.has("prompt"):
            return _prompt(row), chosen, rejected
        before, first = _split(row, _dialogue(row, "chosen"))
        other, second = _split(row, _dialogue(row, "rejected"))
    else:
        before, first = _split(row, read_messages(Record(row.where, {"messages": row.list("chosen")})))
        other, second = _split(row, read_messages(Record(row.where, {"messages": row.list("rejected")})))
    if before != other:
        raise row.error("'chosen' and 'rejected' answer different prompts: they must differ in the last message only")
    if row.has("prompt") and not before:
        return _prompt(row), first, second
    if isinstance(row.fields.get("prompt"), list):
        said = list(_prompt(row).messages)
        before = before if before[: len(said)] == said else [*said, *before]
    if not before:
        raise row.error("there is no 'prompt', and no message before the answer")
    return chat_prompt(before), first, second


def _prompt(row: Record) -> Prompt:
    if isinstance(row.fields["prompt"], str):
        return plain_prompt(row.text("prompt"))
    return chat_prompt(read_messages(Record(row.where, {"messages": row.list("prompt")})))


def _dialogue(row: Record, name: str) -> list[Message]:
    parts = _TURN.split(row.text(name))
    if len(parts) < 3 or parts[0].strip():
        raise row.error(f"there is no 'prompt', and {name!r} is no dialogue of Human: and Assistant:")
    return [{"role": _ROLES[who], "content": text.strip()} for who, text in zip(parts[1::2], parts[2::2], strict=True)]


def _split(row: Record, messages: list[Message]) -> tuple[list[Message], str]:
    if messages[-1]["role"] != "assistant":
        raise row.error("the last message of 'chosen' and 'rejected' must be the assistant's")
    return messages[:-1], messages[-1]["content"]


def _write_texts(contents: Contents) -> Iterable[Row]:
    """Chats have their prompt as messages, and so have their answers: mixing the two is in no data set."""
    for judgement in ranked(contents):
        for chosen, rejected in pairs_of(judgement):
            if judgement.prompt.plain is not None:
                yield {"prompt": judgement.prompt.plain, "chosen": chosen.text, "rejected": rejected.text}
            else:
                yield {
                    "prompt": list(judgement.prompt.messages),
                    "chosen": [_assistant(chosen.text)],
                    "rejected": [_assistant(rejected.text)],
                }


def _write_chats(contents: Contents) -> Iterable[Row]:
    for judgement in ranked(contents):
        before = list(judgement.prompt.messages)
        for chosen, rejected in pairs_of(judgement):
            yield {"chosen": [*before, _assistant(chosen.text)], "rejected": [*before, _assistant(rejected.text)]}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


_HOLDS = frozenset({Part.JUDGEMENTS, Part.CHATS})
PAIRS = LabelFormat("pairs", "prompt, chosen and rejected", _HOLDS, _read, _write_texts)
CONVERSATIONS = LabelFormat(
    "conversations", "chosen and rejected conversations, the prompt in both", _HOLDS, _read, _write_chats
)
