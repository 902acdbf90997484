"""Who is on shared devices, and who waits in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rlhf_dist.cluster.calls import call_all, run_calls
from rlhf_dist.cluster.group import WorkerGroup
from rlhf_dist.engine.role_engine import RoleEngine
from rlhf_dist.types import Residency

_ORDER: dict[Residency, int] = {"none": 0, "weights": 1, "all": 2}


class Residents:
    """The roles of a run by the devices they share, and how much of each is on them.

    Args:
        sharing: the roles' names, those together that share devices.
    """

    def __init__(self, sharing: Sequence[Sequence[str]]) -> None:
        self._with = {role: set(group) for group in sharing for role in group}
        self._groups: dict[str, WorkerGroup] = {}
        self._state: dict[str, Residency] = {}
        self._on_return: dict[str, Callable[[], None]] = {}

    def on_return(self, group: WorkerGroup, action: Callable[[], None]) -> None:
        """``action`` is to be done before ``group`` can be of use again after it left: it brings what was lost."""
        self._on_return[group.role] = action

    def vacate(self, roles: Iterable[str], timeout_s: float) -> None:
        """Sends all away that share devices with ``roles``."""
        others = {other for role in roles for other in self._with[role]} & self._state.keys()
        self._move({role: "none" for role in others if self._state[role] != "none"}, timeout_s)

    def admit(self, group: WorkerGroup) -> None:
        """Notes that a group's engines were made, and are on their devices."""
        if len(self._with[group.role]) > 1:
            self._groups[group.role], self._state[group.role] = group, "all"

    def at_least(self, group: WorkerGroup, needs: Residency) -> Residency:
        """What a group is to have on its device for a call that needs so much: what is there already may stay."""
        return max(needs, self._state.get(group.role, needs), key=_ORDER.__getitem__)

    def bring(self, wanted: Mapping[WorkerGroup, Residency], timeout_s: float) -> None:
        """Brings groups onto their devices, as far as ``wanted`` says, after all others have left these.

        Raises:
            RunError: a worker did not move in time.
        """
        for group, residency in wanted.items():
            lost = self._state.get(group.role) == "none" and residency == "all"
            if lost and group.role in self._on_return:
                self._on_return[group.role]()
        state = {group.role: residency for group, residency in wanted.items() if group.role in self._state}
        together = {other for role in state for other in self._with[role]} & self._state.keys()
        leaving: dict[str, Residency] = dict.fromkeys(together - state.keys(), "none")
        shrinking = {role: to for role, to in state.items() if _ORDER[to] < _ORDER[self._state[role]]}
        growing = {role: to for role, to in state.items() if _ORDER[to] > _ORDER[self._state[role]]}
        for moves in (leaving | shrinking, growing):
            self._move({role: to for role, to in moves.items() if self._state[role] != to}, timeout_s)

    def _move(self, moves: Mapping[str, Residency], timeout_s: float) -> None:
        if not moves:
            return
        calls = [call_all(self._groups[role], RoleEngine.reside, to) for role, to in moves.items()]
        run_calls(calls, timeout_s)
        self._state |= moves
