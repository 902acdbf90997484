"""Judgements taken apart into preferences: who prefers which of two answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from rlhf_dist.labelling.candidates import Answer, Ranking
from rlhf_dist.labelling.judgements import Judgement, Source

PERSON: Source = "person"
SCORERS: tuple[Source, ...] = ("function", "model")
"""Judges that score each answer by itself: none is shown to them before another."""

AnswerKey = tuple[str, str]
"""An answer's id and text: files that were labelled apart may use the same short ids."""

Pair = tuple[AnswerKey, AnswerKey]
"""Two answers of a prompt, in the order of their keys."""


@dataclass(frozen=True, order=True)
class Labeller:
    """Who judged.

    Attributes:
        name: as the judgements have it.
        source: "person", or what else the labeller is.
    """

    name: str
    source: str = PERSON

    @property
    def is_person(self) -> bool:
        """Whether the labeller is a person."""
        return self.source == PERSON

    @property
    def title(self) -> str:
        """The name, with what the labeller is where that is no person."""
        return self.name if self.is_person else f"{self.name} ({self.source})"


@dataclass(frozen=True)
class Preference:
    """What one labeller said of two answers.

    Attributes:
        prompt: id of the prompt.
        labeller: who said it.
        earlier, later: the answers, in the order in which they were shown.
        sign: 1 where the earlier one is preferred, -1 where the later one is, 0 for a tie.
        strength: of the preference, 0 to 3; None where it was not asked for.
    """

    prompt: str
    labeller: Labeller
    earlier: Answer
    later: Answer
    sign: int
    strength: int | None

    @property
    def pair(self) -> Pair:
        """The two answers, in the order of their keys."""
        one, other = sorted((key_of(self.earlier), key_of(self.later)))
        return one, other

    @property
    def oriented(self) -> int:
        """The sign as seen from the first answer of :attr:`pair`."""
        return self.sign if self.pair[0] == key_of(self.earlier) else -self.sign


def key_of(answer: Answer) -> AnswerKey:
    """By which an answer is told from the others of its prompt."""
    return answer.id, answer.text


def labeller_of(judgement: Judgement) -> Labeller:
    """Who judged."""
    return Labeller(judgement.labeller, judgement.source)


def preferences_of(judgements: Iterable[Judgement]) -> list[Preference]:
    """All pairs of all rankings. What a labeller said last of a pair of a prompt's answers counts, and counts once."""
    found: dict[tuple[str, Labeller, Pair], Preference] = {}
    for judgement in judgements:
        for one in _of_ranking(judgement):
            found[one.prompt, one.labeller, one.pair] = one
    return list(found.values())


def places(ranking: Ranking) -> dict[str, int]:
    """The place of each answer's id: 0 is best, equal places are a tie."""
    return {name: place for place, tied in enumerate(ranking) for name in tied}


def signs_by_labeller(preferences: Iterable[Preference]) -> dict[Labeller, dict[str, dict[Pair, int]]]:
    """What each labeller said, by prompt and pair: 1 where the pair's first answer is preferred, -1, or 0 for a tie."""
    signs: dict[Labeller, dict[str, dict[Pair, int]]] = defaultdict(lambda: defaultdict(dict))
    for one in preferences:
        signs[one.labeller][one.prompt][one.pair] = one.oriented
    return {labeller: dict(prompts) for labeller, prompts in sorted(signs.items())}


def known_signs(judgements: Iterable[Judgement], known: Mapping[str, Ranking]) -> dict[str, dict[Pair, int]]:
    """The known rankings in the same form, by prompt, of the answers that the judgements show."""
    signs: dict[str, dict[Pair, int]] = defaultdict(dict)
    for judgement in judgements:
        if judgement.prompt.id in known:
            place = places(known[judgement.prompt.id])
            shown = sorted((answer for answer in judgement.answers if answer.id in place), key=key_of)
            for one, other in combinations(shown, 2):
                difference = place[other.id] - place[one.id]
                signs[judgement.prompt.id][key_of(one), key_of(other)] = (difference > 0) - (difference < 0)
    return dict(signs)


def _of_ranking(judgement: Judgement) -> Iterable[Preference]:
    if not judgement.ranking or judgement.skipped:
        return
    place = places(judgement.ranking)
    labeller = labeller_of(judgement)
    for earlier, later in combinations(judgement.answers, 2):
        difference = place[later.id] - place[earlier.id]
        sign = (difference > 0) - (difference < 0)
        yield Preference(judgement.prompt.id, labeller, earlier, later, sign, judgement.strength)
