"""ardiq, whose loop is in Rust. The variant: "" for its defaults, "best" for 100 tasks at once."""

from __future__ import annotations

import asyncio

from ardiq import Ardiq

from .base import AsyncSubject, Settings, current


class ArdiqSubject(AsyncSubject):
    """A task is a call of a coroutine; its result is kept."""

    packages = ("ardiq",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        options: dict[str, int] = {}
        if settings.variant == "best":
            options = {"concurrency": 100, "prefetch": 1000, "result_ttl_ms": 0}
        if settings.tuned:
            options["idle_timeout_ms"] = 5000
        self.app = Ardiq(settings.url, queue_name=settings.queue, **options)

        async def task(payload: str) -> None:
            await current().wait(payload)

        self.task = self.app.task(name="task")(task)

    async def one(self, item: str) -> None:
        await self.task.enqueue(item)

    async def many(self, items: list[str]) -> None:
        await self.app.enqueue_many([self.task.prepare(item) for item in items])

    def work(self) -> None:
        asyncio.run(self.app.run())


SUBJECT = ArdiqSubject
