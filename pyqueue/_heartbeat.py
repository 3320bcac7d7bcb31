"""Keeps leases alive while their items are worked on.

``Beats`` decides which leases are extended when, and which are lost; it does nothing itself.
``Heartbeat`` drives it with a thread, ``AsyncHeartbeat`` with a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from ._leases import heartbeat_period
from .client import Lease, Queue
from .errors import PyQueueError

logger = logging.getLogger("pyqueue")

#: Seconds until a heartbeat that the server did not answer is tried again, at the least.
RETRY = 0.5
#: The shortest lease that can be kept alive, seconds.
SHORTEST = 0.05


class Holding(Protocol):
    """What both clients' leases are, as far as they are kept alive."""

    token: int

    @property
    def id(self) -> str: ...
    @property
    def deadline(self) -> float: ...
    @property
    def remaining(self) -> float: ...
    @property
    def settled(self) -> bool: ...


L = TypeVar("L", bound=Holding)


@dataclass(slots=True, eq=False)
class Kept(Generic[L]):
    """A lease, and when it is extended next; times are monotonic."""

    lease: L
    ttl: float | None
    on_lost: Callable[[L], None] | None
    due: float
    #: From then on it is not extended any more.
    until: float
    #: It cannot be, since the queue's ``max_lease`` is reached; or must not be.
    ends: bool = False

    @property
    def period(self) -> float:
        """Of what the lease has really been given, which the queue may limit."""
        return heartbeat_period(max(self.lease.remaining, SHORTEST))


class Beats(Generic[L]):
    """Which leases to extend when: those due soon in one call.

    Leases come and go one by one (``add``, ``remove``); or ``look`` finds the newcomers and those
    that have gone among all that are held, now and then, which costs nothing for each item.
    ``max_lease``: so many seconds after ``look`` first saw a lease it is extended no more.
    """

    def __init__(self, max_lease: float | None = None) -> None:
        self._kept: dict[int, Kept[L]] = {}
        self._max_lease = math.inf if max_lease is None else max_lease
        self._looked = -math.inf
        self._look_again = math.inf
        self._interval = math.inf

    def add(
        self, lease: L, ttl: float | None, on_lost: Callable[[L], None] | None, now: float
    ) -> None:
        """Extends it by ``ttl`` seconds (None: the queue's), from a part of its time on."""
        kept = self._kept[lease.token] = Kept(lease, ttl, on_lost, now, math.inf)
        kept.due = now + kept.period

    def remove(self, lease: L) -> None:
        """Extends it no more."""
        self._kept.pop(lease.token, None)

    def leased(self, remaining: float, now: float) -> bool:
        """Leases of so many seconds came in. Returns whether ``wait`` gives less than before."""
        interval = heartbeat_period(max(remaining, SHORTEST)) / 2
        # Half of it at the most is lost by looking late; measured anew for each batch it moves.
        if interval > 0.9 * self._interval:
            return False
        self._interval = interval
        self._look_again = min(self._look_again, now + interval)
        return True

    def look(
        self,
        held: Mapping[int, L],
        ttl: float | None,
        on_lost: Callable[[L], None] | None,
        now: float,
    ) -> None:
        """Takes in what is held and was not known, and drops what is not held any more."""
        if now < self._look_again:
            return
        for token in self._kept.keys() - held.keys():
            del self._kept[token]
        for token, lease in held.items():
            if token not in self._kept and not lease.settled:
                # It is as old as the last look at the most.
                kept = Kept(lease, ttl, on_lost, now, now + self._max_lease)
                kept.due = max(now, self._looked + kept.period)
                self._kept[token] = kept
        self._looked = now
        self._look_again = now + self._interval

    def wait(self, now: float) -> float | None:
        """Seconds until there is something to do, which may be 0; None: nothing until there are
        other leases.
        """
        first = min((kept.due for kept in self._kept.values()), default=math.inf)
        first = min(first, self._look_again)
        return None if first == math.inf else max(first - now, 0)

    def due(self, now: float) -> list[Kept[L]]:
        """The leases to extend now, all with the ttl of the first."""
        first = min(self._kept.values(), key=lambda kept: kept.due, default=None)
        if first is None or first.due > now:
            return []
        # Those due soon travel along: one call for all that were leased together.
        soon = now + first.period / 2
        return [
            kept
            for kept in self._kept.values()
            if kept.ttl == first.ttl and kept.due <= soon and not kept.ends
        ]

    def drop_settled(self) -> None:
        """Lets go of what its handler has settled by itself: that it is not held is no news."""
        for kept in list(self._kept.values()):
            if kept.lease.settled:
                del self._kept[kept.lease.token]

    def over(self, now: float) -> list[Kept[L]]:
        """Those that must not be extended any more and have run out: they are lost."""
        over = []
        for kept in self._kept.values():
            if not kept.ends and kept.until <= now:
                kept.ends, kept.due = True, now + kept.lease.remaining
            if kept.ends and kept.due <= now:
                over.append(kept)
        for kept in over:
            del self._kept[kept.lease.token]
        return over

    def extended(
        self, due: Sequence[Kept[L]], held: Sequence[bool], before: Sequence[float], now: float
    ) -> list[Kept[L]]:
        """Leases were extended whose deadlines were ``before``. Returns those that are lost, and
        were not removed meanwhile: their owner knows.
        """
        lost = []
        for kept, ok, deadline in zip(due, held, before, strict=True):
            kept.ends = ok and kept.lease.deadline == deadline
            kept.due = now + (kept.lease.remaining if kept.ends else kept.period)
            if not ok and self._kept.get(kept.lease.token) is kept:
                del self._kept[kept.lease.token]
                lost.append(kept)
        return lost

    def unanswered(self, due: Sequence[Kept[L]], now: float) -> None:
        """Nobody can tell whether they were extended: soon again."""
        pause = max(min(RETRY, due[0].period), SHORTEST)
        for kept in due:
            kept.due = now + pause


