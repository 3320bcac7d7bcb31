"""Automatic batching: while a call is in flight, those that come meanwhile are joined.

Operations of one lane (``Operation.lane``) go one call after the other. Whoever finds his lane idle
is sent at once; so nobody waits for others to come, and the more there are the larger the batches.
Each caller gets his own part of the result, or his own error: a call of several that is refused for
what one of them may be guilty of is repeated in halves.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from . import _operations as op
from ._outgoing import MOST_BYTES
from .errors import (
    PermissionDenied,
    PyQueueError,
    QueueSealed,
    SchemaMismatch,
    ServerUnavailable,
    WrongType,
)

T = TypeVar("T")
#: Operations of one lane have one type of result.
Operation = op.Operation[Any]

#: What is not the fault of one of those who were joined.
OF_ALL = (PermissionDenied, QueueSealed, SchemaMismatch, ServerUnavailable, WrongType)


def _fitting(operations: Iterable[Operation], *, wide: bool) -> list[Operation]:
    """The first operations, as many as fit into one call; one always does."""
    fitting: list[Operation] = []
    entries = size = 0
    for operation in operations:
        more, more_bytes = operation.size
        entries, size = entries + more, size + more_bytes
        if fitting and (entries > operation.most(wide=wide) or size > MOST_BYTES):
            break
        fitting.append(operation)
    return fitting


def _joined(operations: Sequence[Operation]) -> Operation:
    first, *others = operations
    return first.joined(others) if others else first


def _shares(operations: Sequence[Operation], result: object) -> list[Any]:
    if len(operations) == 1:
        return [result]
    shares, start = [], 0
    for operation in operations:
        stop = start + operation.size[0]
        shares.append(operation.share(result, start, stop))
        start = stop
    return shares


def _of_one(error: Exception) -> bool:
    """Whether a call was refused for what a single one of those who were joined in it may want."""
    return isinstance(error, PyQueueError) and not isinstance(error, OF_ALL)


def _own(error: Exception, operation: Operation) -> Exception:
    """The error of a call, as that of one of those who were joined in it."""
    if not isinstance(error, PyQueueError):
        return error
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    if isinstance(own, ServerUnavailable) and own.ids:
        own.ids = tuple(operation.ids())
    return own


class AsyncLanes:
    """Lanes of the tasks of an event loop.

    Who finds his lane idle makes the call himself; a task of its own makes the calls for those who
    come meanwhile. What was once asked for is done, also when the caller is cancelled (``perform``
    sees to it).
    """

    def __init__(
        self, perform: Callable[[Operation], Coroutine[Any, Any, Any]], is_wide: Callable[[], bool]
    ) -> None:
        self._perform = perform
        self._is_wide = is_wide
        self._lanes: dict[Hashable, deque[tuple[Operation, asyncio.Future[Any]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event | None = None

    def run(self, operation: op.Operation[T], lane: Hashable) -> Awaitable[T]:
        """Runs an operation, perhaps together with others of its lane, when it is awaited, which
        must be at once. Raises what those raise.
        """
        waiting = self._lanes.get(lane)
        if waiting is None:
            return self._lead(operation, lane)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiting.append((operation, future))
        return future  # a coroutine around it would take as long as half of all this

    async def _lead(self, operation: op.Operation[T], lane: Hashable) -> T:
        waiting = self._lanes[lane] = deque()
        try:
            result: T = await self._perform(operation)
            return result
        finally:
            if waiting:
                task = asyncio.get_running_loop().create_task(self._work(lane, waiting))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._end(lane)

    async def close(self) -> None:
        """Waits until all that was asked for is done."""
        while self._lanes:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def _end(self, lane: Hashable) -> None:
        del self._lanes[lane]
        if self._idle is not None and not self._lanes:
            self._idle.set()
            self._idle = None

    async def _work(
        self, lane: Hashable, waiting: deque[tuple[Operation, asyncio.Future[Any]]]
    ) -> None:
        some: list[tuple[Operation, asyncio.Future[Any]]] = []
        try:
            while waiting:
                fitting = _fitting((operation for operation, _ in waiting), wide=self._is_wide())
                some = [waiting.popleft() for _ in fitting]
                await self._together(some)
        finally:
            self._end(lane)
            # None is left, unless the whole loop is ending.
            for _, future in (*some, *waiting):
                future.cancel()

    async def _together(self, some: Sequence[tuple[Operation, asyncio.Future[Any]]]) -> None:
        operations = [operation for operation, _ in some]
        try:
            result = await self._perform(_joined(operations))
        except Exception as error:  # noqa: BLE001 - the callers decide
            half = len(some) // 2
            if half and _of_one(error):
                await self._together(some[:half])
                await self._together(some[half:])
                return
            for operation, future in some:
                if not future.done():
                    future.set_exception(_own(error, operation))
        else:
            for (_, future), share in zip(some, _shares(operations, result), strict=True):
                if not future.done():
                    future.set_result(share)


class _Entry(Generic[T]):
    """An operation of a thread that waits for its result, or for its turn to make the call."""

    __slots__ = ("_asleep", "done", "error", "operation", "result")

    def __init__(self, operation: op.Operation[T]) -> None:
        self.operation = operation
        self.done = False
        self.result: T
        self.error: Exception | None = None
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self) -> None:
        """Until there may be something to do for its thread."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Ends the waiting; only who holds the lock of all may do so."""
        if self._asleep.locked():
            self._asleep.release()

    def fail(self, error: Exception) -> None:
        """Ends it with an error."""
        self.error, self.done = error, True


