"""Ctrl-C, SIGTERM and SIGHUP: the run ends after a checkpoint; a second Ctrl-C or SIGTERM ends it at once."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_ASKS = (signal.SIGINT, signal.SIGTERM)  # whoever sends two of these means at once
_LEAVING = 0  # what wakes the announcing thread for the last time; no signal has that number


class StopSignal:
    """While entered, notes that the user wants the run to stop. Enter it in the main thread.

    A closed terminal is a SIGHUP, and may be several: the shell sends one, and the system another. So it asks for the
    end after a checkpoint, however often it comes, and is ignored behind it: the end is under way then. Where it was
    ignored before (nohup) it stays so.

    Args:
        heard: called once, with what came first ("Ctrl-C"), in a thread of its own and at once, also where the main
            thread is deep in a library and will note the signal only when that returns.

    Attributes:
        wanted: whether SIGINT, SIGTERM or SIGHUP has come.
    """

    def __init__(self, heard: Callable[[str], None] = lambda name: None) -> None:
        self.wanted = False
        self._heard = heard
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._ear, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        self._bell_before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._announcer = threading.Thread(target=self._announce, name="stop-signal", daemon=True)
        self._announcer.start()
        for number in _NAMES:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # A hangup that comes while the run gives back what it had, or writes its report, must not cut that short.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else handler)
        signal.set_wakeup_fd(self._bell_before)
        self._bell.send(bytes([_LEAVING]))
        self._announcer.join(timeout=5)
        self._ear.close()
        self._bell.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        if number in _ASKS:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

    def _announce(self) -> None:
        """The C handler of a signal writes its number to the bell, whatever Python is doing."""
        told = False
        while (number := self._ear.recv(1)) not in (b"", bytes([_LEAVING])):
            if number[0] in _NAMES and not told:
                told = True
                self._heard(_NAMES[signal.Signals(number[0])])
