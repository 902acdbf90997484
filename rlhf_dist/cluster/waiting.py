"""Waiting for workers with a deadline; the first failure ends the wait, even if other workers are still busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from rlhf_dist.cluster.failures import call_failure, tails
from rlhf_dist.errors import RunError

Ref: TypeAlias = "ray.ObjectRef[Any]"  # of an answer that a worker owes

_LEAST_FETCH_S = 30.0  # to fetch an answer that came at the last moment


def wait_for_all(
    names: dict[Ref, str],
    what: str,
    timeout_s: float,
    logs: dict[str, str],
    answered: Callable[[Ref], None] = lambda ref: None,
) -> dict[Ref, Any]:
    """Waits for all references; the first failure ends the wait, even if other workers are still busy.

    Args:
        names: for each reference, the worker that owes it.
        what: was asked of them, for messages.
        timeout_s: seconds to wait for all of them together.
        logs: each worker's log file.
        answered: called with each reference once its answer is there.
    """
    deadline = time.monotonic() + timeout_s
    pending, answers = list(names), {}
    while pending:
        left = deadline - time.monotonic()
        done, pending = ray.wait(pending, num_returns=1, timeout=max(left, 0.0))
        if not done:
            late = ", ".join(sorted(names[ref] for ref in pending))
            raise RunError(f"{what}: no answer from {late} within {timeout_s:g} s", tails(late.split(", "), logs))
        for ref in done:
            left = max(deadline - time.monotonic(), _LEAST_FETCH_S)
            answers[ref] = _get(ref, names[ref], what, left, logs)
            answered(ref)
    return answers


def wait_for_first(
    names: Mapping[Ref, str], what: str, timeout_s: float, logs: dict[str, str]
) -> tuple[Ref, Any] | None:
    """Waits for the first answer of several; None where none comes within ``timeout_s`` seconds.

    The arguments, and the errors of an answer that is a failure, are those of :func:`wait_for_all`.
    """
    done, _ = ray.wait(list(names), num_returns=1, timeout=max(timeout_s, 0.0))
    if not done:
        return None
    return done[0], _get(done[0], names[done[0]], what, _LEAST_FETCH_S, logs)


def _get(ref: Ref, name: str, what: str, timeout_s: float, logs: dict[str, str]) -> Any:
    """The answer, which is there already, from wherever it is."""
    try:
        return ray.get(ref, timeout=timeout_s)
    except RayError as error:
        raise call_failure(error, name, what, logs) from error
