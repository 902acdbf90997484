"""Weights from the actor's processes to the engines', in a group of their own.

The group shares nothing with the default group of ``torch.distributed``, which the actor's workers and vLLM's use
for themselves. There are two kinds: :class:`BroadcastGroup`, in which the actor's worker 0 is rank 0 and the only
sender, and every process of every engine is a receiver; and `shared.SharedGroup`, in which each worker hands its
weights to the engine's process beside it::

    sender:   group = BroadcastGroup.listen(...); give group.endpoint to the receivers; group.connect(); group.send(...)
    receiver: group = BroadcastGroup.dial(endpoint, rank); group.connect(); for name, tensor in group.receive(...)

Whoever waits for another process does so at a deadline, and the error names the processes that did not come.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, PrefixStore, TCPStore

from rlhf_dist.device import DEVICES, Device
from rlhf_dist.errors import RunError
from rlhf_dist.network import listening_store
from rlhf_dist.weights.packing import Bucket, ParamInfo, plan_buckets, read_slot, write_slot

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BroadcastGroup", "Endpoint", "ParamInfo", "TransferGroup"]


@dataclass(frozen=True)
class Endpoint:
    """Where and how the members of a group meet. Plain values: it travels by pickle or JSON.

    Attributes:
        host: address of the sender's node.
        port: TCP port of the sender's store.
        device: name of the kind of device whose collective carries the buckets. "cpu" works between accelerators
            too, through host memory: for an engine that shares its device with the sender.
        bucket_bytes: most bytes of one broadcast; a larger tensor goes alone.
        timeout_s: deadline of every wait, seconds.
        members: what the ranks are called in errors; the sender that listens is the first.
        kind: "broadcast" or "shared".
        secret: of the group, hexadecimal. It must reach the members by a way that others cannot read, never by the
            store; where memory is shared, what is found in the store counts only with a code made from it.
    """

    host: str
    port: int
    device: str
    bucket_bytes: int
    timeout_s: float
    members: tuple[str, ...]
    kind: str = "broadcast"
    secret: str = field(default="", repr=False)

    @property
    def world_size(self) -> int:
        """Processes in the group, the sender included."""
        return len(self.members)


class TransferGroup:
    """One process's membership in a group of the actor's workers and the engines' processes.

    Every method blocks the calling thread, without holding Python's lock, until the other members have done their
    part, and raises RunError at the deadline or when a member is lost.

    Args:
        endpoint: where the members meet, who they are, and the deadline.
        rank: of this one among them, from 0.
        store: at which they meet, open.
        place: the device for received tensors; None: this process's own, once the group is connected.
    """

    kind: ClassVar[str]

    def __init__(self, endpoint: Endpoint, rank: int, store: TCPStore, place: torch.device | None) -> None:
        self.endpoint = endpoint
        self.rank = rank
        self._open_store: TCPStore | None = store
        self._device = DEVICES[endpoint.device]
        self._place = place
        self._group: Any = None
        self._transfers = 0

    @property
    def _store(self) -> TCPStore:
        assert self._open_store is not None, "the membership was closed"
        return self._open_store

    @property
    def _here(self) -> torch.device:
        """Where received tensors shall lie. :meth:`connect` comes first."""
        assert self._place is not None, "connect comes first"
        return self._place

    @classmethod
    def listen(
        cls,
        host: str,
        members: Sequence[str],
        device: Device,
        bucket_bytes: int,
        timeout_s: float,
        ports: tuple[int, int] | None = None,
    ) -> Self:
        """The first member's membership. Binds a free port and returns at once: ``endpoint`` is for the others.

        Args:
            host: an address of this node that the receivers can reach.
            members: names of all ranks, the sender's first.
            device: the kind whose collective carries the buckets.
            bucket_bytes: most bytes of one broadcast.
            timeout_s: deadline of every wait, seconds.
            ports: first and last of those it may listen at; None: any.
        """
        store = listening_store(host, ports, timeout_s)
        endpoint = Endpoint(
            host, store.port, device.name, bucket_bytes, timeout_s, tuple(members), cls.kind, secrets.token_hex(32)
        )
        return cls(endpoint, 0, store, None)

    @classmethod
    def dial(cls, endpoint: Endpoint, rank: int, place: torch.device | None = None) -> Self:
        """Another member's membership.

        Args:
            endpoint: the sender's.
            rank: this process's, from 1 on.
            place: the device, of the endpoint's kind, that received tensors shall lie on, where this process has
                made it current already; None: the process's first one.

        Raises:
            RunError: nobody listens at the endpoint.
        """
        if not 0 < rank < endpoint.world_size:
            raise ValueError(f"rank {rank} of a group whose others are 1..{endpoint.world_size - 1}")
        try:
            store = TCPStore(
                endpoint.host,
                endpoint.port,
                is_master=False,
                timeout=timedelta(seconds=endpoint.timeout_s),
                wait_for_workers=False,
            )
        except RuntimeError as error:
            raise RunError(
                f"weight transfer: {endpoint.members[rank]} cannot reach {endpoint.members[0]} at "
                f"{endpoint.host}:{endpoint.port} within {endpoint.timeout_s:g} s",
                str(error),
            ) from error
        return cls(endpoint, rank, store, place)

    def connect(self) -> None:
        """Meets all members. Every member must call it, at the same time.

        Raises:
            RunError: names the members that did not come before the deadline.
        """
        raise NotImplementedError

    def send(self, parameters: Sequence[ParamInfo], tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Sends ``tensors``, bit for bit, to the receivers. Returns when this side is done.

        Args:
            parameters: what the receivers were told: the names, dtypes and shapes of ``tensors``, in order.
            tensors: (name, tensor) on any device; each is copied before the next one is taken.

        Raises:
            ValueError: ``tensors`` are not what ``parameters`` say.
            RunError: a member did not come, or was lost on the way.
        """
        raise NotImplementedError

    def receive(self, parameters: Sequence[ParamInfo]) -> Iterator[tuple[str, Tensor]]:
        """Yields the (name, tensor) of one :meth:`send`, as they come in.

        The tensors are views of their bucket, which is freed with the last of them: nothing writes into them later.
        Whoever stops early breaks the group for all.

        Raises:
            RunError: a member did not come, or was lost on the way.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Frees the sockets. The first member should be the last to leave."""
        self._open_store = None

    @property
    def _timeout(self) -> timedelta:
        return timedelta(seconds=self.endpoint.timeout_s)

    def _meet(self, what: str) -> None:
        """Waits until every member is at the same point; then only a crash can keep a broadcast from ending."""
        self._transfers += what == "transfer"
        stage = f"{what}/{self._transfers}"
        keys = {rank: f"{stage}/{rank}" for rank in range(self.endpoint.world_size)}
        try:
            self._store.set(keys[self.rank], "")
            self._store.wait(list(keys.values()), self._timeout)
        except RuntimeError as error:
            raise RunError(self._absence(what, keys), str(error)) from error

    def _absence(self, what: str, keys: dict[int, str]) -> str:
        """Which members did not come, in words."""
        try:
            missing = [self.endpoint.members[rank] for rank, key in keys.items() if not self._store.check([key])]
        except RuntimeError:
            missing = [f"{self.endpoint.members[0]} (its store at {self.endpoint.host}:{self.endpoint.port} is gone)"]
        return (
            f"weight transfer ({what}): {self.endpoint.members[self.rank]} waited up to {self.endpoint.timeout_s:g} s "
            f"for {', '.join(missing) or 'all members'}"
        )


