"""What a signal does: it is noted, announced at once, and a second one ends the run where it must."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from rlhf_dist.controller.signals import StopSignal

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """A suite that was started under nohup or in the background would inherit ignored signals."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ALL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    """To this process; the handler has run when this returns."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def eventually(heard: list[str]) -> list[str]:
    deadline = time.monotonic() + 20
    while not heard and time.monotonic() < deadline:
        time.sleep(0.01)
    return heard


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_is_noted_and_announced_once_with_its_name(number: int, name: str) -> None:
    heard: list[str] = []
    with StopSignal(heard.append) as stop:
        assert not stop.wanted
        send(number)
        assert stop.wanted
        assert eventually(heard) == [name]
        send(signal.SIGHUP)
    assert heard == [name]


def test_it_is_announced_while_the_main_thread_is_deep_in_a_library() -> None:
    order: list[str] = []
    with StopSignal(order.append) as stop:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # a second or more, in which Python runs no handler here
        order.append("library is done")
        timer.join()
        assert stop.wanted
    assert order == ["Ctrl-C", "library is done"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_ends_the_run_at_once(first: int, second: int) -> None:
    with StopSignal() as stop:
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(second)
        assert stop.wanted


def test_a_closed_terminal_never_costs_the_checkpoint_however_often_it_is_told() -> None:
    """The shell sends SIGHUP, the system sends another; systemd sends it right after a SIGTERM."""
    with StopSignal() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            send(number)
        assert stop.wanted


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        send(signal.SIGHUP)
        assert not stop.wanted
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_everything_but_the_hangup_is_as_before_afterwards() -> None:
    threads = threading.active_count()
    with StopSignal():
        assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL
    assert [signal.getsignal(number) for number in ALL] == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_a_hangup_does_not_cut_short_what_comes_after_the_last_step() -> None:
    with StopSignal() as stop:
        send(signal.SIGINT)
    send(signal.SIGHUP)  # by default it would end this process
    assert stop.wanted and signal.getsignal(signal.SIGINT) == signal.SIG_DFL
