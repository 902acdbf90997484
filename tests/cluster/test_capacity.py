"""What is said where the cluster does not hold a run."""

from __future__ import annotations

import pytest

from rlhf_dist.cluster.capacity import Node, Wanted, can_never_fit, table


def node(name: str, present: float, free: float, **more: float) -> Node:
    return Node(name, {"CPU": present, **more}, {"CPU": free, **more})


TWO = [node("a", 2, 2), node("b", 2, 1)]


@pytest.mark.parametrize(
    ("bundles", "strategy", "said"),
    [
        (4, "pack", None),
        (5, "pack", "the cluster has too little CPU"),
        (2, "strict_pack", None),
        (3, "strict_pack", "actor (strict_pack): no single node has 3 CPU, which it needs in all"),
        (2, "strict_spread", None),
        (3, "strict_spread", "actor (strict_spread): 3 nodes are needed, but only 2 can hold a part of it"),
    ],
)
def test_what_can_never_fit_is_said(bundles: int, strategy: str, said: str | None) -> None:
    assert can_never_fit({"actor": Wanted([{"CPU": 1.0}] * bundles, strategy)}, TWO) == said


def test_a_bundle_that_no_node_has_together_is_named() -> None:
    apart = [node("a", 4, 4), node("b", 1, 1, GPU=8)]
    wanted = {"actor": Wanted([{"CPU": 2.0, "GPU": 1.0}], "spread")}
    assert can_never_fit(wanted, apart) == "no single node has 2 CPU + 1 GPU, which actor needs"


def test_the_table_says_what_each_node_lacks_for_whom() -> None:
    wanted = {
        "actor": Wanted([{"CPU": 1.0}] * 2, "strict_pack"),
        "critic": Wanted([{"CPU": 2.0}], "pack"),
        "reward": Wanted([{"CPU": 1.0}], "pack"),
    }
    assert table(wanted, TWO).splitlines() == [
        "CPU wanted 5, present 4, free 3",
        "  wanted: actor: 2 x 1 CPU (strict_pack), critic: 1 x 2 CPU, reward: 1 x 1 CPU",
        "  node a: 2 of 2 CPU free",
        "  node b: 1 of 2 CPU free; too little CPU for actor, critic",
    ]
