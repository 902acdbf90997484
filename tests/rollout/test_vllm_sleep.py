"""Where vLLM's memory is after every way of leaving the device and coming back, by the rules of its sleep.

The rules are those of the installed vLLM and, for `vllm-ascend`, of vLLM 0.23: a slow test asks the installed one.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rlhf_dist.rollout.vllm_sleep import SleepMode

BYTES = {"weights": 100, "kv_cache": 900}
RESIDENT = {"none": 0, "weights": 100, "all": 1000}


class Refused(Exception):
    """vLLM would write a line into its log, and leave everything as it is."""


class Rules:
    """vLLM's executor: what it refuses, and what is asleep.

    Args:
        in_parts: vLLM 0.32 sleeps wherever the weights are awake; 0.23 only where all is.
    """

    def __init__(self, in_parts: bool) -> None:
        self.in_parts, self.asleep, self.calls = in_parts, set[str](), 0

    @property
    def bytes(self) -> int:
        """Of the device's memory."""
        return sum(size for tag, size in BYTES.items() if tag not in self.asleep)

    def sleep(self, level: int) -> None:
        self.calls += 1
        if "weights" in self.asleep if self.in_parts else self.asleep:
            raise Refused(f"sleep while {self.asleep} sleep")
        assert level == 2
        self.asleep = set(BYTES)

    def wake_up(self, tags: list[str]) -> None:
        self.calls += 1
        if not self.asleep or not set(tags) <= self.asleep:
            raise Refused(f"wake {tags} while {self.asleep} sleep")
        assert tags != ["kv_cache"] or "weights" not in self.asleep, "the cache takes the room of the weights to come"
        self.asleep -= set(tags)


@pytest.mark.parametrize("in_parts", [True, False], ids=["vllm-0.32", "vllm-0.23"])
def test_the_device_holds_what_it_should_after_every_step_of_every_way(in_parts: bool) -> None:
    for way in itertools.product(RESIDENT, repeat=5):
        rules = Rules(in_parts)
        sleep = SleepMode(rules, in_parts)
        for to in way:
            sleep.reside(to)
            assert rules.bytes == RESIDENT[to], way
            made = rules.calls
            sleep.reside(to)
            assert rules.calls == made, "a second time asks nothing"


def test_an_older_vllm_would_not_sleep_with_a_part_of_it_awake() -> None:
    """What the rules are for: without them the memory stays taken, and nothing says so."""
    sleep = SleepMode(Rules(in_parts=False), in_parts=True)
    sleep.reside("weights")
    with pytest.raises(Refused):
        sleep.reside("none")


@pytest.mark.slow
def test_the_rules_are_the_installed_vllms() -> None:
    """Every sequence of four calls on vLLM's own executor, whose workers are a list of what they were told."""
    from vllm.v1.executor.abstract import Executor

    class Told(Executor):
        def __init__(self) -> None:
            self.sleeping_tags, self.told = set(), 0

        def collective_rpc(self, *_: Any, **__: Any) -> Any:
            self.told += 1

        _init_executor = check_health = collective_rpc

    steps = [("sleep", {"level": 2})] + [("wake_up", {"tags": tags}) for tags in (["weights"], [*BYTES], ["kv_cache"])]
    for calls in itertools.product(steps, repeat=4):
        theirs, ours = Told(), Rules(in_parts=True)
        for method, arguments in calls:
            before = theirs.told
            getattr(theirs, method)(**arguments)
            try:
                getattr(ours, method)(**arguments)
            except Refused:
                assert theirs.told == before, calls
            except AssertionError:
                break  # what vLLM does, and nobody should ask of it
            else:
                assert theirs.told == before + 1, calls
            assert theirs.sleeping_tags == ours.asleep, calls
