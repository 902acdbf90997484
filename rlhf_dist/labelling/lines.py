"""A JSONL file that only grows, written by one process at a time: a line is on the disk when it is acknowledged."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from rlhf_dist.data.records import Record, read_records
from rlhf_dist.durable import sync_folder
from rlhf_dist.errors import UserError


class LineLog:
    """Such a file, open and locked. What a killed writer left half written is cut off when it is opened.

    Args:
        path: made if it is not there, with its folder.

    Raises:
        UserError: the file cannot be written, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(
                f"{path}: another process writes to it; wait for its end, or choose another file"
            ) from error
        self._cut_torn_line()
        sync_folder(path.parent)

    def rows(self) -> list[Record]:
        """What stands in the file. UserError where a line is no object."""
        return read_records(str(self.path), "train", growing=True)

    def append(self, *rows: Mapping[str, object]) -> None:
        """Writes a line for each row, and brings them to the disk.

        Raises:
            OSError: the disk is full, or gone; nothing of the rows is in the file then.
        """
        size = self._size()
        lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise

    def clear(self) -> None:
        """Empties the file."""
        os.ftruncate(self._file.fileno(), 0)

    def close(self) -> None:
        """Gives the file free for other processes."""
        self._file.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _cut_torn_line(self) -> None:
        end = size = self._size()
        while end and (block := os.pread(self._file.fileno(), min(end, 1 << 16), max(0, end - (1 << 16)))):
            newline = block.rfind(b"\n")
            if newline >= 0:
                end += newline + 1 - len(block)
                break
            end -= len(block)
        if end < size:
            os.ftruncate(self._file.fileno(), end)
