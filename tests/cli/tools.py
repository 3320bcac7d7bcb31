"""The command as a process: run to its end, or left running and looked at."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pyqueue import Lease, Queue
from pyqueue import _operations as op
from tests.cli import forkserver
from tests.servers import wait_until

COMMAND = (sys.executable, "-m", "pyqueue")
SECONDS = 20


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it has written."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON, one object per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command in the background. What it writes goes into files."""

    def __init__(self, directory: Path, *args: str | Path, prefix: tuple[str, ...] = ()) -> None:
        number = len(list(directory.glob("err-*")))
        self._out, self._err = directory / f"out-{number}", directory / f"err-{number}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*prefix, *COMMAND, *args], stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, text: str) -> None:
        """Wait until it has written that to standard error."""
        wait_until(lambda: text in self.err, f"{text!r} in {self!r}")

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return self.process.wait(SECONDS)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.wait()

    def __repr__(self) -> str:
        return f"{self.process.args!r}, which wrote:\n{self.err}"


class Cli:
    """Runs commands against a server, in a directory of their own."""

    def __init__(self, url: str, directory: Path, forks: str) -> None:
        self.url = url
        self.directory = directory
        self._forks = forks
        self._running: list[Running] = []

    def __call__(
        self,
        *args: str | bytes,
        input: bytes = b"",  # noqa: A002 - as subprocess.run has it
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command to its end, in a process that was forked for it."""
        request = {
            "args": [os.fsdecode(arg) for arg in args],
            "env": {**os.environ, **(env or {})},
            "cwd": str(self.directory),
        }
        with TemporaryFile() as stdin, TemporaryFile() as out, TemporaryFile() as err:
            stdin.write(input)
            stdin.seek(0)
            fds = [stdin.fileno(), out.fileno(), err.fileno()]
            code = forkserver.run(self._forks, request, fds, 2 * SECONDS)
            out.seek(0)
            err.seek(0)
            done = Done(code, out.read(), err.read().decode(errors="replace"))
        assert "Traceback" not in done.err, done.err
        return done

    def fresh(self, *args: str, env: Mapping[str, str]) -> Done:
        """Run a command to its end, in an interpreter of its own."""
        done = subprocess.run(
            [*COMMAND, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **env},
            timeout=2 * SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *args: str | Path, prefix: tuple[str, ...] = ()) -> Running:
        running = Running(self.directory, *args, prefix=prefix)
        self._running.append(running)
        return running

    def close(self) -> None:
        for running in self._running:
            running.process.kill()
            running.process.wait()
            assert "Traceback" not in running.err, running.err


def sh(script: str) -> tuple[str, ...]:
    """The rest of a `pyqueue work` that runs a shell script with the payload as $1."""
    return ("--", "sh", "-c", script, "sh", "{}")


def numbers(path: Path) -> list[int]:
    """The numbers that a program has written into a file, as far as it has come."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        text = path.read_text()
        if text.endswith("\n"):
            return [int(number) for number in text.split()]
    return []


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not reaped does not."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()[:1] not in ("", "Z")


def steal(queue: Queue, token: int) -> None:
    """End a lease that somebody else holds: its item waits again."""
    assert queue._run(op.Release((token,))) == []


def suspect(queue: Queue, payload: str) -> Lease:
    """Push an item, let a lease of it run out, and lease it again: released, it is a suspect."""
    queue.push(payload)
    assert queue.lease(ttl=0.001) is not None
    wait_until(lambda: queue.stats().expired, "the lease runs out")
    lease = queue.lease(ttl=600)
    assert lease is not None
    assert (lease.text, lease.suspect) == (payload, True)
    return lease


@contextlib.contextmanager
def on_terminal(*args: str, typed: bytes = b"") -> Iterator[Callable[[str], str]]:
    """Run the command on a pseudo-terminal, where something was typed already. Gives a function
    that waits for a text and returns all that was written so far, control sequences taken out; the
    command is ended with Ctrl-C.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["COLUMNS"], os.environ["TERM"] = "100", "xterm"
        os.execv(COMMAND[0], [*COMMAND, *args])
    os.write(terminal, typed)
    written = b""

    def until(text: str) -> str:
        nonlocal written
        deadline = time.monotonic() + SECONDS
        while True:
            plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode(errors="replace"))
            if text in plain:
                return plain
            assert time.monotonic() < deadline, f"not written: {text!r}; but {plain!r}"
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    written += os.read(terminal, 1 << 16)
                except OSError as error:  # Linux says so when the other end is closed
                    raise AssertionError(f"ended without {text!r}: {plain!r}") from error

    try:
        yield until
    finally:
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):
            while os.read(terminal, 1 << 16):
                pass
        os.close(terminal)
        os.waitpid(pid, 0)
