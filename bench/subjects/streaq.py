"""streaq. The variant: "" for its 16 tasks at a time, "best" for 100 and no results."""

from __future__ import annotations

from streaq import Worker

from .base import AsyncSubject, Settings, current


class Streaq(AsyncSubject):
    """A task is a call of a coroutine; its result is kept for 5 minutes."""

    packages = ("streaq", "coredis")
    #: Its pool opens a connection for each task that waits.
    tasks = 100

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        best = settings.variant == "best"
        self.worker = Worker(
            settings.url,
            queue_name=settings.queue,
            concurrency=100 if best else 16,
            idle_timeout=5 if settings.tuned else 60,
        )

        async def task(payload: str) -> None:
            await current().wait(payload)

        self.task = (
            self.worker.task(name="task", ttl=0, silent=True)(task)
            if best
            else self.worker.task(name="task")(task)
        )

    async def open(self) -> None:
        await self.worker.__aenter__()

    async def one(self, item: str) -> None:
        await self.task.enqueue(item)

    async def many(self, items: list[str]) -> None:
        await self.worker.enqueue_many([self.task.enqueue(item) for item in items])

    def work(self) -> None:
        self.worker.run_sync()


SUBJECT = Streaq
