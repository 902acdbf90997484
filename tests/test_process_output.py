"""Library output: all of it into the log, none of it on the terminal, and everything as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlhf_dist.process_output import tail

_WRITE_LINES = """
def write_lines():
    print("from print")
    logging.warning("from logging")
    warnings.warn("from warnings")
    os.write(1, b"from C\\n")
    os.system("echo from a child")
"""
_LINES = ("from print", "from logging", "from warnings", "from C", "from a child")


def _run(body: str, log: Path) -> subprocess.CompletedProcess[str]:
    head = "import logging, os, sys, warnings\nfrom pathlib import Path\nfrom rlhf_dist.process_output import *\n"
    code = head + f"log = Path({str(log)!r})\n" + _WRITE_LINES + textwrap.dedent(body)
    root = Path(__file__).resolve().parents[1]
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)


def test_chatter_goes_to_the_log_and_the_view_to_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "driver.log"
    done = _run(
        """
        print("before")
        with redirect_output(log) as terminal:
            write_lines()
            terminal.write("the view\\n")
        print("after")
        """,
        log,
    )
    assert done.stdout.splitlines() == ["before", "the view", "after"]
    assert done.stderr == ""
    assert all(line in log.read_text() for line in _LINES)


def test_the_terminal_is_back_after_an_error(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    done = _run(
        """
        try:
            with redirect_output(log):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("stopped")
        """,
        log,
    )
    assert done.stdout == "stopped\n"


def test_a_workers_output_goes_to_its_log_for_good(tmp_path: Path) -> None:
    log = tmp_path / "actor-0.log"
    done = _run("redirect_process_output(log)\nwrite_lines()\nraise ValueError('the cause')", log)
    assert (done.stdout, done.stderr) == ("", "")
    assert all(line in log.read_text() for line in (*_LINES, "ValueError: the cause"))


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        ("", 3, ""),
        ("a\nb\nc\nd\n", 2, "c\nd"),
        ("a\n\n\nb", 5, "a\nb"),
        ("\x1b[31mred\x1b[0m\n", 1, "red"),
        ("10%\r50%\r100%\ndone\r\n", 2, "100%\ndone"),
        ("x" * 70_000 + "\nlast\n", 1, "last"),
    ],
)
def test_tail_gives_the_last_lines_worth_reading(tmp_path: Path, content: str, lines: int, expected: str) -> None:
    path = tmp_path / "worker.log"
    path.write_bytes(content.encode())
    assert tail(path, lines) == expected


def test_the_tail_of_a_log_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log") == ""


_HANG_UP = """
import os, pty, sys
from pathlib import Path
from rlhf_dist.process_output import redirect_output

master, slave = pty.openpty() if sys.argv[2] == "terminal" else os.pipe()
for number in (1, 2):
    os.dup2(slave, number)
os.close(slave)
with redirect_output(Path(sys.argv[1])) as terminal:
    print("seen", file=terminal, flush=True)
    os.close(master)  # now 1 and 2 lead nowhere
    print("unseen" * 10_000, file=terminal, flush=True)
print("after", flush=True)
print("the cause", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_terminal_that_is_closed_ends_nothing_and_what_is_said_afterwards_stands_in_the_log(
    tmp_path: Path, kind: str
) -> None:
    done = subprocess.run([sys.executable, "-c", _HANG_UP, str(tmp_path / "log"), kind], timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == "after\nthe cause\n"
