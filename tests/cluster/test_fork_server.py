"""Workers forked from a process that has their libraries: each is what Ray asked for, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rlhf_dist.cluster.fork_server import ForkServer
from rlhf_dist.errors import RunError

pytestmark = pytest.mark.slow  # the libraries take seconds to import
DEADLINE_S = 60.0
TELL = """
import json, os, sys, time
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "variable": os.environ.get("OF_RAY"), "pid": os.getpid(),
    "others": sorted(name for name in os.environ if name == "OF_THE_SERVER"), "group": os.getpgid(0),
    "imported": [name for name in ("torch", "transformers.modeling_utils", "ray") if name in sys.modules],
    "ignored": __import__("signal").getsignal(__import__("signal").SIGCHLD) == __import__("signal").SIG_IGN,
}), flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer({"OF_THE_SERVER": "1"})
    yield server
    server.close()


@pytest.fixture
def start(server: ForkServer, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script as Ray does, which tells what it is and sleeps for its first argument's seconds."""
    script = tmp_path / "tell.py"
    script.write_text(TELL)
    started = []

    def start(*arguments: str, variable: str = "1") -> subprocess.Popen[str]:
        command = [*shlex.split(server.py_executable), str(script), *arguments]
        env = {"OF_RAY": variable, "PATH": os.environ["PATH"]}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> dict:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "nothing happened within the deadline"
        time.sleep(0.02)


def test_a_worker_is_the_script_that_was_asked_for_with_the_libraries_there(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    worker = told(start("0", "a b", "", "ü", variable="one\ntwo=3"))

    assert worker["arguments"] == ["0", "a b", "", "ü"]
    assert worker["folder"] == str(tmp_path)
    assert worker["variable"] == "one\ntwo=3"
    assert worker["others"] == []  # its environment is what Ray gave, not the server's
    assert worker["imported"] == ["torch", "transformers.modeling_utils"]  # Ray reads the environment as it loads
    assert worker["group"] == worker["pid"]  # Ray ends the group of a worker that is gone
    assert not worker["ignored"]


def test_what_ray_started_lives_as_long_as_the_worker(start: Callable[..., subprocess.Popen[str]]) -> None:
    client = start("60")
    worker = told(client)["pid"]
    time.sleep(0.2)
    assert client.poll() is None
    os.kill(worker, signal.SIGKILL)
    assert client.wait(DEADLINE_S) == 0


def test_a_client_that_goes_away_early_stops_nobody_else(start: Callable[..., subprocess.Popen[str]]) -> None:
    for _ in range(3):
        start("0").kill()
    assert told(start("0"))["arguments"] == ["0"]


def test_a_client_that_says_nothing_is_given_up(
    server: ForkServer, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(shlex.split(server.py_executable)[-1])
        assert told(start("0"))["arguments"] == ["0"]


def test_without_a_server_the_client_says_so() -> None:
    client = [sys.executable, "-ISE", "rlhf_dist/cluster/fork_client.py", "/nowhere/fork.sock", "x.py"]
    ended = subprocess.run(client, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 1
    assert ended.stderr.startswith("the fork server at /nowhere/fork.sock does not answer")


def test_a_server_that_cannot_start_says_why() -> None:
    server = ForkServer({"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"})
    with pytest.raises(RunError, match="ended") as caught:
        _ = server.py_executable
    assert "encodings" in caught.value.detail
    server.close()


def test_it_ends_with_a_driver_that_is_killed_and_leaves_the_workers_to_ray() -> None:
    code = (
        "import time; from rlhf_dist.cluster.fork_server import ForkServer; server = ForkServer({});"
        "print(server.py_executable, server._process.pid, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline().split()[-1])
    driver.kill()
    driver.communicate()
    wait_for(lambda: gone(pid))
