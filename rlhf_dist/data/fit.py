"""Brings prompt and answers to a length limit, by cutting or by refusing."""

from __future__ import annotations

from rlhf_dist.data.encode import Tokens
from rlhf_dist.data.records import Record


def fit(
    record: Record, prompt: Tokens, answers: list[Tokens], max_tokens: int, truncate: bool
) -> tuple[Tokens, list[Tokens]]:
    """The prompt and its answers such that the prompt and any one of the answers are at most ``max_tokens``.

    What is cut: the end of an answer, its end-of-sequence token included, and the beginning of the prompt. The
    prompt keeps half of the room and may use what the longest answer leaves; an answer has what the prompt leaves.

    Raises:
        UserError: it does not fit, and ``truncate`` is off.
    """
    longest = max(len(answer) for answer in answers)
    if len(prompt) + longest <= max_tokens:
        return prompt, answers
    if not truncate:
        raise record.error(
            f"prompt and answer have {len(prompt) + longest} tokens, more than data.max_tokens={max_tokens}: "
            "raise it, or let data.truncate=true cut them"
        )
    kept = min(len(prompt), max(max_tokens - longest, max_tokens // 2))
    return prompt[len(prompt) - kept :], [answer[: max_tokens - kept] for answer in answers]
