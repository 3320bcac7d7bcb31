"""A network that can be told what to lose."""

import contextlib
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.lua.harness import SCRIPTS
from tests.servers import Server


class Relay:
    """Stands between clients and a server. ``url`` is what a client connects to."""

    def __init__(self, server: Server) -> None:
        self._server = server.url.removeprefix("unix://")
        if self._server == server.url:
            raise ValueError(f"{server} has no Unix socket")
        self._directory = tempfile.TemporaryDirectory(prefix="pyqueue-relay-", dir="/tmp")
        path = Path(self._directory.name) / "socket"
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: set[socket.socket] = set()
        self._lose_replies = 0
        self._lose_requests = 0
        #: Called before a connection breaks.
        self.meanwhile: Callable[[], object] = lambda: None
        #: The calls of scripts that came by, as bytes.
        self.calls: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_replies(self, count: int = 1) -> None:
        """The next calls of scripts reach the server; then the connection breaks."""
        self._lose_replies = count

    def lose_requests(self, count: int = 1) -> None:
        """The connection breaks before the next calls of scripts reach the server."""
        self._lose_requests = count

    def repeat(self, call: bytes) -> bytes:
        """Sends a copy of a call to the server, as a network does that was slow; its reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._server)
            connection.sendall(call)
            return connection.recv(1 << 20)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self._server)
            self._open |= {client, server}
            try:
                while self._pass_on(client, server):
                    pass
            finally:
                self._open -= {client, server}

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Passes something on; false when the connection is to be closed."""
        readable, _, _ = select.select([client, server], [], [])
        if server in readable:
            data = server.recv(1 << 20)
            client.sendall(data)
            return bool(data)
        data = client.recv(1 << 20)
        if b"\r\nEVAL" not in data:
            server.sendall(data)
            return bool(data)
        self.calls.append(data)
        if self._lose_requests:
            self._lose_requests -= 1
            self.meanwhile()
            return False
        server.sendall(data)
        if self._lose_replies:
            self._lose_replies -= 1
            server.recv(1 << 20)
            self.meanwhile()
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._directory.cleanup()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    """A network that can be told what to lose."""
    if not server.url.startswith("unix://"):
        pytest.skip(f"the relay needs the Unix socket of a local server, and this is {server}")
    with Relay(server) as relay, server.client() as client:
        # So that what gets lost is the call, not the answer that its script is not known yet.
        for script in SCRIPTS.values():
            client.script_load(script.source)
        yield relay
