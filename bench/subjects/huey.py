"""huey. The variant: "" for its one thread, a number for so many."""

from __future__ import annotations

import logging

from huey import RedisHuey

from .base import Settings, Subject, current


def task(payload: str) -> None:
    """The task."""
    current()(payload)


class Huey(Subject):
    """A task is a call of a function; results other than None are kept."""

    packages = ("huey", "redis", "hiredis")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.huey = RedisHuey(settings.queue, url=settings.url)
        self.task = self.huey.task()(task)

    def push(self, items: list[str]) -> None:
        for item in items:
            self.task(item)

    def work(self) -> None:
        logging.disable(logging.INFO)
        self.huey.create_consumer(workers=int(self.variant or 1)).run()


SUBJECT = Huey
