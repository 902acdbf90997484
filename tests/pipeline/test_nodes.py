"""Several nodes: raylets side by side on this machine, and hosts of their own in network namespaces."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from rlhf_dist.cluster.prometheus import GAUGES
from tests.pipeline.conftest import ROOT, Outcome, Workspace
from tests.pipeline.test_placement import same_learning
from tests.tiny import write_data, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PPO = [
    "rollout.backend=hf",
    "reward.model.path=null",
    "reward.function=score.py:short",
    "weights.verify_every=1",
]
APART = ["actor.num_workers=2", "actor.strategy=strict_spread", "rollout.num_engines=2"]
APART += ["rollout.strategy=strict_spread"]
SFT = ["sft.max_steps=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose reward is a function, so that no run has to come first."""
    place = Workspace(tmp_path_factory.mktemp("nodes"))
    write_model(place.root / "model")
    write_data(place.root / "data")
    (place.root / "score.py").write_text(
        "def short(prompts, responses):\n    return [-len(r) / 10 for r in responses]\n"
    )
    yield place
    for process in place.started:
        process.kill()


@pytest.fixture(scope="module")
def alone(place: Workspace) -> Outcome:
    """Two steps of PPO with one worker of each role on one node."""
    return place.run("ppo", "alone", *PPO)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of a head without CPUs and two nodes with two each; this process is connected to it. Its address."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, as Ray's sockets live there
    patch, memory = pytest.MonkeyPatch(), 100 * 2**20
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setenv("RAY_metrics_report_interval_ms", "1000")
    made = Cluster()
    try:
        made.add_node(num_cpus=0, object_store_memory=memory, temp_dir=folder, include_dashboard=False)
        for name in ("left", "right"):
            made.add_node(num_cpus=2, object_store_memory=memory, temp_dir=folder, node_name=name)
        ray.init(address=made.address, namespace="test", configure_logging=False, log_to_driver=False)
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def eventually(what: str, found: Callable[[], Any], seconds: float, log: Path | None = None, *running: Any) -> Any:
    """The first answer that is true. Processes must go on running meanwhile."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        for process in running:
            assert process.poll() is None, log.read_text() if log else process.communicate()[0]
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.3)
    return answer


def living(run: str) -> dict[tuple[str, str], str]:
    """A run's actors on the cluster, by Ray's job and name, with the nodes they are on."""
    return {
        (actor["JobID"], actor["Name"]): actor["Address"]["NodeID"]
        for actor in actors().values()
        if actor["Name"].startswith(f"{run}/") and actor["State"] == "ALIVE"
    }


def places(run: str) -> dict[str, set[str]]:
    """A run's placement groups, with the nodes of each."""
    return {
        group["name"]: set(group["bundles_to_node_id"].values())
        for group in placement_group_table().values()
        if group["name"].startswith(f"{run}/") and group["state"] != "REMOVED"
    }


def nothing_left(run: str) -> bool:
    return not living(run) and not places(run)


