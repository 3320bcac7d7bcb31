"""A network between clients and a server that loses, doubles and delays what it is told to.

It understands requests, so that a fault hits exactly one call of a script, and replies, so that
nothing is left to chance: when a client sees its connection break, the server has already done what
it was to do, or has not.
"""

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.servers import Server


class Fault(Enum):
    """What happens to the first copy of a call."""

    NONE = auto()
    #: The connection breaks before the server has it.
    REQUEST_LOST = auto()
    #: The server carries it out, and the connection breaks.
    REPLY_LOST = auto()
    #: The same again, and then for the second copy too.
    REPLY_LOST_TWICE = auto()
    #: The same for every copy, until the client gives up.
    NEVER_ANSWERED = auto()
    #: The connection breaks in the middle of the reply.
    REPLY_CUT = auto()
    #: The server gets it twice; the client gets the reply to the first, or to the second.
    DOUBLED = auto()
    DOUBLED_SECOND_REPLY = auto()
    #: The connection breaks; the server gets it after the second copy, before that is answered.
    LATE = auto()
    #: The connection breaks; the server gets it after the slot's next call.
    VERY_LATE = auto()
    #: It is answered, and a copy arrives after the slot's next call.
    COPY_VERY_LATE = auto()
    #: SIGINT for this process instead of the reply, or of the request.
    REPLY_INTERRUPTED = auto()
    REQUEST_INTERRUPTED = auto()


#: Those that a client which repeats its calls has to make invisible.
INVISIBLE = tuple(
    fault
    for fault in Fault
    if fault is not Fault.NEVER_ANSWERED and not fault.name.endswith("INTERRUPTED")
)


@dataclass(frozen=True)
class Call:
    """A call of a script that changes something."""

    sha: bytes
    slot: bytes
    number: int
    request: bytes
    #: ARGV, the same in every copy: EVAL with the script's text follows an EVALSHA.
    arguments: tuple[bytes, ...]


class Broken(Exception):
    """The connection is to be broken."""


