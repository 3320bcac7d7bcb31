"""pyqueue. The variant is a batch of the sync client, or which worker runs the handler."""

from __future__ import annotations

from pyqueue import Queue

from .base import BULK, Settings, Subject


class PyQueue(Subject):
    """`Queue.lease_many` with what was done before: one round trip for each batch."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.queue = Queue(settings.queue, url=settings.url)
        #: Seconds until a dead worker's items come back; a minute is pyqueue's default.
        self.ttl = 5.0 if settings.tuned else 60.0

    def push(self, items: list[str]) -> None:
        for item in items:
            self.queue.push(item)

    def push_bulk(self, items: list[str]) -> None:
        for start in range(0, len(items), BULK):
            self.queue.push_many(items[start : start + BULK])

    def work(self) -> None:
        queue, handle, batch = self.queue, self.handler(), int(self.variant)
        leases = queue.lease_many(batch, self.ttl, wait=2)
        while True:
            for lease in leases:
                handle(lease.payload)
            leases = queue.lease_many(batch, self.ttl, wait=2, completed=leases)


SUBJECT = PyQueue
