"""Connecting to a Ray cluster, or starting one for the run's time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.errors import ClusterError


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Connects to ``cluster.address``, else ``RAY_ADDRESS`` (a job has it set), else starts a local cluster.

    A cluster started here is stopped again at the end; one that was found is left running.

    Raises:
        ClusterError: nothing answers at the address.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        else:
            _start_local(config)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or "local"
        raise ClusterError(f"no Ray cluster at {where!r}: {str(error).strip().splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(config: ClusterConfig) -> None:
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=int(config.object_store_gib * 2**30),
    )
