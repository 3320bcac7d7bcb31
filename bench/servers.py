"""The server that is measured: started here on a core of its own, or one that a URL names."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import redis

from pyqueue import embedded

#: Seconds until a server that was started must answer.
START = 20.0
#: The server gets the first core of those we may use, the clients the last.
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is, and what it is."""

    url: str
    name: str
    version: str
    #: The core it is pinned to; None when it is not.
    core: int | None
    appendonly: bool

    def client(self) -> redis.Redis:
        """A client as a careful user makes it: redis-py with hiredis, replies as bytes."""
        return redis.Redis.from_url(self.url)

    def as_dict(self) -> dict[str, object]:
        """For JSON, without where it is."""
        return {key: value for key, value in asdict(self).items() if key != "url"}

    def __str__(self) -> str:
        return (
            f"{self.name} {self.version}"
            f"{', pinned to core ' + str(self.core) if self.core is not None else ', not pinned'}"
            f", append-only file {'on' if self.appendonly else 'off'}"
        )


def pin_client() -> int | None:
    """Pins this process, and those that it starts, to the clients' core; returns it."""
    if len(CORES) < 2:
        return None
    os.sched_setaffinity(0, {CORES[-1]})
    return CORES[-1]


def _binary(kind: str) -> str:
    if kind == "valkey":
        return str(embedded._binary())
    found = shutil.which("redis-server")
    if found is None:
        raise SystemExit("there is no redis-server on PATH")
    return found


def _before_exec() -> None:
    """In the child: it ends with its parent, has a core, and goes before other programs on it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if len(CORES) >= 2:
            os.sched_setaffinity(0, {CORES[0]})
        # For root only. A server that shares its core is interrupted in the middle of scripts.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def describe(url: str, core: int | None = None) -> Server:
    """Asks a server what it is."""
    with redis.Redis.from_url(url) as client:
        info = cast("dict[str, object]", client.info("server", "persistence"))
    name = "valkey" if "valkey_version" in info else "redis"
    return Server(url, name, str(info[f"{name}_version"]), core, info["aof_enabled"] == 1)


@contextlib.contextmanager
def launch(kind: str, *, appendonly: bool = False, tcp: bool = False) -> Iterator[Server]:
    """Runs a server for the length of a measurement, in a directory that is removed afterwards.

    ``kind`` is "valkey" (the embedded server's binary), "redis" (redis-server on PATH) or the URL
    of a server that runs already, which is left as it is but for keys named ``pyqueue-bench…``.
    """
    if "://" in kind:
        yield describe(kind)
        return
    with tempfile.TemporaryDirectory(prefix="pyqueue-bench-") as directory:
        path = Path(directory)
        port = _free_port() if tcp else 0
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "unixsocket": f"{directory}/socket",
            "dir": directory,
            "appendonly": "yes" if appendonly else "no",
            "save": "",
        }
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        with (path / "log").open("wb") as log:
            process = subprocess.Popen(
                [_binary(kind), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # One thread, which waits for the exec: nothing that a fork could break.
                preexec_fn=_before_exec,  # noqa: PLW1509
            )
        try:
            url = f"redis://127.0.0.1:{port}" if tcp else f"unix://{directory}/socket"
            _wait(url, process, path / "log")
            yield describe(url, CORES[0] if len(CORES) >= 2 else None)
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
        except redis.ConnectionError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")
                raise RuntimeError(f"the server did not start:\n{text}") from error
            time.sleep(0.005)
        else:
            return
