"""What is judged at one go: a prompt with all its answers or, in the task compare, with two of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt
from rlhf_dist.labelling.judgements import Judgement, Task

Group = Literal["single", "shared", "known"]
FEWEST_ANSWERS: dict[Task, int] = {"demonstrate": 0, "rate": 1, "rank": 2, "compare": 2}


@dataclass(frozen=True)
class Item:
    """What one labeller judges at one go.

    Attributes:
        key: names it in the file of assignments: the prompt's id, and in the task compare the two answers' ids.
        prompt: what was asked.
        answers: those to judge, in the order of the file; none in the task demonstrate.
        group: "single" is for one labeller, "shared" for each of them, "known" for each, to calibrate.
    """

    key: str
    prompt: Prompt
    answers: tuple[Answer, ...]
    group: Group

    def shown(self, labeller: str, seed: int) -> tuple[Answer, ...]:
        """The answers in the order in which a labeller sees them: mixed, and always the same."""
        mixed = list(self.answers)
        random.Random(f"{seed}/{labeller}/{self.key}").shuffle(mixed)
        return tuple(mixed)


def items_of(rows: Sequence[Candidates], task: Task, shared: float, all_pairs: bool, seed: int) -> list[Item]:
    """All that is to be judged, mixed; those of one prompt stand together.

    Args:
        rows: with fewer answers than the task needs are left out.
        task: what is asked for.
        shared: the share of the prompts, from 0 to 1, that every labeller gets; known ones do not count.
        all_pairs: in the task compare, whether each answer is compared with each other one; otherwise with two others,
            which are drawn so that all answers of a prompt are connected (:func:`ring`).
        seed: of whatever is drawn.
    """
    useful = [row for row in rows if len(row.answers) >= FEWEST_ANSWERS[task]]
    random.Random(f"{seed}/items").shuffle(useful)
    unknown = [row for row in useful if not _calibrates(row, task)]
    for_all = {row.prompt.id for row in unknown[: round(shared * len(unknown))]}
    found = []
    for row in useful:
        group: Group = "known" if _calibrates(row, task) else "shared" if row.prompt.id in for_all else "single"
        for answers in _asked(row, task, all_pairs, seed):
            found.append(Item(key_of(task, row.prompt, answers), row.prompt, answers, group))
    return found


def key_of(task: Task, prompt: Prompt, answers: Sequence[Answer]) -> str:
    """The key of the item that a task makes of a prompt and answers to it, in whatever order these stand."""
    if task != "compare":
        return prompt.id
    return "/".join([prompt.id, *sorted(answer.id for answer in answers)])


def judged_key(judgement: Judgement) -> str:
    """The key of the item that a judgement is of."""
    return key_of(judgement.task, judgement.prompt, judgement.answers)


def ring(answers: Sequence[Answer], seed: str) -> list[tuple[Answer, Answer]]:
    """Pairs of answers in which each stands twice (once, where there are two), and all are connected."""
    mixed = list(answers)
    random.Random(seed).shuffle(mixed)
    return [(mixed[place], mixed[place - 1]) for place in range(1 if len(mixed) == 2 else 0, len(mixed))]


def _calibrates(row: Candidates, task: Task) -> bool:
    return row.known is not None and task != "demonstrate"


def _asked(row: Candidates, task: Task, all_pairs: bool, seed: int) -> list[tuple[Answer, ...]]:
    if task == "demonstrate":
        return [()]
    if task != "compare":
        return [row.answers]
    if all_pairs:
        return list(itertools.combinations(row.answers, 2))
    return list(ring(row.answers, f"{seed}/{row.prompt.id}"))
