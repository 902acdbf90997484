"""The live view: plain lines without a terminal, a panel on one, and a terminal left as it was found."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_dist.controller.view import PPO_COLUMNS, SFT_COLUMNS, LiveView, duration, sparkline

_METRICS = {"reward/score_mean": 0.5, "kl/sequence_mean": 3.25, "throughput/tokens_per_s": 1234.0}


def test_without_a_terminal_each_step_is_one_plain_line() -> None:
    out = io.StringIO()
    with LiveView("demo", "PPO", 10, PPO_COLUMNS, stream=out) as view:
        view.phase("rollout")
        view.update(1, _METRICS)
        view.note("checkpoint written")
        view.update(2, _METRICS)
    lines = out.getvalue().splitlines()
    assert lines[0] == "PPO demo: 10 steps, starting"
    assert lines[1].startswith("step  1/10  score 0.500  KL 3.25  length -  entropy -  tokens/s 1,234")
    assert lines[2] == "checkpoint written"
    assert len(lines) == 4
    assert "\x1b" not in out.getvalue()


def test_a_long_line_is_not_wrapped_and_brackets_are_no_markup() -> None:
    out = io.StringIO()
    with LiveView("[bold]x", "SFT", 1, SFT_COLUMNS, stream=out) as view:
        view.note("[/]" + "y" * 300)
    assert out.getvalue().splitlines() == ["SFT [bold]x: 1 steps, starting", "[/]" + "y" * 300]


def test_time_left_follows_the_pace_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rlhf_dist.controller.view.time.monotonic", lambda: now[0])
    view = LiveView("demo", "PPO", 100, PPO_COLUMNS, stream=io.StringIO())
    assert view.seconds_left() is None
    now[0] = 400.0  # start-up does not count
    view.start_clock()
    for step in range(1, 31):
        now[0] += 50.0 if step < 10 else 2.0
        view.update(step, _METRICS)
    assert view.seconds_left() == pytest.approx(140.0)
    view.update(100, _METRICS)
    assert view.seconds_left() == 0.0


def test_a_resumed_run_counts_its_pace_from_where_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rlhf_dist.controller.view.time.monotonic", lambda: now[0])
    view = LiveView("demo", "PPO", 100, PPO_COLUMNS, first_step=90, stream=io.StringIO())
    now[0] = 3.0
    view.update(91, _METRICS)
    assert view.seconds_left() == pytest.approx(27.0)


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [([], 4, ""), ([1.0], 4, "▁"), ([2.0, 2.0], 4, "▁▁"), ([0.0, 7.0], 4, "▁█"), ([0, 0, 7, 7], 2, "▁█")],
)
def test_sparkline(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (187, "3m 07s"), (7500, "2h 05m")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


_SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in the background inherits "ignore"
from rlhf_dist.controller.view import *
try:
    with LiveView("demo", "PPO", 5, PPO_COLUMNS) as view:
        view.phase("rollout")
        view.update(1, {"reward/score_mean": 0.125, "kl/sequence_mean": 1.0})
        view.update(2, {"reward/score_mean": 0.25, "kl/sequence_mean": 1.0})
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def _read_until(master: int, wanted: str, seconds: float) -> str:
    text, deadline = "", time.monotonic() + seconds
    while wanted not in text and time.monotonic() < deadline:
        try:
            text += os.read(master, 65_536).decode(errors="replace")
        except OSError:
            break
    return text


def test_ctrl_c_on_a_terminal_leaves_the_last_panel_and_the_cursor() -> None:
    master, slave = pty.openpty()
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT], stdout=slave, stderr=slave, cwd=root, env=env)
    os.close(slave)
    try:
        shown = _read_until(master, "0.250", 30)
        process.send_signal(signal.SIGINT)
        shown += _read_until(master, "\x1b[?25h", 10)
        assert process.wait(10) == 130
    finally:
        process.kill()
        os.close(master)
    assert "demo" in shown and "rollout" in shown and "stopped" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor was hidden and is back
    assert "Traceback" not in shown


def test_the_view_says_what_a_stop_waits_for() -> None:
    out = io.StringIO()
    with LiveView("demo", "PPO", 10, PPO_COLUMNS, stream=out) as view:
        view.stopping("SIGTERM")
        view.start_clock()
        view.phase("rollout")
        view.stopping("Ctrl-C")
    assert out.getvalue().splitlines()[1:] == [
        "SIGTERM: stopping before the first step (phase starting); a second SIGTERM stops at once without a checkpoint",
        "Ctrl-C: stopping after the current step (phase rollout); a second Ctrl-C stops at once without a checkpoint",
    ]
