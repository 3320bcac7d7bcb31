"""Handlers in child processes: one that crashes takes its own item with it, and no other.

A child gets an item, calls the handler, and says what came of it. Of a queue it has only the name:
the verbs of its leases, and all else that its queue does, are done by the parent, whose client may
be of any kind.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import queue as queues
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

from pyqueue import _operations as op
from pyqueue._calls import Addressed
from pyqueue._keys import Keys
from pyqueue._leases import error_text
from pyqueue._message import DEFAULT_MAX_BYTES
from pyqueue.client import Lease, Queue

from ._common import CannotStart, Ended, Options, Verdict, judge, without_this_frame

T = TypeVar("T")
Handler: TypeAlias = Callable[[Lease], object]

#: Seconds from SIGTERM to SIGKILL when the grace is over.
_LAST_WORDS = 2.0


def check_importable(handler: Handler) -> None:
    """Raises ValueError for a handler that other processes cannot import."""
    try:
        pickle.dumps(handler)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"child processes cannot import the handler: {error}. It must be a function of a"
            " module, and not one within another function"
        ) from error


@dataclass(frozen=True, slots=True)
class _Item:
    """For the child: work on it."""

    message: bytes
    token: int
    deadline: float
    remaining: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """For the child: what came of its call."""

    result: object
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """Of the child: run this."""

    operation: op.Operation[Any]


@dataclass(frozen=True, slots=True)
class _Done:
    """Of the child: the handler has ended; with a verdict if it did not return."""

    settled: bool
    verdict: Verdict | None = None


class _Ready:
    """Of the child: it can work."""


# The parent


class InProcesses:
    """As many child processes as threads that call ``call``."""

    def __init__(self, queue: Queue, handler: Handler, options: Options) -> None:
        methods = multiprocessing.get_all_start_methods()
        # Never fork: this process has threads.
        method = "forkserver" if "forkserver" in methods else "spawn"
        self._context = multiprocessing.get_context(cast("Any", method))
        if method == "forkserver":
            self._context.set_forkserver_preload(["pyqueue.worker._processes"])
        self._queue = queue
        self._handler = handler
        self._options = options
        self._own = threading.local()
        self._children: set[_Child] = set()
        self._closed = False

    def call(self, lease: Lease) -> None:
        """Works on an item in this thread's child. Raises Ended, CannotStart."""
        child: _Child | None = getattr(self._own, "child", None)
        if child is None or not child.is_alive():
            if child is not None:
                self._children.discard(child)
            child = self._own.child = _Child(
                self._context, self._queue, self._handler, self._options
            )
            self._children.add(child)
            if self._closed:
                child.kill()
        verdict = child.work(lease)
        if verdict is not None and not lease.settled:
            raise Ended(verdict)

    def end(self, lease: Lease) -> bool:
        """Sends SIGTERM to the child that works on it, and SIGKILL after the grace."""
        for child in list(self._children):
            if child.lease is lease:
                child.end(self._options.grace)
        return True

    def interrupt(self) -> bool:
        """Sends SIGTERM to all children, and SIGKILL soon after."""
        for child in list(self._children):
            child.end(_LAST_WORDS)
        return True

    def close(self) -> None:
        """Kills what is left."""
        self._closed = True
        for child in list(self._children):
            child.kill()