class _Lane:
    """Those who wait in a lane: in front those for whom the leader makes a call."""

    __slots__ = ("called", "leader", "sent", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Entry[Any]] = deque()
        self.called: Sequence[_Entry[Any]] = ()
        #: Those of them whose call was made last, and what it came to, if that is known.
        self.sent: tuple[Sequence[_Entry[Any]], list[Any]] = ((), [])
        self.leader: _Entry[Any] | None = None


class _Lanes:
    """The lanes of a process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.lanes: dict[Hashable, _Lane] = {}


class Lanes:
    """Lanes of the threads that share a queue. The first of those who wait makes the call for all;
    then the next one does.

    KeyboardInterrupt, or whatever a signal handler raises, may come at any instant: what there is
    to do is told by the state alone, so that it can be done once more.
    """

    def __init__(
        self, perform: Callable[[Operation, list[Any]], Any], is_wide: Callable[[], bool]
    ) -> None:
        self._perform = perform
        self._is_wide = is_wide
        self._here = _Lanes()
        #: Whether this thread is within ``run``: then what a signal handler asks for goes by
        #: itself, since it would wait for the thread that it interrupts.
        self._within = threading.local()

    def run(self, operation: op.Operation[T], name: Hashable) -> T:
        """Runs an operation, perhaps together with others of its lane. Raises what those raise."""
        if getattr(self._within, "run", False):
            result: T = self._perform(operation, [])
            return result
        if self._here.pid != os.getpid():
            # The threads that led the lanes, or held the lock, do not exist in a forked child.
            self._here = _Lanes()
        here, entry = self._here, _Entry(operation)
        self._within.run = True
        try:
            self._wait(here, name, entry)
        except BaseException:
            with here.lock:
                self._leave(here, name, entry)
            raise
        finally:
            self._within.run = False
        if entry.error is not None:
            raise entry.error
        return entry.result

    def _wait(self, here: _Lanes, name: Hashable, entry: _Entry[Any]) -> None:
        """Until the entry is done, by this thread or by another one."""
        with here.lock:
            lane = here.lanes.get(name)
            if lane is None:
                lane = here.lanes[name] = _Lane()
            if lane.leader is None:
                lane.leader = entry
            lane.waiting.append(entry)
            leads = lane.leader is entry
        while not leads:
            entry.wait()
            with here.lock:
                if entry.done:
                    return
                leads = lane.leader is entry
        with here.lock:
            fitting = _fitting((x.operation for x in lane.waiting), wide=self._is_wide())
            lane.called = list(islice(lane.waiting, len(fitting)))
        self._together(lane, lane.called)
        with here.lock:
            self._leave(here, name, entry)

    def _leave(self, here: _Lanes, name: Hashable, entry: _Entry[Any]) -> None:
        """What the end of a call, or of the waiting, means for the others."""
        lane = here.lanes.get(name)
        if lane is None:
            return
        if lane.leader is entry:
            _hand_out(*lane.sent)
            for other in lane.called:
                if not other.done:
                    other.fail(
                        ServerUnavailable(
                            "the thread that made the call for several was interrupted: whether it"
                            " was carried out is unknown",
                            outcome_unknown=True,
                            ids=other.operation.ids(),
                        )
                    )
            entry.done = True
            for other in lane.called:
                other.wake()
            while lane.waiting and lane.waiting[0].done:
                lane.waiting.popleft()
            following = lane.waiting[0] if lane.waiting else None
            if following is not None:
                following.wake()
            lane.called, lane.sent = (), ((), [])
            lane.leader = following
        elif entry in lane.waiting and entry not in lane.called:
            lane.waiting.remove(entry)
        if lane.leader is None:
            del here.lanes[name]

    def _together(self, lane: _Lane, some: Sequence[_Entry[Any]]) -> None:
        lane.sent = some, []
        try:
            self._perform(_joined([entry.operation for entry in some]), lane.sent[1])
        except (PyQueueError, ValueError) as error:
            # Nothing else: a signal handler may raise anything, and the call may be under way.
            half = len(some) // 2
            if half and _of_one(error):
                self._together(lane, some[:half])
                self._together(lane, some[half:])
                return
            for entry in some:
                entry.fail(_own(error, entry.operation))
        else:
            _hand_out(*lane.sent)


def _hand_out(some: Sequence[_Entry[Any]], results: Sequence[Any]) -> None:
    for result in results:
        shares = _shares([entry.operation for entry in some], result)
        for entry, share in zip(some, shares, strict=True):
            entry.result, entry.done = share, True
