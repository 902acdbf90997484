"""The process that `fork_server.py` is about: `python -m rlhf_dist.cluster.fork_worker SOCKET`.

It imports what workers need, but Ray, which reads its settings from the environment as it is loaded. Then it waits at
SOCKET for `fork_client.py`, and forks a child for each that comes. It ends when its standard input does.
"""

from __future__ import annotations

import array
import gc
import os
import runpy
import select
import signal
import socket
import sys
from dataclasses import dataclass

import transformers.models.auto.modeling_auto
import transformers.models.llama.modeling_llama  # noqa: F401

import rlhf_dist.engine.policy
import rlhf_dist.engine.scalar
import rlhf_dist.rollout.hf_engine  # noqa: F401

_LENGTH = 16  # digits, before a request
_REQUEST_S = 5.0  # for a client to say what it wants: the others wait meanwhile


@dataclass(frozen=True)
class Request:
    """The process that Ray wants: its arguments (the script's path first), environment, folder and open files."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    files: list[int]


def serve(path: str) -> Request | None:
    """Waits for clients until standard input ends. Returns None then, and in each child what it is to be."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children that have ended are nobody's concern
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path + ".new")
        listening.listen()
        os.rename(path + ".new", path)  # where it can be found, it listens
        gc.collect()
        gc.freeze()  # what is there now stays shared: the children's collector does not write to it
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            client, _ = listening.accept()
            client.settimeout(_REQUEST_S)
            request = read_request(client)
            if request is not None and os.fork() == 0:
                client.detach()  # stays open as long as this process: the client waits for its end
                return request
            client.close()
            for file in request.files if request is not None else []:
                os.close(file)
    return None


def read_request(client: socket.socket) -> Request | None:
    """What a client asks for; None where it went away, or does not say in time."""
    files, body, length = array.array("i"), b"", 0
    try:
        head, ancillary, *_ = client.recvmsg(_LENGTH, socket.CMSG_SPACE(3 * files.itemsize), socket.MSG_WAITALL)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(data)
        length = int(head) if len(head) == _LENGTH else 0
        while len(body) < length and (more := client.recv(length - len(body))):
            body += more
    except OSError:  # TimeoutError among them
        length = 0
    if not length or len(body) < length or len(files) != 3:
        for file in files:
            os.close(file)
        return None
    lists = []
    while body:
        count, _, body = body.partition(b"\n")
        *items, body = body.split(b"\0", int(count))
        lists.append([os.fsdecode(item) for item in items])
    arguments, variables, (folder,) = lists
    return Request(arguments, dict(variable.split("=", 1) for variable in variables), folder, list(files))


def become(request: Request) -> None:
    """Makes this process what was asked for, and runs its script to the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # when a worker ends, Ray also ends whatever is left in its process group
    for target, file in enumerate(request.files):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    script, *_ = sys.argv = request.arguments
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    asked = serve(sys.argv[1])
    if asked is not None:
        become(asked)
