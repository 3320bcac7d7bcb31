"""docket (pydocket). The variant: "" for its 10 tasks at a time, "best" for 100 and no results."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from docket import Docket, Worker

from .base import AsyncSubject, Settings, current


async def task(payload: str) -> None:
    """The job."""
    await current().wait(payload)


class DocketSubject(AsyncSubject):
    """A task is a call of a coroutine; its state is kept for 15 minutes."""

    packages = ("pydocket", "redis", "hiredis")
    #: Its pool opens a connection for each task that waits.
    tasks = 100

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.best = settings.variant == "best"
        keep = timedelta(0) if self.best else timedelta(minutes=15)
        # It takes a connection for each task; redis-py's pool has 100 unless told otherwise.
        url = f"{settings.url}?max_connections=1000"
        self.docket = Docket(settings.queue, url, execution_ttl=keep)

    async def open(self) -> None:
        await self.docket.__aenter__()
        self.docket.register(task)

    async def one(self, item: str) -> None:
        await self.docket.add(task)(item)

    async def many(self, items: list[str]) -> None:
        await self.docket.add_many(self.docket.call(task)(item) for item in items)

    def work(self) -> None:
        async def run() -> None:
            await self.open()
            # No more than what there is room for starts in a check, 250 ms each by default.
            every = timedelta(milliseconds=10 if self.best else 250)
            seconds = 5 if self.settings.tuned else 300
            async with Worker(
                self.docket,
                concurrency=100 if self.best else 10,
                redelivery_timeout=timedelta(seconds=seconds),
                minimum_check_interval=every,
            ) as worker:
                await worker.run_forever()

        asyncio.run(run())


SUBJECT = DocketSubject
