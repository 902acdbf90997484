"""Ranks that take one case after another.

A process takes longer to import torch, transformers and DeepSpeed than to train the tiny models, so the processes of a
process group are started once for all cases of a test module.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

DONE = "--- the case is done ---"
DEADLINE_S = 240.0

Start = Callable[[int, list[str]], "subprocess.Popen[str]"]  # a rank and its arguments to its process


def start_on_cpu(_: int, arguments: list[str]) -> subprocess.Popen[str]:
    """A rank's process on this machine's CPU. Its stdin, stdout and stderr are pipes, the last two the same."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Ranks:
    """The process groups of a test module, by their number of ranks; each starts when it is first asked.

    Args:
        function: `module:function`, called in every rank with its rank and a case's arguments.
        device: the kind of device, by its name in `rlhf_dist.device.DEVICES`.
        start: starts a rank's process.
    """

    def __init__(self, function: str, device: str = "cpu", start: Start = start_on_cpu) -> None:
        self._function, self._device, self._start = function, device, start
        self._groups: dict[int, list[subprocess.Popen[str]]] = {}

    def run(self, world: int, *case: Any) -> None:
        """Runs the function with ``case`` on so many ranks. An AssertionError holds what a rank that failed printed."""
        group = self._groups.setdefault(world, [])
        if not group:
            group += self._started(world)
        watch = threading.Timer(DEADLINE_S, _kill, [group])
        watch.start()
        try:
            for process in group:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it has ended: its output says why
                    process.stdin.write(json.dumps(case) + "\n")
                    process.stdin.flush()
            self._wait(group)
        except BaseException:
            _kill(self._groups.pop(world))  # the others may wait for the failed one
            raise
        finally:
            watch.cancel()

    def close(self) -> None:
        """Ends all processes."""
        for group in self._groups.values():
            _kill(group)
        self._groups.clear()

    def _started(self, world: int) -> list[subprocess.Popen[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [
            self._start(rank, ["-m", __name__, self._function, self._device, str(rank), str(world), str(port)])
            for rank in range(world)
        ]

    def _wait(self, group: list[subprocess.Popen[str]]) -> None:
        outputs: list[list[str]] = [[] for _ in group]

        def read(process: subprocess.Popen[str], output: list[str]) -> None:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                if line.strip() == DONE:
                    return
            _kill(group)  # this rank ended, and the others would wait for it

        threads = [threading.Thread(target=read, args=pair) for pair in zip(group, outputs, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = ["".join(output) for output in outputs if not output or output[-1].strip() != DONE]
        assert not failed, "\n---\n".join(failed)


def _kill(group: list[subprocess.Popen[str]]) -> None:
    for process in group:
        process.kill()


def serve(function: str, device_name: str, rank: int, world: int, port: int) -> None:
    """A rank's process: joins the process group and runs the function on each case that stdin names."""
    import torch
    import torch.distributed as dist

    from rlhf_dist.device import DEVICES

    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0"
    )
    device = DEVICES[device_name]
    device.set_current()
    dist.init_process_group(device.collective, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        work(rank, *json.loads(line))
        gc.collect()
        print(f"\n{DONE}", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
