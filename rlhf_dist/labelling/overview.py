"""What the operator sees: how far each labeller is, and how well they agree with one another and with the known.

Agreement is what `rlhf-dist judgements` shows of the same file (:mod:`rlhf_dist.labelling.pair_counts`), without the
intervals, and the libraries, that take time.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping

from rlhf_dist.labelling.candidates import Ranking
from rlhf_dist.labelling.desk import Desk
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.pair_counts import PairCounts, Signs, count_prompts
from rlhf_dist.labelling.preferences import Labeller, known_signs, preferences_of, signs_by_labeller

_MOST_REMARKS = 100
_LONGEST_EXCERPT = 160  # characters of a prompt


def overview(desk: Desk, known: Mapping[str, Ranking]) -> dict[str, object]:
    """What stands on the operator's page, ready for JSON.

    Args:
        desk: the labelling.
        known: the rankings that are held to be right, by the prompt's id.
    """
    standing = list(desk.standing.values())  # people's alone
    signs = signs_by_labeller(preferences_of(standing))
    right = known_signs(standing, known)
    items = desk.assignments.items
    names = list(dict.fromkeys([*desk.assignments.labellers, *(one.labeller for one in standing)]))
    return {
        "task": desk.task,
        "items": len(items),
        "done": sum(bool(desk.assignments.judges_of(key)) for key in items),
        "agreement": _agreement(itertools.combinations(signs.values(), 2)),
        "labellers": [_labeller(name, desk, standing, signs, right) for name in names],
        "remarks": [_remark(one) for one in reversed(standing) if one.flag or one.note or one.skipped][:_MOST_REMARKS],
    }


def _agreement(both: Iterable[tuple[Signs, Signs]]) -> dict[str, object] | None:
    """Of each two labellers taken together; None where no pair of answers is ordered by two."""
    found = sum((count for counts in count_prompts(both).values() for count in counts), PairCounts())
    if found.share is None:
        return None
    return {"share": found.share, "pairs": found.pairs, "tied_by_one": found.tied_by_one}


def _labeller(
    name: str, desk: Desk, standing: list[Judgement], signs: Mapping[Labeller, Signs], right: Signs
) -> dict[str, object]:
    mine = [one for one in standing if one.labeller == name]
    judged = [one for one in mine if not one.skipped]
    said = signs.get(Labeller(name), {})
    others = [heard for labeller, heard in signs.items() if labeller.name != name]
    invited = name in desk.assignments.labellers
    return {
        "name": name,
        "judged": len(judged),
        "skipped": len(mine) - len(judged),
        "expected": desk.assignments.expected() if invited else len(mine),
        "flagged": sum(bool(one.flag) for one in mine),
        "seconds": statistics.median(one.seconds for one in judged) if judged else None,
        "last": max((one.at for one in mine), default=None),
        "agreement": _agreement((said, heard) for heard in others),
        "known": _agreement([(said, right)]),
    }


def _remark(judgement: Judgement) -> dict[str, str]:
    asked = " ".join(judgement.prompt.messages[-1]["content"].split())
    return {
        "labeller": judgement.labeller,
        "at": judgement.at,
        "prompt": asked if len(asked) <= _LONGEST_EXCERPT else asked[:_LONGEST_EXCERPT] + "…",
        "prompt_id": judgement.prompt.id,
        "flag": judgement.flag,
        "note": judgement.note,
        "skipped": judgement.skipped,
    }
