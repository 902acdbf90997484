"""launch/cluster/: the scripts, with a real Ray on ports and in a folder of its own, and with a Slurm that is faked."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "launch" / "cluster"
RAY_START = str(CLUSTER / "ray-start.sh")

# What a launcher does when it is asked to stop: it ends its step with the workers, and writes a checkpoint.
LAUNCHER = """
import signal, sys, time
from pathlib import Path
import ray

folder, stop = Path(__file__).parent, []
ray.init(configure_logging=False, log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))

@ray.remote(num_cpus=0)
class Worker:
    def step(self):
        return 7

worker = Worker.remote()
ray.get(worker.step.remote())
(folder / "running").write_text("\\n".join(sys.argv[1:]))
while not stop:
    time.sleep(0.1)
time.sleep(4)  # longer than Ray waits by itself
(folder / "checkpoint").write_text(str(ray.get(worker.step.remote())))
sys.exit(130)
"""


def _free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on, below those that the system hands out."""
    for base in random.sample(range(20000, 32000, count), 100):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as Ray's sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the scripts: Ray's ports and folder are the test's own."""
    base = _free_ports(100)
    names = ["GCS", "DASHBOARD", "NODE_MANAGER", "OBJECT_MANAGER", "RUNTIME_ENV", "AGENT", "METRICS", "CLIENT"]
    ours = {f"{name}_PORT": str(base + index) for index, name in enumerate(names)}
    ours |= {"WORKER_PORTS": f"{base + 20}-{base + 59}", "STATE_DIR": str(folder / "s"), "NODE_IP": "127.0.0.1"}
    ours |= {"RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_AUTH_MODE": "token", "CPUS": "1", "NODE_NAME": "node1"}
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RLHF_", "SLURM"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = theirs | ours | {"PATH": path, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, environment[name])
    return environment