class Stream:
    """A socket that is read by requests or replies."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._file = connection.makefile("rb")

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise Broken
        return line

    def one(self) -> tuple[bytes, list[bytes]]:
        """One value: all its bytes, and the strings in it."""
        line = self.line()
        kind, rest = line[:1], line[1:-2]
        if kind in b"$=!" and rest != b"-1":
            data = self._file.read(int(rest) + 2)
            if len(data) < int(rest) + 2:
                raise Broken
            return line + data, [data[:-2]]
        whole, strings = [line], []
        if kind in b"*~>%|" and rest != b"-1":
            for _ in range(int(rest) * (2 if kind in b"%|" else 1)):
                some, found = self.one()
                whole.append(some)
                strings += found
        return b"".join(whole), strings

    def ask(self, request: bytes) -> bytes:
        """Sends a request; the reply."""
        self.socket.sendall(request)
        return self.one()[0]

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Proxy:
    """``url`` is what a client connects to; ``plan`` says what happens to the next call."""

    def __init__(self, server: Server) -> None:
        self._server = urlsplit(server.url)
        self._directory = tempfile.TemporaryDirectory(prefix="pyqueue-proxy-", dir="/tmp")
        path = Path(self._directory.name) / "socket"
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.plan: Callable[[Call], Fault] = lambda _: Fault.NONE
        #: Replies to copies that no client waits for.
        self.stray: list[bytes] = []
        #: How many calls each fault has hit.
        self.hit = dict.fromkeys(Fault, 0)
        self._lock = threading.Lock()
        #: A slot's last call, and how many copies of it came by.
        self._copies: dict[bytes, tuple[Call, int]] = {}
        #: Calls that only a second user of the slot can have made: a number goes back, or stands
        #: for two calls.
        self.strangers: list[Call] = []
        #: What arrives late: slot, number of the call to wait for, request.
        self._late: list[tuple[bytes, int, bytes]] = []
        #: Calls whose copies are to be lost like the first, up to the n-th.
        self._lose_again: dict[tuple[bytes, int], int] = {}
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def slots(self) -> int:
        """How many slots have made calls."""
        return len(self._copies)

    def next(self, fault: Fault) -> None:
        """The next call meets this fault, those after it none."""
        waiting = [fault]
        self.plan = lambda _: waiting.pop() if waiting else Fault.NONE

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _connect(self) -> Stream:
        if self._server.scheme != "unix":
            address = (self._server.hostname or "localhost", self._server.port or 6379)
            return Stream(socket.create_connection(address))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._server.path)
        return Stream(connection)

    def _serve(self, connection: socket.socket) -> None:
        client = Stream(connection)
        server = self._connect()
        self._open |= {client.socket, server.socket}
        try:
            with contextlib.suppress(Broken, OSError, ValueError):
                while True:
                    self._pass_on(client, server)
        finally:
            self._open -= {client.socket, server.socket}
            client.close()
            server.close()

    def _pass_on(self, client: Stream, server: Stream) -> None:
        request, strings = client.one()
        call = _call(request, strings)
        if call is None:
            client.socket.sendall(server.ask(request))
            return
        with self._lock:
            before, copies = self._copies.get(call.slot, (None, 0))
            if before is not None and call.number <= before.number:
                copies += 1
                if (call.number, call.arguments) != (before.number, before.arguments):
                    self.strangers.append(call)
            else:
                copies = 1
            self._copies[call.slot] = (call, copies)
            fault = self.plan(call) if copies == 1 else Fault.NONE
            if 1 < copies <= self._lose_again.get((call.slot, call.number), 0):
                fault = Fault.REPLY_LOST
            self.hit[fault] += 1
        self._with_fault(fault, call, client, server)

    def _with_fault(self, fault: Fault, call: Call, client: Stream, server: Stream) -> None:
        match fault:
            case Fault.REQUEST_LOST:
                raise Broken
            case Fault.LATE | Fault.VERY_LATE:
                wait_for = call.number + (fault is Fault.VERY_LATE)
                self._late.append((call.slot, wait_for, call.request))
                raise Broken
            case Fault.REQUEST_INTERRUPTED:
                self._late.append((call.slot, call.number + 1, call.request))
                os.kill(os.getpid(), signal.SIGINT)
                raise Broken
        reply = server.ask(call.request)
        match fault:
            case Fault.REPLY_LOST:
                raise Broken
            case Fault.REPLY_LOST_TWICE | Fault.NEVER_ANSWERED:
                most = 2 if fault is Fault.REPLY_LOST_TWICE else 1_000
                self._lose_again[call.slot, call.number] = most
                raise Broken
            case Fault.REPLY_CUT:
                client.socket.sendall(reply[: len(reply) // 2])
                raise Broken
            case Fault.REPLY_INTERRUPTED:
                os.kill(os.getpid(), signal.SIGINT)
                raise Broken
            case Fault.DOUBLED:
                self.stray.append(server.ask(call.request))
            case Fault.DOUBLED_SECOND_REPLY:
                self.stray.append(reply)
                reply = server.ask(call.request)
            case Fault.COPY_VERY_LATE:
                self._late.append((call.slot, call.number + 1, call.request))
        if not reply.startswith(b"-NOSCRIPT"):
            self._deliver(call)
        client.socket.sendall(reply)

    def _deliver(self, call: Call) -> None:
        """The late copies that were to come after this call."""
        for late in [x for x in self._late if x[:2] == (call.slot, call.number)]:
            self._late.remove(late)
            self._send_copy(late[2])

    def deliver_late_copies(self) -> None:
        """All that are left arrive."""
        while self._late:
            self._send_copy(self._late.pop()[2])

    def _send_copy(self, request: bytes) -> None:
        stream = self._connect()
        self.stray.append(stream.ask(request))
        stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._directory.cleanup()


def _call(request: bytes, strings: list[bytes]) -> Call | None:
    """What a request calls, if it is a script that takes a call id."""
    if strings[:1] not in ([b"EVALSHA"], [b"EVAL"]):
        return None
    arguments = strings[3 + int(strings[2]) :]
    if len(arguments) < 4 or len(arguments[1]) != 8:
        return None
    return Call(strings[1], arguments[1], int(arguments[2]), request, tuple(arguments))
