"""What judgements become for training: one ranking of each prompt for the reward model, and demonstrations for SFT."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_dist.labelling.candidates import Answer, Prompt
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.preferences import (
    PERSON,
    AnswerKey,
    Labeller,
    Preference,
    key_of,
    preferences_of,
)

#: How one ranking of a prompt comes of several.
RULE = (
    "A prompt that one labeller ranked keeps that ranking. Of several labellers' rankings of the same answers, answers "
    "stand by their mean rank, ties having the mean of the ranks they share; equal means tie, so labellers who "
    "contradict each other may make a tie. Where labellers compared answers two at a time, or not all the same ones, "
    "answers stand by the mean over labellers of the share of their pairs that they won (a tie is half a win), which "
    "for whole rankings is the same order. Answers that no chain of comparisons connects stand in rows of their own."
)
_SAME = 1e-9  # mean ranks that differ by less are equal: they are sums of fractions


@dataclass(frozen=True)
class Choice:
    """Which judgements are used.

    Attributes:
        sources: "person" or others; empty: those of people where there are any, else all.
        keep_flagged: also those of prompts that a labeller flagged.
        keep_calibration: also those of prompts with a known ranking.
        calibration: ids of these.
    """

    sources: Collection[str] = ()
    keep_flagged: bool = False
    keep_calibration: bool = False
    calibration: Collection[str] = ()


@dataclass(frozen=True)
class Consensus:
    """The rankings of all prompts, and what was left out.

    Attributes:
        rows: as docs/data.md has comparisons, with the rule that made each, and from whose judgements.
        sources: whose judgements were used.
        contradicted: rows in which two labellers order a pair in opposite ways.
        left_out: why prompts have no row, and how many.
    """

    rows: list[dict[str, Any]]
    sources: list[str]
    contradicted: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def sources_used(judgements: Iterable[Judgement], choice: Choice) -> list[str]:
    """Whose judgements a choice takes: what it names, else people's where there are any, else everybody's."""
    there: list[str] = sorted({judgement.source for judgement in judgements})
    if choice.sources:
        return sorted(choice.sources)
    return [PERSON] if PERSON in there else there


def rankings_of(judgements: Sequence[Judgement], choice: Choice) -> Consensus:
    """One ranking of each prompt, or of each part of its answers that was compared; see :data:`RULE`."""
    sources = sources_used(judgements, choice)
    left_out: Counter[str] = Counter()
    rows, contradicted = [], 0
    for prompt, found in _by_prompt(judgements):
        used = [one for one in found if one.source in sources]
        why = _reason(prompt, found, used, choice)
        if why:
            left_out[why] += 1
            continue
        preferences = preferences_of(used)
        for part in _parts(preferences):
            row = _row(prompt, used, part)
            if len(set(row["ranking"])) == 1:
                left_out["all answers tie"] += 1
                continue
            contradicted += row["contradicted_pairs"] > 0
            rows.append(row)
    return Consensus(rows, sources, contradicted, dict(left_out))


def demonstrations_of(judgements: Sequence[Judgement], choice: Choice) -> list[dict[str, object]]:
    """The answers that labellers wrote, as rows of docs/data.md, one each."""
    sources = sources_used([one for one in judgements if one.task == "demonstrate"], choice)
    rows = []
    for prompt, found in _by_prompt(judgements):
        for one in found:
            wanted = one.demonstration is not None and not one.skipped and one.source in sources
            if wanted and (choice.keep_flagged or not any(other.flag for other in found)):
                row = prompt.to_json() | {"response": one.demonstration}
                rows.append(row | {"labeller": one.labeller, "source": one.source, "judgement": one.id})
    return rows


def _by_prompt(judgements: Iterable[Judgement]) -> list[tuple[Prompt, list[Judgement]]]:
    found: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        found[one.prompt.id].append(one)
    return [(judged[0].prompt, judged) for judged in found.values()]


def _reason(prompt: Prompt, found: Sequence[Judgement], used: Sequence[Judgement], choice: Choice) -> str:
    """Why a prompt has no row; "" where it has one, or none was asked for."""
    if not any(one.ranking for one in used):
        if all(one.skipped for one in found):
            return "skipped by all"
        return "not ranked" if any(one.task != "demonstrate" for one in found) else "only demonstrated"
    if not choice.keep_calibration and prompt.id in choice.calibration:
        return "calibrates labellers"
    if not choice.keep_flagged and any(one.flag for one in found):
        return "flagged"
    return ""


def _parts(preferences: Sequence[Preference]) -> Iterator[list[Preference]]:
    """The preferences of a prompt, apart where no chain of them connects their answers."""
    group: dict[AnswerKey, set[AnswerKey]] = {}
    for one in preferences:
        keys = key_of(one.earlier), key_of(one.later)
        joined = set(keys).union(*(group.get(key, set()) for key in keys))
        group.update(dict.fromkeys(joined, joined))
    done: list[set[AnswerKey]] = []
    for joined in group.values():
        if not any(joined is other for other in done):
            done.append(joined)
            yield [one for one in preferences if key_of(one.earlier) in joined]


def _row(prompt: Prompt, used: Sequence[Judgement], preferences: Sequence[Preference]) -> dict[str, Any]:
    answers = {key_of(answer): answer for one in preferences for answer in (one.earlier, one.later)}
    shares = _shares(preferences)
    labellers = sorted({one.labeller for one in preferences})
    keys = sorted(answers)  # in an order that says nothing of which is better
    ids = [one.id for one in used if one.ranking and any(key_of(answer) in answers for answer in one.answers)]
    row = prompt.to_json() | {"responses": [answers[key].text for key in keys], "ranking": _ranks(shares, keys)}
    row |= {"models": [answers[key].model for key in keys]} if any(map(_has_model, answers.values())) else {}
    return row | {
        "rule": _rule(preferences, len(labellers), len(answers)),
        "labellers": [labeller.title for labeller in labellers],
        "judgements": ids,
        "contradicted_pairs": _contradicted(preferences),
    }


def _has_model(answer: Answer) -> bool:
    return answer.model is not None


def _shares(preferences: Sequence[Preference]) -> dict[AnswerKey, float]:
    """The mean over labellers of the share of its pairs that each answer won; a tie is half."""
    won: dict[AnswerKey, dict[Labeller, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in preferences:
        won[key_of(one.earlier)][one.labeller].append((1 + one.sign) / 2)
        won[key_of(one.later)][one.labeller].append((1 - one.sign) / 2)
    means = {key: [sum(found) / len(found) for found in by_labeller.values()] for key, by_labeller in won.items()}
    return {key: sum(found) / len(found) for key, found in means.items()}


def _ranks(shares: Mapping[AnswerKey, float], keys: Sequence[AnswerKey]) -> list[int]:
    """1 for the best; equal ones tie, and the ranks after a tie go on without a gap."""
    rank, last, ranks = 0, float("inf"), {}
    for key in sorted(keys, key=lambda key: -shares[key]):
        if last - shares[key] > _SAME:
            rank += 1
        last, ranks[key] = shares[key], rank
    return [ranks[key] for key in keys]


def _rule(preferences: Sequence[Preference], labellers: int, answers: int) -> str:
    whole = len(preferences) == labellers * answers * (answers - 1) // 2
    if whole and labellers == 1:
        return "the one labeller's ranking"
    if whole:
        return f"mean rank of {labellers} labellers, equal means tie"
    return f"mean share of pairs won, {labellers} labeller{'' if labellers == 1 else 's'}, equal shares tie"


def _contradicted(preferences: Iterable[Preference]) -> int:
    """How many pairs labellers order in opposite ways."""
    signs: dict[object, set[int]] = defaultdict(set)
    for one in preferences:
        signs[one.pair].add(one.oriented)
    return sum({1, -1} <= found for found in signs.values())
