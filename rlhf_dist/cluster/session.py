"""Connecting to a Ray cluster, or starting one for the run's time."""

from __future__ import annotations

import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationMode,
    AuthenticationTokenLoader,
    GcsClient,
    get_authentication_mode,
)
from ray.exceptions import AuthenticationError, RayError

from rlhf_dist.cluster.failures import TOKEN_HELP, ray_failure
from rlhf_dist.cluster.worker_memory import forget_memory
from rlhf_dist.config.resolve import cluster_address
from rlhf_dist.config.schema import ClusterConfig
from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline
from rlhf_dist.errors import ClusterError, UserError
from rlhf_dist.network import LOOPBACK

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0


@contextmanager
def ray_session(config: ClusterConfig, run: str) -> Iterator[str | None]:
    """Connects to ``cluster.address``, else ``RAY_ADDRESS`` (a job has it set), else starts a local cluster.

    A cluster started here is stopped again at the end; one that was found is left running. What the run names there is
    in a namespace of its own, so that runs of the same name do not meet.

    Yields the address at which the run's workers listen for one another: the loopback where the cluster is this
    machine alone, else None, for each node's own.

    Raises:
        ClusterError: nothing answers at the address.
        UserError: the cluster asks for a token that this process does not have.
        RunError: Ray failed in some other way.
    """
    address = cluster_address(config)
    namespace = f"{run}-{uuid.uuid4().hex[:8]}"
    try:
        if address:
            _check_listening(address)
            _check_cluster_answers(address)
            ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False)
        else:
            _start_local(config, namespace)
    except (OSError, RuntimeError, ValueError) as error:
        where = address or "local"
        raise ClusterError(f"no Ray cluster at {where!r}: {str(error).strip().splitlines()[0]}") from error
    except RayError as error:
        raise ray_failure(error, f"connecting to {address or 'a local cluster'}") from error
    try:
        yield None if address else LOOPBACK
    except RayError as error:
        raise ray_failure(error, "the Ray cluster") from error
    finally:
        forget_memory()
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Fails within seconds where nothing listens at `host:port`; Ray itself would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _check_cluster_answers(address: str) -> None:
    """Fails where no Ray cluster answers at `host:port`, or it asks for a token; Ray itself would try for minutes.

    Raises:
        ConnectionError: no cluster answers.
        UserError: it asks for a token that this process does not have.
    """
    if "://" in address or not address.rpartition(":")[2].isdigit():
        return
    says = f"the Ray cluster at {address} requires a token"
    needs_one = get_authentication_mode() == AuthenticationMode.TOKEN
    if needs_one and not _has_token():  # Ray would abort the process
        raise UserError(f"RAY_AUTH_MODE=token is set, but there is no token: {TOKEN_HELP}")
    try:
        call_with_deadline(lambda: GcsClient(address=address), ANSWER_TIMEOUT_S)
    except DeadlinePassed as error:
        raise ConnectionError(f"the service at that address did not answer within {ANSWER_TIMEOUT_S:g} s") from error
    except AuthenticationError as error:
        if needs_one:
            raise UserError(f"{says}, but this process has a different one: {TOKEN_HELP}") from error
        there = " (it has one, but RAY_AUTH_MODE is not token)" if _has_token() else ""
        raise UserError(f"{says}, but this process sends none{there}: {TOKEN_HELP}") from error


def _has_token() -> bool:
    """Whether Ray finds a token. Not to be asked where none is needed.

    Once Ray has read one, it wants it from whoever calls this process, too. The head of a cluster without tokens cannot
    give it: it would take the driver for dead, and end the run's workers.
    """
    return AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)


def _start_local(config: ClusterConfig, namespace: str) -> None:
    # A terminal that closes sends SIGHUP to everything in its foreground, and a checkpoint needs the workers. What is
    # started with the signal blocked does not hear it; to this process it comes when the block is lifted.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        ray.init(
            address="local",
            namespace=namespace,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=int(config.object_store_gib * 2**30),
            # Ray would start idle workers ahead, one a core, which a run's own processes have no use for.
            _system_config={"prestart_worker_first_driver": False},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
