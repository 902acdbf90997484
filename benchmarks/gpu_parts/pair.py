"""Two processes between which weights go: one sends, the other receives, each on a device of its own or on the same."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_parts.common import first_line
from rlhf_dist.device import DEVICES, Device
from rlhf_dist.weights.groups import TransferPlan, dial

if TYPE_CHECKING:
    from rlhf_dist.weights.transport import TransferGroup

# What a process does with its membership, once all have met: the kind of device, the group, whether it sends. The
# result travels by pickle.
Work = Callable[[Device, "TransferGroup", bool], Any]


def pair(
    device: Device, transport: str, cards: tuple[int, int], bucket_bytes: int, work: Work, deadline_s: float
) -> tuple[Any, Any]:
    """Runs ``work`` in a sender and a receiver; gives what each returned, None of a process that ended itself in it.

    Args:
        device: the kind.
        transport: "collective", "shared" or "host".
        cards: of sender and receiver, by their numbers in this process.
        bucket_bytes: most bytes of one bucket.
        work: a function of a module, or a partial of one.
        deadline_s: of every wait, seconds.

    Raises:
        RuntimeError: one of them failed or did not answer; names it and the cause.
    """
    plan = TransferPlan(transport, ("actor 0", "rollout 0"), bucket_bytes, deadline_s, None)
    context = multiprocessing.get_context("spawn")
    inboxes, outboxes = [context.Queue() for _ in range(2)], [context.Queue() for _ in range(2)]
    processes = [
        context.Process(
            target=_member,
            args=(rank, visible_device(device, cards[rank]), device.name, plan, work, inboxes[rank], outboxes[rank]),
            daemon=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        inboxes[1].put(_said(outboxes[0], processes[0], "the sender", deadline_s))
        answers = (
            _said(outboxes[0], processes[0], "the sender", deadline_s),
            _said(outboxes[1], processes[1], "the receiver", deadline_s),
        )
        for inbox in inboxes:
            inbox.put("done")
        for process in processes:
            process.join(deadline_s)
        return answers
    finally:
        for process in processes:
            process.kill()


def visible_device(device: Device, number: int) -> str | None:
    """What the variable of visible devices must be for a process that shall see this one's device ``number`` only."""
    if device.visible_variable is None:
        return None
    mine = [name for name in os.environ.get(device.visible_variable, "").split(",") if name]
    return mine[number] if mine else str(number)


def _member(
    rank: int, visible: str | None, device_name: str, plan: TransferPlan, work: Work, inbox: Any, outbox: Any
) -> None:
    device = DEVICES[device_name]
    if visible is not None and device.visible_variable is not None:
        os.environ[device.visible_variable] = visible  # before anything looks for devices
    torch.set_num_threads(1)
    try:
        device.set_current()
        if rank == 0:
            group = plan.listen("127.0.0.1", device)
            outbox.put(("endpoint", group.endpoint))
        else:
            group = dial(inbox.get(timeout=2 * plan.timeout_s), rank)
        group.connect()
        outbox.put(("answer", work(device, group, rank == 0)))
        inbox.get(timeout=2 * plan.timeout_s)  # until both are done
        group.close()
    except Exception as error:
        traceback.print_exc()
        outbox.put(("failed", f"{type(error).__name__}: {first_line(error)}"))


def _said(outbox: Any, process: Any, who: str, deadline_s: float) -> Any:
    deadline = time.monotonic() + 2 * deadline_s
    while True:
        ended = process.exitcode  # asked first: what it said before it ended is there then
        try:
            kind, value = outbox.get(timeout=0.5)
        except queue.Empty:
            if ended == 0:
                return None
            if ended is not None:
                raise RuntimeError(f"{who} ended with {ended} and said nothing") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"{who} did not answer within {2 * deadline_s:g} s") from None
            continue
        if kind == "failed":
            raise RuntimeError(f"{who}: {value}")
        return value
