"""Ownership of a run's directory: one process at a time, also on a disk that several hosts share.

The owner is whoever made the lock file of the highest number, `lock-N`, in the run's directory. A file system makes a
name only once, so of two that want the same number one gets it. The owner writes into its file every few seconds. One
whose process is known to be gone, or that has been silent for long, is taken over: the taker makes the next number,
then deletes the file of the old owner, which looks for its own file before it writes anything, and stops without it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_dist.errors import RunError, UserError

if TYPE_CHECKING:
    from typing_extensions import Self

BEAT_S = 5.0  # between two signs of life
SILENT_S = 60.0  # after which an owner of whom nothing else is known counts as gone
_NAME = re.compile(r"lock-(\d+)")
_WIDTH = 20  # digits of the beat, so that it is written in place


class LockLost(RunError):
    """Another process has taken the run over, so this one must not write into its directory any more. Exit code 1."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        host: its name.
        space: boot and process namespace that ``pid`` counts in; "" where the system does not tell.
        pid: process id.
        started: of the process, clock ticks after boot; 0 where the system does not tell.
        since: when it took the lock, for people.
        token: random.
    """

    host: str
    space: str
    pid: int
    started: int
    since: str
    token: str

    @classmethod
    def myself(cls) -> Owner:
        """This process, with a new token."""
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        pid = os.getpid()
        return cls(socket.gethostname(), _process_space(), pid, _start_of(pid) or 0, since, secrets.token_hex(8))

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended. Of one that this process cannot see, nothing is known."""
        return self.is_near and _start_of(self.pid) not in (self.started, 0)

    @property
    def is_near(self) -> bool:
        """Whether this process can see its process, if that is alive."""
        return self.space != "" and self.space == _process_space()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def is_lock(name: str) -> bool:
    """Whether a file of a run's directory is one of its locks."""
    return _NAME.fullmatch(name) is not None


class RunLock:
    """Ownership of a run's directory while entered.

    Args:
        folder: of the run; made where it is missing, and removed at the end if nothing else came into it.
        beat_s: seconds between two signs of life.
        silent_s: seconds without one after which another owner counts as gone; several beats.
        tell: called with a line for the user where this takes time.

    Raises:
        UserError: on entering, the run has a living owner; it is named.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat_s: float = BEAT_S,
        silent_s: float = SILENT_S,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._beat_s, self._silent_s, self._tell = folder, beat_s, silent_s, tell
        self._me = Owner.myself()
        self._path: Path | None = None
        self._told = False
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="run-lock", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while self._path is None:
                self._try_to_own()
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be created ({error.strerror}); choose another run.dir") from error
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._heart.join(self._silent_s)  # a disk that does not answer holds nobody up for longer
        if self.is_held():
            assert self._path is not None
            self._path.unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def is_held(self) -> bool:
        """Whether this process is still the owner, as far as the disk answers."""
        if self._path is None:
            return False
        try:
            return self._me.token in self._path.read_text(encoding="utf-8")
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ESTALE)

    def check(self) -> None:
        """Passes for the owner. Call it before anything is written.

        Raises:
            LockLost: another process has taken over, or somebody has removed the run.
        """
        if self.is_held():
            return
        numbers = _numbers(self._folder) if self._folder.is_dir() else []
        taker = _read(_file(self._folder, numbers[-1]))[0] if numbers else None
        what = "is no longer this process's: its lock is gone" if taker is None else f"was taken over by {taker}"
        raise LockLost(f"{self._folder} {what}; this run stops, and writes nothing more")

    def _try_to_own(self) -> None:
        """Takes the lock where nobody living has it; does nothing where somebody else was faster."""
        numbers = _numbers(self._folder)
        if numbers and not self._has_no_owner(_file(self._folder, numbers[-1])):
            return
        path = _file(self._folder, numbers[-1] + 1 if numbers else 1)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(f"{0:{_WIDTH}d}\n{json.dumps(asdict(self._me))}\n")
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return
        if {_file(self._folder, number) for number in (set(_numbers(self._folder)) - set(numbers))} != {path}:
            path.unlink()  # two at once, after an owner who has left: both step back and look again
            time.sleep(secrets.randbelow(100) / 1000)
            return
        for number in numbers:
            _file(self._folder, number).unlink(missing_ok=True)
        self._path = path

    def _has_no_owner(self, path: Path) -> bool:
        """Waits until the owner is known to be gone, or has been silent for long. False where the lock was given back.

        How long is measured by this process's own clock, or by the clock of the file system alone: the clocks of two
        hosts are never compared.
        """
        first, started = _read(path), time.monotonic()
        while path.exists():
            owner, beat = _read(path)
            if owner is not None and owner.is_gone:
                return True
            if owner is not None and (owner.is_near or (owner, beat) != first):
                raise UserError(
                    f"{self._folder} belongs to a run that is still active ({owner}): stop that one first, or "
                    "choose another run.name"
                )
            if self._age(path) >= self._silent_s or time.monotonic() - started >= self._silent_s:
                return True
            if (owner, beat) == first and not self._told:
                self._tell(
                    f"{self._folder}: waiting up to {self._silent_s:g} s for a sign of life of its owner ({owner})"
                )
                self._told = True
            time.sleep(self._beat_s / 5)
        return False

    def _age(self, path: Path) -> float:
        """Seconds since the file was last written, by the file system's own clock."""
        probe = self._folder / f"lock.{self._me.token}.now"
        try:
            probe.write_bytes(b"")
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Writes a rising number into the lock's own file, whoever's the name may be by now."""
        assert self._path is not None
        count = 0
        while not self._stop.wait(self._beat_s):
            count += 1
            try:
                if not self.is_held():
                    return
                with self._path.open("r+b") as file:
                    file.write(f"{count:{_WIDTH}d}".encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:  # a full disk, or a share that is away for the moment: the next beat tries again
                continue


def _file(folder: Path, number: int) -> Path:
    return folder / f"lock-{number}"


def _numbers(folder: Path) -> list[int]:
    """Of the lock files in ``folder``, rising."""
    found = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _read(path: Path) -> tuple[Owner | None, str]:
    """The owner that a lock file names, None where it names none; and the beat."""
    try:
        beat, _, owner = path.read_text(encoding="utf-8").partition("\n")
        return Owner(**json.loads(owner)), beat
    except (OSError, ValueError, TypeError):
        return None, ""


def _process_space() -> str:
    """What two processes must have in common for the one to know the other by its pid: the boot and the namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> int | None:
    """When the process ``pid`` began, clock ticks after boot; None where there is none, or only its remains; 0 where
    there is one that this user may not look at."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if _is_free(pid) else 0
    return None if fields[0] in "ZX" else int(fields[19])


def _is_free(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
