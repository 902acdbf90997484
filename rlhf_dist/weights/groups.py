"""The kinds of transfer, by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlhf_dist.device import CPU, Device
from rlhf_dist.weights.shared import SharedGroup
from rlhf_dist.weights.transport import BroadcastGroup, Endpoint, TransferGroup

_KINDS: dict[str, type[TransferGroup]] = {kind.kind: kind for kind in (BroadcastGroup, SharedGroup)}


@dataclass(frozen=True)
class TransferPlan:
    """How the weights shall go.

    Attributes:
        transport: "collective", "shared" or "host" (the collective of CPUs, through host memory).
        members: names of all ranks: the senders' first. Of a collective or host transfer only one sends.
        bucket_bytes: most bytes of one bucket.
        timeout_s: deadline of every wait, seconds.
        ports: first and last of those the first member may listen at; None: any.
    """

    transport: str
    members: tuple[str, ...]
    bucket_bytes: int
    timeout_s: float
    ports: tuple[int, int] | None

    @property
    def all_send(self) -> bool:
        """Whether each of the actor's workers sends, as opposed to the first one alone."""
        return self.transport == "shared"

    def listen(self, host: str, device: Device) -> TransferGroup:
        """The first member's group; ``host`` is an address of its node."""
        kind = SharedGroup if self.transport == "shared" else BroadcastGroup
        carrier = CPU if self.transport == "host" else device
        return kind.listen(host, self.members, carrier, self.bucket_bytes, self.timeout_s, self.ports)


def dial(endpoint: Endpoint, rank: int, place: torch.device | None = None) -> TransferGroup:
    """Another member's group, of the endpoint's kind; see :meth:`TransferGroup.dial`."""
    return _KINDS[endpoint.kind].dial(endpoint, rank, place)