def _run(*command: str, env: dict[str, str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def _api(settings: dict[str, str]) -> str:
    return f"http://127.0.0.1:{settings['DASHBOARD_PORT']}"


def _belongs(state: str) -> list[str]:
    """The processes that carry the mark of a Ray that was started from the folder ``state``."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"RLHF_RAY_MARK={state}:".encode() in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found


def _wait_for(path: Path, process: subprocess.Popen[str], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} is not there after {timeout} s"
        time.sleep(0.2)


def _command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


# --- ray-start.sh, with a `ray` that only says how it was called ---


@pytest.fixture
def fake_ray(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    (folder / "bin").mkdir()
    _command(folder / "bin", "ray", r'printf "%s\n" "$@"')
    return settings | {"PATH": f"{folder / 'bin'}:{settings['PATH']}"}


def test_the_head_keeps_its_dashboard_to_itself_and_its_ports_fixed(fake_ray: dict[str, str]) -> None:
    done = _run(RAY_START, "head", "--block", env=fake_ray)
    words = done.stdout.splitlines()
    assert done.returncode == 0
    assert {"start", "--head", "--block", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"} <= set(words)
    ports = {"node-manager": "NODE_MANAGER", "object-manager": "OBJECT_MANAGER"}
    ports |= {"runtime-env-agent": "RUNTIME_ENV", "metrics-export": "METRICS"}
    for option, setting in ports.items():
        assert f"--{option}-port={fake_ray[f'{setting}_PORT']}" in words
    assert Path(fake_ray["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", "--num-gpus=8"), ("npu", '--resources={"NPU": 8}'), ("cpu", "--num-cpus=1")]
)
def test_a_worker_offers_its_accelerators(fake_ray: dict[str, str], device: str, expected: str) -> None:
    Path(fake_ray["RAY_AUTH_TOKEN_PATH"]).write_text("secret")
    env = fake_ray | {"DEVICE": device, "ACCELERATORS": "8"}
    done = _run(RAY_START, "worker", "10.0.0.1:6379", "--block", env=env)
    words = done.stdout.splitlines()
    assert expected in words and "--address=10.0.0.1:6379" in words
    assert "--head" not in words and "secret" not in done.stdout


@pytest.mark.parametrize(
    ("words", "extra", "message"),
    [
        (["worker"], {}, "expected the head's ADDRESS"),
        (["worker", "10.0.0.1:6379"], {}, "no token in"),
        (["head", "--blok"], {}, "head does not know --blok"),
        (["head"], {"DEVICE": "gpu"}, "DEVICE=gpu: expected cuda, npu, cpu or auto"),
        (["begin"], {}, "ray-start.sh head"),
    ],
)
def test_ray_start_says_what_is_wrong(
    fake_ray: dict[str, str], words: list[str], extra: dict[str, str], message: str
) -> None:
    done = _run(RAY_START, *words, env=fake_ray | extra)
    assert done.returncode != 0 and message in done.stderr


def test_there_is_nothing_to_stop_where_nothing_was_started(fake_ray: dict[str, str]) -> None:
    done = _run(RAY_START, "stop", env=fake_ray)
    assert done.returncode == 0 and "nothing was started" in done.stdout


def _another_users(folder: Path) -> Path:
    """A folder that is not ours, in which nobody else may write."""
    if os.getuid() != 0:
        return Path("/usr")
    (folder / "theirs").mkdir(mode=0o700)
    os.chown(folder / "theirs", 12345, 12345)
    return folder / "theirs"


def _linked(folder: Path) -> Path:
    (folder / "ours").mkdir(mode=0o700)
    (folder / "link").symlink_to("ours")
    return folder / "link"


def _open_to_all(folder: Path) -> Path:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    return folder / "open"


def _replaceable(folder: Path) -> Path:
    (_open_to_all(folder) / "ours").mkdir(mode=0o700)
    return folder / "open" / "ours"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_another_users, "name a folder of your own"),
        (_linked, "is a symbolic link"),
        (_open_to_all, "may be written by others (mode 777)"),
        (_replaceable, "may be replaced by others"),
    ],
)
def test_a_folder_that_others_may_have_filled_is_refused(
    folder: Path, fake_ray: dict[str, str], make: Callable[[Path], Path], message: str
) -> None:
    """`stop` too: the ids of the processes that it ends stand there."""
    state = make(folder)
    victim = subprocess.Popen(["sleep", "60"], env={"RLHF_RAY_MARK": "planted"})
    if os.access(state, os.W_OK):
        (state / "state").write_text(f"{victim.pid} worker planted\n")
    before = sorted(state.iterdir())
    try:
        for words in (["head", "--block"], ["stop", "--now"]):
            for name in (str(state), f"{state}/"):
                done = _run(RAY_START, *words, env=fake_ray | {"STATE_DIR": name})
                assert done.returncode == 1 and message in done.stderr and "--head" not in done.stdout, done
        assert sorted(state.iterdir()) == before and victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_the_folder_is_made_for_us_alone_and_taken_again(folder: Path, fake_ray: dict[str, str]) -> None:
    env = fake_ray | {"STATE_DIR": str(folder / "deep" / "s")}
    for _ in range(2):
        assert _run("bash", "-c", f"umask 0; exec {RAY_START} head --block", env=env).returncode == 0
    assert (folder / "deep" / "s").stat().st_mode & 0o777 == 0o700


# --- with a real one ---


@pytest.mark.slow
def test_a_head_starts_runs_jobs_and_ends_with_a_checkpoint(folder: Path, settings: dict[str, str]) -> None:
    """The one thing here with that name is another Ray's raylet: `ray stop` would end it too."""
    shutil.copy(str(shutil.which("sleep")), folder / "raylet")
    another = subprocess.Popen([folder / "raylet", "300"])
    try:
        started = _run(RAY_START, "head", env=settings)
        assert started.returncode == 0, started.stderr
        assert "still runs" in _run(RAY_START, "head", env=settings).stderr
        done = _run("ray", "job", "submit", "--address", _api(settings), "--", "python", "-c", "print(1)", env=settings)
        assert done.returncode == 0 and "\n1\n" in done.stdout, done.stdout

        (folder / "job.py").write_text(LAUNCHER)
        job = ["--submission-id", "mine", "--no-wait"]
        job += ["--runtime-env-json", '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}']
        job += ["--", "python", str(folder / "job.py")]
        _run("ray", "job", "submit", "--address", _api(settings), *job, env=settings)
        _wait_for(folder / "running", another)
        mark = (Path(settings["STATE_DIR"]) / "state").read_text().split(" ", 2)[2].strip()
        jobs = [sys.executable, str(CLUSTER / "ray_jobs.py")]
        joined = [*jobs, "wait-nodes", "--address", _api(settings), "--timeout", "1", "--nodes", "node1,node2,node3"]
        missing = _run(*joined, env=settings)
        assert missing.returncode == 3
        assert "2 of 3 nodes did not join within 1 s: node2, node3" in missing.stderr
        drain = [*jobs, "drain", "--address", _api(settings), "--timeout", "60"]
        drained = _run(*drain, env=settings | {"RLHF_RAY_MARK": mark})
        assert drained.returncode == 0 and "stopping mine" in drained.stdout, drained.stderr
        assert (folder / "checkpoint").read_text() == "7"
        assert _run(*jobs, "outcome", "--address", _api(settings), "mine", env=settings).returncode == 130

        stopped = _run(RAY_START, "stop", env=settings)
        assert stopped.returncode == 0 and stopped.stderr == "" and "stopped the head" in stopped.stdout
        assert _belongs(settings["STATE_DIR"]) == []
        assert another.poll() is None
    finally:
        _run(RAY_START, "stop", "--now", env=settings)
        another.kill()
        another.wait()


@pytest.fixture
def slurm(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    """A Slurm of two nodes, both of which are this machine: the second one has other ports and another folder."""
    (folder / "bin").mkdir()
    _command(folder / "bin", "scontrol", 'tr "," "\\n" <<<"${@: -1}"')
    base = int(settings["GCS_PORT"])
    names = ["NODE_MANAGER", "OBJECT_MANAGER", "RUNTIME_ENV", "AGENT", "METRICS"]
    second = [f"{name}_PORT={base + 10 + index}" for index, name in enumerate(names)]
    second += [f"WORKER_PORTS={base + 60}-{base + 99}", "NODE_NAME=node2", f"STATE_DIR={folder / 'w'}"]
    steps = [
        f'echo "$@" >>"{folder}/steps"',
        "while [[ $1 == --* ]]; do shift; done",
        f"[[ $2 == worker ]] && export {' '.join(second)}",
        'exec "$@"',
    ]
    _command(folder / "bin", "srun", "\n".join(steps))
    (folder / "ppo_llama.py").write_text(LAUNCHER)
    return settings | {
        "PATH": f"{folder / 'bin'}:{settings['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node1,node2",
        "SLURM_CPUS_ON_NODE": "1",
        "DEVICE": "cpu",
        "LAUNCH": str(folder / "ppo_llama.py"),
        "STOP_WAIT": "60",
    }


def test_slurm_stops_at_a_mistake_in_the_configuration_before_anything_is_started(
    folder: Path, slurm: dict[str, str]
) -> None:
    done = _run("bash", str(CLUSTER / "slurm.sbatch"), "run.nme=x", env=slurm)
    assert done.returncode == 2 and "unknown key run.nme (did you mean run.name?)" in done.stderr
    assert not (folder / "steps").exists()


@pytest.mark.slow
def test_slurms_signal_becomes_a_checkpoint(folder: Path, slurm: dict[str, str]) -> None:
    words = ["bash", str(CLUSTER / "slurm.sbatch"), f"run.dir={folder / 'runs'}", "run.name=mine"]
    process = subprocess.Popen(
        words,
        env=slurm | {"SLURM_RESTART_COUNT": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for(folder / "running", process)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=120)[0]
    finally:
        process.kill()
        for state in ("w", "s"):
            _run(RAY_START, "stop", "--now", env=slurm | {"STATE_DIR": str(folder / state)})
    assert process.returncode == 130, output
    assert "asking slurm-77-1 for its checkpoint" in output, output
    assert "slurm-77-1: STOPPED" in output, output
    assert (folder / "checkpoint").read_text() == "7"
    arguments = (folder / "running").read_text().splitlines()
    assert "all 1 nodes have joined" in output and "all 2 nodes have joined" in output
    head, workers = (folder / "steps").read_text().splitlines()
    assert "--nodes=1 --ntasks=1 --nodelist=node1" in head and "--nodes=1 --ntasks=1 --exclude=node1" in workers
    # The launcher decides what there is to go on from, and whoever submits the job has the last word.
    assert arguments[2:] == ["run.resume=auto", "run.device=cpu", f"run.dir={folder / 'runs'}", "run.name=mine"]
    assert _belongs(slurm["STATE_DIR"]) == [] == _belongs(str(folder / "w"))


@pytest.mark.slow
def test_slurm_names_the_nodes_that_did_not_join(folder: Path, slurm: dict[str, str]) -> None:
    _command(folder / "bin", "srun", "exec sleep 300")
    done = _run("bash", str(CLUSTER / "slurm.sbatch"), env=slurm | {"JOIN_TIMEOUT": "2"})
    assert done.returncode == 3
    assert "1 of 1 nodes did not join within 2 s: node1" in done.stderr
