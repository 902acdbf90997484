"""Which roles share devices (the key `placement`), and a setting of `cluster` that is a text with a form."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.errors import UserError

SEPARATE, COLOCATED = "separate", "colocated"
_FORM = "expected separate, colocated, or lists of roles, as [[actor, reference], [critic, reward], [rollout]]"
_PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")


def shared_groups(placement: str, roles: Iterable[str], known: Iterable[str] = ()) -> list[list[str]]:
    """The roles of a run by the devices they live on: each role in exactly one group, in the order given.

    Args:
        placement: the key `placement`.
        roles: of this run.
        known: further names that may stand in it, of roles that this run does without.

    Raises:
        UserError: it is neither a word that is known nor lists of roles, or a role stands in it twice.
    """
    names = list(roles)
    if placement == SEPARATE:
        return [[name] for name in names]
    if placement == COLOCATED:
        return [names]
    groups = [[role for role in group if role in names] for group in _parse(placement, {*names, *known})]
    listed = {role for group in groups for role in group}
    return [group for group in groups if group] + [[name] for name in names if name not in listed]


def _parse(placement: str, known: set[str]) -> list[list[str]]:
    where = f"placement={placement}: "
    try:
        groups = yaml.safe_load(placement)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: of what looks like a date or number
        raise UserError(where + _FORM) from error
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and all(isinstance(role, str) for role in group) for group in groups
    ):
        raise UserError(where + _FORM + suggest(placement, (SEPARATE, COLOCATED)))
    seen: set[str] = set()
    for role in (role for group in groups for role in group):
        if role not in known:
            raise UserError(f"{where}there is no role {role}{suggest(str(role), sorted(known))}")
        if role in seen:
            raise UserError(f"{where}{role} stands in it twice")
        seen.add(role)
    return groups


def port_range(ports: str | None) -> tuple[int, int] | None:
    """`cluster.ports` as its first and last port; None for any.

    Raises:
        UserError: it is no range of ports.
    """
    if ports is None:
        return None
    found = _PORTS.fullmatch(ports.replace(" ", ""))
    first, last = (int(found[1]), int(found[2])) if found else (1, 0)
    if not 1024 <= first <= last <= 65535:
        raise UserError(f"cluster.ports={ports}: expected a range of ports between 1024 and 65535, as 20000-20099")
    return first, last
