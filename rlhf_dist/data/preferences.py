"""Preferences to evaluate a reward model on: our comparisons, and pairs of chosen and rejected answers."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_dist.data.chat import ChatPrompt, Message, read_messages, read_prompt
from rlhf_dist.data.comparisons import read_comparison
from rlhf_dist.data.records import Record, kind_of, read_records

CATEGORIES = ("category", "subset")


@dataclass(frozen=True)
class RankedAnswers:
    """One prompt with ranked answers.

    Attributes:
        prompt: what is answered.
        responses: two or more.
        ranks: of each; 1 is best, equal ranks are a tie.
        category: of the row; None where the row names none.
        models: that gave the responses; None where nobody said.
    """

    prompt: ChatPrompt
    responses: list[str]
    ranks: list[int]
    category: str | None
    models: list[str | None]


def load_preferences(path: str, split: str, category: str | None) -> list[RankedAnswers]:
    """All rows of a data set.

    A row is one of docs/data.md, "Comparisons", with `models` beside the `responses` where they are known; or it has
    `chosen` and `rejected`: texts (with `chosen_model` and `rejected_model` where they are known), lists of texts, of
    which each chosen one is better than each rejected one, or whole conversations, which differ in the last message.

    Args:
        path: .jsonl or .parquet file, or a hub name.
        split: of a hub name.
        category: the field that names a row's category; None: `category` or `subset`, where there is one.

    Raises:
        UserError: the data is missing, empty or malformed.
    """
    return [_read(record, category) for record in read_records(path, split)]


def _read(record: Record, category: str | None) -> RankedAnswers:
    if record.has("chosen") or record.has("rejected"):
        prompt, chosen, rejected = _conversations(record) if _is_chat(record) else _answers(record)
        responses, ranks = [*chosen, *rejected], [1] * len(chosen) + [2] * len(rejected)
        models: list[str | None] = [_model(record, "chosen_model")] * len(chosen) + [
            _model(record, "rejected_model")
        ] * len(rejected)
    else:
        prompt, responses, ranks = read_comparison(record)
        models = _models(record, len(responses))
    return RankedAnswers(prompt, responses, ranks, _category(record, category), models)


def _is_chat(record: Record) -> bool:
    chosen = record.fields.get("chosen")
    return isinstance(chosen, list) and bool(chosen) and isinstance(chosen[0], dict)


def _answers(record: Record) -> tuple[ChatPrompt, list[str], list[str]]:
    prompt = record.fields.get("prompt")
    if isinstance(prompt, list):
        record = Record(record.where, {**record.fields, "messages": prompt, "prompt": None})
    return read_prompt(record), _texts(record, "chosen"), _texts(record, "rejected")


def _texts(record: Record, field: str) -> list[str]:
    value = record.fields.get(field)
    if not isinstance(value, list):
        return [record.text(field)]
    for number, item in enumerate(value, 1):
        if not isinstance(item, str):
            raise record.error(f"entry {number} of {field!r} is {kind_of(item)}, expected a text")
    if not value:
        raise record.error(f"the list {field!r} is empty")
    return value


def _conversations(record: Record) -> tuple[ChatPrompt, list[str], list[str]]:
    chosen, rejected = (_conversation(record, field) for field in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise record.error("the conversations 'chosen' and 'rejected' differ before their last message")
    return ChatPrompt(record, chosen[:-1], None), [chosen[-1]["content"]], [rejected[-1]["content"]]


def _conversation(record: Record, field: str) -> list[Message]:
    messages = read_messages(Record(f"{record.where}: {field}", {"messages": record.list(field)}))
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise record.error(f"the conversation {field!r} must end with an answer of the assistant's to a message")
    return messages


def _category(record: Record, field: str | None) -> str | None:
    if field is not None:
        return record.text(field)
    named = next((name for name in CATEGORIES if record.has(name)), None)
    return None if named is None else record.text(named)


def _model(record: Record, field: str) -> str | None:
    value = record.fields.get(field)
    return value if isinstance(value, str) else None


def _models(record: Record, responses: int) -> list[str | None]:
    models = record.fields.get("models")
    if not isinstance(models, list) or len(models) != responses:
        return [None] * responses
    return [model if isinstance(model, str) else None for model in models]