def _warn(queue: str, lost: Sequence[Kept[L]]) -> None:
    for kept in lost:
        why = "has run out: max_lease is reached" if kept.ends else "is lost"
        lease = kept.lease
        logger.warning(
            "queue %r: item %s token %d: the lease %s while it is worked on",
            queue,
            lease.id,
            lease.token,
            why,
        )


class Heartbeat:
    """A daemon thread that extends the leases given to it, several in one call.

    ``remove`` a lease before settling it: a lease that is found lost after that is no news. Instead
    of that a whole mapping can be kept (``held``), by token, which its owner changes as it likes;
    ``on_lost`` is then called for its leases, and says so to the user; they are extended by ``ttl``
    for ``max_lease`` seconds at the most.
    """

    def __init__(
        self,
        queue: Queue,
        held: Mapping[int, Lease] | None = None,
        *,
        ttl: float | None = None,
        max_lease: float | None = None,
        on_lost: Callable[[Lease], None] | None = None,
    ) -> None:
        self._queue = queue
        self._held = held
        self._ttl = ttl
        self._on_lost = on_lost
        self._beats: Beats[Lease] = Beats(max_lease)
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
            self._beats.add(lease, ttl, on_lost, time.monotonic())
            self._notify()

    def remove(self, lease: Lease) -> None:
        """Extends the lease no more."""
        with self._changed:
            self._beats.remove(lease)

    def leased(self, remaining: float) -> None:
        """Leases of so many seconds came into ``held``."""
        if self._beats.leased(remaining, time.monotonic()):
            with self._changed:
                self._notify()

    def _notify(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._beat, name="pyqueue-heartbeat", daemon=True
            )
            self._thread.start()
        self._changed.notify()

    def close(self, seconds: float | None = None) -> None:
        """Ends the thread, after a call in flight, for which it waits at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for_due(self) -> tuple[list[Kept[Lease]], list[Kept[Lease]]] | None:
        """What to extend now, and what has run out; None when closed."""
        beats = self._beats
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._held is not None:
                    beats.drop_settled()
                    # A copy is made in one step, whatever other threads do meanwhile.
                    beats.look(dict(self._held), self._ttl, self._on_lost, now)
                over, due = beats.over(now), beats.due(now)
                if over or due:
                    return due, over
                self._changed.wait(beats.wait(now))
            return None

    def _beat(self) -> None:
        while (found := self._wait_for_due()) is not None:
            due, lost = found
            if due:
                lost += self._extend(due)
            if self._held is None:
                _warn(self._queue.name, lost)
            for kept in lost:
                if kept.on_lost is not None:
                    kept.on_lost(kept.lease)

    def _extend(self, due: list[Kept[Lease]]) -> list[Kept[Lease]]:
        before = [kept.lease.deadline for kept in due]
        try:
            held = self._queue.extend_many([kept.lease for kept in due], due[0].ttl)
        except PyQueueError as error:
            logger.warning("queue %r: heartbeat: %s", self._queue.name, error)
            with self._changed:
                self._beats.unanswered(due, time.monotonic())
            return []
        with self._changed:
            return self._beats.extended(due, held, before, time.monotonic())


class AsyncHeartbeat(Generic[L]):
    """A task that extends all leases of a mapping, which its owner changes as it likes.

    ``extend`` extends leases by a ttl and says which are held (``AsyncQueue.extend_many``).
    """

    def __init__(
        self,
        name: str,
        extend: Callable[[Sequence[L], float | None], Awaitable[Sequence[bool]]],
        held: Mapping[int, L],
        *,
        ttl: float | None,
        max_lease: float | None,
        on_lost: Callable[[L], None],
    ) -> None:
        self._name = name
        self._extend = extend
        self._held = held
        self._ttl = ttl
        self._on_lost = on_lost
        self._beats: Beats[L] = Beats(max_lease)
        self._changed = asyncio.Event()

    def leased(self, remaining: float) -> None:
        """Leases of so many seconds came into ``held``."""
        if self._beats.leased(remaining, time.monotonic()):
            self._changed.set()

    async def run(self) -> None:
        """Extends them until it is cancelled."""
        beats = self._beats
        while True:
            now = time.monotonic()
            beats.drop_settled()
            beats.look(self._held, self._ttl, self._on_lost, now)
            lost, due = beats.over(now), beats.due(now)
            if due:
                before = [kept.lease.deadline for kept in due]
                try:
                    held = await self._extend([kept.lease for kept in due], due[0].ttl)
                except PyQueueError as error:
                    logger.warning("queue %r: heartbeat: %s", self._name, error)
                    beats.unanswered(due, time.monotonic())
                else:
                    lost += beats.extended(due, held, before, time.monotonic())
            for kept in lost:
                self._on_lost(kept.lease)
            if not due and not lost:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), beats.wait(now))
