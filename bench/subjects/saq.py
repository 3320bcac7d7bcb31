"""SAQ. The variant: "" for its 10 jobs at a time, "best" for 100."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue, Worker

from .base import AsyncSubject, Settings, current


async def task(ctx: dict[str, Any], *, payload: str) -> None:  # noqa: ARG001 - SAQ passes it
    """The job."""
    await current().wait(payload)


class Saq(AsyncSubject):
    """A job is a call of a coroutine; its result is kept for 10 minutes."""

    packages = ("saq", "redis", "hiredis")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Without a retry, what a dead worker held is aborted when it is found.
        self.job = {"timeout": 5, "retries": 3} if settings.tuned else {}

    def queue(self) -> Queue:
        """A connection of its own."""
        return Queue.from_url(self.settings.url, name=self.settings.queue)

    async def open(self) -> None:
        self.producer = self.queue()
        await self.producer.connect()

    async def one(self, item: str) -> None:
        await self.producer.enqueue("task", payload=item, **self.job)

    def work(self) -> None:
        async def run() -> None:
            worker: Worker[Any] = Worker(
                self.queue(),
                [("task", task)],
                concurrency=100 if self.variant == "best" else 10,
                timers={"sweep": 5} if self.settings.tuned else None,
            )
            await worker.queue.connect()
            await worker.start()

        asyncio.run(run())


SUBJECT = Saq
