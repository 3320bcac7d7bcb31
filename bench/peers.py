"""What is compared: pyqueue, and the same work done with raw commands, as the tutorial's worker
does it, and with Redis Streams. Every one reads each payload, and ends when the queue is empty.

A worker's ``consume`` yields once per item, after the item has been completed for all that the
measuring can know; the time of the last yield ends the measurement.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import redis

from pyqueue import Queue
from pyqueue.rediswq import RedisWQ

PAYLOAD_BYTES = 64
#: Seconds. Longer than any measurement.
TTL = 600
#: Values in one bulk push.
BULK = 1000


def payloads(count: int) -> list[bytes]:
    """Different ones, as the tutorial's queue needs them."""
    return [b"%0*d" % (PAYLOAD_BYTES, number) for number in range(count)]


def _rpush(client: redis.Redis, name: str, count: int) -> None:
    values = payloads(count)
    for start in range(0, count, BULK):
        client.rpush(name, *values[start : start + BULK])


class Peer(ABC):
    """A producer or a worker of one queue, with a connection of its own."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.client = redis.Redis.from_url(url)

    @abstractmethod
    def fill(self, count: int) -> None:
        """Makes items wait, the fastest way there is; not measured."""

    def push(self, count: int) -> None:
        """Makes ``count`` items wait: the measured way."""
        raise NotImplementedError

    def consume(self) -> Iterator[int]:
        """Works until the queue is empty; yields how many items were completed."""
        raise NotImplementedError

    def wake(self) -> None:
        """Waits, blocked, for one item; returns as soon as it has it."""
        raise NotImplementedError

    def settle(self) -> None:
        """Completes the item of ``wake``."""
        raise NotImplementedError

    @abstractmethod
    def clean(self) -> None:
        """Deletes the keys."""

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()


class PyQueue(Peer):
    """pyqueue, one item at a time: complete it and lease the next in one round trip."""

    batch: ClassVar[int] = 1

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self.queue = Queue(name, url=url)

    def fill(self, count: int) -> None:
        self.queue.push_many(payloads(count))

    def push(self, count: int) -> None:
        for payload in payloads(count):
            self.queue.push(payload)

    def consume(self) -> Iterator[int]:
        queue, batch = self.queue, self.batch
        leases = queue.lease_many(batch, TTL)
        while leases:
            for lease in leases:
                assert len(lease.payload) == PAYLOAD_BYTES
            done = leases
            leases = queue.lease_many(batch, TTL, completed=done)
            assert not leases.lost
            yield len(done)

    def wake(self) -> None:
        lease = self.queue.lease(TTL, wait=60)
        assert lease is not None
        self._lease = lease

    def settle(self) -> None:
        self._lease.complete()

    def clean(self) -> None:
        self.queue.delete(force=True)

    def close(self) -> None:
        self.queue.close()
        super().close()


class PyQueue10(PyQueue):
    """Batches of 10."""

    batch = 10


class PyQueue100(PyQueue):
    """Batches of 100."""

    batch = 100


class PyQueue1000(PyQueue):
    """Batches of 1,000."""

    batch = 1000


class PyQueueRaw(PyQueue):
    """pyqueue, of messages that were pushed by plain RPUSH."""

    def fill(self, count: int) -> None:
        _rpush(self.client, self.name, count)


class PyQueueTwo(PyQueue):
    """pyqueue, with two round trips: lease, complete."""

    def consume(self) -> Iterator[int]:
        while lease := self.queue.lease(TTL):
            assert len(lease.payload) == PAYLOAD_BYTES
            lease.complete()
            yield 1


class PyQueueDrain(PyQueue):
    """pyqueue's ``drain``, each lease a context manager."""

    def consume(self) -> Iterator[int]:
        for lease in self.queue.drain(TTL, batch=self.batch):
            with lease:
                assert len(lease.payload) == PAYLOAD_BYTES
            yield 1


class PyQueueDrain100(PyQueueDrain):
    """pyqueue's ``drain(batch=100)``."""

    batch = 100


class PyQueueBulk(PyQueue):
    """pyqueue's ``push_many``."""

    def push(self, count: int) -> None:
        self.queue.push_many(payloads(count))


class PyQueueTutorial(PyQueue):
    """The tutorial's worker, unchanged, on ``pyqueue.rediswq``."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        os.environ["PYQUEUE_URL"] = url
        self._work = RedisWQ(name)

    def consume(self) -> Iterator[int]:
        return _tutorial(self._work)

    def close(self) -> None:
        self._work.close()
        super().close()


class Raw(Peer):
    """LMOVE into a list of what is in flight, LREM from it: the least that loses nothing at once.
    There is no lease: what a dead worker held stays there.
    """

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self.processing = name + ":processing"

    def fill(self, count: int) -> None:
        _rpush(self.client, self.name, count)

    def push(self, count: int) -> None:
        for payload in payloads(count):
            self.client.rpush(self.name, payload)

    def consume(self) -> Iterator[int]:
        client, name, processing = self.client, self.name, self.processing
        lrem = cast("Callable[[str, int, bytes], int]", client.lrem)
        while item := cast("bytes", client.lmove(name, processing, "LEFT", "RIGHT")):
            assert len(item) == PAYLOAD_BYTES
            assert lrem(processing, 1, item) == 1
            yield 1

    def wake(self) -> None:
        item = self.client.blmove(self.name, self.processing, 60, "LEFT", "RIGHT")
        assert item is not None

    def settle(self) -> None:
        self.client.delete(self.processing)

    def clean(self) -> None:
        self.client.delete(self.name, self.processing)


class RawBulk(Raw):
    """RPUSH of 1,000 values at a time."""

    def push(self, count: int) -> None:
        self.fill(count)


class RawByHand(Raw):
    """LMOVE and LREM without redis-py's command layer: packed by hand on one connection."""

    def consume(self) -> Iterator[int]:
        connection: Any = self.client.connection_pool.get_connection()
        name, processing = self.name.encode(), self.processing.encode()
        move = connection.pack_command("LMOVE", name, processing, "LEFT", "RIGHT")
        start = b"*4\r\n$4\r\nLREM\r\n$%d\r\n%b\r\n$1\r\n1\r\n" % (len(processing), processing)
        try:
            while True:
                connection.send_packed_command(move)
                item = connection.read_response(disable_decoding=True)
                if item is None:
                    return
                assert len(item) == PAYLOAD_BYTES
                connection.send_packed_command((b"%b$%d\r\n%b\r\n" % (start, len(item), item),))
                assert connection.read_response(disable_decoding=True) == 1
                yield 1
        finally:
            self.client.connection_pool.release(connection)


