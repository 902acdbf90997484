"""Where the output of libraries goes: into log files, beneath Python, so C++ code and child processes too."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_STDOUT, _STDERR = 1, 2
_TAIL_BLOCK = 65_536
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


@contextmanager
def redirect_chatter(path: Path) -> Iterator[TextIO]:
    """Sends all that this process writes to stdout and stderr into ``path`` (appended) until the block ends.

    Yields:
        The real stdout, for the one who may go on writing there: `LiveView(..., stream=terminal)`.
    """
    _flush()
    kept = [os.dup(_STDOUT), os.dup(_STDERR)]
    log = _open_log(path)
    terminal = os.fdopen(os.dup(_STDOUT), "w", encoding="utf-8", errors="replace", buffering=1)
    try:
        os.dup2(log, _STDOUT)
        os.dup2(log, _STDERR)
        yield terminal
    finally:
        _flush()
        terminal.close()
        os.dup2(kept[0], _STDOUT)
        os.dup2(kept[1], _STDERR)
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
