"""Runs the command in forks of a process that has imported it: 20 ms instead of 400 each.

Run as a script with the path of a socket to make. It ends when its standard input does.
"""

import json
import os
import select
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

from pyqueue.cli import _app, main  # noqa: F401 - imported before the forks

HEAD = struct.Struct(">I")


def run(path: str, request: dict[str, Any], fds: list[int], seconds: float) -> int:
    """Ask the server at a path to run a command with these standard streams; its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        body = json.dumps(request).encode()
        socket.send_fds(connection, [HEAD.pack(len(body))], fds)
        connection.sendall(body)
        answer = connection.recv(HEAD.size)
    return os.waitstatus_to_exitcode(HEAD.unpack(answer)[0])


def _child(request: dict[str, Any], fds: list[int]) -> NoReturn:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    code: object = 1
    try:
        code = main(request["args"])
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - what the interpreter does
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


def serve(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        with connection:
            head, fds, _, _ = socket.recv_fds(connection, HEAD.size, 3)
            with connection.makefile("rb") as stream:
                request = json.loads(stream.read(HEAD.unpack(head)[0]))
            pid = os.fork()
            if pid == 0:
                _child(request, fds)
            for fd in fds:
                os.close(fd)
            connection.sendall(HEAD.pack(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    serve(sys.argv[1])
