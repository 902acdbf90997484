"""The cluster's resources compared with what a run needs: the table shown when a job does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

Bundle = Mapping[str, float]
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Node:
    """One node of the cluster: what it has of each resource, and what of that is free."""

    name: str
    present: Bundle
    free: Bundle


@dataclass(frozen=True)
class Wanted:
    """What one pool asks for: bundles, each of them on one node, and Ray's placement strategy, in lower case."""

    bundles: Sequence[Bundle]
    strategy: str

    @property
    def at_once(self) -> Bundle:
        """What a node must have to be of use: all bundles, or the largest one."""
        if self.strategy == "strict_pack":
            return _total(self.bundles)
        return max(self.bundles, key=lambda bundle: sum(bundle.values()))

    def __str__(self) -> str:
        largest = _amounts(max(self.bundles, key=lambda bundle: sum(bundle.values())))
        strict = f" ({self.strategy})" if self.strategy.startswith("strict") else ""
        return f"{len(self.bundles)} x {largest}{strict}"


def nodes(own: Sequence[tuple[str, Bundle]] = ()) -> list[Node]:
    """The cluster's living nodes. What is ``own``, by the ids of nodes, counts as free."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        Node(
            _name(node),
            node["Resources"],
            _total([free.get(node["NodeID"], {}), *(bundle for where, bundle in own if where == node["NodeID"])]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def can_never_fit(wanted: Mapping[str, Wanted], cluster: Sequence[Node]) -> str | None:
    """Why even the empty cluster is too small, as no waiting would help; None where it may be large enough."""
    present = _total([node.present for node in cluster])
    for name, amount in _total([bundle for want in wanted.values() for bundle in want.bundles]).items():
        if amount > present[name] + _ROUNDING:
            return f"the cluster has too little {name}"
    for pool, want in wanted.items():
        for bundle in want.bundles:
            if not any(_holds(node.present, bundle) for node in cluster):
                return f"no single node has {_amounts(bundle)}, which {pool} needs"
        if want.strategy == "strict_pack" and not any(_holds(node.present, want.at_once) for node in cluster):
            return f"{pool} (strict_pack): no single node has {_amounts(want.at_once)}, which it needs in all"
        usable = sum(any(_holds(node.present, bundle) for bundle in want.bundles) for node in cluster)
        if want.strategy == "strict_spread" and len(want.bundles) > usable:
            return (
                f"{pool} (strict_spread): {len(want.bundles)} nodes are needed, but only {usable} can hold a part of it"
            )
    return None


def hardest_first(wanted: Mapping[str, Wanted]) -> list[str]:
    """The pools in the order in which to ask for them: who needs the most of one node first.

    Where each width divides the next larger one, and the largest a node's devices, what a narrower pool leaves or takes
    never matters to a wider one then, and a job that fits is placed, wherever Ray puts each part of it.
    """

    def need(name: str) -> tuple[float, bool, float, int]:
        want = wanted[name]
        at_once = dict(want.at_once)
        cpus = at_once.pop("CPU", 0.0)
        return sum(at_once.values()), want.strategy == "strict_spread", cpus, len(want.bundles)

    return sorted(wanted, key=need, reverse=True)


def table(wanted: Mapping[str, Wanted], cluster: Sequence[Node]) -> str:
    """Wanted, present and free resources, and of what each node has too little for each pool.

    Args:
        wanted: what each pool asks for.
        cluster: its nodes.
    """
    total = _total([bundle for want in wanted.values() for bundle in want.bundles])
    present, free = _total([node.present for node in cluster]), _total([node.free for node in cluster])
    sums = [
        f"{name} wanted {amount:g}, present {present[name]:g}, free {free[name]:g}"
        for name, amount in sorted(total.items())
    ]
    lines = ["; ".join(sums), f"wanted: {', '.join(f'{pool}: {want}' for pool, want in wanted.items())}"]
    lines += [f"node {node.name}: {_state(node, wanted)}" for node in cluster]
    return "\n  ".join(lines)


def _name(node: Mapping[str, str]) -> str:
    """The address, after the node's own name where it has one."""
    name, address = node.get("NodeName"), node["NodeManagerAddress"]
    return f"{name} ({address})" if name and name != address else address


def _state(node: Node, wanted: Mapping[str, Wanted]) -> str:
    names = sorted({name for want in wanted.values() for bundle in want.bundles for name in bundle})
    has = ", ".join(f"{node.free.get(name, 0.0):g} of {node.present.get(name, 0.0):g} {name} free" for name in names)
    lacks: dict[str, list[str]] = {}
    for pool, want in wanted.items():
        short = [name for name, amount in want.at_once.items() if amount > node.free.get(name, 0.0) + _ROUNDING]
        if short:
            lacks.setdefault(", ".join(short), []).append(pool)
    missing = [f"{what} for {', '.join(pools)}" for what, pools in lacks.items()]
    return has + (f"; too little {'; '.join(missing)}" if missing else "")


def _holds(present: Bundle, bundle: Bundle) -> bool:
    return all(amount <= present.get(name, 0.0) + _ROUNDING for name, amount in bundle.items())


def _total(bundles: Sequence[Bundle]) -> Counter[str]:
    total: Counter[str] = Counter()
    for bundle in bundles:
        for name, amount in bundle.items():
            total[name] += amount  # type: ignore[assignment]
    return total


def _amounts(bundle: Bundle) -> str:
    return " + ".join(f"{round(amount, 6):g} {name}" for name, amount in bundle.items())
