"""Raw lists: LMOVE to a list of what is in hand, LREM from it."""

from __future__ import annotations

import redis

from .base import BULK, Settings, Subject

SECONDS = 2


class Raw(Subject):
    """redis-py, and nothing else."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.client = redis.Redis.from_url(self.settings.url)

    def push(self, items: list[str]) -> None:
        for item in items:
            self.client.rpush(self.settings.queue, item)

    def push_bulk(self, items: list[str]) -> None:
        for start in range(0, len(items), BULK):
            self.client.rpush(self.settings.queue, *items[start : start + BULK])

    def work(self) -> None:
        client, queue, handle = self.client, self.settings.queue, self.handler()
        processing = queue + ":processing"
        while True:
            item = client.lmove(queue, processing, "LEFT", "RIGHT")
            if item is None:
                item = client.blmove(queue, processing, SECONDS, "LEFT", "RIGHT")
            if item is not None:
                handle(item)
                client.lrem(processing, 1, item)  # type: ignore[arg-type] # bytes are taken as well


SUBJECT = Raw
