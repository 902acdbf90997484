"""Where judgements are made: hands out what is to be judged, and keeps both that and what is said of it on the disk."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rlhf_dist.errors import UserError
from rlhf_dist.labelling.assignments import Assignment, Assignments, Rules
from rlhf_dist.labelling.candidates import Answer
from rlhf_dist.labelling.items import Item, judged_key
from rlhf_dist.labelling.judgements import Judgement, JudgementLog, Task, new_id
from rlhf_dist.labelling.lines import LineLog
from rlhf_dist.labelling.questions import Question
from rlhf_dist.labelling.submission import Submission, read_submission

_LATER = re.compile(r"[2-9]|[1-9][0-9]{1,8}", re.ASCII)  # number of a judgement that replaces another


class NotYours(Exception):
    """There is no such assignment, or it is another labeller's."""


class AlreadyJudged(Exception):
    """Another judgement was kept under this id, as from another tab."""


@dataclass(frozen=True)
class Sheet:
    """What a labeller has before the eyes.

    Attributes:
        id: of the judgement that is to come of it.
        assignment: the id without what marks a changed judgement.
        item: what is judged.
        answers: in the order in which the labeller sees them.
        given: the judgement that is to be changed; None where there is none yet.
    """

    id: str
    assignment: str
    item: Item
    answers: tuple[Answer, ...]
    given: Judgement | None


