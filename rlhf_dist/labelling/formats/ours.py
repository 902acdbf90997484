"""The formats of this project: judgements, candidates, and the comparisons that a reward model is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rlhf_dist.data.records import Record
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, read_candidates
from rlhf_dist.labelling.formats.contents import (
    ALL,
    UNKNOWN,
    Contents,
    LabelFormat,
    Part,
    Row,
    answers_of,
    by_rank,
    grouped,
    made_id,
    ranked,
    ranks_of,
)
from rlhf_dist.labelling.judgements import Judgement, standing


def _read_judgements(rows: Sequence[Record]) -> Contents:
    """Those that stand; what they replaced is not kept."""
    found = standing(Judgement.read(row) for row in rows)
    return Contents([replace(one, replaces=None) for one in found])


def _write_judgements(contents: Contents) -> Iterable[Row]:
    return (judgement.to_json() for judgement in contents.judgements)


def _read_candidates(rows: Sequence[Record]) -> Contents:
    return Contents((), [read_candidates(row) for row in rows])


def _write_candidates(contents: Contents) -> Iterable[Row]:
    """Each prompt once, with all the answers that it has anywhere."""
    prompts: dict[str, Candidates] = {}
    for group in grouped(contents):
        before = prompts.get(group.prompt.id, Candidates(group.prompt))
        answers: dict[str, Answer] = {answer.id: answer for answer in (*before.answers, *group.answers)}
        known = group.known or before.known
        complete = known is not None and {name for tied in known for name in tied} == set(answers)
        prompts[group.prompt.id] = Candidates(group.prompt, tuple(answers.values()), known if complete else None)
    return (one.to_json() for one in prompts.values())


def _read_comparisons(rows: Sequence[Record]) -> Contents:
    found = []
    for place, row in enumerate(rows):
        prompt, texts, ranks = Prompt.read(row), row.list("responses"), row.list("ranking")
        if not all(isinstance(text, str) for text in texts) or not all(type(rank) is int for rank in ranks):
            raise row.error("'responses' must be texts, and 'ranking' their ranks")
        if len(texts) != len(ranks):
            raise row.error(f"'ranking' has {len(ranks)} entries for {len(texts)} responses")
        answers = answers_of(prompt, texts)
        ranking = by_rank(answers, ranks)
        name = made_id("comparisons", place, prompt.id, ranking)
        found.append(Judgement(name, "rank", prompt, answers, UNKNOWN, ranking=ranking))
    return Contents(found)


def _write_comparisons(contents: Contents) -> Iterable[Row]:
    for judgement in ranked(contents):
        prompt = {key: value for key, value in judgement.prompt.to_json().items() if key != "prompt_id"}
        texts = [answer.text for answer in judgement.answers]
        yield prompt | {"responses": texts, "ranking": ranks_of(judgement.answers, judgement.ranking)}


JUDGEMENTS = LabelFormat(
    "judgements",
    "what rlhf-dist label and rlhf-dist judge write",
    ALL - {Part.UNJUDGED, Part.KNOWN},
    _read_judgements,
    _write_judgements,
)
CANDIDATES = LabelFormat(
    "candidates",
    "what rlhf-dist sample writes",
    frozenset({Part.UNJUDGED, Part.KNOWN, Part.CHATS, Part.MODELS, Part.SAMPLING}),
    _read_candidates,
    _write_candidates,
)
COMPARISONS = LabelFormat(
    "comparisons",
    "what a reward model is trained on, one row for each ranking",
    frozenset({Part.JUDGEMENTS, Part.CHATS, Part.ORDERS, Part.TIES, Part.WHOLE}),
    _read_comparisons,
    _write_comparisons,
)
