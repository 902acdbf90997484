"""Jobs that fit a cluster exactly, on Ray's own nodes with made-up accelerators; and workers that need none of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from rlhf_dist.cluster.group import Construction, WorkerGroup
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.prometheus import RunGauges
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.device import CPU, CUDA
from rlhf_dist.errors import ClusterError
from rlhf_dist.plan.pools import Pool, RoleResources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODES, DEVICES = 3, 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Three nodes with eight accelerators each that Ray believes in, behind a head without any."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, as Ray's sockets live there
    patch, memory = pytest.MonkeyPatch(), 100 * 2**20
    patch.delenv("RAY_ADDRESS", raising=False)
    made = Cluster()
    try:
        made.add_node(num_cpus=1, num_gpus=0, object_store_memory=memory, temp_dir=folder, include_dashboard=False)
        for _ in range(NODES):
            made.add_node(num_cpus=16, num_gpus=DEVICES, object_store_memory=memory, temp_dir=folder)
        ray.init(address=made.address, namespace="test", configure_logging=False, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        made.shutdown()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def pool(role: str, workers: int, devices: int, strategy: str = "pack") -> Pool:
    return Pool((RoleResources(role, workers, devices, 1.0, 1, strategy),))


def groups(state: str) -> dict[str, list[str]]:
    """The placement groups of a state, each with its bundles' nodes."""
    return {
        group["name"].partition("/")[2]: list(group["bundles_to_node_id"].values())
        for group in placement_group_table().values()
        if group["state"] == state
    }


def test_a_job_that_takes_every_device_is_placed_whatever_the_order_of_its_roles(cluster: None) -> None:
    """The trainers' narrow bundles, asked for first, would lie on all nodes: eight devices would be free on none."""
    job = [pool("actor", 4, 1), pool("critic", 4, 1), pool("reward", 2, 1), pool("reference", 2, 1)]
    job += [pool("judge", 1, 4), pool("rollout", 1, 8), pool("scorer", 3, 0)]
    assert sum(role.devices for role in job) == NODES * DEVICES
    with closing(Placement("exact", job, CUDA, 60.0)) as placement:
        taken: Counter[str] = Counter()
        for name, where in groups("CREATED").items():
            for node in where:
                taken[node] += placement.roles[name].devices
        assert sorted(taken.values(), reverse=True)[:NODES] == [DEVICES] * NODES
        assert len(set(groups("CREATED")["rollout"])) == 1
    assert not groups("CREATED")


def test_what_was_got_is_given_back_when_the_rest_is_not_there_in_time(cluster: None) -> None:
    with closing(Placement("other", [pool("rollout", 1, 1)], CUDA, 30.0)):
        job = [pool("actor", 8, 1), pool("rollout", 2, 8)]
        with pytest.raises(ClusterError, match=r"no place for actor \(pack\) within 3 s"):
            Placement("late", job, CUDA, 3.0)
        assert groups("CREATED").keys() == {"rollout"} and not groups("PENDING")


class Seen:
    """An engine that says what its process may use."""

    def environment(self) -> tuple[str | None, str]:
        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["DS_ACCELERATOR"]


def test_workers_without_a_device_start_where_there_is_none_and_see_none_where_there_are_some(
    cluster: None, tmp_path: Path
) -> None:
    """On the head there are no accelerators, and this torch knows none: whoever asks for one fails."""
    scorers = pool("scorer", 4, 0, strategy="strict_spread")
    with closing(Placement("seen", [scorers], CUDA, 30.0)) as placement, closing(RunGauges("seen")) as gauges:
        group = WorkerGroup("seen", "scorer", placement, tmp_path, {}, 1, ClusterConfig(), gauges, None)
        Scheduler(placement).build([Construction(group, Seen, lambda _: (), collective=False)], 120.0)
        assert group.device is CPU
        answers = ray.get([worker.call.remote("environment") for worker in group.workers], timeout=60)
        assert answers == [("", "cpu")] * 4
        group.kill()
