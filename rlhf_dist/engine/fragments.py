"""Tensors on disk in pieces: safetensors files whose entries say which part of which parameter they are.

A file's entry is called ``name[start:end]`` and holds those elements of the flattened parameter, so that whoever holds
a part can write it without asking the others, and whoever needs a part can read it, however the parts were cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf_dist.errors import UserError

FILE_BYTES = 2**30  # of a file, and of what is copied off a device at a time
_ENTRY = re.compile(r"(.+)\[(\d+):(\d+)\]")


def write_fragments(
    folder: Path, kind: str, rank: int, world: int, parts: Iterable[tuple[str, int, Tensor]], limit: int = FILE_BYTES
) -> None:
    """Writes this worker's parts as ``<kind>-<rank>-of-<world>-<number>.safetensors``.

    Args:
        folder: is there.
        kind: what they are parts of: weights, exp_avg, ...
        rank: this worker's.
        world: number of workers.
        parts: a parameter's name, where the part begins in the flattened parameter, and the part, 1-D.
        limit: most bytes of a file, unless a single part is larger.
    """
    held: dict[str, Tensor] = {}
    size = number = 0
    for name, start, part in parts:
        for offset in range(0, part.numel(), step := max(limit // part.element_size(), 1)):
            piece = part[offset : offset + step]
            if held and size + piece.nbytes > limit:
                save_file(held, folder / _file_name(kind, rank, world, number))
                held, size, number = {}, 0, number + 1
            first = start + offset
            held[f"{name}[{first}:{first + piece.numel()}]"] = piece.detach().contiguous().cpu()
            size += piece.nbytes
    if held:
        save_file(held, folder / _file_name(kind, rank, world, number))


def _file_name(kind: str, rank: int, world: int, number: int) -> str:
    return f"{kind}-{rank:05d}-of-{world:05d}-{number:03d}.safetensors"


class Fragments:
    """Reads what :func:`write_fragments` wrote, any part of any parameter.

    Args:
        folder: where the files are.
        kind: which of them.

    Raises:
        UserError: a file is no safetensors file.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self.kind = folder, kind
        self._parts: dict[str, list[tuple[int, int, Path]]] = {}
        for path in sorted(folder.glob(f"{kind}-*-of-*-*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    entries = list(file.keys())
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
            for entry in entries:
                match = _ENTRY.fullmatch(entry)
                if match is None:
                    raise UserError(f"{path} is damaged: it has an entry {entry!r}")
                self._parts.setdefault(match[1], []).append((int(match[2]), int(match[3]), path))
        for parts in self._parts.values():
            parts.sort()

    @property
    def names(self) -> set[str]:
        """The parameters of which there is anything."""
        return set(self._parts)

    def check(self, numels: Mapping[str, int]) -> None:
        """UserError unless every parameter is there to its last element.

        Args:
            numels: number of elements of each parameter, by its name.
        """
        for name, numel in numels.items():
            reached = 0
            for start, end, _ in self._parts.get(name, []):
                if start > reached:
                    break
                reached = max(reached, end)
            if reached != numel:
                raise UserError(
                    f"{self._folder} is damaged: {self.kind} {name} is incomplete (expected {numel} elements)"
                )

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements ``[start, start + count)`` of a flattened parameter, in host memory. :meth:`check` comes first."""
        if count == 0:
            return torch.zeros(0)
        end, reached, pieces = start + count, start, []
        for first, last, path in self._parts[name]:
            if first <= reached < min(last, end):
                with safe_open(path, framework="pt") as file:
                    part = file.get_slice(f"{name}[{first}:{last}]")
                    pieces.append(part[reached - first : min(last, end) - first])
                reached = min(last, end)
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces)
