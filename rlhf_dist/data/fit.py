"""Brings prompt and answers to a length limit, by cutting or by refusing."""

from __future__ import annotations

from rlhf_dist.data.encode import Tokens
from rlhf_dist.data.records import Record


def fit(
    record: Record,
    prompt: Tokens,
    answers: list[Tokens],
    max_tokens: int,
    truncate: bool,
    settings: tuple[str, str] = ("data.max_tokens=", "data.truncate=true"),
) -> tuple[Tokens, list[Tokens]]:
    """The prompt and its answers such that the prompt and any one of the answers are at most ``max_tokens``.

    What is cut: the end of an answer, its end-of-sequence token included, and the beginning of the prompt. The
    prompt keeps half of the room and may use what the longest answer leaves; an answer has what the prompt leaves.

    Args:
        record: where the row stands.
        prompt, answers: their tokens.
        max_tokens: most tokens of the prompt and an answer.
        truncate: whether to cut.
        settings: what the user sets the last two by, for the message.

    Raises:
        UserError: it does not fit, and ``truncate`` is off.
    """
    longest = max(len(answer) for answer in answers)
    if len(prompt) + longest <= max_tokens:
        return prompt, answers
    if not truncate:
        raise record.error(
            f"prompt and answer have {len(prompt) + longest} tokens, more than {settings[0]}{max_tokens}: "
            f"raise it, or let {settings[1]} cut them"
        )
    kept = min(len(prompt), max(max_tokens - longest, max_tokens // 2))
    return prompt[len(prompt) - kept :], [answer[: max_tokens - kept] for answer in answers]
