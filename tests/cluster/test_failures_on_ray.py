"""What a user reads when Ray itself fails: on real clusters, where it really does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from rlhf_dist.cluster.session import ray_session
from rlhf_dist.cluster.waiting import wait_for_all
from rlhf_dist.cluster.worker import Worker
from rlhf_dist.cluster.worker_memory import last_seen
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.device import CPU
from rlhf_dist.errors import MemoryRanOut, RunError

pytestmark = pytest.mark.slow

MIB, GIB = 2**20, 2**30
SMALL = ClusterConfig(object_store_gib=0.08)


class Engine:
    """In the place of a model."""

    def large(self, mebibytes: int) -> Any:
        """An answer of that size."""
        return np.ones(mebibytes * MIB, dtype=np.uint8)

    def take(self, mebibytes: int) -> None:
        """Takes so much memory, in steps."""
        self.taken = []
        for _ in range(mebibytes // 64):
            self.taken.append(b"x" * (64 * MIB))
            time.sleep(0.1)

    def wait(self) -> None:
        time.sleep(600)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], Any]:
    def start(name: str) -> Any:
        worker = ray.remote(Worker).options(num_cpus=0).remote(name, str(tmp_path / f"{name}.log"), ".", None, None)
        ray.get(worker.build.remote("run", CPU, 1, 1, None, Engine, ()), timeout=120)
        return worker

    return start


def failure(tmp_path: Path, calls: dict[Any, str]) -> RunError:
    logs = {name: str(tmp_path / f"{name}.log") for name in calls.values()}
    with pytest.raises(RunError) as caught:
        wait_for_all(calls, "train", 120.0, logs)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.timeout(300)
def test_a_full_disk_and_a_killed_worker_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[str], Any]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_local_fs_capacity_threshold", "0.0001")  # any disk is full by that
    with ray_session(SMALL, "run"):
        worker = start("actor-0")
        answers = [worker.call.remote("large", 60) for _ in range(3)]  # the store holds one of them
        said = str(failure(tmp_path, dict.fromkeys(answers, "actor-0")))
        assert said.startswith(
            "worker actor-0 in train: the object store, and the disk that it spills to, are full (OutOfDisk"
        )
        del answers

        waiting = worker.call.remote("wait")
        deadline = time.monotonic() + 60
        while "actor-0" not in last_seen():
            assert time.monotonic() < deadline, "the worker never noted its memory"
            time.sleep(0.2)
        os.kill(last_seen()["actor-0"].pid, signal.SIGKILL)
        said = str(failure(tmp_path, {waiting: "actor-0"}))
        assert said == f"worker actor-0 died during train (its log: {tmp_path / 'actor-0.log'})"


@pytest.mark.timeout(300)
def test_a_worker_that_ray_kills_for_its_memory_is_named_with_what_all_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[str], Any]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    memory = psutil.virtual_memory()
    # Others on the machine take and give memory meanwhile: the worker takes until Ray's threshold is passed.
    threshold = (memory.total - memory.available + GIB) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with ray_session(SMALL, "run"):
        idle, hungry = start("reference-0"), start("actor-0")
        calls = {idle.call.remote("wait"): "reference-0", hungry.call.remote("take", 12 * 1024): "actor-0"}
        error = failure(tmp_path, calls)
        seen = last_seen()
    assert isinstance(error, MemoryRanOut)
    assert "killed during train, because node " in str(error) and " GiB of memory" in str(error)
    assert set(error.roles) == {"actor", "reference"} == {name.rpartition("-")[0] for name in seen}
    assert "; last known memory of its roles, in GiB: " in str(error)
    assert all(50 * MIB < size < 12 * GIB for size in error.roles.values())
    assert error.total == pytest.approx(memory.total, rel=0.01)


JOIN = """
import sys
from rlhf_dist.cluster import session
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.main import guarded

session.ANSWER_TIMEOUT_S = 3.0

def job():
    with session.ray_session(ClusterConfig(address=sys.argv[1]), "run"):
        print("joined", flush=True)

sys.exit(guarded(job))
"""


def join(address: str, **environment: str) -> tuple[int, str, float]:
    """A driver that connects to a cluster: its exit code, what it says, and the seconds it took."""
    started = time.monotonic()
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | environment
    done = subprocess.run([sys.executable, "-c", JOIN, address], env=env, capture_output=True, text=True, timeout=120)
    # Ray's own log lines of the C++ side begin with the date; in a run they are in the driver's log.
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("[")]
    return done.returncode, "\n".join(lines), time.monotonic() - started


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[str, str]]:
    """A cluster that asks for a token, and knows nothing of one in the home directory. Its address and its token."""
    token, folder = "0123456789abcdef0123456789abcdef", tempfile.mkdtemp(prefix="r", dir="/tmp")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, client_port = one.getsockname()[1], other.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": folder}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    command = ["ray", "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    command += [f"--ray-client-server-port={client_port}", f"--temp-dir={folder}", "--object-store-memory=80000000"]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
    yield f"127.0.0.1:{port}", token
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or []):
            process.kill()


@pytest.mark.timeout(300)
def test_a_driver_without_the_clusters_token_is_told_so_at_once(guarded: tuple[str, str], tmp_path: Path) -> None:
    (address, token), home = guarded, {"HOME": str(tmp_path)}
    mode = {"RAY_AUTH_MODE": "token"}
    help_text = "set RAY_AUTH_MODE=token, with the cluster's token in RAY_AUTH_TOKEN or in ~/.ray/auth_token"
    asks = f"the Ray cluster at {address} requires a token, but this process"
    for environment, said in [
        (home, f"{asks} sends none: {help_text}"),
        (
            home | {"RAY_AUTH_TOKEN": token},
            f"{asks} sends none (it has one, but RAY_AUTH_MODE is not token): {help_text}",
        ),
        (home | mode | {"RAY_AUTH_TOKEN": "f" * 32}, f"{asks} has a different one: {help_text}"),
        (home | mode, f"RAY_AUTH_MODE=token is set, but there is no token: {help_text}"),
    ]:
        code, text, seconds = join(address, **environment)
        assert (code, text) == (2, said)
        assert seconds < 18, "Ray itself gives up after 20 s"
    assert join(address, **home, **mode, RAY_AUTH_TOKEN=token)[:2] == (0, "joined")


@pytest.mark.timeout(300)
def test_an_address_where_something_else_listens_is_exit_3_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []
        threading.Thread(
            target=lambda: [accepted.append(listening.accept()[0]) for _ in range(99)], daemon=True
        ).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        code, text, _ = join(address)
    assert code == 3
    assert text.startswith(
        f"ClusterError: no Ray cluster at '{address}': the service at that address did not answer within 3 s"
    )
