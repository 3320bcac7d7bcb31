"""How the synchronous client makes its calls. ``_caller_aio`` is the same for asyncio."""

from __future__ import annotations

import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from . import _operations as op
from ._calls import Addressed, Sending, Slot, Slots, unknown
from ._connection import describe
from ._lanes import Lanes
from ._wire import Wire

if TYPE_CHECKING:
    import threading

    from ._keys import Keys

T = TypeVar("T")
logger = logging.getLogger("pyqueue")


class Caller(Addressed):
    """Runs operations, each with a slot of its own; threads may do so at the same time."""

    def __init__(
        self,
        keys: Keys,
        client: Any,  # noqa: ANN401 - of several classes
        *,
        owns_client: bool,
        batching: bool,
    ) -> None:
        super().__init__(keys)
        if inspect.iscoroutinefunction(client.execute_command):
            raise TypeError("Queue takes a client of redis; AsyncQueue one of redis.asyncio")
        self._client = client
        self._owns_client = owns_client
        self._slots = Slots()
        self._wire = Wire(client, shared=not owns_client)
        self._lanes = Lanes(self._perform, lambda: self._wide) if batching else None

    @property
    def _asking_again(self) -> threading.Lock:
        """One at a time finds out what a push with an unknown outcome came to."""
        return self._slots.asking

    def _run(self, operation: op.Operation[T]) -> T:
        """Runs an operation. Errors come in pyqueue's words."""
        if self._lanes is not None and (lane := operation.lane) is not None:
            return self._lanes.run(operation, lane)
        return self._perform(operation)

    def _perform(self, operation: op.Operation[T], results: list[T] | None = None) -> T:
        """Makes a call. What it came to is in ``results`` too, where a thread that is interrupted
        leaves it for others.
        """
        slot = self._slots.take()
        number = slot.number
        aside = False
        try:
            result = self._sent(operation, slot)
            if results is not None:
                results.append(result)
        except BaseException as error:
            # Also after KeyboardInterrupt, which is one thread's: the push may be of several. But
            # a call that was not even numbered must not be taken for the one before it.
            if isinstance(operation, op.Push) and unknown(error) and slot.number != number:
                aside = self._slots.put_aside(slot, operation)
                self._wire.release(slot)  # of the pool's connections all others have need
            raise
        else:
            return result
        finally:
            # Also after KeyboardInterrupt: the slot's next call gives back what this one leased.
            if not aside:
                self._slots.give(slot)

    def _sent(self, operation: op.Operation[T], slot: Slot) -> T:
        try:
            return self._send(operation, slot)
        except redis.RedisError as error:
            raise self._explained(error, operation, describe(self._client)) from error

    def _send(self, operation: op.Operation[T], slot: Slot) -> T:
        call = Sending(self, operation, slot)
        while True:
            try:
                reply = self._wire.evalsha(slot, operation.script, call.keys(), call.args)
            except redis.RedisError as error:
                if not call.again(error):
                    raise
            else:
                return call.answered(reply)

    def _block(self, seconds: float) -> None:
        """Waits for a message: BLMOVE from the list into the handoff, where any lease call finds
        it, whatever becomes of this worker.
        """
        slot = self._slots.take()
        try:
            self._wire.block(slot, self._keys.waiting, self._keys.handoff, seconds)
        except redis.RedisError as error:
            # A full server refuses it, a failover unblocks it: the lease script finds out.
            logger.debug("queue %r: BLMOVE: %s", self._keys.name, error)
            time.sleep(min(seconds, 0.5))
        finally:
            self._slots.give(slot)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        """Gives back what an unanswered call may have leased, and closes a client of its own.

        The queue can be used again afterwards; it connects anew.
        """
        for slot in self._slots.take_all():
            # Also when the last call was a lease that found nothing: a copy of it may yet arrive.
            if slot.unresolved or slot.number > slot.ack:
                self._resolve(slot)
            self._wire.release(slot)
        if self._owns_client:
            self._client.close()

    def _resolve(self, slot: Slot) -> None:
        """Gives back what the slot's last call may have leased without anybody seeing it."""
        try:
            self._send(op.Release((), 0), slot)
        except redis.RedisError as error:
            logger.warning(
                "queue %r: an unanswered call stays unresolved: %s", self._keys.name, error
            )
