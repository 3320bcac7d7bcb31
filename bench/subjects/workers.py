"""pyqueue's `AsyncQueue` and its workers. The variant: "tasks" for `AsyncWorker`, "threads" for
`Worker`.
"""

from __future__ import annotations

import asyncio

from pyqueue import AsyncLease, AsyncQueue, AsyncWorker, Lease, Queue, Worker

from .base import AsyncSubject, Settings


class Workers(AsyncSubject):
    """One call of the handler for each item."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Seconds until a dead worker's items come back; a minute is pyqueue's default.
        self.ttl = 5.0 if settings.tuned else 60.0

    async def open(self) -> None:
        self.queue = AsyncQueue(self.settings.queue, url=self.settings.url)

    async def one(self, item: str) -> None:
        await self.queue.push(item)

    async def many(self, items: list[str]) -> None:
        await self.queue.push_many(items)

    def work(self) -> None:
        handler, settings = self.handler(), self.settings

        def handle(lease: Lease) -> None:
            handler(lease.payload)

        async def handle_async(lease: AsyncLease) -> None:
            await handler.wait(lease.payload)

        async def run() -> None:
            async with AsyncQueue(settings.queue, url=settings.url) as queue:
                await AsyncWorker(queue, handle_async, ttl=self.ttl).run()

        if self.variant == "tasks":
            asyncio.run(run())
        else:
            Worker(Queue(settings.queue, url=settings.url), handle, ttl=self.ttl).run()


SUBJECT = Workers
