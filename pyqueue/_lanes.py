"""Automatic batching: while a call is in flight, those that come meanwhile are joined.

Operations of one lane (``Operation.lane``) go one call after the other. Whoever finds his lane idle
is sent at once; so nobody waits for others to come, and the more there are the larger the batches.
Each caller gets his own part of the result, or his own error: a call of several that is refused is
repeated one by one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from . import _operations as op
from ._outgoing import MOST_BYTES
from .errors import ServerUnavailable

T = TypeVar("T")
#: Operations of one lane have one type of result.
Operation = op.Operation[Any]


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


def _own(error: ServerUnavailable, operation: Operation) -> ServerUnavailable:
    """The error of a call, as that of one of those who were joined in it."""
    ids = operation.ids() if error.ids else ()
    own = ServerUnavailable(str(error), outcome_unknown=error.outcome_unknown, ids=ids)
    own.__cause__ = error.__cause__
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

    async def run(self, operation: op.Operation[T], lane: Hashable) -> T:
        """Runs an operation, perhaps together with others of its lane. Raises what those raise."""
        waiting = self._lanes.get(lane)
        if waiting is not None:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            waiting.append((operation, future))
            return await future
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
                del self._lanes[lane]

    async def close(self) -> None:
        """Waits until all that was asked for is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

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
            del self._lanes[lane]
            # None is left, unless the whole loop is ending.
            for _, future in (*some, *waiting):
                future.cancel()

    async def _together(self, some: Sequence[tuple[Operation, asyncio.Future[Any]]]) -> None:
        operations = [operation for operation, _ in some]
        try:
            result = await self._perform(_joined(operations))
        except ServerUnavailable as error:
            for operation, future in some:
                if not future.done():
                    future.set_exception(_own(error, operation))
        except Exception as error:  # noqa: BLE001 - the caller decides
            if len(some) > 1:
                for one in some:
                    await self._together([one])
            elif not some[0][1].done():
                some[0][1].set_exception(error)
        else:
            for (_, future), share in zip(some, _shares(operations, result), strict=True):
                if not future.done():
                    future.set_result(share)


class _Entry(Generic[T]):
    """An operation of a thread that waits for its result, or for its turn to make the call."""

    __slots__ = ("_event", "error", "leads", "operation", "result")

    def __init__(self, operation: op.Operation[T]) -> None:
        self.operation = operation
        self.result: T
        self.error: BaseException | None = None
        #: Whether this thread makes the next call of the lane.
        self.leads = False
        self._event = threading.Lock()
        self._event.acquire()

    def wait(self) -> bool:
        """Until the result is there, or it is this thread's turn to make the call: then True."""
        self._event.acquire()
        return self.leads

    def wake(self) -> None:
        """Ends the waiting."""
        self._event.release()


class Lanes:
    """Lanes of the threads that share a queue. The first of those who wait makes the call for all;
    then the next one does.
    """

    def __init__(self, perform: Callable[[Operation], Any], is_wide: Callable[[], bool]) -> None:
        self._perform = perform
        self._is_wide = is_wide
        self._lanes: dict[Hashable, deque[_Entry[Any]]] = {}
        self._lock = threading.Lock()

    def run(self, operation: op.Operation[T], lane: Hashable) -> T:
        """Runs an operation, perhaps together with others of its lane. Raises what those raise."""
        entry = _Entry(operation)
        with self._lock:
            first = lane not in self._lanes
            waiting = self._lanes.setdefault(lane, deque())
            waiting.append(entry)
        try:
            leads = first or entry.wait()
        except BaseException:
            # KeyboardInterrupt: the others must not wait for a call that this thread makes.
            with self._lock:
                if entry in waiting:
                    waiting.remove(entry)
                    if entry.leads:
                        self._pass_on(lane, waiting)
            raise
        if leads:
            self._lead(lane, waiting)
        if entry.error is not None:
            raise entry.error
        return entry.result

    def _lead(self, lane: Hashable, waiting: deque[_Entry[Any]]) -> None:
        with self._lock:
            fitting = _fitting((entry.operation for entry in waiting), wide=self._is_wide())
            some = [waiting.popleft() for _ in fitting]
        try:
            self._together(some)
        finally:
            for entry in some[1:]:
                entry.wake()
            with self._lock:
                self._pass_on(lane, waiting)

    def _pass_on(self, lane: Hashable, waiting: deque[_Entry[Any]]) -> None:
        if waiting:
            waiting[0].leads = True
            waiting[0].wake()
        else:
            del self._lanes[lane]

    def _together(self, some: Sequence[_Entry[Any]]) -> None:
        operations = [entry.operation for entry in some]
        try:
            result = self._perform(_joined(operations))
        except ServerUnavailable as error:
            for entry in some:
                entry.error = _own(error, entry.operation)
        except Exception as error:  # noqa: BLE001 - the caller decides
            if len(some) > 1:
                for entry in some:
                    self._together([entry])
            else:
                some[0].error = error
        except BaseException:
            for entry in some[1:]:
                entry.error = ServerUnavailable(
                    "the thread that made the call for several was interrupted: whether it was"
                    " carried out is unknown",
                    outcome_unknown=True,
                    ids=entry.operation.ids(),
                )
            raise
        else:
            for entry, share in zip(some, _shares(operations, result), strict=True):
                entry.result = share
