"""What Ray starts in place of Python: asks the fork server for a worker, and lives as long as that does.

    fork_client.py SOCKET SCRIPT [ARGUMENT ...]

Run by `python -ISE`, so it may need nothing but the standard library, and imports only what loads in milliseconds.
"""

import array
import os
import socket
import sys

_SEPARATOR = b"\0"


def main() -> int:
    """Returns 0 once the worker is gone; 1 where the server is."""
    path, *arguments = sys.argv[1:]
    parts = [os.fsencode(argument) for argument in arguments]
    variables = [name + b"=" + value for name, value in os.environb.items()]
    lists = (parts, variables, [os.fsencode(os.getcwd())])
    request = b"".join(b"%d\n" % len(items) + b"".join(item + _SEPARATOR for item in items) for items in lists)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
            server.sendmsg([b"%16d" % len(request)], files)
            server.sendall(request)
        except OSError as error:
            print(f"the fork server at {path} does not answer: {error}", file=sys.stderr)
            return 1
        server.recv(1)  # nothing is ever sent: the worker has the other end, and closes it by ending
    return 0


if __name__ == "__main__":
    sys.exit(main())
