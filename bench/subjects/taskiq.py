"""taskiq with taskiq-redis. The variant: "" for the broker on a stream, "list" for a list."""

from __future__ import annotations

from taskiq import AsyncBroker
from taskiq.cli.worker.cmd import WorkerCMD
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from .base import AsyncSubject, Settings, current

settings = Settings.read()
broker: AsyncBroker = (
    ListQueueBroker(settings.url, queue_name=settings.queue)
    if settings.variant == "list"
    else RedisStreamBroker(
        settings.url,
        queue_name=settings.queue,
        consumer_id="0",  # its default would leave what was pushed before the first worker
        idle_timeout=5000 if settings.tuned else 600_000,
        # Without it, a worker that dies with the lock keeps all others from claiming.
        unacknowledged_lock_timeout=5 if settings.tuned else None,
    )
)


@broker.task(task_name="task")
async def task(payload: str) -> None:
    """The job."""
    await current().wait(payload)


class Taskiq(AsyncSubject):
    """A task is a call of a coroutine; results need a backend, which is not used here."""

    packages = ("taskiq", "taskiq-redis", "redis", "hiredis")
    #: Its pool opens a connection for each task that waits.
    tasks = 100

    async def open(self) -> None:
        await broker.startup()

    async def one(self, item: str) -> None:
        await task.kiq(item)

    def work(self) -> None:
        WorkerCMD().exec([f"{__name__}:broker", "--workers", "1", "--log-level", "WARNING"])


SUBJECT = Taskiq
