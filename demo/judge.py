"""The demo's judge: VADER, a lexicon scorer that never enters training."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def vader(prompts: list[str], responses: list[str]) -> list[float]:
    """VADER's compound score of each prompt with its response.

    Args:
        prompts: B texts.
        responses: B texts that continue them (with their leading blank).

    Returns:
        B numbers from -1 (negative) to 1 (positive).
    """
    scorer = _analyzer()
    whole = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return [float(scorer.polarity_scores(text)["compound"]) for text in whole]
