"""Secrets planted wherever one can stand in a job, and the search for them in everything that the job leaves behind."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Plants:
    """The secrets of one job, each a word that stands nowhere else.

    Attributes:
        environment: those in the environment of the launcher, by their variables' names.
        written: of a variable whose value is written into the recipe.
        query: of an endpoint's URL, in the recipe too.
        session: folder of the job's Ray session.
        seen: command lines of the machine that showed one of them.
        looks: how often these were looked through.
    """

    environment: dict[str, str]
    written: str
    query: str
    session: Path
    seen: set[str] = field(default_factory=set)
    looks: int = 0

    @property
    def all(self) -> dict[str, str]:
        return self.environment | {"written": self.written, "query": self.query}

    def found_in(self, *folders: Path) -> list[tuple[str, Path]]:
        """Which of the secrets stand in which files."""
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        contents = {path: path.read_bytes() for path in files}
        return [
            (name, path)
            for path, content in contents.items()
            for name, secret in self.all.items()
            if secret.encode() in content
        ]

    def watch(self, stop: threading.Event) -> None:
        """Looks through the command lines of all processes, again and again."""
        words = [secret.encode() for secret in self.all.values()]
        while not stop.wait(0.1):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if any(word in line for word in words):
                    self.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))


@contextmanager
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plants]:
    """Sets the environment of jobs that are started now, and watches the process list meanwhile."""
    names = ("REWARD_TOKEN", "FROM_HERE", "HF_TOKEN", "RAY_AUTH_TOKEN")
    session = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # a short name, as Ray's sockets need it
    plants = Plants(
        {name: secrets.token_hex(16) for name in names}, secrets.token_hex(16), secrets.token_hex(16), session
    )
    for name, secret in plants.environment.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_TMPDIR", str(session))
    stop = threading.Event()
    watcher = threading.Thread(target=plants.watch, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield plants
    finally:
        stop.set()
        watcher.join()
        shutil.rmtree(session, ignore_errors=True)
