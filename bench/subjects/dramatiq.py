"""dramatiq. The variant: "" for its 8 threads, else how many, the prefetch, and few middlewares."""

from __future__ import annotations

import os

from .base import Settings, Subject, current

settings = Settings.read()
threads, _, prefetch = settings.variant.partition(" ")
if prefetch:
    os.environ["dramatiq_queue_prefetch"] = prefetch  # noqa: SIM112 - so it is called

import dramatiq  # noqa: E402 - it reads the environment
from dramatiq.brokers.redis import RedisBroker  # noqa: E402
from dramatiq.cli import main, make_argument_parser  # noqa: E402
from dramatiq.middleware import Retries  # noqa: E402

broker = RedisBroker(
    url=settings.url,
    middleware=[Retries()] if prefetch else None,
    # ms, and for how many of a million commands it looks for the dead; else its defaults.
    heartbeat_timeout=5000 if settings.tuned else 60_000,
    maintenance_chance=100_000 if settings.tuned else 1000,
)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=settings.queue)
def task(payload: str) -> None:
    """The job."""
    current()(payload)


class Dramatiq(Subject):
    """A message is a call of a function; results need a middleware, which is not used here."""

    packages = ("dramatiq", "redis", "hiredis")

    def push(self, items: list[str]) -> None:
        for item in items:
            task.send(item)

    def work(self) -> None:
        arguments = ["--processes", "1", "--threads", threads or "8", __name__]
        main(make_argument_parser().parse_args(arguments))


SUBJECT = Dramatiq
