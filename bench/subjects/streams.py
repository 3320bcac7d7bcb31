"""A consumer group of Redis Streams: XREADGROUP, XACK, XDEL (else the stream grows for ever)."""

from __future__ import annotations

import uuid
from typing import Any, cast

import redis

from .base import BULK, Settings, Subject

GROUP = "workers"
#: ms
BLOCK = 2000


class Streams(Subject):
    """redis-py, and nothing else. The variant is the COUNT."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.client = redis.Redis.from_url(settings.url)

    def push(self, items: list[str]) -> None:
        for item in items:
            self.client.xadd(self.settings.queue, {"p": item})

    def push_bulk(self, items: list[str]) -> None:
        for start in range(0, len(items), BULK):
            pipeline = self.client.pipeline(transaction=False)
            for item in items[start : start + BULK]:
                pipeline.xadd(self.settings.queue, {"p": item})
            pipeline.execute()

    def work(self) -> None:
        client, queue, handle = self.client, self.settings.queue, self.handler()
        consumer, count = str(uuid.uuid4()), int(self.variant)
        try:
            client.xgroup_create(queue, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        while True:
            reply = cast(
                "Any",
                client.xreadgroup(GROUP, consumer, {queue: ">"}, count=count, block=BLOCK),
            )
            if not reply:
                continue
            # RESP3 answers with a map, RESP2 with a list.
            ((_, entries),) = reply.items() if isinstance(reply, dict) else reply
            if isinstance(reply, dict):
                (entries,) = entries
            for _, fields in entries:
                handle(fields[b"p"])
            ids = [id for id, _ in entries]
            client.xack(queue, GROUP, *ids)
            client.xdel(queue, *ids)


SUBJECT = Streams
