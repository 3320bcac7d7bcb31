"""dramatiq. The variant: "" for its 8 threads, "best" for fewer of them and few middlewares."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.cli import main, make_argument_parser
from dramatiq.middleware import Retries

from .base import Settings, Subject, current

settings = Settings.read()
BEST = settings.variant == "best"

if BEST:
    os.environ["dramatiq_queue_prefetch"] = "1000"  # noqa: SIM112 - so it is called
broker = RedisBroker(
    url=settings.url,
    middleware=[Retries()] if BEST else None,
    heartbeat_timeout=5000 if settings.tuned else 60_000,
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
        arguments = ["--processes", "1", "--threads", "4" if BEST else "8", __name__]
        main(make_argument_parser().parse_args(arguments))


SUBJECT = Dramatiq
