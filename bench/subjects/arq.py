"""arq. The variant: "" for its defaults, "best" for 100 jobs at a time, 50 ms polls, no results."""

from __future__ import annotations

from typing import Any

import arq
from arq.connections import ArqRedis, RedisSettings

from .base import AsyncSubject, current


async def task(ctx: dict[str, Any], payload: str) -> None:  # noqa: ARG001 - arq passes it
    """The job."""
    await current().wait(payload)


class Arq(AsyncSubject):
    """A job is a call of a coroutine; its result is kept for an hour."""

    packages = ("arq", "redis", "hiredis")
    #: Its pool opens a connection for each task that waits.
    tasks = 100
    pool: ArqRedis

    async def open(self) -> None:
        self.pool = await arq.create_pool(
            RedisSettings.from_dsn(self.settings.url), default_queue_name=self.settings.queue
        )

    async def one(self, item: str) -> None:
        await self.pool.enqueue_job("task", item)

    def work(self) -> None:
        options: dict[str, Any] = {}
        if self.variant == "best":
            options = {"max_jobs": 100, "poll_delay": 0.05, "keep_result": 0, "log_results": False}
        if self.settings.tuned:
            options["job_timeout"] = 5
        worker = arq.Worker(
            [task],
            queue_name=self.settings.queue,
            redis_settings=RedisSettings.from_dsn(self.settings.url),
            **options,
        )
        worker.run()


SUBJECT = Arq
