#!/usr/bin/env python3
"""What the cluster's scripts ask of Ray: which nodes have joined, to stop jobs and wait for them, how a job ended.

    ray_jobs.py wait-nodes --nodes n1,n2 --timeout 300   waits until all have joined, or names the missing ones
    ray_jobs.py stop --timeout 1500                      stops the running jobs, and waits for their checkpoints
    ray_jobs.py drain --timeout 1500                     does the same, then waits until no actor is left on this node
    ray_jobs.py outcome [--wait] JOB_ID                  exits with the job's exit code, or 130 if it was stopped

`drain` is the preStop hook of the pods: Kubernetes ends all pods of a cluster at once, and a checkpoint needs the
workers as well as the head. Only jobs of `ray job submit` can be stopped. Ray's token is found as Ray itself finds it
(RAY_AUTH_TOKEN, ~/.ray/auth_token).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

import psutil

POLL_S = 1.0
LOST_AFTER_S = 60.0  # of silence, and the head is taken for dead
NOT_OF_A_JOB = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
COMMANDS = {
    "wait-nodes": "waits until all nodes have joined; exit code 3 if some have not",
    "stop": "stops the running jobs, and waits for their checkpoints",
    "drain": "stops the running jobs, then waits until no actor is left on this node",
    "outcome": "exits with a job's exit code, or 130 if it was stopped",
}
STOPPED = 130  # as launch/*.py end after the checkpoint of a SIGTERM


def default_address() -> str:
    """The Jobs API of the head: KubeRay names the head to the other pods, everywhere else this is the head."""
    return f"http://{os.environ.get('FQ_RAY_IP') or '127.0.0.1'}:8265"


def wait_nodes(address: str, nodes: list[str], timeout_s: float) -> int:
    """0 once all ``nodes`` are alive; 3 where some are missing at the deadline."""
    from ray.util.state import list_nodes

    def missing() -> list[str]:
        try:
            found = list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=10_000, timeout=10)
        except Exception as error:  # the head may still be starting
            unreachable[:] = [first_line(error)]
            return nodes
        unreachable.clear()
        there = {node.node_name for node in found}
        return [node for node in nodes if node not in there]

    unreachable: list[str] = []
    left = poll(missing, timeout_s)
    if not left:
        print(f"all {len(nodes)} nodes have joined", flush=True)
        return 0
    why = f" ({unreachable[0]})" if unreachable else ""
    print(
        f"{len(left)} of {len(nodes)} nodes did not join within {timeout_s:g} s: {', '.join(left)}{why}",
        file=sys.stderr,
    )
    return 3


def stop_jobs(address: str, timeout_s: float) -> int:
    """Stops every running job and waits. 0: none runs any more; 1: one did not end in time; 3: no Jobs API there."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        running = [
            job.submission_id for job in client.list_jobs() if job.submission_id and not job.status.is_terminal()
        ]
        for name in running:
            print(f"stopping {name}", flush=True)
            client.stop_job(name)
    except Exception as error:
        print(f"no jobs could be asked to stop at {address}: {first_line(error)}", file=sys.stderr)
        return 3

    def left() -> list[str]:
        try:
            states: dict[str, JobStatus] = {name: client.get_job_status(name) for name in running}
        except Exception as error:  # the head went before us: it waits for its jobs itself
            print(f"the head is gone: {first_line(error)}", file=sys.stderr)
            return []
        return [name for name, state in states.items() if not state.is_terminal()]

    late = poll(left, timeout_s)
    for name in late:
        print(f"{name} did not end within {timeout_s:g} s", file=sys.stderr)
    return 1 if late else 0


def drain(address: str, timeout_s: float) -> int:
    """:func:`stop_jobs`, then waits until no actor runs on this node. 0, or 1 at the deadline."""
    begin = time.monotonic()
    stop_jobs(address, timeout_s)
    late = poll(actors_here, max(timeout_s - (time.monotonic() - begin), 0.0))
    if late:
        print(f"still running here: {', '.join(late)}", file=sys.stderr)
    return 1 if late else 0


def actors_here() -> list[str]:
    """The titles of this node's Ray workers that do something: Ray writes what they are into their titles.

    Where several Rays share the machine, RLHF_RAY_MARK (ray-start.sh sets it) says which of them is meant.
    """
    mark, titles = os.environ.get("RLHF_RAY_MARK"), []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or []).strip()
        if not title.startswith("ray::") or title.startswith(NOT_OF_A_JOB):
            continue
        try:
            if mark is None or process.environ().get("RLHF_RAY_MARK") == mark:
                titles.append(title)
        except psutil.Error:  # it has just ended, or is another user's
            continue
    return titles


def outcome(address: str, job: str, wait: bool) -> int:
    """The exit code of a job; with ``wait`` of one that may still run. 1 where its cluster no longer answers."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    info, seen = None, time.monotonic()
    while info is None or (wait and not info.status.is_terminal()):
        if info is not None:
            time.sleep(2 * POLL_S)
        try:
            info, seen = JobSubmissionClient(address).get_job_info(job), time.monotonic()
        except Exception as error:
            if not wait or time.monotonic() - seen > LOST_AFTER_S:
                print(f"{job}: nothing answers at {address}: {first_line(error)}", file=sys.stderr)
                return 1
            time.sleep(2 * POLL_S)
    print(f"{job}: {info.status.value}", flush=True)
    if info.status == JobStatus.STOPPED:
        return STOPPED
    return 0 if info.status == JobStatus.SUCCEEDED else info.driver_exit_code or 1


def poll(left: Callable[[], list[str]], timeout_s: float) -> list[str]:
    """Calls ``left`` until it is empty or the time is over; its last answer."""
    deadline = time.monotonic() + timeout_s
    while (names := left()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return names


def first_line(error: Exception) -> str:
    """An exception in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main() -> int:
    """Reads the arguments. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, title in COMMANDS.items():
        command = commands.add_parser(name, help=title, description=title)
        command.add_argument("--address", default=default_address(), help="of Ray's Jobs API (default %(default)s)")
        if name == "outcome":
            command.add_argument("job", metavar="JOB_ID")
            command.add_argument("--wait", action="store_true", help="wait until the job has ended")
        else:
            command.add_argument("--timeout", type=float, default=1500.0, help="seconds to wait (default %(default)s)")
        if name == "wait-nodes":
            command.add_argument("--nodes", required=True, help="names of the nodes, separated by commas")
    options = parser.parse_args()
    if options.command == "wait-nodes":
        return wait_nodes(options.address, options.nodes.split(","), options.timeout)
    if options.command == "stop":
        return stop_jobs(options.address, options.timeout)
    if options.command == "drain":
        return drain(options.address, options.timeout)
    return outcome(options.address, options.job, options.wait)


if __name__ == "__main__":
    sys.exit(main())
