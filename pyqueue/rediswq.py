"""The interface of the Kubernetes tutorial's ``rediswq.py``, on pyqueue.

The tutorial "Fine Parallel Processing Using a Work Queue" has a ``worker.py`` that runs unchanged
with ``import pyqueue.rediswq as rediswq``. Three things differ:

- the item of a worker that died comes back when its lease runs out (in the original it is
  stranded, and every other worker says "Waiting for work" for ever);
- equal items are separate items (there they collide);
- items are worked off first in, first out (the original is last in, first out).

While this process lives, the leases it holds are extended by a background thread, so that
``lease_secs`` need not be longer than the work, only as long as a dead worker may go unnoticed.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import uuid
from collections import deque
from typing import Any

import redis

from ._heartbeat import Heartbeat
from .client import Lease, Queue

logger = logging.getLogger("pyqueue")


class RedisWQ:
    """A finite work queue: when ``empty()`` is true, all of the work is done.

    Not for several threads at once, as in the original. A forked child goes on by itself, without
    the items that its parent holds.
    """

    def __init__(self, name: str, **redis_kwargs: Any) -> None:  # noqa: ANN401 - redis-py's own
        """The queue ``name`` on the server given by redis-py's arguments (``host``, ``port``,
        ``db``, ``password``, …); without any, PYQUEUE_URL or REDIS_SERVICE_HOST, else localhost.

        ``host=None``, which the tutorial passes outside of Kubernetes, means the same as no host.
        """
        self._session = str(uuid.uuid4())
        given = {key: value for key, value in redis_kwargs.items() if value is not None}
        if given:
            self._queue = Queue(name, client=redis.Redis(**given), worker=self._session)
        else:
            self._queue = Queue(name, worker=self._session)
        self._pid = os.getpid()
        self._heartbeat = Heartbeat(self._queue)
        # By payload, since that is what `complete` is given; equal items in the order of leasing.
        self._held: dict[bytes, deque[Lease]] = {}
        self._lock = threading.Lock()  # the heartbeat's thread forgets what is lost
        atexit.register(self.close)

    def sessionID(self) -> str:  # noqa: N802 - the tutorial's name
        """The id of this session."""
        return self._session

    def empty(self) -> bool:
        """Whether all work is done: nothing waits and nothing is in flight. False does not mean
        that there is something to lease right now.
        """
        return self._queue.stats().drained

    def lease(
        self, lease_secs: float = 60, block: bool = True, timeout: float | None = None
    ) -> bytes | None:
        """Leases the next item for ``lease_secs`` seconds; returns its bytes, or None.

        With ``block`` it waits up to ``timeout`` seconds (None or 0: for ever) for one.
        """
        wait: float | None = 0
        if block:
            wait = timeout or None
        self._notice_fork()
        lease = self._queue.lease(ttl=lease_secs, wait=wait)
        if lease is None:
            return None
        with self._lock:
            self._held.setdefault(lease.payload, deque()).append(lease)
        self._heartbeat.add(lease, lease_secs, self._forget)
        return lease.payload

    def complete(self, value: bytes | str) -> None:
        """Completes the item: it is done and gone. An item that this session does not hold, or
        whose lease is lost, is logged: the tutorial's callers know no such error.
        """
        payload = value.encode() if isinstance(value, str) else value
        with self._lock:
            leases = self._held.get(payload)
            lease = leases.popleft() if leases else None
            if leases is not None and not leases:
                del self._held[payload]
        if lease is not None:
            self._heartbeat.remove(lease)
            if self._queue.complete_many([lease])[0]:
                return
        logger.warning(
            "queue %r: complete: item %s token %s of %d bytes: its lease is lost, or was never held"
            " by this session",
            self._queue.name,
            lease and lease.id,
            lease and lease.token,
            len(payload),
        )

    def close(self) -> None:
        """Gives back what is still held, as at the end of the program."""
        atexit.unregister(self.close)
        self._notice_fork()
        self._heartbeat.close()
        with self._lock:
            held = [lease for leases in self._held.values() for lease in leases]
            self._held.clear()
        self._queue._settle_logged("release", self._queue.release_many, held)
        self._queue.close()

    def _notice_fork(self) -> None:
        # The parent's leases are for the parent to extend and to give back; its heartbeat's thread
        # is not in the child.
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._heartbeat = Heartbeat(self._queue)
            self._held = {}
            self._lock = threading.Lock()

    def _forget(self, lease: Lease) -> None:
        # Else `complete` of the same item, leased again, would settle the lost lease of it.
        with self._lock:
            leases = self._held.get(lease.payload, deque())
            if lease in leases:
                leases.remove(lease)
            if not leases:
                self._held.pop(lease.payload, None)


__all__ = ["RedisWQ"]
