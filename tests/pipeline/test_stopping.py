"""Stopping a run on a terminal of its own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import DEADLINE_S, Workspace
from tests.tiny import write_data, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    place = Workspace(tmp_path)
    write_model(place.root / "model")
    write_data(place.root / "data")
    yield place
    for process in place.started:
        process.kill()


class Terminal:
    """A terminal with a job in its foreground; what the job shows is read as it comes."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"TERM": "xterm"}
        # `setsid --ctty`, as a login does it: Ctrl-C and a hangup then reach all that the job has started.
        self.job = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65_536)
            except OSError:
                return
            self.shown += part.decode(errors="replace")

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """As when its window is closed, or the connection breaks: everybody in the foreground gets SIGHUP, twice."""
        group = os.tcgetpgrp(self._master)
        os.close(self._master)
        os.killpg(group, signal.SIGHUP)


def _eventually(what: str, found: bool | object, terminal: Terminal) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not found():  # type: ignore[operator]
        assert terminal.job.poll() is None and time.monotonic() < deadline, f"no {what}:\n{terminal.shown[-3000:]}"
        time.sleep(0.05)


def test_a_terminal_that_closes_after_a_ctrl_c_leaves_a_checkpoint(place: Workspace) -> None:
    endless = ["sft.max_steps=100000"]  # else a quick machine is through before it is stopped
    terminal = Terminal(place.command("sft", "window", *endless), place.root)
    place.started.append(terminal.job)  # type: ignore[arg-type]
    metrics = place.root / "runs/window/metrics.jsonl"
    _eventually("step", lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, terminal)
    terminal.press_ctrl_c()
    _eventually(
        "answer to Ctrl-C", lambda: "Ctrl-C: stopping after the current step (phase" in terminal.shown, terminal
    )
    terminal.close()
    assert terminal.job.wait(DEADLINE_S) == 130
    done = metrics.read_text().count("\n")
    assert (place.root / f"runs/window/checkpoints/step-{done}/state.json").is_file()
    assert f"stopped after step {done}" in (place.root / "runs/window/logs/driver.log").read_text()

    # Going on with another seed and other data is refused before anything is started or changed.
    def there() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (place.root / "runs/window").rglob("*") if path.is_file()}

    rows = (place.root / "data/sft.jsonl").read_text().splitlines(keepends=True)
    (place.root / "data/fewer.jsonl").write_text("".join(rows[:-1]))
    before = there()
    changed = ["run.resume=auto", "run.overwrite=false", "run.seed=2", "data.path=data/fewer.jsonl", *endless]
    outcome = place.run("sft", "window", *changed, expect=2)
    seed, train, held_out, last = outcome.output.splitlines()[-4:]
    since = f"changed since step-{done}: "
    assert seed == f"{since}run.seed: was 1, is 2"
    assert (
        train.startswith(f"{since}data, train: was {len(rows) - 8} rows (") and f", is {len(rows) - 9} rows (" in train
    )
    assert held_out.startswith(f"{since}data, held out: was 8 rows (")
    assert f"step-{done} was made with something else (3 lines above)" in last and "run.resume_changed=true" in last
    assert there() == before
