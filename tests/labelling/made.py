"""Judgements made on the spot."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlhf_dist.labelling.candidates import Answer, Prompt, Ranking, prompt_id
from rlhf_dist.labelling.judgements import Judgement


def prompt(text: str) -> Prompt:
    messages = ({"role": "user", "content": text},)
    return Prompt(prompt_id(messages), messages, text)


def ranking_by(score: dict[str, float]) -> Ranking:
    """Ids, the highest score first; equal scores tie."""
    return tuple(
        tuple(name for name in score if score[name] == value) for value in sorted(set(score.values()), reverse=True)
    )


def ranked(question: str, labeller: str, ranking: str, shown: str = "", **more: Any) -> Judgement:
    """A judgement of answers with ids of one letter each: "b=a>c" ties b and a. Shown in the order of ``shown``."""
    parsed = tuple(tuple(part.split("=")) for part in ranking.split(">"))
    names = shown or "".join(sorted(name for tied in parsed for name in tied))
    texts = more.pop("texts", {})
    models = more.pop("models", {})
    answers = tuple(Answer(name, texts.get(name, f"answer {name}"), models.get(name)) for name in names)
    given = {"id": f"{question}-{labeller}-{ranking}-{shown}", "task": "rank"} | more
    return Judgement(prompt=prompt(question), answers=answers, labeller=labeller, ranking=parsed, **given)


def simulated(
    strengths: dict[str, float],
    prompts: int,
    labellers: Sequence[str] = ("ann", "bob"),
    seed: int = 0,
    ties: bool = True,
) -> list[Judgement]:
    """Labellers who rank an answer of each model by its strength (nats of log-odds) and Gumbel noise: Bradley-Terry."""
    generator = random.Random(seed)
    rows = []
    for number in range(prompts):
        for labeller in labellers:
            score = {}
            for name, strength in strengths.items():
                noisy = strength - math.log(-math.log(generator.random()))
                score[name] = float(round(noisy)) if ties else noisy
            shown = list(strengths)
            generator.shuffle(shown)
            answers = tuple(Answer(name, f"by {name} to {number}", name) for name in shown)
            rows.append(
                Judgement(
                    f"{number}-{labeller}",
                    "rank",
                    prompt(f"question {number}"),
                    answers,
                    labeller,
                    seconds=generator.uniform(5, 50),
                    ranking=ranking_by(score),
                )
            )
    return rows


def write(path: Path, judgements: Iterable[Judgement]) -> Path:
    path.write_text("".join(json.dumps(one.to_json()) + "\n" for one in judgements))
    return path
