"""How much of the machine's memory a process takes."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import psutil


def pss_bytes(pid: int) -> int:
    """The proportional set size of a process and its descendants, in bytes.

    A page that several processes have mapped (the code of a library, a weight file, shared memory) counts for each of
    them by its share, so the sizes of all processes of a machine add up to what they take together; resident sizes
    (RSS) count such a page once for each. Processes that end meanwhile count nothing; where the kernel does not tell
    (another user's process, not Linux), the resident size stands for it.

    Raises:
        psutil.NoSuchProcess: there is no process ``pid``.
    """
    process = psutil.Process(pid)
    return sum(map(_own, [process, *process.children(recursive=True)]))


def _own(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except ProcessLookupError:  # it ended while it was read
        return 0
    except OSError:
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def release_freed() -> None:
    """Gives memory that this process has freed back to the system, which glibc would keep for later: milliseconds.

    On the CPU device workers are told to keep what they free, as page faults cost more than it does; after a model was
    loaded or written that is a model's size. Nothing happens where the C library is another one.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