class TutorialQueue:
    """The commands of the tutorial's ``rediswq.py``, in its order.

    Its ``empty`` asks for the length of the second list only when the first one is empty; with
    ``both`` it always asks for both.
    """

    def __init__(self, client: redis.Redis, name: str, *, both: bool) -> None:
        self._client = client
        self._session = str(uuid.uuid4())
        self._main = name
        self._processing = name + ":processing"
        self._lease = name + ":leased_by_session:"
        self._both = both

    def empty(self) -> bool:
        """Whether both lists are empty."""
        if self._both:
            lengths = [self._client.llen(self._main), self._client.llen(self._processing)]
            return lengths == [0, 0]
        return self._client.llen(self._main) == 0 and self._client.llen(self._processing) == 0

    def lease(self, lease_secs: int = 60, block: bool = True, timeout: int = 0) -> bytes | None:
        """The last item of the list, moved to the other one and marked as leased."""
        assert block
        item = cast("bytes", self._client.brpoplpush(self._main, self._processing, timeout))
        if item:
            # redis-py's setex() warns each time that it is deprecated, which takes time.
            send = cast("Callable[..., object]", self._client.execute_command)
            send("SETEX", self._lease + self._key(item), lease_secs, self._session)
        return item

    def complete(self, value: bytes) -> None:
        """Removes the item and its mark."""
        lrem = cast("Callable[[str, int, bytes], int]", self._client.lrem)
        lrem(self._processing, 0, value)
        self._client.delete(self._lease + self._key(value))

    @staticmethod
    def _key(item: bytes) -> str:
        return hashlib.sha224(item).hexdigest()


def _tutorial(queue: TutorialQueue | RedisWQ) -> Iterator[int]:
    """The loop of the tutorial's ``worker.py``."""
    while not queue.empty():
        item = queue.lease(lease_secs=10, block=True, timeout=2)
        if item is not None:
            assert len(item) == PAYLOAD_BYTES
            queue.complete(item)
            yield 1


class Tutorial(Raw):
    """The tutorial's worker on its ``rediswq.py``."""

    both: ClassVar[bool] = False

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self._work = TutorialQueue(self.client, name, both=self.both)

    def consume(self) -> Iterator[int]:
        return _tutorial(self._work)

    def wake(self) -> None:
        assert self._work.lease(block=True, timeout=60) is not None


class TutorialBoth(Tutorial):
    """The tutorial's worker, when ``empty`` asks for both lengths each time: six commands."""

    both = True


class Streams(Peer):
    """A consumer group of Redis Streams: XREADGROUP, XACK, XDEL (else the stream grows for ever).

    As with the raw lists, nothing takes back what a dead worker held; XAUTOCLAIM would have to be
    called as well.
    """

    batch: ClassVar[int] = 1
    group: ClassVar[str] = "workers"

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self.consumer = str(uuid.uuid4())
        self._open()

    def _open(self) -> None:
        try:
            self.client.xgroup_create(self.name, self.group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def fill(self, count: int) -> None:
        self._open()
        values = payloads(count)
        for start in range(0, count, BULK):
            pipeline = self.client.pipeline(transaction=False)
            for payload in values[start : start + BULK]:
                pipeline.xadd(self.name, {"p": payload})
            pipeline.execute()

    def push(self, count: int) -> None:
        for payload in payloads(count):
            self.client.xadd(self.name, {"p": payload})

    def _read(self, block: int | None = None) -> list[bytes]:
        reply = cast(
            "Any",
            self.client.xreadgroup(
                self.group, self.consumer, {self.name: ">"}, count=self.batch, block=block
            ),
        )
        if not reply:
            return []
        # RESP3 answers with a map, RESP2 with a list.
        ((_, entries),) = reply.items() if isinstance(reply, dict) else reply
        if isinstance(reply, dict):
            (entries,) = entries
        for _, fields in entries:
            assert len(fields[b"p"]) == PAYLOAD_BYTES
        return [id for id, _ in entries]

    def consume(self) -> Iterator[int]:
        while ids := self._read():
            self._done(ids)
            yield len(ids)

    def _done(self, ids: list[bytes]) -> None:
        assert self.client.xack(self.name, self.group, *ids) == len(ids)
        self.client.xdel(self.name, *ids)

    def wake(self) -> None:
        self._open()
        self._ids = self._read(block=60_000)
        assert self._ids

    def settle(self) -> None:
        self._done(self._ids)

    def clean(self) -> None:
        self.client.delete(self.name)


class Streams100(Streams):
    """100 entries at a time."""

    batch = 100


class StreamsBulk(Streams):
    """XADD, 1,000 in a pipeline."""

    def push(self, count: int) -> None:
        self.fill(count)
