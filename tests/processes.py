"""Processes of tests, forked from one that has the libraries imported: importing them takes longer than most tests."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

# What the workers of tests import. Not vLLM, whose imports read the environment.
LIBRARIES = ["pytest", "torch", "transformers.models.llama.modeling_llama", "rlhf_dist.engine.zero"]
LIBRARIES += ["rlhf_dist.weights.shared"]


def context() -> ForkServerContext:
    """Where the queues and pipes of such processes come from."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(LIBRARIES)
    return made


def process(target: Callable[..., object], *arguments: Any, fork: bool = True) -> BaseProcess:
    """A daemonic process that will call ``target``, in the environment that this one has now.

    Args:
        target: a function of a module.
        arguments: of it.
        fork: False where it uses an accelerator, whose runtime does not survive a fork.
    """
    if not fork:
        return multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    return context().Process(target=_call, args=(dict(os.environ), target, *arguments), daemon=True)


def _call(variables: dict[str, str], target: Callable[..., object], *arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(variables)
    target(*arguments)
