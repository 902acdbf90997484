"""Weights through memory that two processes of a node share: from each actor worker to the engine's process beside it.

For roles that live on the same devices, where a collective has no place: NCCL refuses two ranks on one device. Every
actor worker has one buffer, and fills it bucket after bucket; the process of the engine that has the same device
copies each bucket out. On CUDA the buffer lies on the device (CUDA IPC), elsewhere in the node's memory.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from rlhf_dist.errors import RunError
from rlhf_dist.weights.packing import ParamInfo, plan_buckets, read_slot, write_slot
from rlhf_dist.weights.transport import TransferGroup, next_tensor

_CODE_LENGTH = 64  # hexadecimal digits of an HMAC-SHA256


class SharedGroup(TransferGroup):
    """Pairs of a sender and a receiver: the first half of the members send, each to the one as far into the second.

    The store of the first member carries handles and signals only. It has no authentication, so each of them comes with
    a code that only the members can make, and for its transfer only: whoever else reaches the store can neither name
    memory to a receiver nor have it read too early.
    """

    kind = "shared"

    @property
    def _pair(self) -> int:
        return self.rank % (self.endpoint.world_size // 2)

    @property
    def _partner(self) -> int:
        return (self.rank + self.endpoint.world_size // 2) % self.endpoint.world_size

    def connect(self) -> None:
        """Meets all members. ValueError where not as many send as receive."""
        if self.endpoint.world_size % 2:
            raise ValueError(f"{', '.join(self.endpoint.members)}: as many must send as receive")
        self._meet("join")
        if self._place is None:
            self._device.set_current()
            self._place = self._device.torch_device()

    def send(self, parameters: Sequence[ParamInfo], tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Fills the shared buffer with one bucket after another, each once the partner has copied the one before."""
        self._meet("transfer")
        buckets, stream = plan_buckets(parameters, self.endpoint.bucket_bytes), iter(tensors)
        buffer, handle = self._device.shared_buffer(max(bucket.nbytes for bucket in buckets))
        try:
            self._tell("handle", json.dumps(handle))
            for number, bucket in enumerate(buckets):
                tensors_of_bucket = [next_tensor(stream, info) for info, _ in bucket.slots]
                if number:
                    self._await(f"taken/{number - 1}")
                for (_, offset), tensor in zip(bucket.slots, tensors_of_bucket, strict=True):
                    write_slot(buffer, offset, tensor)
                self._device.synchronize()
                self._tell(f"filled/{number}")
            self._await(f"taken/{len(buckets) - 1}")
        finally:
            self._device.free_shared(handle)
        extra = next(stream, None)
        if extra is not None:
            raise ValueError(f"weight transfer: {extra[0]} was not announced")

    def receive(self, parameters: Sequence[ParamInfo]) -> Iterator[tuple[str, Tensor]]:
        """Yields the tensors of each bucket that the partner has filled, from a copy of this process's own."""
        self._meet("transfer")
        buffer = self._device.open_shared(json.loads(self._await("handle")), self._here)
        buckets = plan_buckets(parameters, self.endpoint.bucket_bytes)
        for number, bucket in enumerate(buckets):
            self._await(f"filled/{number}")
            own = buffer[: bucket.nbytes].to(self._here, copy=True)
            self._device.synchronize()
            if number == len(buckets) - 1:
                del buffer  # before the sender frees it: memory that somebody has open stays taken
            self._tell(f"taken/{number}")
            for info, offset in bucket.slots:
                yield info.name, read_slot(own, offset, info)
            del own  # before the next one is copied

    def _key(self, what: str) -> str:
        return f"{self._transfers}/{self._pair}/{what}"

    def _tell(self, what: str, content: str = "") -> None:
        """Sends the partner a signal, with ``content``."""
        self._store.set(self._key(what), self._code(what, content) + content)

    def _code(self, what: str, content: str) -> str:
        """What shows that a member sent ``content`` as this pair's signal ``what`` of this transfer."""
        secret, message = bytes.fromhex(self.endpoint.secret), f"{self._key(what)} {content}"
        return hmac.new(secret, message.encode(), "sha256").hexdigest()

    def _await(self, what: str) -> str:
        """Waits for the partner's signal, takes it away, and returns what it carries.

        Raises:
            RunError: it did not come, or is not of the partner's making.
        """
        key: Any = self._key(what)
        try:
            self._store.wait([key], self._timeout)
            signal = self._store.get(key).decode(errors="replace")
            self._store.delete_key(key)
        except RuntimeError as error:
            raise RunError(
                f"weight transfer {self._transfers}: {self.endpoint.members[self.rank]} waited up to "
                f"{self.endpoint.timeout_s:g} s for {self.endpoint.members[self._partner]} ({what})",
                str(error),
            ) from error
        code, content = signal[:_CODE_LENGTH], signal[_CODE_LENGTH:]
        if not hmac.compare_digest(code.encode(), self._code(what, content).encode()):
            raise RunError(
                f"weight transfer {self._transfers}: the message that {self.endpoint.members[self.rank]} found at "
                f"{self.endpoint.host}:{self.endpoint.port} ({what}) was not written by "
                f"{self.endpoint.members[self._partner]}: another process writes to this run's store"
            )
        return content