class BroadcastGroup(TransferGroup):
    """Buckets of weights by the device's collective, from the first member to all others."""

    kind = "broadcast"

    def connect(self) -> None:
        """Meets all members, then builds the collective library's group over them. RunError where that fails."""
        self._meet("join")
        if self._place is None:
            self._device.set_current()
            self._place = self._device.torch_device()
        store = PrefixStore("group", self._store)
        try:
            self._group = self._device.process_group(store, self.rank, self.endpoint.world_size, self._timeout)
        except RuntimeError as error:
            raise RunError(
                f"weight transfer: {self.endpoint.members[self.rank]} cannot build the group over "
                f"{self._device.collective} with {', '.join(self.endpoint.members)}",
                str(error),
            ) from error

    def send(self, parameters: Sequence[ParamInfo], tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Broadcasts ``tensors`` bucket by bucket, see :meth:`TransferGroup.send`; one bucket at a time is held."""
        with self._transfer():
            stream = iter(tensors)
            for number, bucket in enumerate(plan_buckets(parameters, self.endpoint.bucket_bytes)):
                buffer = bucket.allocate(self._here)
                for info, offset in bucket.slots:
                    write_slot(buffer, offset, next_tensor(stream, info))
                self._broadcast(buffer, number)
                del buffer  # before the next one is allocated
            # Runs the stream to its end, so that a source's last gather is closed on every rank.
            extra = next(stream, None)
            if extra is not None:
                raise ValueError(f"weight transfer: {extra[0]} was not announced")

    def receive(self, parameters: Sequence[ParamInfo]) -> Iterator[tuple[str, Tensor]]:
        """Yields what comes by the broadcasts, see :meth:`TransferGroup.receive`."""
        with self._transfer():
            for number, bucket in enumerate(plan_buckets(parameters, self.endpoint.bucket_bytes)):
                yield from self._receive_bucket(bucket, number)

    def close(self) -> None:
        """Leaves the group and frees its sockets."""
        if self._group is not None:
            self._group.shutdown()
        self._group = None
        super().close()

    @contextmanager
    def _transfer(self) -> Iterator[None]:
        """One transfer. When this member fails in it, the others fail at once too, not at their deadline."""
        if self._group is None:
            raise RuntimeError("connect() comes before a transfer, and a broken group cannot be used again")
        try:
            self._meet("transfer")
            yield
        except BaseException:
            self._group.abort()
            self._group = None
            raise

    def _receive_bucket(self, bucket: Bucket, number: int) -> Iterator[tuple[str, Tensor]]:
        # A function of its own, so that no local name holds the bucket while the next one is allocated.
        buffer = bucket.allocate(self._here)
        self._broadcast(buffer, number)
        for info, offset in bucket.slots:
            yield info.name, read_slot(buffer, offset, info)

    def _broadcast(self, buffer: Tensor, number: int) -> None:
        """Sends or receives ``buffer`` ([N] uint8), and notes in the store that this member has done so."""
        options = BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        try:
            self._group.broadcast([buffer], options).wait()
            self._device.synchronize()
            self._store.set(f"progress/{self.rank}", f"{self._transfers}:{number}")
        except RuntimeError as error:
            raise RunError(self._failure(number), str(error)) from error

    def _failure(self, number: int) -> str:
        """How far each member came in a transfer that broke, in words."""
        wanted = f"{self._transfers}:{number}"
        try:
            behind = [
                name
                for rank, name in enumerate(self.endpoint.members)
                if rank != self.rank and not self._has_reached(rank, number)
            ]
        except RuntimeError:
            behind = [f"{self.endpoint.members[0]} (its store is gone)"]
        return (
            f"weight transfer {wanted.split(':')[0]}, bucket {number}: interrupted at "
            f"{self.endpoint.members[self.rank]}; members that had not finished it: {', '.join(behind) or 'none'}"
        )

    def _has_reached(self, rank: int, number: int) -> bool:
        key = f"progress/{rank}"
        if not self._store.check([key]):
            return False
        transfer, bucket = self._store.get(key).decode().split(":")
        return (int(transfer), int(bucket)) >= (self._transfers, number)


def next_tensor(stream: Iterator[tuple[str, Tensor]], info: ParamInfo) -> Tensor:
    """The next tensor of ``stream``, whose name, dtype and shape must be those of ``info``. ValueError otherwise."""
    found = next(stream, None)
    if found is None:
        raise ValueError(f"weight transfer: {info.name} was announced and did not come")
    given = ParamInfo.of(*found)
    if given != info:
        raise ValueError(f"weight transfer: announced {info}, got {given}")
    return found[1]
