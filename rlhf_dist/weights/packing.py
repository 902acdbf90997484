"""How the tensors of a model lie in the flat buckets of a broadcast: both sides compute it from the same manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

# A typed view of a byte buffer must start at a multiple of its item size; no dtype is wider than 16 bytes.
ALIGNMENT = 16


@dataclass(frozen=True)
class ParamInfo:
    """One tensor of a transfer.

    Attributes:
        name: as in a Hugging Face checkpoint of the model.
        dtype: torch's name of it on the wire, without the ``torch.``, as in ``"float32"``.
        shape: full, unsharded.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> ParamInfo:
        """The entry of ``tensor``, of any shape and dtype, under ``name``."""
        return cls(name, dtype_name(tensor.dtype), tuple(tensor.shape))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself. TypeError if torch has none of that name."""
        dtype = getattr(torch, self.dtype)
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{self.name}: {self.dtype!r} is no dtype of torch")
        return dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return prod(self.shape) * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Bucket:
    """One flat buffer of a broadcast.

    Attributes:
        slots: each tensor in it, with the byte it starts at.
        nbytes: length of the buffer.
    """

    slots: tuple[tuple[ParamInfo, int], ...]
    nbytes: int

    def allocate(self, device: torch.device) -> Tensor:
        """An uninitialized buffer for the bucket, ``[nbytes]`` uint8."""
        return torch.empty(self.nbytes, dtype=torch.uint8, device=device)


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def plan_buckets(parameters: Sequence[ParamInfo], bucket_bytes: int) -> list[Bucket]:
    """Packs ``parameters``, in their order, into buckets of at most ``bucket_bytes``.

    A tensor larger than that has a bucket of its own.
    """
    buckets: list[Bucket] = []
    slots: list[tuple[ParamInfo, int]] = []
    end = 0
    for info in parameters:
        start = _aligned(end)
        if slots and start + info.nbytes > bucket_bytes:
            buckets.append(Bucket(tuple(slots), end))
            slots, start = [], 0
        slots.append((info, start))
        end = start + info.nbytes
    if slots:
        buckets.append(Bucket(tuple(slots), end))
    return buckets


def write_slot(buffer: Tensor, offset: int, tensor: Tensor) -> None:
    """Copies the bytes of ``tensor`` (any shape, dtype, device) into ``buffer`` ([N] uint8) from ``offset`` on."""
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    buffer[offset : offset + flat.numel()].copy_(flat)


def read_slot(buffer: Tensor, offset: int, info: ParamInfo) -> Tensor:
    """The tensor of ``info`` that starts at byte ``offset`` of ``buffer`` (``[N]`` uint8).

    It has the shape and dtype of ``info``, and is a view, which keeps the buffer alive.
    """
    return buffer[offset : offset + info.nbytes].view(info.torch_dtype).view(info.shape)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
