"""The errors a user can meet, and the exit code each ends the program with."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in config or data. Its text is one line: what, where, and what to do. Exit code 2."""

    exit_code = 2


class ClusterError(Exception):
    """The cluster cannot hold the job. Its text names the missing resource. Exit code 3."""

    exit_code = 3


class RunError(Exception):
    """The run failed after it had started: a worker died, a deadline passed, a reward was NaN. Exit code 1.

    Its text is the cause, in one line; ``detail`` may hold what the worker printed last.
    """

    exit_code = 1

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class StoppedByUser(Exception):
    """Ctrl-C or SIGTERM, after the checkpoint was written. Exit code 130."""

    exit_code = 130
