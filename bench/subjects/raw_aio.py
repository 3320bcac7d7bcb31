"""Raw lists by redis-py's asyncio client: what a call from an event loop costs by itself."""

from __future__ import annotations

import asyncio

import redis.asyncio

from .base import BULK, AsyncSubject
from .raw import SECONDS


class RawAsync(AsyncSubject):
    """redis.asyncio, and nothing else."""

    #: Each has a connection of its own while it pushes.
    tasks = 100

    async def open(self) -> None:
        self.client = redis.asyncio.Redis.from_url(self.settings.url)

    async def one(self, item: str) -> None:
        await self.client.rpush(self.settings.queue, item)

    async def many(self, items: list[str]) -> None:
        for start in range(0, len(items), BULK):
            await self.client.rpush(self.settings.queue, *items[start : start + BULK])

    def work(self) -> None:
        async def run() -> None:
            client, queue = redis.asyncio.Redis.from_url(self.settings.url), self.settings.queue
            handle, processing = self.handler(), queue + ":processing"
            while True:
                item = await client.lmove(queue, processing, "LEFT", "RIGHT")
                if item is None:
                    item = await client.blmove(queue, processing, SECONDS, "LEFT", "RIGHT")
                if item is not None:
                    handle(item)
                    await client.lrem(processing, 1, item)  # type: ignore[arg-type] # bytes are taken as well

        asyncio.run(run())


SUBJECT = RawAsync
