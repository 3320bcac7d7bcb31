"""Keeps leases alive while their items are worked on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ._leases import heartbeat_period
from .client import Lease, Queue
from .errors import PyQueueError

logger = logging.getLogger("pyqueue")

#: Seconds until a heartbeat that the server did not answer is tried again, at the least.
RETRY = 0.5
#: The shortest lease that can be kept alive, seconds.
SHORTEST = 0.05


@dataclass(slots=True)
class _Kept:
    lease: Lease
    ttl: float | None
    on_lost: Callable[[Lease], None] | None
    due: float
    #: The queue's ``max_lease`` is reached: it cannot be extended any more.
    ends: bool = False

    @property
    def period(self) -> float:
        """Of what the lease has really been given, which the queue may limit."""
        return heartbeat_period(max(self.lease.remaining, SHORTEST))


class Heartbeat:
    """A daemon thread that extends the leases given to it, several in one call.

    ``remove`` a lease before settling it: a lease that is found lost after that is no news.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._kept: dict[int, _Kept] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(
        self,
        lease: Lease,
        ttl: float | None = None,
        on_lost: Callable[[Lease], None] | None = None,
    ) -> None:
        """Extends the lease by ``ttl`` seconds (default: the queue's), again and again. ``on_lost``
        is called from the heartbeat's thread when the lease turns out to be lost, or runs out since
        the queue's ``max_lease`` is reached; it must not block.
        """
        with self._changed:
            kept = self._kept[lease.token] = _Kept(lease, ttl, on_lost, 0)
            kept.due = time.monotonic() + kept.period
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beat, name="pyqueue-heartbeat", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def remove(self, lease: Lease) -> None:
        """Extends the lease no more."""
        with self._changed:
            self._kept.pop(lease.token, None)

    def close(self) -> None:
        """Ends the thread, after a call in flight."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for_due(self) -> list[_Kept] | None:
        """The leases to extend now, all with the ttl of the first, or one that has run out; None
        when closed.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                first = min(self._kept.values(), key=lambda kept: kept.due, default=None)
                if first is None:
                    self._changed.wait()
                elif first.due > now:
                    self._changed.wait(first.due - now)
                elif first.ends:
                    return [first]
                else:
                    # Those due soon travel along: one call for all that were leased together.
                    soon = now + first.period / 2
                    return [
                        kept
                        for kept in self._kept.values()
                        if kept.ttl == first.ttl and kept.due <= soon and not kept.ends
                    ]
            return None

    def _beat(self) -> None:
        while (due := self._wait_for_due()) is not None:
            if due[0].ends:
                held, retry = [False], 0.0
            else:
                held, retry = self._extend(due)
            lost = []
            with self._changed:
                for kept, ok in zip(due, held, strict=True):
                    wait = kept.lease.remaining if kept.ends else retry or kept.period
                    kept.due = time.monotonic() + wait
                    # Settled meanwhile: its owner removed it before that, and knows.
                    if not ok and self._kept.get(kept.lease.token) is kept:
                        del self._kept[kept.lease.token]
                        lost.append(kept)
            for kept in lost:
                why = "has run out: max_lease is reached" if kept.ends else "is lost"
                logger.warning(
                    "queue %r: item %s token %d: the lease %s while it is worked on",
                    self._queue.name,
                    kept.lease.id,
                    kept.lease.token,
                    why,
                )
                if kept.on_lost is not None:
                    kept.on_lost(kept.lease)

    def _extend(self, due: list[_Kept]) -> tuple[list[bool], float]:
        """Extends leases; returns which are held, and when to try again if nobody can tell."""
        before = [kept.lease.deadline for kept in due]
        try:
            held = self._queue.extend_many([kept.lease for kept in due], due[0].ttl)
        except PyQueueError as error:
            logger.warning("queue %r: heartbeat: %s", self._queue.name, error)
            return [True] * len(due), max(min(RETRY, due[0].period), SHORTEST)
        for kept, ok, deadline in zip(due, held, before, strict=True):
            kept.ends = ok and kept.lease.deadline == deadline
        return held, 0.0
