"""What is counted of a process's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from rlhf_dist.device import CPU
from rlhf_dist.process_memory import pss_bytes

MIB = 2**20

# Maps 64 MiB, writes to all of it, and forks as often as it is told; parent and children have the pages in common.
_HOLDER = """
import mmap, os, sys, time
pages = mmap.mmap(-1, 64 << 20)
pages.write(b"x" * (64 << 20))
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        pages[0]
        for at in range(0, len(pages), 4096):
            pages[at]
        break
os.write(1, b"ready\\n")
time.sleep(120)
"""


@contextmanager
def holder(children: int) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(children)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for _ in range(children + 1):
            assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
        process.wait()


def test_a_process_counts_with_its_children_and_a_shared_page_once() -> None:
    with holder(2) as pid:
        everyone = [psutil.Process(pid), *psutil.Process(pid).children()]
        assert len(everyone) == 3
        assert sum(one.memory_info().rss for one in everyone) > 3 * 64 * MIB
        assert 64 * MIB < pss_bytes(pid) < 2 * 64 * MIB


def test_a_process_that_is_not_there_is_an_error() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(psutil.NoSuchProcess):
        pss_bytes(process.pid)


# Under the CPU device's allocator settings, a call that frees blocks between small ones that stay: the heap keeps its
# end.
_KEEPER = """
import os
from types import SimpleNamespace
from rlhf_dist.cluster.worker import Worker
from rlhf_dist.process_memory import pss_bytes

class Engine:
    def work(self):
        blocks, self.between = [], []
        for _ in range(200):
            blocks.append(bytearray(b"x") * (1 << 20))
            self.between.append(bytearray(b"x") * 2000)
        full = pss_bytes(os.getpid())
        del blocks
        return full, pss_bytes(os.getpid())

full, freed = Worker.call(SimpleNamespace(engine=Engine()), "work")
print(full, freed, pss_bytes(os.getpid()))
"""


def test_what_a_worker_freed_is_kept_until_its_turn_is_over() -> None:
    environment = os.environ | CPU.worker_env(1)
    done = subprocess.run([sys.executable, "-c", _KEEPER], env=environment, capture_output=True, text=True, check=True)
    full, freed, released = map(int, done.stdout.split())
    assert full - freed < 50 * MIB  # kept, so that the next step does not have to ask for it page by page
    assert freed - released > 150 * MIB
