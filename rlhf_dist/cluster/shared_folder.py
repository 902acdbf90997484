"""Whether the nodes of a run see its folder and its models as the driver does: asked before anything is loaded."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlhf_dist.errors import ClusterError

TIMEOUT_S = 120.0  # for all nodes together: the process that looks must start, and import this package
_PATIENCE_S = 10.0  # a new file takes a while to show on some network file systems
_POLL_S = 0.5


def check_sharing(nodes: Mapping[str, Collection[str]], folder: Path, models: Mapping[str, str]) -> None:
    """Passes where every other node that will hold workers sees the run's folder, and the models of its workers.

    On the driver's own node nothing is asked, so a run on one machine waits for nothing.

    Args:
        nodes: Ray's ids of the nodes, each with the keys of ``models`` that are read there.
        folder: of the run, absolute; a file is written there for a moment.
        models: key of the configuration -> model directory or hub name; hub names are passed over.

    Raises:
        ClusterError: a node sees something else, or does not answer; the text names node, path and what to do.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node != here]
    if not others:
        return
    directories = {key: Path(path).absolute() for key, path in models.items() if Path(path).is_dir()}
    token = secrets.token_hex(16)
    mark = folder / f".shared-{token[:8]}"
    mark.write_text(token)
    try:
        asked = {
            _asker(node).remote(
                mark, token, {key: (path, _checksum(path)) for key, path in directories.items() if key in nodes[node]}
            ): node
            for node in others
        }
        found = _answers(asked)
    finally:
        mark.unlink(missing_ok=True)
    if found:
        raise ClusterError("; ".join(f"node {', '.join(names)}: {problem}" for problem, names in found.items()))


def problems_here(mark: Path, token: str, models: Mapping[str, tuple[Path, str]], patience_s: float) -> list[str]:
    """What this machine does not see as the driver does; runs on the node in question.

    Args:
        mark: a file in the run's folder, and ``token`` its content.
        models: key of the configuration -> directory, and the checksum of its config.json.
        patience_s: for the file to show.
    """
    found = []
    deadline = time.monotonic() + patience_s
    while not _holds(mark, token) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if not _holds(mark, token):
        found.append(
            f"{mark.parent} is not the folder that the driver writes to: choose a run.dir on a disk that all nodes "
            "share"
        )
    for key, (path, checksum) in models.items():
        where = "copy it there, or choose a path on a disk that all nodes share"
        if not path.is_dir():
            found.append(f"there is no {path} ({key}): {where}")
        elif _checksum(path) != checksum:
            found.append(f"{path} ({key}) holds another model than on the driver's node: {where}")
    return found


def _holds(mark: Path, token: str) -> bool:
    try:
        return mark.read_text() == token
    except OSError:
        return False


def _checksum(model: Path) -> str:
    config = model / "config.json"
    return hashlib.sha256(config.read_bytes() if config.is_file() else b"").hexdigest()


def _asker(node: str) -> ray.remote_function.RemoteFunction:
    task = ray.remote(_look)
    return task.options(
        num_cpus=0, max_retries=0, name="check_sharing", scheduling_strategy=NodeAffinitySchedulingStrategy(node, False)
    )


def _look(mark: Path, token: str, models: Mapping[str, tuple[Path, str]]) -> list[str]:
    return problems_here(mark, token, models, _PATIENCE_S)


def _answers(asked: Mapping[ray.ObjectRef, str]) -> dict[str, list[str]]:
    """Each problem, with the nodes that have it, by name and address."""
    names = {node["NodeID"]: f"{node['NodeName']} ({node['NodeManagerAddress']})" for node in ray.nodes()}
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=TIMEOUT_S)
    found: dict[str, list[str]] = {}
    for ref, node in asked.items():
        problems = [f"no answer within {TIMEOUT_S:g} s when asked for the run's folder"]
        if ref not in late:
            try:
                problems = ray.get(ref, timeout=TIMEOUT_S)
            except RayError as error:
                cause = str(getattr(error, "cause", None) or error).strip()
                problems = [f"cannot look at the run's folder: {cause.splitlines()[-1] if cause else error!r}"]
        for problem in problems:
            found.setdefault(problem, []).append(names.get(node, node))
    return found