class Desk:
    """The files of one labelling, open.

    Args:
        out: the file of judgements; what was assigned stands beside it, in the file `.assignments.jsonl`.
        task: what is asked for.
        items: all that there is to judge.
        labellers: their names.
        rules: how items are dealt out.
        questions: of the task rate.
        clock: seconds since 1970.

    Raises:
        UserError: a file is malformed, is another process's, or is of another task or other candidates.
    """

    def __init__(
        self,
        out: Path,
        task: Task,
        items: Sequence[Item],
        labellers: Sequence[str],
        rules: Rules,
        questions: Sequence[Question] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.task, self.questions, self.clock = task, tuple(questions), clock
        self.assignments = Assignments(items, labellers, rules)
        self.standing: dict[str, Judgement] = {}  # what holds, by its assignment
        self.saved = 0  # judgements since the start
        self._log = JudgementLog(out)
        try:
            self._assigned = LineLog(out.with_suffix(".assignments.jsonl"))
            try:
                self._read_back()
            except UserError:
                self._assigned.close()
                raise
        except UserError:
            self._log.close()
            raise

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._assigned.close()

    def sheet(self, labeller: str) -> Sheet | None:
        """What the labeller is to judge now: the same until it is judged. None where there is nothing at the moment.

        Raises:
            OSError: it cannot be written down, as the disk is full; then nothing was handed out.
        """
        now = self.clock()
        assignment = self.assignments.current(labeller, now)
        if assignment is None:
            item = self.assignments.choose(labeller, now)
            if item is None:
                return None
            assignment = Assignment(new_id(), labeller, item.key, now)
            self._assigned.append(assignment.to_json())
            self.assignments.add(assignment)
        self.assignments.renew(labeller, now)
        return self._sheet(assignment)

    def sheet_before(self, labeller: str, assignment: str) -> Sheet | None:
        """What the labeller judged before ``assignment``, to change it; before what is in hand, where that is none."""
        done = self.history(labeller)
        place = done.index(assignment) if assignment in done else len(done)
        return self._sheet(self.assignments.by_id[done[place - 1]]) if place else None

    def save(self, labeller: str, name: str, body: object) -> bool:
        """Keeps a judgement: it is on the disk when this returns.

        Args:
            labeller: who sends it.
            name: the id that the sheet came with.
            body: what the page sent.

        Returns:
            False where the same one was kept before.

        Raises:
            NotYours: the labeller never had such a sheet.
            Malformed: what was sent is no judgement.
            AlreadyJudged: something else was kept under this id.
            OSError: the disk is full, or gone; nothing was kept.
        """
        assignment, number = self._parse(labeller, name)
        item = self.assignments.items[assignment.item]
        shown = item.shown(labeller, self.assignments.rules.seed)
        given = read_submission(body, self.task, shown, self.questions)
        before = self.standing.get(assignment.id)
        if before is not None and number <= _number(before.id):
            if number == _number(before.id) and given.says_the_same(before):
                return False
            raise AlreadyJudged
        if number != (1 if before is None else _number(before.id) + 1):
            raise NotYours
        judgement = self._judgement(name, labeller, item, shown, given, before)
        if not self._log.append(judgement):
            raise AlreadyJudged
        self._take_note(assignment, judgement)
        self.saved += 1
        return True

    def history(self, labeller: str) -> list[str]:
        """The assignments that a labeller has judged or skipped, oldest first."""
        return [one.id for one in self.assignments.dealt(labeller) if one.id in self.standing]

    def _parse(self, labeller: str, name: str) -> tuple[Assignment, int]:
        base, dash, number = name.partition("-")
        assignment = self.assignments.by_id.get(base)
        if assignment is None or assignment.labeller != labeller:
            raise NotYours
        if dash and not _LATER.fullmatch(number):
            raise NotYours
        return assignment, int(number) if dash else 1

    def _judgement(
        self,
        name: str,
        labeller: str,
        item: Item,
        shown: tuple[Answer, ...],
        given: Submission,
        before: Judgement | None,
    ) -> Judgement:
        at = datetime.fromtimestamp(self.clock(), timezone.utc).isoformat(timespec="seconds")
        return Judgement(
            name,
            self.task,
            item.prompt,
            shown,
            labeller,
            at=at.replace("+00:00", "Z"),
            seconds=given.seconds,
            ranking=given.ranking,
            strength=given.strength,
            ratings=given.ratings,
            demonstration=given.demonstration,
            skipped=given.skipped,
            flag=given.flag,
            note=given.note,
            replaces=None if before is None else before.id,
        )

    def _sheet(self, assignment: Assignment) -> Sheet:
        item = self.assignments.items[assignment.item]
        given = self.standing.get(assignment.id)
        name = assignment.id if given is None else f"{assignment.id}-{_number(given.id) + 1}"
        shown = item.shown(assignment.labeller, self.assignments.rules.seed)
        return Sheet(name, assignment.id, item, shown, given)

    def _take_note(self, assignment: Assignment, judgement: Judgement) -> None:
        self.standing[assignment.id] = judgement
        self.assignments.judged(assignment.labeller, assignment.item, bool(judgement.skipped))

    def _read_back(self) -> None:
        for record in self._assigned.rows():
            assignment = Assignment.read(record)
            if assignment.item not in self.assignments.items:
                raise record.error(_OTHER_CANDIDATES)
            self.assignments.add(assignment)
        for judgement in self._log.standing:
            if judgement.source == "person":
                self._read_judgement(judgement)
        self.assignments.renew_all(self.clock())

    def _read_judgement(self, judgement: Judgement) -> None:
        where = f"{self._log.path}: the judgement {judgement.id}"
        if judgement.task != self.task:
            raise UserError(f"{where} is of the task {judgement.task}, not {self.task}: choose another --out")
        key, base = judged_key(judgement), judgement.id.partition("-")[0]
        item = self.assignments.items.get(key)
        ids = {answer.id for answer in judgement.answers}
        if item is None or ids != {answer.id for answer in item.answers}:
            raise UserError(f"{where}: {_OTHER_CANDIDATES}")
        assignment = self.assignments.by_id.get(base)
        if assignment is None or (assignment.labeller, assignment.item) != (judgement.labeller, key):
            assignment = Assignment(base, judgement.labeller, key, 0.0)  # its line is gone: the file was removed
            self.assignments.add(assignment)
        self._take_note(assignment, judgement)


def _number(name: str) -> int:
    """Which version of a judgement an id names: the first has the assignment's, later ones that and a number."""
    return int(name.partition("-")[2] or 1)


_OTHER_CANDIDATES = "it is of a prompt or of answers that the candidates do not have: choose another --out"
