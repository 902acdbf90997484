"""Prompts as text: a plain string, or the messages of a chat, and what the tokenizer's template makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.data.records import Record, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # {"role": ..., "content": ...}
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ChatPrompt:
    """What a response answers.

    Attributes:
        record: where it stands.
        messages: the chat so far; a plain prompt is one message of the user's.
        plain: the plain prompt's text; None where the data has messages.
    """

    record: Record
    messages: list[Message]
    plain: str | None

    @property
    def text(self) -> str:
        """The prompt as a reader wants to see it, without the template's marks."""
        if self.plain is not None:
            return self.plain
        if len(self.messages) == 1:
            return self.messages[0]["content"]
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages)


def read_prompt(record: Record) -> ChatPrompt:
    """The prompt of a row with `prompt`, or with `messages` of which the last is not the assistant's.

    Raises:
        UserError: neither field is there, or it is malformed.
    """
    if record.has("prompt") or not record.has("messages"):
        text = record.text("prompt")
        return ChatPrompt(record, [{"role": "user", "content": text}], text)
    messages = read_messages(record)
    if messages[-1]["role"] == "assistant":
        raise record.error("the last of 'messages' is the assistant's, expected a message to be answered")
    return ChatPrompt(record, messages, None)


def read_messages(record: Record) -> list[Message]:
    """The field `messages`, checked: a list of at least one {"role": ..., "content": ...}, both texts.

    Raises:
        UserError: it is malformed.
    """
    messages: list[Message] = []
    for number, item in enumerate(record.list("messages"), 1):
        if not isinstance(item, dict):
            raise record.error(f"message {number} is {kind_of(item)}, expected an object with role and content")
        message = Record(f"{record.where}: message {number}", item)
        role, content = message.text("role"), message.text("content")
        if role not in ROLES:
            raise message.error(f"role {role!r} is none of {', '.join(ROLES)}{suggest(role, ROLES)}")
        messages.append({"role": role, "content": content})
    if not messages:
        raise record.error("the list 'messages' is empty")
    return messages


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template."""
    return tokenizer.chat_template is not None


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: ChatPrompt) -> str:
    """The text of a prompt, up to where the assistant's answer begins.

    Raises:
        UserError: the prompt is a chat and there is no template, or the template refuses it.
    """
    if has_template(tokenizer):
        return _apply(tokenizer, prompt.record, prompt.messages, opens_answer=True)
    if prompt.plain is None:
        raise prompt.record.error(
            "'messages' need a chat template, and the tokenizer has none: use 'prompt', or a model with a template"
        )
    return prompt.plain


def render_answer(tokenizer: PreTrainedTokenizerBase, prompt: ChatPrompt, rendered: str, answer: str) -> str:
    """The text of an answer as it follows the ``rendered`` prompt, up to the end-of-sequence token, without it.

    With a template it is what the template makes of the answer, so the model learns to write exactly that.
    """
    if not has_template(tokenizer):
        return answer
    whole = _apply(tokenizer, prompt.record, [*prompt.messages, {"role": "assistant", "content": answer}])
    text = whole.removeprefix(rendered) if whole.startswith(rendered) else answer
    before, _, after = text.rpartition(tokenizer.eos_token)
    return text if after.strip() else before


def _apply(
    tokenizer: PreTrainedTokenizerBase, record: Record, messages: list[Message], opens_answer: bool = False
) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens_answer)
    except Exception as error:  # a template raises what it likes: jinja's errors, TypeError, ...
        raise record.error(f"the chat template refuses the messages: {(str(error).splitlines() or [''])[0]}") from error


def require_answer(record: Record, messages: list[Message]) -> tuple[ChatPrompt, str]:
    """A chat that ends with the assistant's answer, as its prompt and that answer.

    Raises:
        UserError: the last message is not the assistant's, or there is none before it.
    """
    if messages[-1]["role"] != "assistant":
        raise record.error(f"the last of 'messages' is from {messages[-1]['role']!r}, expected the assistant's answer")
    if len(messages) == 1:
        raise record.error("'messages' holds only an answer, expected a message before it")
    return ChatPrompt(record, messages[:-1], None), messages[-1]["content"]
