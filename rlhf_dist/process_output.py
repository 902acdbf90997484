"""Where the output of libraries goes: into log files, beneath Python, so C++ code and child processes too."""

from __future__ import annotations

import io
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT, _STDERR = 1, 2
_TAIL_BLOCK = 65_536
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


class _Terminal(io.FileIO):
    """Writes that nobody is there to read any more go nowhere: a terminal that was closed does not end a run."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _is_gone(descriptor: int) -> bool:
    """Whether the terminal or the reader of a pipe behind ``descriptor`` has gone."""
    poll = select.poll()
    poll.register(descriptor, 0)  # these two are told unasked
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


@contextmanager
def redirect_output(path: Path) -> Iterator[TextIO]:
    """Sends all that this process writes to stdout and stderr into ``path`` (appended) until the block ends.

    Where the terminal has been closed meanwhile, the output stays in the log.

    Yields:
        The real stdout, for the one who may go on writing there: `LiveView(..., stream=terminal)`. A terminal that is
        closed, or a pipe whose reader is gone, swallows what is written to it.
    """
    _flush()
    kept = [os.dup(_STDOUT), os.dup(_STDERR)]
    log = _open_log(path)
    out = io.BufferedWriter(_Terminal(os.dup(_STDOUT), "w"))
    terminal = io.TextIOWrapper(out, encoding="utf-8", errors="replace", line_buffering=True)
    try:
        os.dup2(log, _STDOUT)
        os.dup2(log, _STDERR)
        yield terminal
    finally:
        _flush()
        terminal.close()
        for descriptor, number in zip(kept, (_STDOUT, _STDERR), strict=True):
            if not _is_gone(descriptor):
                os.dup2(descriptor, number)
        for descriptor in (*kept, log):
            os.close(descriptor)


def redirect_process_output(path: Path) -> None:
    """Sends stdout and stderr of this process, a worker, into ``path`` (appended) for good, line by line."""
    _flush()
    log = _open_log(path)
    os.dup2(log, _STDOUT)
    os.dup2(log, _STDERR)
    os.close(log)
    sys.stdout = os.fdopen(_STDOUT, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.stderr = os.fdopen(_STDERR, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def tail(path: Path, lines: int = 20) -> str:
    """The last ``lines`` lines of a log that hold text, without colours and overwritten progress; "" without a log."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TAIL_BLOCK, 0))
        text = file.read().decode("utf-8", errors="replace")
    shown = [_ANSI.sub("", line).rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join([line for line in shown if line][-lines:])
