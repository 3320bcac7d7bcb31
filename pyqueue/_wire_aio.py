"""How an asyncio queue's calls reach the server: as ``_wire`` does it for threads."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import redis
import redis.asyncio
from redis.client import NEVER_DECODE

from ._wire import ANSWERS, KEEP, MARGIN, OF_SCRIPTS, Beginnings, FirstCopyLost, NotSent

if TYPE_CHECKING:
    from ._calls import Slot, Slots
    from ._operations import Arg, Reply
    from ._scripts import Script

#: Seconds until a server that does not answer is given up on, per try. One timer for a whole
#: exchange costs a third of redis-py's own ``socket_timeout``, which makes a task for each write.
EXCHANGE_TIMEOUT = 5.0


class AsyncWire:
    """The way to the server of one queue."""

    def __init__(self, client: Any, *, shared: bool) -> None:  # noqa: ANN401 - of several classes
        self._client = client
        #: Whether others use the client's pool too.
        self._shared = shared
        self._direct = (
            isinstance(client, redis.asyncio.Redis) and not client.single_connection_client
        )
        self._timeout = None if shared else EXCHANGE_TIMEOUT
        self._beginnings = Beginnings()
        #: Calls that have a connection or may get one, and what those wait for who found the pool
        #: used up by them.
        self._calls = 0
        self._awaited: asyncio.Event | None = None

    async def evalsha(
        self, slot: Slot, script: Script, keys: tuple[bytes, ...], args: Sequence[Arg]
    ) -> Reply:
        """Runs a script: see ``Wire.evalsha``. Raises redis.RedisError."""
        self._calls += 1
        try:
            with _Heeding():
                if self._direct:
                    return await self._exchange(slot, script, keys, args)
                try:
                    return await self._execute("EVALSHA", script.sha, keys, args)
                except redis.exceptions.NoScriptError:
                    return await self._execute("EVAL", script.source, keys, args)
        finally:
            self._calls -= 1
            if self._shared or self._awaited is not None:
                await self.release(slot)
            if self._awaited is not None:
                self._awaited.set()
                self._awaited = None

    async def _execute(
        self, command: str, script: str, keys: tuple[bytes, ...], args: Sequence[Arg]
    ) -> Reply:
        # A new dict for each call: redis-py takes the option out of it.
        options: dict[str, Any] = {NEVER_DECODE: True}
        whole = (command, script, len(keys), *keys, *args)
        return cast("Reply", await self._client.execute_command(*whole, **options))

    async def _exchange(
        self, slot: Slot, script: Script, keys: tuple[bytes, ...], args: Sequence[Arg]
    ) -> Reply:
        packed = self._beginnings.pack("EVALSHA", script.sha, keys, args)
        connection = await self._connection(slot)
        lost = False

        async def exchange() -> Reply:
            nonlocal lost
            try:
                async with asyncio.timeout(self._timeout):
                    if not connection.is_connected:
                        # The tries are counted here, not within each of them again.
                        await connection.connect_check_health(retry_socket_connect=False)
                    try:
                        await connection.send_packed_command((packed,))
                        return cast("Reply", await connection.read_response(disable_decoding=True))
                    except redis.exceptions.NoScriptError:
                        whole = self._beginnings.pack("EVAL", script.source, keys, args)
                        await connection.send_packed_command((whole,))
                        return cast("Reply", await connection.read_response(disable_decoding=True))
            except TimeoutError:
                lost = True
                raise redis.TimeoutError(f"no answer within {self._timeout} s") from None
            except (redis.ConnectionError, redis.TimeoutError) as error:
                lost = lost or not isinstance(error, ANSWERS)
                raise

        # A call that is sent twice is carried out once: that is what its id is for.
        try:
            return cast(
                "Reply",
                await connection.retry.call_with_retry(
                    exchange, lambda _: connection.disconnect(nowait=True)
                ),
            )
        except (redis.ResponseError, *ANSWERS) as error:
            # The scripts themselves know of the first copy; the server refuses the second unseen.
            if not lost or str(error).startswith(OF_SCRIPTS):
                raise
            raise FirstCopyLost(f"{error}, to a second copy of it") from error
        except BaseException:
            # A caller is cancelled between sending and reading too. The reply that is still on its
            # way must not be taken for that of the slot's next call.
            await connection.disconnect(nowait=True)
            raise

    async def block(self, slot: Slot, source: bytes, destination: bytes, seconds: float) -> None:
        """BLMOVE from the head of a list to the tail of another, at most so many seconds: see
        ``Wire.block``. Raises redis.RedisError.
        """
        command = ("BLMOVE", source, destination, "LEFT", "RIGHT", f"{seconds:.3f}")
        if self._direct:
            try:
                self._calls += 1
                try:
                    connection = await self._connection(slot)
                finally:
                    self._calls -= 1  # nobody waits for one who may block for long
                await _exchange_once(connection, command, seconds + MARGIN)
            finally:
                if self._shared:
                    await self.release(slot)
            return
        client = self._client
        if hasattr(client, "get_node_from_key"):
            node = client.get_node_from_key(source.decode())
            connection = node.acquire_connection()
            try:
                await _exchange_once(connection, command, seconds + MARGIN)
            finally:
                node.release(connection)
            return
        pool = client.connection_pool
        connection = await pool.get_connection()
        try:
            await _exchange_once(connection, command, seconds + MARGIN)
        finally:
            await pool.release(connection)

    async def _connection(self, slot: Slot) -> Any:  # noqa: ANN401 - several classes of redis-py's
        now = time.monotonic()
        if now > slot.keep_until:
            await self.release(slot)
            try:
                async with _limited(self._timeout):
                    slot.connection = await self._pooled()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if isinstance(error, ANSWERS):
                    raise
                raise NotSent(str(error)) from error
            slot.keep_until = now + KEEP
        return slot.connection

    async def _pooled(self) -> Any:  # noqa: ANN401
        """A connection of the pool. Those that calls of this queue have come back soon: what goes
        on without its cancelled caller must not use up a small pool for his next call.
        """
        while True:
            try:
                return await self._client.connection_pool.get_connection()
            except redis.exceptions.MaxConnectionsError:
                if self._calls == 1:
                    raise
            self._awaited = self._awaited or asyncio.Event()
            self._calls -= 1
            try:
                await self._awaited.wait()
            finally:
                self._calls += 1

    async def release(self, slot: Slot) -> None:
        """Gives a slot's connection back to the pool."""
        connection, slot.connection, slot.keep_until = slot.connection, None, 0.0
        if connection is not None:
            await self._client.connection_pool.release(connection)

    def forget(self, slots: Slots) -> None:
        """Drops all connections, whose loop is closed."""
        for slot in slots.all():
            slot.connection, slot.keep_until = None, 0.0
        self._calls, self._awaited = 0, None
        if not self._shared:
            pool = self._client.connection_pool
            pool.reset()
            pool._lock = asyncio.Lock()  # a task that was ended may still wait for the old one


class _Heeding:
    """Raises a cancellation that was swallowed: redis-py sends with ``asyncio.wait_for``, which up
    to Python 3.11 forgets one that comes just when all was sent.
    """

    __slots__ = ("_before", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._task and self._task.cancelling() > self._before:
            raise asyncio.CancelledError


@asynccontextmanager
async def _limited(seconds: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise redis.TimeoutError(f"no answer within {seconds:g} s") from None


async def _exchange_once(connection: Any, command: Sequence[Arg], timeout: float) -> None:  # noqa: ANN401, ASYNC109 - several classes of redis-py's
    """Sends a command and reads its reply, or leaves no reply behind that a later call would read:
    a cancellation comes between the two as well.
    """
    try:
        with _Heeding():
            async with _limited(timeout):
                await connection.send_command(*command)
                await connection.read_response(disable_decoding=True, timeout=math.inf)
    except redis.ResponseError:
        raise
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
