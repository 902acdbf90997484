"""Rewards of the pages in docs/howto. A reward is any function of prompts and responses: more is better."""

from __future__ import annotations


def brief(prompts: list[str], responses: list[str]) -> list[float]:
    """Ten words are worth 0, each word less is worth 0.1."""
    return [1.0 - len(response.split()) / 10 for response in responses]


def ends_a_sentence(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for a response that ends like a sentence, else 0."""
    return [float(response.rstrip().endswith((".", "!", "?"))) for response in responses]
