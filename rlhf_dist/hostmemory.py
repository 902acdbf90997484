"""Host memory that two processes of a node share, without a name that others could meet it by, or that could stay.

It is the kernel's anonymous memory (memfd), which ends with the last process that has it open, however these end. The
other process opens it through ``/proc/PID/fd/N`` of the one that made it: both must run under the same user and see
each other's process ids, as the workers of one Ray node do.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_dist.errors import RunError, UserError

if TYPE_CHECKING:
    import torch

Handle: TypeAlias = dict[str, Any]  # what tells another process where a buffer is; it goes through Ray

# Its size is final: nobody can cut it under the feet of a process that has it mapped.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def share(nbytes: int) -> tuple[torch.Tensor, Handle]:
    """A buffer ``[nbytes]`` uint8, and the handle by which another process may :func:`open_shared` it.

    It can be opened until :func:`release`; who has it open keeps it.

    Raises:
        UserError: there is no room.
    """
    size = max(nbytes, 1)
    descriptor = os.memfd_create("rlhf_dist-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)  # here, and not as a bus error when it is written to
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        buffer = _mapped(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOSPC, errno.ENOMEM):
            raise UserError(
                f"no room for {nbytes / 2**20:.0f} MiB of shared memory: lower weights.bucket_mb, or give the machine "
                "or container more memory"
            ) from error
        raise
    return buffer[:nbytes], {"pid": os.getpid(), "descriptor": descriptor, "nbytes": nbytes}


def open_shared(handle: Handle) -> torch.Tensor:
    """The buffer of another process' :func:`share`, by its handle.

    Raises:
        RunError: it is not there, or is something else than such a buffer, as a file of the user's.
    """
    path, nbytes = f"/proc/{int(handle['pid'])}/fd/{int(handle['descriptor'])}", int(handle["nbytes"])
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RunError(
            f"the memory that process {handle['pid']} shares cannot be opened: {error.strerror}. Both processes must "
            "be of one user and one container: set weights.transport=host where they are not"
        ) from error
    try:
        _check(descriptor, nbytes)
        return _mapped(descriptor, max(nbytes, 1))[:nbytes]
    finally:
        os.close(descriptor)  # the mapping keeps the memory


def release(handle: Handle) -> None:
    """Ends the time in which a buffer of this process can be opened."""
    os.close(handle["descriptor"])


def _check(descriptor: int, nbytes: int) -> None:
    found = os.fstat(descriptor)
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # no file of a disk has any
        seals = 0
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or seals & _SEALS != _SEALS or found.st_size != max(nbytes, 1):
        raise RunError("the descriptor offered as shared memory is something else, and was not opened")


def _mapped(descriptor: int, size: int) -> torch.Tensor:
    import torch

    return torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)  # which keeps the mapping alive
