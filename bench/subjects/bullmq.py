"""BullMQ for Python. The variant: "" for its one job at a time, "best" for 100 and no results."""

from __future__ import annotations

import asyncio
from typing import Any

from bullmq import Job, Queue, Worker

from .base import AsyncSubject, current


async def task(job: Job, token: str) -> None:  # noqa: ARG001 - BullMQ passes it
    """The job."""
    await current().wait(job.data["payload"])


class BullMQ(AsyncSubject):
    """A job has a name and data; finished ones are kept unless told otherwise."""

    packages = ("bullmq", "redis", "hiredis")
    #: Its pool opens a connection for each task that waits.
    tasks = 100

    async def open(self) -> None:
        self.queue = Queue(self.settings.queue, {"connection": self.settings.url})
        self.options: dict[str, Any] = {}
        if self.variant == "best":
            self.options["removeOnComplete"] = True

    async def one(self, item: str) -> None:
        await self.queue.add("task", {"payload": item}, self.options)

    async def many(self, items: list[str]) -> None:
        await self.queue.addBulk(
            [{"name": "task", "data": {"payload": x}, "opts": self.options} for x in items]
        )

    def work(self) -> None:
        options: dict[str, Any] = {"connection": self.settings.url}
        if self.variant == "best":
            options["concurrency"] = 100
        if self.settings.tuned:
            options |= {"lockDuration": 5000, "stalledInterval": 5000}

        async def run() -> None:
            # The worker runs in the background, as its users have it.
            Worker(self.settings.queue, task, options)
            await asyncio.Event().wait()

        asyncio.run(run())


SUBJECT = BullMQ
