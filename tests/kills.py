"""A process that ends, as kill -9 ends it, just before any one change that it makes to the file system."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from unittest import mock

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate", "os.link"}
_KILLED = 77


def killed_at_every_change(prepare: Callable[[], None], work: Callable[[], None], check: Callable[[], None]) -> int:
    """Prepares, works in a child process that ends before its first change, and checks what it left; then the same for
    its second change, and so on, until the work gets through. Returns how many changes there were.

    Renaming, deleting, making and opening for writing are changes. Nothing is synced: the disk would take most of the
    time, and what the kernel was given outlives a process that is killed.
    """
    with mock.patch("os.fsync"):
        for last in range(1, 1000):
            prepare()
            code = _work_until(last, work)
            assert code in (0, _KILLED), f"the work failed in its child: exit code {code}"
            check()
            if code == 0:
                return last - 1
    raise AssertionError("the work never got through")


def _work_until(last: int, work: Callable[[], None]) -> int:
    """The exit code of a child that works, and ends before change number ``last``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = last

    def count(event: str, args: tuple) -> None:
        nonlocal left
        writing = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writing:
            left -= 1
            if left == 0:
                os._exit(_KILLED)

    try:
        sys.addaudithook(count)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
