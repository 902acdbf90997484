"""vLLM's sleep: how an engine leaves the devices that it shares, and comes back part by part."""

from __future__ import annotations

from typing import Any

from rlhf_dist.types import Residency

# What of an engine is on its devices, by vLLM's names. Waking happens in this order: weights must arrive first.
_AWAKE: dict[Residency, tuple[str, ...]] = {"none": (), "weights": ("weights",), "all": ("weights", "kv_cache")}


class SleepMode:
    """The sleep of level 2 of a ``vllm.LLM``, which drops weights and cache, and its waking part by part.

    vLLM refuses a call that does not suit its state with no more than a line in its log, so what is asleep is kept
    here, and nothing is asked that it would refuse.

    Args:
        llm: the engine, awake.
        in_parts: whether it can be put to sleep while its cache sleeps already; an older vLLM takes that for sleep,
            and must be woken as a whole first (see :class:`rlhf_dist.device.Device`).
    """

    def __init__(self, llm: Any, in_parts: bool) -> None:
        self._llm, self._in_parts = llm, in_parts
        self._residency: Residency = "all"

    def reside(self, to: Residency) -> None:
        """Brings the engine to where ``to`` says. What had to sleep on the way has lost its contents."""
        missing = [tag for tag in _AWAKE["all"] if tag not in _AWAKE[self._residency]]
        if not set(_AWAKE[self._residency]) <= set(_AWAKE[to]):
            if missing and not self._in_parts:
                self._llm.wake_up(missing)
            self._llm.sleep(level=2)
            self._residency = "none"
        waking = [tag for tag in _AWAKE[to] if tag not in _AWAKE[self._residency]]
        if waking:
            self._llm.wake_up(waking)
        self._residency = to
