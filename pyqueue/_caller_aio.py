"""How the asyncio client makes its calls. ``_caller`` is the same for threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from . import _operations as op
from ._calls import Addressed, Sending, Slot, Slots
from ._connection import describe
from ._lanes import AsyncLanes
from ._wire_aio import AsyncWire
from .errors import PyQueueError, ServerUnavailable

if TYPE_CHECKING:
    from ._keys import Keys

T = TypeVar("T")
logger = logging.getLogger("pyqueue")


class AsyncCaller(Addressed):
    """Runs operations, each with a slot of its own; tasks may do so at the same time."""

    def __init__(
        self,
        keys: Keys,
        client: Any,  # noqa: ANN401 - of several classes
        *,
        owns_client: bool,
        batching: bool,
    ) -> None:
        super().__init__(keys)
        if not inspect.iscoroutinefunction(client.execute_command):
            raise TypeError("AsyncQueue takes a client of redis.asyncio; Queue one of redis")
        self._batching = batching
        self._client = client
        self._owns_client = owns_client
        self._slots = Slots()
        self._wire = AsyncWire(client, shared=not owns_client)
        self._lanes = AsyncLanes(self._perform, lambda: self._wide)
        #: What goes on when its caller was cancelled.
        self._rescues: set[asyncio.Task[None]] = set()
        self._closings: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking = asyncio.Lock()

    @property
    def _asking_again(self) -> asyncio.Lock:
        """One at a time finds out what a push with an unknown outcome came to."""
        self._enter_loop()
        return self._asking

    def _run(self, operation: op.Operation[T]) -> Awaitable[T]:
        """Runs an operation when it is awaited, which must be at once. Errors come in pyqueue's
        words.

        Once something was sent for that is to be changed, a cancelled caller changes nothing of it:
        the call goes on without him. Only what he leased is given back.
        """
        self._enter_loop()
        if (lane := operation.lane) is None:
            return self._perform(operation)
        return self._lanes.run(operation, lane if self._batching else object())

    def _enter_loop(self) -> None:
        """Connections belong to the loop that opened them. Raises RuntimeError."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                f"queue {self._keys.name!r} is used by another event loop, which is not closed: an"
                " AsyncQueue belongs to one; make one for each"
            )
        if self._loop is not None:
            # asyncio.run() a second time: what is left of the first has no loop that could close
            # it.
            self._wire.forget(self._slots)
            self._lanes = AsyncLanes(self._perform, lambda: self._wide)
            self._rescues, self._closings = set(), set()
            self._asking = asyncio.Lock()
        self._loop = loop

    async def _perform(self, operation: op.Operation[T]) -> T:
        slot = self._slots.take()
        kept = False
        try:
            return await self._sent(operation, slot)
        except asyncio.CancelledError:
            if kept := slot.unresolved:
                self._go_on(self._ended(operation, slot), self._rescues)
            raise
        except ServerUnavailable as error:
            if error.outcome_unknown and isinstance(operation, op.Push):
                kept = self._slots.put_aside(slot, operation)
                await self._wire.release(slot)  # of the pool's connections all others have need
            raise
        finally:
            if not kept:
                self._slots.give(slot)

    async def _sent(self, operation: op.Operation[T], slot: Slot) -> T:
        try:
            return await self._send(operation, slot)
        except redis.RedisError as error:
            raise self._explained(error, operation, describe(self._client)) from error

    async def _send(self, operation: op.Operation[T], slot: Slot) -> T:
        call = Sending(self, operation, slot)
        while True:
            try:
                reply = await self._wire.evalsha(slot, operation.script, call.keys(), call.args)
            except redis.RedisError as error:
                if not call.again(error):
                    raise
            else:
                return call.answered(reply)

    async def _block(self, seconds: float) -> None:
        """Waits for a message: BLMOVE from the list into the handoff, where any lease call finds
        it, whatever becomes of this worker.
        """
        slot = self._slots.take()
        try:
            await self._wire.block(slot, self._keys.waiting, self._keys.handoff, seconds)
        except redis.RedisError as error:
            # A full server refuses it, a failover unblocks it: the lease script finds out.
            logger.debug("queue %r: BLMOVE: %s", self._keys.name, error)
            await asyncio.sleep(min(seconds, 0.5))
        finally:
            self._slots.give(slot)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _go_on(
        self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]
    ) -> asyncio.Task[None]:
        """Does it whatever becomes of the caller."""
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def close(self) -> None:
        """Waits for what is under way, gives back what an unanswered call may have leased, and
        closes a client of its own.

        The queue can be used again afterwards; it connects anew.
        """
        self._enter_loop()
        await asyncio.shield(self._go_on(self._close(), self._closings))

    async def _close(self) -> None:
        # A `drain` that was left with `break` is ended by a task that the loop makes in its next
        # turn: what that gives back is under way in the turn after.
        for _ in range(3):
            await asyncio.sleep(0)
        await self._lanes.close()
        while self._rescues:
            await asyncio.wait(self._rescues)
        for slot in self._slots.take_all():
            # Also when the last call was a lease that found nothing: a copy of it may yet arrive.
            if slot.unresolved or slot.number > slot.ack:
                await self._resolve(slot)
            await self._wire.release(slot)
        if self._owns_client:
            await self._client.aclose()

    async def _resolve(self, slot: Slot, completed: Sequence[int] = ()) -> None:
        """Gives back what the slot's last call may have leased without anybody seeing it, and
        completes what that call may have completed or not.
        """
        try:
            await self._send(op.Complete(completed) if completed else op.Release((), 0), slot)
        except redis.RedisError as error:
            logger.warning(
                "queue %r: an unanswered call stays unresolved: %s", self._keys.name, error
            )

    async def _ended(self, operation: op.Operation[Any], slot: Slot) -> None:
        """Ends a call whose caller was cancelled."""
        try:
            await self._end(operation, slot)
            await self._wire.release(slot)  # others may wait for its connection
        finally:
            self._slots.give(slot)

    async def _end(self, operation: op.Operation[Any], slot: Slot) -> None:
        if isinstance(operation, op.Lease):
            # Given back now, not with the slot's next call: there may be none for long.
            await self._resolve(slot, operation.completed)
        elif not operation.script.takes_call:
            await self._resolve(slot)  # of a call before it
        else:
            # The same call once more: it is carried out once.
            slot.number -= 1
            try:
                await self._sent(operation, slot)
            except PyQueueError as error:
                logger.warning("queue %r: a cancelled call: %s", self._keys.name, error)
