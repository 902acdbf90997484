"""The errors a user can meet, and the exit code each ends the program with."""

from __future__ import annotations

_LONGEST = 2000  # characters of a line: a key or a text of the user's may be of any length


def one_line(text: str) -> str:
    """``text`` as one line that any terminal can show: what is not printable is written as Python writes it."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "..."


class UserError(Exception):
    """A mistake in config or data. Its text is one line: what, where, and what to do. Exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ClusterError(Exception):
    """The cluster cannot hold the job. Its text names the missing resource. Exit code 3."""

    exit_code = 3


class RunError(Exception):
    """The run failed after it had started: a worker died, a deadline passed, a reward was NaN. Exit code 1.

    Its text is the cause, in one line; ``detail`` may hold what the worker printed last.
    """

    exit_code = 1

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(one_line(message))
        self.detail = detail


class MemoryRanOut(RunError):
    """A worker was killed, since the memory of its node ran out.

    ``roles`` is what each role took there, in bytes, the largest first; ``total`` is the node's memory in bytes.
    """

    def __init__(self, message: str, detail: str, roles: dict[str, int], total: int) -> None:
        super().__init__(message, detail)
        self.roles, self.total = roles, total


class StoppedByUser(Exception):
    """Ctrl-C or SIGTERM, after the checkpoint was written. Exit code 130."""

    exit_code = 130
