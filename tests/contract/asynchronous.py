# ruff: noqa: ANN401 - whatever a verb takes and gives
"""AsyncQueue behind the face of Queue, so that one contract suite runs on both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Self, TypeVar, cast

import redis
import redis.asyncio

from pyqueue import AsyncLease, AsyncQueue, Batch, Queue

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clients: list[redis.asyncio.Redis] = []
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _finish(self) -> None:
        await self.loop.shutdown_asyncgens()
        for client in self.clients:
            await client.aclose()
            await client.connection_pool.disconnect()
        for _ in range(5):
            await asyncio.sleep(0)  # transports that were closed without waiting

    def close(self) -> None:
        """Closes the clients that were made here, and ends the thread."""
        self.run(self._finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Blocking:
    """What is awaited there blocks here; all else is the same."""

    _inner: Any
    _loop: Loop

    def __init__(self, inner: object, loop: Loop) -> None:
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_loop", loop)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not inspect.ismethod(value):
            return value

        def call(*args: object, **options: object) -> object:
            return self._blocked(value(*map(_inner, args), **_inner(options)))

        return call

    def _blocked(self, result: Any) -> Any:
        if inspect.iscoroutine(result):
            result = self._loop.run(result)
        if isinstance(result, AsyncGenerator):
            return self._iterate(result)
        return self._wrapped(result)

    def _iterate(self, items: AsyncGenerator[Any, None]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items)

        try:
            while True:
                try:
                    item = self._loop.run(following())
                except StopAsyncIteration:
                    return
                yield self._wrapped(item)
        finally:
            self._loop.run(items.aclose())

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, AsyncLease):
            return BlockingLease(result, self._loop)
        if isinstance(result, Batch):
            result._leases = [self._wrapped(lease) for lease in result._leases]
        return result

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inner, name, value)

    def __repr__(self) -> str:
        return repr(self._inner).replace("Async", "")


class BlockingLease(Blocking):
    """An AsyncLease."""

    def __enter__(self) -> Self:
        self._blocked(self._inner.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._blocked(self._inner.__aexit__(*error))


class BlockingQueue(Blocking):
    """An AsyncQueue."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _inner(value: Any) -> Any:
    """Arguments as the asyncio client takes them."""
    if isinstance(value, Blocking):
        return value._inner
    if isinstance(value, (list, tuple, Batch)):
        return [_inner(x) for x in value]
    if isinstance(value, Mapping):
        return {name: _inner(x) for name, x in value.items()}
    return value


def open_blocking(loop: Loop, name: str, **options: Any) -> Queue:
    """An AsyncQueue that looks like a Queue."""
    client = options.get("client")
    if isinstance(client, redis.Redis):
        options["client"] = asynchronous(client)
        loop.clients.append(options["client"])
    return cast("Queue", BlockingQueue(AsyncQueue(name, **options), loop))


def asynchronous(client: redis.Redis) -> redis.asyncio.Redis:
    """The asyncio client that is like a given one."""
    given = client.connection_pool
    of_asyncio: dict[type, Callable[..., Any]] = {
        redis.Connection: redis.asyncio.Connection,
        redis.UnixDomainSocketConnection: redis.asyncio.UnixDomainSocketConnection,
    }
    kwargs = {
        name: value
        for name, value in given.connection_kwargs.items()
        if name not in ("retry", "maint_notifications_config", "event_dispatcher")
    }
    pool: redis.asyncio.ConnectionPool
    options: dict[str, Any] = {"connection_class": of_asyncio[given.connection_class]}
    if isinstance(given, redis.BlockingConnectionPool):
        pool = redis.asyncio.BlockingConnectionPool(
            max_connections=given.max_connections, timeout=given.timeout, **options, **kwargs
        )
    else:
        pool = redis.asyncio.ConnectionPool(
            max_connections=given.max_connections, **options, **kwargs
        )
    return redis.asyncio.Redis(
        connection_pool=pool, single_connection_client=client.connection is not None
    )
