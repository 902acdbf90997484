"""Jobs on a cluster that somebody else started, and what is left when they end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def ray(*words: str, env: dict[str, str], cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "ray"), *words]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def cluster(place: Workspace) -> Iterator[dict[str, str]]:
    """A cluster by `ray start --head`, in the workspace's folder. Gives the environment of its clients."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    ports = ["--port=6479", "--dashboard-port=8365", "--ray-client-server-port=8366"]
    started = ray("start", "--head", "--num-cpus=2", *ports, env=env, cwd=place.root)
    assert started.returncode == 0, started.stdout + started.stderr
    pids = _ray_pids()
    yield env | {"RAY_AUTH_MODE": "token"}
    for pid in pids:
        subprocess.run(["kill", "-9", pid], check=False)  # Ray's control store outlives a SIGTERM


def _ray_pids() -> list[str]:
    """The daemons of the cluster on this test's ports: not those of another one on the machine."""
    listed = subprocess.run(["ps", "-wweo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [line.split()[0] for line in listed if ":6479" in line or "8365" in line or "gcs_server_port=6479" in line]


def test_a_launcher_runs_as_a_ray_job_on_the_cluster_that_is_there(place: Workspace, cluster: dict[str, str]) -> None:
    command = place.command("ppo", "job", "rollout.backend=hf", "ppo.steps=1", f"run.dir={place.root}/runs")
    submit = ["job", "submit", "--address=http://127.0.0.1:8365", "--", *command]
    deadline = time.monotonic() + 60
    while True:  # `ray start` returns before the agent is there that jobs are handed to
        done = ray(*submit, env=cluster, cwd=place.root, timeout=600)
        if "No available agent to submit job" not in done.stderr + done.stdout or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "step 1/1" in done.stdout
    assert (place.root / "runs/job/summary.json").exists()


def test_a_launcher_joins_the_cluster_of_ray_address_and_leaves_it_running(
    place: Workspace, cluster: dict[str, str]
) -> None:
    env = cluster | {"RAY_ADDRESS": "127.0.0.1:6479"}
    done = subprocess.run(
        place.command("sft", "joined", "sft.max_steps=1"),
        cwd=place.root,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 60  # what is free shows a few seconds late
    while True:
        status = ray("status", "--address=127.0.0.1:6479", env=env, cwd=place.root)
        assert status.returncode == 0, status.stderr
        if "0.0/2.0 CPU" in status.stdout:  # every worker and placement group is gone
            break
        assert time.monotonic() < deadline, status.stdout
        time.sleep(2)


def test_an_address_where_nobody_answers_is_exit_3(place: Workspace) -> None:
    outcome = place.run("sft", "nobody", "cluster.address=127.0.0.1:1", expect=3)
    assert "127.0.0.1:1" in outcome.output.splitlines()[-1]


def test_launchers_are_executable_and_know_the_repository(tmp_path: Path) -> None:
    for job in ("sft", "reward", "ppo", "dpo"):
        script = ROOT / f"launch/{job}_llama.py"
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith("#!/usr/bin/env python3\n")
