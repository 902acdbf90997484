"""Moving what a process holds on its device to host memory and back, while other roles use the device."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from rlhf_dist.device import Device
from rlhf_dist.types import Residency

_SMALL = 1 << 20


class DeviceMemory:
    """All tensors of this process on its device, whichever object holds them.

    A worker's process holds one role and nothing else, so what is to be moved is simply every tensor on the device:
    weights, gradients, optimizer states, and the flat buffers that ZeRO keeps of them at any stage. The storages are
    emptied and filled again under the tensors, which stay what and whose they are, views included. Without an
    accelerator there is nothing to move.

    Args:
        device: this process's.
        weights: gives the tensors that count as the model's weights.
    """

    def __init__(self, device: Device, weights: Callable[[], Iterable[Tensor]]) -> None:
        self._device, self._weights = device, weights
        self._away: dict[int, tuple[torch.UntypedStorage, list[Tensor]]] = {}  # by address: it, its content
        self._weight_ids: set[int] = set()
        self._spare: dict[int, list[Tensor]] = {}  # host buffers by their size: pinning them anew takes long

    def reside(self, to: Residency) -> None:
        """Leaves on the device, or brings back to it, what ``to`` says."""
        if not self._device.is_accelerator:
            return
        self._device.synchronize()  # on all of its streams, of which ZeRO has some of its own
        if to != "all" and not self._away:
            self._weight_ids = {_id(tensor) for tensor in self._weights()}
        if to == "none":
            self._send_away(lambda _: True)
        elif to == "weights":
            self._send_away(lambda storage: storage._cdata not in self._weight_ids)
            self._bring_back(lambda key: key in self._weight_ids)
        else:
            self._bring_back(lambda _: True)
        self._device.synchronize()
        self._device.empty_cache()
        print(f"on the device: {to} ({self._device.memory()['device_allocated'] / 2**20:.1f} MiB)")

    def _send_away(self, which: Callable[[torch.UntypedStorage], bool]) -> None:
        gc.collect()  # rather than to take along what nobody needs
        for storage in device_storages(self._device.name):
            size = storage.nbytes()
            if size and which(storage):
                pieces = [self._host_buffer(piece) for piece in _pieces(size)]
                for here, there in zip(_bytes(storage).split(_pieces(size)), pieces, strict=True):
                    there.copy_(here)
                self._away[storage._cdata] = storage, pieces
        for storage, _ in self._away.values():
            storage.resize_(0)

    def _host_buffer(self, size: int) -> Tensor:
        spare = self._spare.get(size)
        return spare.pop() if spare else torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def _bring_back(self, which: Callable[[int], bool]) -> None:
        for key in [key for key in self._away if which(key)]:
            storage, pieces = self._away.pop(key)
            sizes = [piece.numel() for piece in pieces]
            storage.resize_(sum(sizes))
            for here, there in zip(_bytes(storage).split(sizes), pieces, strict=True):
                here.copy_(there)
                self._spare.setdefault(there.numel(), []).append(there)


def device_storages(device_type: str) -> list[torch.UntypedStorage]:
    """The storages of all tensors of this process on the device, each once."""
    found = {}
    for value in gc.get_objects():
        if not issubclass(type(value), Tensor):
            continue
        for tensor in (value, value.grad if value.is_leaf else None):
            if tensor is not None and tensor.device.type == device_type and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                found[storage._cdata] = storage
    return list(found.values())


def _pieces(size: int) -> list[int]:
    """``size`` as powers of two, and what is left below a MiB: torch rounds pinned memory up to a power of two."""
    pieces = []
    while size >= _SMALL:
        pieces.append(1 << (size.bit_length() - 1))
        size -= pieces[-1]
    return pieces + ([size] if size else [])


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """A storage as a flat tensor ``[nbytes]`` uint8."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
