"""RQ. The variant: "" for the worker that forks for each job, "simple" for that which does not."""

from __future__ import annotations

from redis import Redis
from rq import Queue, Retry, SimpleWorker, Worker

from .base import BULK, Settings, Subject, current


def task(payload: str) -> None:
    """The job."""
    current()(payload)


class Rq(Subject):
    """A job is a call of a function; its result is kept for 500 s."""

    packages = ("rq", "redis", "hiredis")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.redis = Redis.from_url(settings.url)
        self.queue = Queue(settings.queue, connection=self.redis)
        self.retry = Retry(max=3) if settings.tuned else None
        #: Seconds that results are kept for; None: 500.
        self.keep = 0 if settings.variant == "simple" else None

    def push(self, items: list[str]) -> None:
        for item in items:
            self.queue.enqueue(task, item, result_ttl=self.keep, retry=self.retry)

    def push_bulk(self, items: list[str]) -> None:
        for start in range(0, len(items), BULK):
            self.queue.enqueue_many(
                Queue.prepare_data(task, (item,), result_ttl=self.keep, retry=self.retry)
                for item in items[start : start + BULK]
            )

    def work(self) -> None:
        simple = self.variant == "simple"
        if not simple:
            current().count_in_children()
        kind = SimpleWorker if simple else Worker
        options = {"maintenance_interval": 5, "job_monitoring_interval": 1}
        worker = kind(
            [self.queue], connection=self.redis, **(options if self.settings.tuned else {})
        )
        worker.work(logging_level="WARNING")


SUBJECT = Rq
