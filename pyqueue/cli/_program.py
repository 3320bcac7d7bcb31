"""The user's program, run once for an item, and everything that it started."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from pyqueue import Lease

logger = logging.getLogger("pyqueue")

STDERR = 2

#: What a program's exit code says, beside 0 and failure (sysexits.h: EX_DATAERR, EX_TEMPFAIL).
BURY = 65
RELEASE = 75
#: The longest payload that is also a variable, bytes. Linux allows 128 KiB for one string.
MOST_VARIABLE = 96 << 10
#: How much of the program's standard error an item's error keeps, bytes.
_TAIL = 1500
#: Seconds to wait for the rest of the standard error of a program that has ended.
_REST = 0.5
#: What passes, and is no fault of the command line.
_TRANSIENT = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}


class DoesNotFit(Exception):
    """The payload cannot be an argument; says why."""


class CannotRun(Exception):
    """The program cannot be executed. ``transient``: maybe later."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


def arguments(command: Sequence[str], marker: str, payload: bytes) -> list[bytes]:
    """The command with the payload in place of each argument that is exactly ``marker``.

    Raises DoesNotFit when the payload has a NUL byte.
    """
    if marker in command and b"\0" in payload:
        raise DoesNotFit("the payload has a NUL byte, which no argument can have")
    return [payload if part == marker else os.fsencode(part) for part in command]


def environment(inherited: Mapping[str, str], queue: str, lease: Lease) -> dict[str, str]:
    """The program's environment: the worker's, and what it has to know about the item."""
    names = ("PAYLOAD", "ID", "TOKEN", "ATTEMPT", "QUEUE")
    own = {f"PYQUEUE_{name}" for name in names}
    variables = {name: value for name, value in inherited.items() if name not in own}
    variables |= {
        "PYQUEUE_ID": lease.id,
        "PYQUEUE_TOKEN": str(lease.token),
        "PYQUEUE_ATTEMPT": str(lease.attempts + 1),
        "PYQUEUE_QUEUE": queue,
    }
    payload = lease.payload
    if len(payload) <= MOST_VARIABLE and b"\0" not in payload:
        with contextlib.suppress(UnicodeDecodeError):
            payload.decode()
            variables["PYQUEUE_PAYLOAD"] = os.fsdecode(payload)
    return variables


class Program:
    """A running program. It is the leader of a session of its own, so that a signal reaches all
    that it has started, and Ctrl-C on the terminal reaches it through the worker only.

    ``on_end`` is called from another thread when it has ended. Raises DoesNotFit, CannotRun.
    """

    def __init__(
        self,
        command: Sequence[str],
        marker: str,
        queue: str,
        lease: Lease,
        on_end: Callable[[], None],
    ) -> None:
        parts = arguments(command, marker, lease.payload)
        variables = environment(os.environ, queue, lease)
        self._started = self._ended = time.monotonic()
        try:
            self._process = subprocess.Popen(
                parts,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            if error.errno == errno.E2BIG and (marker in command or "PYQUEUE_PAYLOAD" in variables):
                raise DoesNotFit(
                    f"the payload of {len(lease.payload)} bytes is too long for an argument"
                ) from error
            hint = ""
            if error.errno == errno.ENOENT and shutil.which(command[0]):
                hint = " (it is there, but what its first line names to run it is not)"
            raise CannotRun(
                f"cannot run {command[0]!r}: {error.strerror}{hint}",
                transient=error.errno in _TRANSIENT,
            ) from error
        self.group = self._process.pid
        self._on_end = on_end
        self._lock = threading.Lock()
        self._is_over = False
        self._told_to_end = False
        self._tail = b""
        self._reader = threading.Thread(target=self._pass_errors_on, daemon=True)
        # A pipe holds 64 KiB: more waits until the program reads it, if it ever does.
        feeder = threading.Thread(target=self._feed, args=(lease.payload,), daemon=True)
        try:
            for thread in (self._reader, feeder, threading.Thread(target=self._wait, daemon=True)):
                thread.start()
        except RuntimeError as error:  # too many threads; `_wait`, the last one, does not run
            self._signal_group(signal.SIGKILL)
            self._process.wait()
            raise CannotRun(f"cannot watch {command[0]!r}: {error}", transient=True) from error

    @property
    def exit_code(self) -> int:
        """What it ended with; minus n when signal n ended it."""
        return cast("int", self._process.returncode)

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self._ended - self._started

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        code = self.exit_code
        if code >= 0:
            return f"exit {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    @property
    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        return self._tail.decode(errors="replace").strip()

    def signal(self, number: int) -> None:
        """Tells it to end, and everything in its process group."""
        with self._lock:
            self._told_to_end = True
            if not self._is_over:
                self._signal_group(number)

    def _signal_group(self, number: int) -> None:
        # Nothing is left of the group, or (macOS) only what has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)

    def _feed(self, payload: bytes) -> None:
        stdin = cast("IO[bytes]", self._process.stdin)
        # It need not read what it is given.
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(payload)

    def _pass_errors_on(self) -> None:
        with cast("IO[bytes]", self._process.stderr) as stderr:
            while chunk := os.read(stderr.fileno(), 1 << 16):
                self._tail = (self._tail + chunk)[-_TAIL:]
                # If nobody reads ours any more, the program goes on all the same.
                with contextlib.suppress(OSError):
                    _write_all(STDERR, chunk)

    def _wait(self) -> None:
        if sys.platform == "linux":
            # It has ended and is not reaped yet, so the number of its group is not given to others.
            os.waitid(os.P_PID, self.group, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        self._ended = time.monotonic()
        with self._lock:
            self._is_over = True
            if self._told_to_end:
                # Somebody else gets the item: what it left behind must not go on with it.
                self._signal_group(signal.SIGKILL)
            self._process.wait()
        self._reader.join(_REST)
        self._on_end()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def reap_orphans(own: Collection[int]) -> None:
    """Lets go of what programs left running and has ended since, which becomes a child of process 1
    of a container: it would stay in the table of processes for ever. ``own`` are the processes that
    others wait for. Only for the thread that starts programs, or ``own`` may lack the newest.
    """
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, 0)


class Guard:
    """A small process that outlives this one just long enough to kill its programs (``_guard``).

    Not prctl(PR_SET_PDEATHSIG): that spares what the program has started, such as the commands of a
    shell script, and is set between fork and exec, where a process of many threads runs no Python.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", Path(__file__).with_name("_guard.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},  # it must not look like a program of a worker around this one
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._gone = False

    def starts(self, lease: Lease) -> None:
        """The lease's program is about to start."""
        self._tell(lease, "0")

    def runs(self, lease: Lease, program: Program) -> None:
        """The lease's program runs."""
        self._tell(lease, str(program.group))

    def ended(self, lease: Lease) -> None:
        """The lease's program has ended, or was not started."""
        self._tell(lease, "-")

    def _tell(self, lease: Lease, what: str) -> None:
        try:
            self._stdin.write(f"{lease.token} {what}\n".encode())
        except BrokenPipeError:
            if not self._gone:
                self._gone = True
                logger.warning("the guard is gone: programs outlive this worker if it is killed")

    def close(self) -> None:
        """Ends it, with what is still running."""
        self._stdin.close()
        self._process.wait()
