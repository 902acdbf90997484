"""A process that has the workers' libraries imported, and forks a worker whenever Ray wants one.

Importing torch and transformers takes each worker seconds of CPU, which on a small machine is most of a
short run. So where a run starts a Ray cluster of its own on a CPU, it also starts one process that imports them once,
while Ray itself comes up (`fork_worker.py`). Ray then starts workers by its `py_executable`, here `fork_client.py`: a
few lines that need only the standard library, which hand arguments, environment and open files to that process, and
live as long as the child that it forks for them. The child is a Ray worker like any other: it runs the script that Ray
named, and Ray knows it by its own pid.

Nothing is forked for accelerators: their runtimes do not survive a fork, and cores are many there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlhf_dist.errors import RunError

_START_S = 300.0  # for the imports, on a slow disk
_POLL_S = 0.02


class ForkServer:
    """The process, from the driver's side. It ends with :meth:`close`, or with the driver itself.

    Args:
        env: environment variables of the process: those that libraries read while they are loaded.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rlhf-dist-")  # a socket's path may have 100 characters
        self._socket = Path(self._folder.name) / "fork.sock"
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlhf_dist.cluster.fork_worker", str(self._socket)],
                stdin=subprocess.PIPE,  # whose end is the end
                stdout=output,
                stderr=output,
                env=os.environ | env,
                start_new_session=True,  # Ctrl-C, and a terminal that closes, are the driver's business
            )

    @property
    def py_executable(self) -> str:
        """The command by which Ray starts a worker.

        Raises:
            RunError: the process has ended, or is not ready in time; with what it printed.
        """
        self._wait()
        client = Path(__file__).with_name("fork_client.py")
        return shlex.join([sys.executable, "-ISE", str(client), str(self._socket)])  # a shell reads it

    def _wait(self) -> None:
        """Returns once the process listens: before that, clients would find nobody."""
        deadline = time.monotonic() + _START_S
        while not self._socket.exists():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"is not ready within {_START_S:g} s"
                raise RunError(
                    f"the process that forks workers {what}; cluster.fork_workers=false runs without it",
                    self._log.read_text(errors="replace"),
                )
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Ends the process, whatever it is doing. Workers that it has forked live on."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()
