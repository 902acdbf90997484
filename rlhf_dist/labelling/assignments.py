"""Who judges what: every labeller gets the shared and the known items, and each of the others goes to one labeller.

Nothing here touches a file or a clock: :mod:`rlhf_dist.labelling.desk` keeps what was assigned, and says the time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_dist.data.records import Record
from rlhf_dist.labelling.items import Item


@dataclass(frozen=True)
class Assignment:
    """One item in the hands of one labeller.

    Attributes:
        id: also of the judgement that comes of it, so that the same one sent twice is one.
        labeller: who judges.
        item: the item's key.
        at: when it was handed out, seconds since 1970.
    """

    id: str
    labeller: str
    item: str
    at: float

    def to_json(self) -> dict[str, str | float]:
        """As one line of a file."""
        return {"id": self.id, "labeller": self.labeller, "item": self.item, "at": round(self.at, 3)}

    @staticmethod
    def read(record: Record) -> Assignment:
        """One row of such a file. UserError where it is malformed."""
        at = record.fields.get("at")
        if isinstance(at, bool) or not isinstance(at, (int, float)):
            raise record.error(f"the field 'at' is {at!r}, expected seconds")
        return Assignment(record.text("id"), record.text("labeller"), record.text("item"), float(at))


@dataclass(frozen=True)
class Rules:
    """How items are dealt out.

    Attributes:
        seed: of whatever is drawn.
        known: share of a labeller's items, from 0 to 1, that are known ones.
        lease_s: seconds after which an item that was handed out, and not judged, may go to another labeller.
    """

    seed: int
    known: float
    lease_s: float


class Assignments:
    """What is in whose hands, and what comes next.

    Args:
        items: all there are, in the order in which they are handed out.
        labellers: their names.
        rules: how items are dealt out.
    """

    def __init__(self, items: Sequence[Item], labellers: Sequence[str], rules: Rules) -> None:
        self.items = {item.key: item for item in items}
        self.labellers, self.rules = tuple(labellers), rules
        self.by_id: dict[str, Assignment] = {}
        self._of: dict[tuple[str, str], Assignment] = {}  # by labeller and item
        self._open: dict[str, list[Assignment]] = {name: [] for name in labellers}  # not yet judged, oldest first
        self._renewed: dict[str, float] = {}  # by assignment
        self._judged: dict[str, set[str]] = {}  # labellers who judged an item, by its key
        self._skipped: dict[str, set[str]] = {}
        self._dealt: dict[str, list[Assignment]] = {}
        self._shared = [item for item in items if item.group == "shared"]
        self._known = [item for item in items if item.group == "known"]
        self._single = [item for item in items if item.group == "single"]
        self._left = {item.key: item for item in self._single}  # judged by nobody
        self._of_prompt: dict[str, list[Item]] = {}
        for item in self._single:
            self._of_prompt.setdefault(item.prompt.id, []).append(item)
        self._begun: dict[str, set[str]] = {}  # labellers that have been given a part of a prompt
        self._last: dict[str, str] = {}  # prompt of what a labeller was given last

    def add(self, assignment: Assignment) -> None:
        """Takes note that an item was handed out."""
        self.by_id[assignment.id] = assignment
        self._of[assignment.labeller, assignment.item] = assignment
        self._dealt.setdefault(assignment.labeller, []).append(assignment)
        self._renewed[assignment.id] = assignment.at
        self._open.setdefault(assignment.labeller, []).append(assignment)
        prompt = self.items[assignment.item].prompt.id
        self._last[assignment.labeller] = prompt
        self._begun.setdefault(prompt, set()).add(assignment.labeller)

    def judged(self, labeller: str, item: str, skipped: bool) -> None:
        """Takes note that a labeller judged an item, or skipped it; the last that is said holds."""
        here, other = (self._skipped, self._judged) if skipped else (self._judged, self._skipped)
        here.setdefault(item, set()).add(labeller)
        other.get(item, set()).discard(labeller)
        waiting = self._open.get(labeller, [])
        waiting[:] = [one for one in waiting if one.item != item]
        if self.items[item].group == "single":
            if self._judged.get(item):
                self._left.pop(item, None)
            else:
                self._left[item] = self.items[item]

    def dealt(self, labeller: str) -> list[Assignment]:
        """All that a labeller was ever given, oldest first."""
        return self._dealt.get(labeller, [])

    def current(self, labeller: str, now: float) -> Assignment | None:
        """What the labeller has in hand; None where that is nothing, or has gone to somebody else meanwhile."""
        for assignment in self._open[labeller]:
            if self.items[assignment.item].group != "single" or not self._with_others(labeller, assignment.item, now):
                return assignment
        return None

    def renew(self, labeller: str, now: float) -> None:
        """Takes note that the labeller is at work: what is in hand stays there for another lease."""
        if (assignment := self.current(labeller, now)) is not None:
            self._renewed[assignment.id] = now

    def renew_all(self, now: float) -> None:
        """Gives every item in hand a new lease, as after a time in which nobody could judge."""
        self._renewed = {name: max(at, now) for name, at in self._renewed.items()}

    def choose(self, labeller: str, now: float) -> Item | None:
        """The next item for a labeller who has nothing in hand; None where there is no more.

        Known items come at their rate, at places of their own for each labeller. The shared ones are spread over the
        others. Of these, the rest of a prompt that the labeller has begun comes first, then what nobody has, then what
        others only skipped.
        """
        known, shared = (
            [item for item in group if (labeller, item.key) not in self._of] for group in (self._known, self._shared)
        )
        single = self._next_single(labeller, now)
        if known and self._is_known_turn(labeller) and (shared or single or not self._is_mixed()):
            return known[0]
        own = len(self._left) / len(self.labellers)
        if shared and (single is None or self._draw(labeller) * (len(shared) + own) < len(shared)):
            return shared[0]
        return single

    def expected(self) -> int:
        """About how many items each labeller will have judged at the end; it says nothing of what others have done."""
        total = len(self._shared) + -(-len(self._single) // len(self.labellers))
        known = len(self._known)
        if total and self.rules.known < 1:
            known = min(known, round(total * self.rules.known / (1 - self.rules.known)))
        return total + known

    def judges_of(self, item: str) -> set[str]:
        """Who judged an item, and did not skip it."""
        return self._judged.get(item, set())

    def _is_mixed(self) -> bool:
        return bool(self._shared or self._single)

    def _with_others(self, labeller: str, item: str, now: float) -> bool:
        """Whether somebody else judged an item, or has it in hand."""
        if self._judged.get(item, set()) - {labeller}:
            return True
        for name in self.labellers:
            other = self._of.get((name, item))
            if name == labeller or other is None or name in self._skipped.get(item, ()):
                continue
            if now - self._renewed[other.id] < self.rules.lease_s:
                return True
        return False

    def _next_single(self, labeller: str, now: float) -> Item | None:
        begun = self._of_prompt.get(self._last.get(labeller, ""), [])
        for item in begun:
            if item.key in self._left and self._is_free(labeller, item.key, now):
                return item
        second = None
        for item in self._left.values():
            if self._is_free(labeller, item.key, now):
                if not self._skipped.get(item.key) and not self._begun.get(item.prompt.id):
                    return item
                if second is None or (self._skipped.get(second.key) and not self._skipped.get(item.key)):
                    second = item
        return second

    def _is_free(self, labeller: str, item: str, now: float) -> bool:
        return labeller not in self._skipped.get(item, ()) and not self._with_others(labeller, item, now)

    def _is_known_turn(self, labeller: str) -> bool:
        if not self._is_mixed():
            return True
        if self.rules.known <= 0:
            return False
        dealt, every = len(self.dealt(labeller)), max(1, round(1 / self.rules.known))
        block, place = divmod(dealt, every)
        return place == random.Random(f"{self.rules.seed}/known/{labeller}/{block}").randrange(every)

    def _draw(self, labeller: str) -> float:
        return random.Random(f"{self.rules.seed}/shared/{labeller}/{len(self.dealt(labeller))}").random()
