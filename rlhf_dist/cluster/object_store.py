"""Batches in Ray's object store: one copy of each, however many calls use it."""

from __future__ import annotations

import weakref
from pathlib import Path

import ray

from rlhf_dist.cluster.waiting import Ref
from rlhf_dist.types import Ragged

_BY_VALUE = (str, int, float, Path, type(None))  # a reference would be larger


class Batches:
    """The batches that a run has in the object store.

    In a step actor, reference, critic and rewards all take the same sequences, one after another where they share
    devices. So a batch is put there by the first call that takes it, and stays as long as it is held here. That needs
    batches that nobody changes: the stage types are frozen.
    """

    def __init__(self) -> None:
        self._refs: dict[int, Ref] = {}

    def __len__(self) -> int:
        """How many batches are in the store."""
        return len(self._refs)

    def put(self, arg: object) -> object:
        """What to call with in place of ``arg``: a reference to it; what is small goes by itself."""
        if isinstance(arg, _BY_VALUE):
            return arg
        if not isinstance(arg, Ragged):
            return ray.put(arg)
        key = id(arg)  # of an object that lives: once it is gone, so is the entry
        if key not in self._refs:
            self._refs[key] = ray.put(arg)
            weakref.finalize(arg, self._refs.pop, key, None).atexit = False
        return self._refs[key]