def gauges() -> dict[str, dict[tuple[str, ...], float]]:
    """What the nodes export for Prometheus now: for each of our gauges its values, by its tags."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for port in {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}:
        with urllib.request.urlopen(f"http://{ray.util.get_node_ip_address()}:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        for name, tags, value in re.findall(r"^ray_(rlhf_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            tag = dict(re.findall(r'(\w+)="([^"]*)"', tags))
            found.setdefault(name, {})[tuple(tag[key] for key in ("run", *GAUGES[name]))] = float(value)
    return found


def lines_of(place: Workspace, run: str) -> int:
    metrics = place.root / run / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


# --- nodes side by side ---


def test_workers_on_two_nodes_learn_the_same_and_prometheus_sees_it(
    place: Workspace, cluster: str, alone: Outcome
) -> None:
    process = place.start("ppo", "apart", *PPO, *APART, "ppo.steps=1000", f"cluster.address={cluster}")
    seen: dict[str, dict[tuple[str, ...], float]] = {}
    where: dict[str, str] = {}
    groups: dict[str, set[str]] = {}

    def all_there() -> bool:
        where.update({name: node for (_, name), node in living("apart").items()})
        groups.update(places("apart"))
        for name, values in gauges().items():
            seen.setdefault(name, {}).update(values)
        workers = {tags[1] for tags in seen.get("rlhf_worker_memory_bytes", ())}
        return seen.keys() == GAUGES.keys() and len(workers) == 7 and len(seen["rlhf_phase_seconds"]) >= 5

    eventually("gauges", all_there, 300, None, process)
    process.send_signal(signal.SIGTERM)
    outcome = place.finish(process, "apart", 130)

    assert where["apart/actor-0"] != where["apart/actor-1"]
    assert where["apart/rollout-0"] != where["apart/rollout-1"]
    assert groups["apart/actor"] == groups["apart/rollout"] == {where["apart/actor-0"], where["apart/actor-1"]}
    assert groups.keys() == {f"apart/{role}" for role in ("actor", "critic", "reward", "reference", "rollout")}
    eventually("end of actors and placement groups", lambda: nothing_left("apart"), 30)

    metrics = outcome.run / "metrics.jsonl"
    assert len(outcome.metrics) >= len(alone.metrics)
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[: len(alone.metrics)]))
    same_learning(outcome, alone)

    assert 1 <= seen["rlhf_step"]["apart",] <= 1000
    assert seen["rlhf_kl_coef"]["apart",] == pytest.approx(0.1)
    assert seen["rlhf_reward_score_mean"]["apart",] < 0
    assert seen["rlhf_throughput_tokens_per_s"]["apart",] > 1
    assert {tags[1] for tags in seen["rlhf_phase_seconds"]} == {"rollout", "score", "advantage", "train", "sync"}
    assert all(value > 2**20 for value in seen["rlhf_worker_memory_bytes"].values())
    assert {tags[2] for tags in seen["rlhf_worker_memory_bytes"]} == {"host_rss", "host_pss"}
    assert {tags[1] for tags in seen["rlhf_calls_waiting"]} >= {"actor", "critic", "rollout", "reference", "reward"}
    assert all(0 <= value <= 2 for value in seen["rlhf_calls_waiting"].values())


def test_runs_of_one_name_do_not_meet_and_one_that_is_killed_leaves_nothing(place: Workspace, cluster: str) -> None:
    settings = [*SFT, "sft.max_steps=100000", f"cluster.address={cluster}"]
    killed = place.start("sft", "twin", *settings, "run.dir=here")
    other = place.start("sft", "twin", *settings, "run.dir=there")
    eventually("step", lambda: lines_of(place, "here/twin"), 200, None, killed)
    eventually("step", lambda: lines_of(place, "there/twin"), 200, None, other)
    both = living("twin")
    assert {name for _, name in both} == {"twin/actor-0"}
    assert len(both) == 2
    named = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["name"] == "twin/actor-0"]
    assert len({actor["namespace"] for actor in named}) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    eventually("end of the killed run's actor", lambda: len(living("twin")) == 1, 30)
    done = lines_of(place, "there/twin")
    eventually("further step", lambda: lines_of(place, "there/twin") > done, 30, None, other)
    other.send_signal(signal.SIGKILL)
    other.wait()
    eventually("end of actors and placement groups", lambda: nothing_left("twin"), 30)


def test_what_no_node_can_hold_is_said_at_once(place: Workspace, cluster: str) -> None:
    pack = ["actor.num_workers=3", "actor.cpus_per_worker=1", "actor.strategy=strict_pack"]
    started = time.monotonic()
    outcome = place.run("sft", "packed", *SFT, *pack, f"cluster.address={cluster}", expect=3)
    assert time.monotonic() - started < 100  # cluster.placement_timeout_s is 120
    first, sums, wanted, *nodes = outcome.output.splitlines()[-6:]
    assert "actor (strict_pack): no single node has 3 CPU, which it needs in all" in first
    assert sums.strip() == "CPU wanted 3, present 4, free 4"
    assert wanted.strip() == "wanted: actor: 3 x 1 CPU (strict_pack)"
    assert sum("2 of 2 CPU free; too little CPU for actor" in node for node in nodes) == 2
    assert any("node left (" in node for node in nodes)


def test_what_others_hold_is_waited_for_until_the_deadline(place: Workspace, cluster: str) -> None:
    busy = placement_group([{"CPU": 2}, {"CPU": 1}], strategy="STRICT_SPREAD", name="somebody else's")
    try:
        assert busy.wait(30)
        spread = ["actor.num_workers=2", "actor.cpus_per_worker=1", "actor.strategy=strict_spread"]
        timeout = ["cluster.placement_timeout_s=5", f"cluster.address={cluster}"]
        outcome = place.run("sft", "waiting", *SFT, *spread, *timeout, expect=3)
    finally:
        remove_placement_group(busy)
    first, sums, _, *nodes = outcome.output.splitlines()[-6:]
    assert "no place for actor (strict_spread) within 5 s" in first
    assert sums.strip() == "CPU wanted 2, present 4, free 1"
    assert sum("0 of 2 CPU free; too little CPU for actor" in node for node in nodes) == 1
    assert sum(node.endswith("1 of 2 CPU free") for node in nodes) == 1
    eventually("end of placement groups", lambda: nothing_left("waiting"), 30)


@pytest.fixture
def stranger(place: Workspace, cluster: str) -> Iterator[str]:
    """A third node with a file system of its own, as far as runs and model are concerned. Its name."""
    name, log = "stranger", place.root / "stranger.log"
    (place.root / "runs").mkdir(exist_ok=True)
    hidden = " && ".join(f"mount -t tmpfs none {place.root / folder}" for folder in ("runs", "model"))
    probe = subprocess.run(["unshare", "-m", "sh", "-c", hidden], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"mount namespaces cannot be made here: {probe.stderr.strip()}")
    ray_start = [str(Path(sys.executable).parent / "ray"), "start", f"--address={cluster}", f"--node-name={name}"]
    ray_start += ["--num-cpus=2", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats", "--block"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        command = ["unshare", "-m", "sh", "-c", f'{hidden} && exec "$@"', "sh", *ray_start]
        process = subprocess.Popen(command, env=env, cwd=place.root, stdout=file, stderr=file)
    try:
        eventually("third node", lambda: name in _alive(), 120, log, process)
        yield name
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        eventually("end of the third node", lambda: name not in _alive(), 60)


def _alive() -> list[str]:
    return [node["NodeName"] for node in ray.nodes() if node["Alive"]]


def test_a_node_that_does_not_share_the_folder_and_the_model_is_named_before_anything_is_loaded(
    place: Workspace, cluster: str, stranger: str
) -> None:
    everywhere = ["actor.num_workers=3", "actor.strategy=strict_spread", f"cluster.address={cluster}"]
    outcome = place.run("sft", "unshared", *SFT, *everywhere, expect=3)
    last = outcome.output.splitlines()[-1]
    assert last.count(f"node {stranger} (") == 2
    assert f"{outcome.run} is not the folder that the driver writes to: choose a run.dir on a disk that all" in last
    assert f"{place.root / 'model'} (actor.model.path) holds another model than on the driver's node" in last
    assert {path.name for path in (outcome.run / "logs").iterdir()} == {"driver.log"}  # no worker has begun
    assert not list(outcome.run.glob(".shared-*"))
    eventually("end of placement groups", lambda: nothing_left("unshared"), 30)


# --- hosts of their own ---

INTERFACE = "rlhf0"
PORTS = range(21000, 21020)


@dataclass(frozen=True)
class Host:
    """A network namespace with an address."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def sockets(self, *options: str) -> list[tuple[int, str, str]]:
        """Its TCP sockets: process, own address and port, and the peer's."""
        listed = subprocess.run(self.command("ss", "-tnpH", *options), capture_output=True, text=True, check=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [
            (int(pid), _plain(row[3]), _plain(row[4]))
            for row in rows
            for pid in re.findall(r"pid=(\d+)", " ".join(row[5:]))  # fork()s share a socket
        ]


def _plain(address: str) -> str:
    """An IPv4 address with its port: one end of a connection may show it as one of IPv6."""
    host, _, port = address.rpartition(":")
    return f"{host.strip('[]').removeprefix('::ffff:')}:{port}"


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them, which is all the network they have."""
    if shutil.which("ip") is None or shutil.which("ss") is None:
        pytest.skip("no network namespaces without the commands ip and ss")
    mark = f"rlhf{os.getpid()}"
    one, other = Host(f"{mark}a", "10.77.0.1"), Host(f"{mark}b", "10.77.0.2")
    try:
        for host in (one, other):
            made = _ip("netns", "add", host.name, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        ends = [INTERFACE, "netns", one.name, "type", "veth", "peer", "name", INTERFACE, "netns", other.name]
        made = _ip("link", "add", *ends, check=False)
        if made.returncode:
            pytest.skip(f"virtual cables cannot be made here: {made.stderr.strip()}")
        for host in (one, other):
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            for device in ("lo", INTERFACE):
                _ip("-n", host.name, "link", "set", device, "up")
        yield one, other
    finally:
        for host in (one, other):
            for pid in _ip("netns", "pids", host.name, check=False).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "delete", host.name, check=False)


@pytest.fixture(scope="module")
def network(hosts: tuple[Host, Host]) -> Iterator[str]:
    """A Ray cluster of the two hosts. Its address."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    address = f"{hosts[0].address}:9379"
    head, worker = ["--head", "--port=9379", "--include-dashboard=false"], [f"--address={address}"]
    patch, started = pytest.MonkeyPatch(), []
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    patch.setenv("PYTHONPATH", str(ROOT))
    try:
        for host, role in zip(hosts, (head, worker), strict=True):
            words = [str(Path(sys.executable).parent / "ray"), "start", *role, f"--node-ip-address={host.address}"]
            words += [f"--temp-dir={folder / host.name[-1]}", "--num-cpus=2", f"--object-store-memory={100 * 2**20}"]
            log = folder / f"{host.name[-1]}.log"
            with log.open("w") as file:
                command = host.command(*words, "--disable-usage-stats", "--block")
                process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
            started.append(process)
            eventually("Ray", lambda log=log: "Ray runtime started" in log.read_text(), 120, log, process)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def start_on(host: Host, place: Workspace, job: str, name: str, *settings: str) -> subprocess.Popen[str]:
    """Starts a job on a host. It must be the head's: Ray's drivers look for their raylet by its process, and processes
    are not apart here.
    """
    return place.launch(host.command(*place.command(job, name, *settings)))


def pid_of(place: Workspace, run: str, worker: str) -> int:
    log = (place.root / "runs" / run / f"logs/{worker}.log").read_text()
    return int(re.findall(rf"^worker {worker}: pid (\d+) ", log, re.MULTILINE)[0])


def test_collectives_and_weights_cross_the_network(
    place: Workspace, hosts: tuple[Host, Host], network: str, alone: Outcome
) -> None:
    settings = [f"cluster.address={network}", f"cluster.interface={INTERFACE}", "ppo.steps=2"]
    settings += [f"cluster.ports={PORTS[0]}-{PORTS[-1]}"]
    process = start_on(hosts[0], place, "ppo", "network", *PPO, *APART, *settings)
    listening: set[tuple[int, str]] = set()
    owner: dict[tuple[str, str], int] = {}
    while process.poll() is None:
        for host in hosts:
            listening |= {(pid, own) for pid, own, _ in host.sockets("-l")}
            owner |= {(own, peer): pid for pid, own, peer in host.sockets()}
        time.sleep(0.2)
    outcome = place.finish(process, "network", 0)
    same_learning(outcome, alone)

    pids = {name: pid_of(place, "network", name) for name in ("actor-0", "actor-1", "rollout-0", "rollout-1")}
    names = {pid: name for name, pid in pids.items()}
    # Connections between workers, by their ports: over Ray only the driver talks to them.
    across = {
        (names[pid], names[owner[peer, own]], int(own.rpartition(":")[2]), int(peer.rpartition(":")[2]))
        for (own, peer), pid in owner.items()
        if pid in names and owner.get((peer, own)) in names and own.split(":")[0] != peer.split(":")[0]
    }
    stores = {link for link in across if link[2] in PORTS or link[3] in PORTS}
    direct = across - stores
    engine = next(name for one, name, *_ in direct if one == "actor-0" and name.startswith("rollout"))
    assert ("actor-0", "actor-1") in {link[:2] for link in stores} & {link[:2] for link in direct}
    assert ("actor-0", engine) in {link[:2] for link in stores} & {link[:2] for link in direct}
    listens = [own.rpartition(":") for pid, own in listening if pid == pids["actor-0"]]
    stores_at = [address for address, _, port in listens if int(port) in PORTS]
    # The actor's rendezvous, and the weights': at the address of its node, and at no other one.
    assert len(stores_at) == 2 and set(stores_at) <= {host.address for host in hosts}


def test_collectives_find_the_network_by_themselves(place: Workspace, hosts: tuple[Host, Host], network: str) -> None:
    """The host's name leads to the loopback here, which is where gloo would listen."""
    spread = ["actor.num_workers=2", "actor.strategy=strict_spread", f"cluster.address={network}"]
    outcome = place.finish(start_on(hosts[0], place, "sft", "found", *SFT, *spread), "found", 0)
    assert len(outcome.metrics) == 2