class _Child:
    """A child process that works on one item at a time."""

    def __init__(
        self,
        context: Any,  # noqa: ANN401 - the classes of contexts have no common one
        queue: Queue,
        handler: Handler,
        options: Options,
    ) -> None:
        self._queue = queue
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, queue.name, handler, options),
            name=f"pyqueue {queue.name}",
        )
        self._process.start()
        theirs.close()
        #: What it works on.
        self.lease: Lease | None = None
        self._told_to_end = False
        self._owner = os.getpid()
        self._looking = threading.Lock()
        # Earlier than multiprocessing's own, which would wait for it.
        atexit.register(self.kill)
        try:
            self._pipe.recv()
        except EOFError:
            atexit.unregister(self.kill)
            wait([self._process.sentinel])
            with self._looking:
                self._process.join()
            raise CannotStart(
                f"a child process ended with {_how(self._process.exitcode)} before it could work:"
                " can it import the handler?"
            ) from None

    def is_alive(self) -> bool:
        """Whether it can be given an item."""
        return not self._told_to_end and self.runs()

    def runs(self) -> bool:
        """Whether the process is there."""
        # Two threads that find out at once how it ended would get two answers.
        with self._looking:
            return bool(self._process.is_alive())

    def work(self, lease: Lease) -> Verdict | None:
        """Has it work on an item. Returns None when the handler returned."""
        self.lease = lease
        try:
            self._pipe.send(_Item(lease.message, lease.token, lease.deadline, lease.remaining))
            while isinstance(said := self._pipe.recv(), _Call):
                self._pipe.send(self._answer(said.operation, lease))
        except (EOFError, OSError):
            return self._ended()
        finally:
            self.lease = None
        done = cast("_Done", said)
        if done.settled:
            lease._mark()
        return done.verdict

    def _answer(self, operation: op.Operation[Any], lease: Lease) -> _Answer:
        try:
            result = self._queue._run(operation)
        except Exception as error:  # noqa: BLE001 - raised in the child
            return _Answer(None, error)
        tokens = getattr(operation, "tokens", None) or [getattr(operation, "token", None)]
        if lease.token in tokens and not isinstance(operation, op.Extend):
            # From now on the heartbeat need not find it.
            lease._mark()
        return _Answer(result)

    def _ended(self) -> Verdict:
        wait([self._process.sentinel])
        with self._looking:
            self._process.join()
        self._pipe.close()
        atexit.unregister(self.kill)
        code = self._process.exitcode
        how = _how(code)
        if self._told_to_end:
            return Verdict("release", f"its process was told to end ({how})")
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            # Somebody ends what runs here, this worker too maybe.
            return Verdict("release", f"its process was ended ({how})", delay=1.0)
        return Verdict("fail", f"its process ended: {how}", f"its process ended: {how}")

    def end(self, grace: float) -> None:
        """Sends SIGTERM, and SIGKILL after the grace."""
        self._told_to_end = True
        self._signal(self._process.terminate)
        timer = threading.Timer(grace, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._told_to_end = True
        self._signal(self._process.kill)

    def _signal(self, send: Callable[[], None]) -> None:
        # Looked at first: the number of one that has ended may be somebody else's by now. Not in
        # one that the user has forked from this process: its atexit is not ours.
        if self._owner == os.getpid() and self.runs():
            with contextlib.suppress(OSError):
                send()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"


# The child


class _Remote(Queue):
    """A queue whose calls the parent makes."""

    def __init__(self, name: str, pipe: Connection) -> None:
        # Not that of Queue: there is no client.
        Addressed.__init__(self, Keys(name))
        self._client = None
        self._max_bytes = DEFAULT_MAX_BYTES
        self._pipe = pipe
        self._one = threading.Lock()
        self.answers: queues.SimpleQueue[_Answer] = queues.SimpleQueue()

    def _run(self, operation: op.Operation[T]) -> T:
        with self._one:
            self._pipe.send(_Call(operation))
            answer = self.answers.get()
        if answer.error is not None:
            raise answer.error
        return cast("T", answer.result)


def _serve(pipe: Connection, name: str, handler: Handler, options: Options) -> None:
    """Works on items until it is told to end, or its parent is gone."""
    os.setsid()  # Ctrl-C on the terminal is for the parent, which decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminated)
    queue = _Remote(name, pipe)
    items: queues.SimpleQueue[_Item] = queues.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, items, queue.answers), daemon=True).start()
    pipe.send(_Ready())
    while True:
        item = items.get()
        until = time.monotonic() + item.remaining
        lease = Lease(queue, item.message, item.token, item.deadline, until)
        verdict = None
        try:
            handler(lease)
        except _Terminated:
            raise
        except BaseException as error:  # noqa: BLE001 - the parent hears of it
            verdict = _portable(error, options)
        pipe.send(_Done(lease.settled, verdict))


def _portable(error: BaseException, options: Options) -> Verdict:
    """What an exception means, with its text: it may not be possible to pickle it."""
    verdict = judge(without_this_frame(error), options.retry_on, options.bury_on)
    return replace(verdict, error=error_text(verdict.error))


class _Terminated(SystemExit):
    """SIGTERM has come to a child process."""


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise _Terminated(128 + signal.SIGTERM)


def _read(
    pipe: Connection,
    items: queues.SimpleQueue[_Item],
    answers: queues.SimpleQueue[_Answer],
) -> None:
    while True:
        try:
            said = pipe.recv()
        except (EOFError, OSError):
            # The parent is gone: its items go to somebody else.
            os._exit(1)
        except Exception:  # noqa: BLE001 - a bug, but the parent must not wait for ever
            traceback.print_exc()
            os._exit(1)
        if isinstance(said, _Item):
            items.put(said)
        else:
            answers.put(said)
