"""NeMo-RL's preference data: a context and completions with a rank, of which the lowest is preferred.

Its loaders read any number of completions, but what trains on them wants two that do not tie. So each pair of a longer
ranking is written as a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlhf_dist.data.chat import read_messages
from rlhf_dist.data.records import Record, kind_of
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
    ranked,
)
from rlhf_dist.labelling.judgements import Judgement


def _read(rows: Sequence[Record]) -> Contents:
    found = []
    for place, row in enumerate(rows):
        prompt = chat_prompt(read_messages(Record(row.where, {"messages": row.list("context")})))
        texts, ranks = [], []
        for number, item in enumerate(row.list("completions"), 1):
            if not isinstance(item, dict):
                raise row.error(f"completion {number} is {kind_of(item)}, expected an object with rank and completion")
            completion = Record(f"{row.where}: completion {number}", item)
            texts.append(_text(completion))
            rank = item.get("rank")
            if not isinstance(rank, int) or isinstance(rank, bool):
                raise completion.error(f"the field 'rank' is {kind_of(rank)}, expected an integer")
            ranks.append(rank)
        if len(texts) < 2:
            raise row.error(f"there are {len(texts)} completions, expected two or more")
        answers = answers_of(prompt, texts)
        ranking = by_rank(answers, ranks)
        name = made_id("nemo-rl", place, prompt.id, ranking)
        found.append(Judgement(name, "rank", prompt, answers, UNKNOWN, ranking=ranking))
    return Contents(found)


def _text(completion: Record) -> str:
    messages = read_messages(Record(completion.where, {"messages": completion.list("completion")}))
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise completion.error("expected one message of the assistant's")
    return messages[0]["content"]


def _write(contents: Contents) -> Iterable[Row]:
    for judgement in ranked(contents):
        for pair in pairs_of(judgement):
            completions = [
                {"rank": rank, "completion": [{"role": "assistant", "content": answer.text}]}
                for rank, answer in enumerate(pair)
            ]
            yield {"context": list(judgement.prompt.messages), "completions": completions}


FORMAT = LabelFormat(
    "nemo-rl",
    "NeMo-RL's context and completions with rank",
    frozenset({Part.JUDGEMENTS, Part.CHATS}),
    _read,
    _write,
)
