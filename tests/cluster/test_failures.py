"""Ray's errors in our words: one line each, with its exit code, and never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ray import exceptions
from ray.exceptions import RayError, RayTaskError

from rlhf_dist.cluster import failures, worker_memory
from rlhf_dist.cluster.failures import call_failure
from rlhf_dist.cluster.worker_memory import Seen
from rlhf_dist.errors import ClusterError, MemoryRanOut, RunError, UserError

GIB = 2**30
LOST = ("a" * 56, None, "")

# What Ray 2.60 says, shortened in its middle.
OUT_OF_MEMORY = """2 worker(s) were killed due to the node running low on memory. Memory on the node \
(IP: 10.0.0.7, ID: 50) was 22.59GB used / 24.00GB limit (0.95)
OOM kill reason: Memory usage 24255694336B exceeded threshold of 24000000000B (95.0% of 25769803776B limit)
Considered workers: [
Selected to kill: (Actor(2b): job ID=01, task name=x:W.__init__, pid=12, actual memory used=6.58GB, worker ID=cb)
Selected to kill: (Actor(b3): job ID=01, task name=y:W.__init__, pid=13, actual memory used=0.06GB, worker ID=8a)
]"""


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster to ask what the workers took."""
    monkeypatch.setattr(failures, "last_seen", dict)


@pytest.fixture
def logs(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "actor-0.log").write_text("the log's last line\n")
    return {"actor-0": str(tmp_path / "actor-0.log")}


def task_error(cause: BaseException) -> RayTaskError:
    return RayTaskError("call", f"Traceback ...\n{cause}", cause)


@pytest.mark.parametrize(
    "error,kind,said",
    [
        (exceptions.ObjectLostError(*LOST), RunError, "worker actor-0 in train: data was lost with the node"),
        (exceptions.ObjectReconstructionFailedError(*LOST), RunError, "data was lost with the node"),
        (exceptions.OutOfDiskError("x\ny"), RunError, "the object store, and the disk that it spills to, are full"),
        (
            exceptions.ObjectStoreFullError("x\ny"),
            RunError,
            "is full (ObjectStoreFullError): raise cluster.object_store",
        ),
        (exceptions.ActorUnschedulableError("no node\nat all"), ClusterError, "its place in the cluster is gone"),
        (exceptions.ActorPlacementGroupRemoved(), ClusterError, "its place in the cluster is gone"),
        (exceptions.AuthenticationError("bad"), UserError, "set RAY_AUTH_MODE=token, with the cluster's token in"),
        (exceptions.RuntimeEnvSetupError("no such\nthing"), RunError, "could not set up its runtime environment"),
        (exceptions.GetTimeoutError("x"), RunError, "the answer did not arrive in time"),
        (exceptions.NodeDiedError("the node\nis gone"), RunError, "worker actor-0 in train: NodeDiedError: the node"),
        (exceptions.WorkerCrashedError(), RunError, "worker actor-0 died during train (its log: "),
        (exceptions.ActorUnavailableError("x\ny", None), RunError, "worker actor-0 died during train (its log: "),
        (exceptions.ActorDiedError(), RunError, "worker actor-0 died during train (its log: "),
        (exceptions.ActorDiedError(task_error(OSError("no\nlog"))), RunError, "worker actor-0 failed in train: "),
        (task_error(KeyError("x\ny")), RunError, "worker actor-0 failed in train: KeyError: "),
        (task_error(UserError("line 3: no text")), UserError, "line 3: no text"),
        (task_error(ClusterError("no GPU")), ClusterError, "no GPU"),
        (task_error(exceptions.ObjectLostError(*LOST)), RunError, "data was lost with the node"),
        (exceptions.LocalRayletDiedError(), RunError, "LocalRayletDiedError: The task's local raylet died"),
        (RayError("something\nelse"), RunError, "worker actor-0 in train: RayError: something"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RayError) else None,
)
def test_every_error_of_rays_is_one_line_with_its_exit_code(
    error: RayError, kind: type, said: str, logs: dict[str, str]
) -> None:
    told = call_failure(error, "actor-0", "train", logs)
    assert type(told) is kind
    assert said in str(told)
    assert "\n" not in str(told)
    assert len(str(told)) < 400


def seen(node: str, pid: int, gib: float, available: float = 0.5, killed: int = 0) -> Seen:
    return Seen(node, pid, int(gib * GIB), int(available * GIB), 24 * GIB, killed)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Seen]:
    found = {
        "actor-0": seen("10.0.0.7", 12, 3.7),
        "actor-1": seen("10.0.0.7", 13, 4.1),
        "critic-0": seen("10.0.0.7", 14, 6.5),
        "reward-polite-0": seen("10.0.0.7", 15, 0.3),
        "reference-0": seen("10.0.0.8", 12, 0.8),
    }
    monkeypatch.setattr(failures, "last_seen", lambda: found)
    return found


def test_out_of_memory_names_who_was_killed_and_who_took_how_much(
    workers: dict[str, Seen], logs: dict[str, str]
) -> None:
    told = call_failure(exceptions.OutOfMemoryError(OUT_OF_MEMORY), "actor-0", "train", logs)
    assert isinstance(told, MemoryRanOut)
    assert str(told) == (
        "workers actor-0, actor-1 were killed during train, because node 10.0.0.7 ran out of its 24.0 GiB of memory; "
        "last known memory of its roles, in GiB: actor 3.7 + 4.1, critic 6.5, reward-polite 0.3"
    )
    assert list(told.roles) == ["actor", "critic", "reward-polite"]
    assert told.total == 24 * GIB
    assert "the log's last line" in told.detail


def test_out_of_memory_is_one_line_where_nothing_is_known(logs: dict[str, str]) -> None:
    told = call_failure(exceptions.OutOfMemoryError("words\nof another version"), "actor-0", "train", logs)
    assert isinstance(told, MemoryRanOut)
    assert str(told).startswith("worker actor-0 was killed during train, because node ")
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "available,kills,same_node,memory_ran_out",
    [(8.0, 3, True, False), (8.0, 4, True, True), (8.0, 4, False, False), (0.5, 3, False, True)],
)
def test_a_process_that_the_kernel_killed_for_its_memory_is_told_from_another_death(
    monkeypatch: pytest.MonkeyPatch,
    workers: dict[str, Seen],
    logs: dict[str, str],
    tmp_path: Path,
    available: float,
    kills: int,
    same_node: bool,
    memory_ran_out: bool,
) -> None:
    workers["actor-0"] = seen("10.0.0.7", 12, 3.7, available, killed=3)
    (tmp_path / "vmstat").write_text(f"nr_free_pages 1\noom_kill {kills}\n")
    monkeypatch.setattr(worker_memory, "_VMSTAT", tmp_path / "vmstat")
    here: Callable[[], str] = lambda: "10.0.0.7" if same_node else "10.0.0.9"  # noqa: E731
    monkeypatch.setattr(worker_memory.ray.util, "get_node_ip_address", here)
    told = call_failure(exceptions.ActorDiedError(), "actor-0", "train", logs)
    assert isinstance(told, MemoryRanOut) is memory_ran_out
    end = "was killed" if memory_ran_out else "died"
    assert f"worker actor-0 {end} during train" in str(told)
