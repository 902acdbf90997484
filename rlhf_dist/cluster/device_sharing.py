"""Which roles are on shared devices, and which wait in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rlhf_dist.cluster.calls import call_all, run_calls
from rlhf_dist.cluster.group import WorkerGroup
from rlhf_dist.engine.role_engine import RoleEngine
from rlhf_dist.types import Residency

_ORDER: dict[Residency, int] = {"none": 0, "weights": 1, "all": 2}


class Residents:
    """Tracks how much of each role is on the devices that it shares with others.

    Args:
        sharing: names of the roles, grouped by the devices they share.
    """

    def __init__(self, sharing: Sequence[Sequence[str]]) -> None:
        self._with = {role: set(group) for group in sharing for role in group}
        self._groups: dict[str, WorkerGroup] = {}
        self._state: dict[str, Residency] = {}
        self._on_return: dict[str, Callable[[], None]] = {}

    def on_return(self, group: WorkerGroup, action: Callable[[], None]) -> None:
        """Registers ``action`` to restore what ``group`` lost when it left its devices; run before it is used again."""
        self._on_return[group.role] = action

    def vacate(self, roles: Iterable[str], timeout_s: float) -> None:
        """Moves all other roles off the devices of ``roles``."""
        others = {other for role in roles for other in self._with[role]} & self._state.keys()
        self._move({role: "none" for role in others if self._state[role] != "none"}, timeout_s)

    def admit(self, group: WorkerGroup) -> None:
        """Records that a group's engines were built, and are on their devices."""
        if len(self._with[group.role]) > 1:
            self._groups[group.role], self._state[group.role] = group, "all"

    def at_least(self, group: WorkerGroup, needs: Residency) -> Residency:
        """How much of a group should be on its devices for a call with ``needs``; what is there may stay."""
        return max(needs, self._state.get(group.role, needs), key=_ORDER.__getitem__)

    def bring(self, wanted: Mapping[WorkerGroup, Residency], timeout_s: float) -> None:
        """Brings groups onto their devices, to the extent given in ``wanted``, after the other roles have left these.

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
