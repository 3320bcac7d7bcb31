"""The types of the public API, as a user's type checker sees them. mypy --strict reads this file;
nothing runs it.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import assert_type

import redis
import redis.asyncio
from redis.cluster import RedisCluster

import pyqueue
from pyqueue import (
    AsyncLease,
    AsyncQueue,
    AsyncWorker,
    Batch,
    DeadLetter,
    EmbeddedUnavailable,
    Finding,
    Hooks,
    InvalidName,
    Item,
    Lease,
    LeasedItem,
    LeaseLost,
    MalformedMessage,
    Message,
    MessageTooLarge,
    PermissionDenied,
    PyQueueError,
    Queue,
    QueueFull,
    QueueNotEmpty,
    QueueSealed,
    Report,
    Retry,
    SchemaMismatch,
    ServerUnavailable,
    StaleCall,
    Stats,
    WaitingItem,
    Worker,
    WrongType,
)


def opening(client: redis.Redis, cluster: RedisCluster) -> None:
    assert_type(Queue("job2"), Queue)
    assert_type(Queue("job2", url="redis://a"), Queue)
    assert_type(Queue("job2", client=client, worker="me", max_bytes=1), Queue)
    assert_type(Queue("job2", client=cluster), Queue)
    Queue(b"job2")  # type: ignore[arg-type]
    Queue("job2", "redis://a")  # type: ignore[call-arg]
    Queue("job2", client="redis://a")  # type: ignore[arg-type]
    with Queue("job2") as queue:
        assert_type(queue, Queue)
    assert_type(queue.name, str)
    assert_type(queue.close(), None)


async def awaiting(client: redis.asyncio.Redis) -> None:
    async with AsyncQueue("job2", client=client, batching=False) as queue:
        assert_type(queue, AsyncQueue)
        assert_type(await queue.push("apple", delay=3), str)
        assert_type(await queue.push_many(["a", b"b"]), list[str])
        lease = await queue.lease(30, wait=None)
        assert_type(lease, AsyncLease | None)
        batch = await queue.lease_many(10, completed=[lease] if lease else [])
        assert_type(batch, Batch[AsyncLease])
        async for each in queue.drain():
            assert_type(each, AsyncLease)
            async with each as same:
                assert_type(same, AsyncLease)
                assert_type(await same.extend(), float)
                assert_type(await same.complete(push="b"), None)
        assert_type(queue.waiting(), AsyncIterator[WaitingItem])
        assert_type(await queue.stats(), Stats)
        assert_type(await queue.complete_many(batch), list[bool])
    AsyncQueue("job2", client=redis.Redis())  # type: ignore[arg-type]
    queue.push("apple")  # type: ignore[unused-coroutine]


def producing(queue: Queue) -> None:
    assert_type(queue.push("apple"), str)
    assert_type(queue.push(b"apple", headers={"a": 1, "b": "c", "d": None}, id="…"), str)
    assert_type(queue.push(bytearray(b"apple")), str)
    assert_type(queue.push(memoryview(b"apple")), str)
    assert_type(queue.push_many(["a", b"b"]), list[str])
    assert_type(queue.push_many((str(n) for n in range(3)), ids=iter(["…"])), list[str])
    queue.push(1)  # type: ignore[arg-type]
    queue.push(None)  # type: ignore[arg-type]
    queue.push({"a": 1})  # type: ignore[arg-type]
    queue.push("apple", headers={"a": [1]})  # type: ignore[dict-item]
    queue.push("apple", headers={"a": b"1"})  # type: ignore[dict-item]
    queue.push("apple", headers={1: "a"})  # type: ignore[dict-item]


def key(payload: str | bytes | bytearray | memoryview) -> str:
    return repr(payload)


def asking(queue: Queue, lease: Lease) -> None:
    queue.push("a", delay=1.5, priority=-3, unique="k", unique_for=60, group="user-42")
    queue.push("a", max_attempts=1, backoff=0.5, backoff_max=60)
    queue.push_many(["a", b"b"], unique=key, group=lambda _: "g")
    queue.push_many(["a"], group="g", delay=1, priority=2, unique_for=3)
    message = Message(payload="a", id="…", delay=1, priority=1, unique="k", group="g", queue="{a}b")
    assert_type(queue.push(message), str)
    assert_type(queue.push_many([message, "a", b"b"]), list[str])
    assert_type(lease.complete(push="a"), None)
    assert_type(lease.complete(push=message), None)
    assert_type(lease.complete(push=["a", message]), None)
    assert_type(lease.fail("boom", push=(x for x in [message])), None)
    assert_type(lease.priority, int)
    assert_type(lease.group, str | None)
    assert_type(lease.unique, str | None)
    assert_type(lease.message, bytes)
    assert_type(lease.extend(), float)
    assert_type(Message("a", delay=1), Message)
    Message()  # type: ignore[call-arg]
    Message(payload=1)  # type: ignore[arg-type]
    message.delay = 2  # type: ignore[misc]
    queue.push("a", priority=1.5)  # type: ignore[arg-type]
    queue.push("a", unique=key)  # type: ignore[arg-type]
    queue.push_many(["a"], unique="k")  # type: ignore[arg-type]
    lease.complete("a", "b")  # type: ignore[call-arg]


def configuring(queue: Queue) -> None:
    assert_type(queue.configure(), Mapping[str, float])
    queue.configure(max_attempts=3, backoff=0.5, backoff_max=60, ttl=30, max_lease=600)
    queue.configure(max_leased=10, max_waiting=1000, max_bytes=4096, rate=0.5, burst=10)
    queue.configure(max_leased=None, rate=None, ttl=None)
    queue.configure(rate="1")  # type: ignore[arg-type]
    queue.configure(colour=1)  # type: ignore[call-arg]


def leasing(queue: Queue) -> None:
    assert_type(queue.lease(), Lease | None)
    assert_type(queue.lease(30, 2), Lease | None)
    assert_type(queue.lease(ttl=0.5, wait=None), Lease | None)
    batch = queue.lease_many(100, ttl=30, wait=2)
    assert_type(batch, Batch[Lease])
    assert_type(queue.lease_many(1, completed=batch), Batch[Lease])
    assert_type(batch[0], Lease)
    assert_type(batch[1:], Sequence[Lease])
    assert_type(list(batch), list[Lease])
    assert_type(batch.reason, str)
    assert_type(batch.drained, bool)
    assert_type(batch.sealed, bool)
    assert_type(batch.fresh, bool)
    assert_type(batch.retry_in, float | None)
    assert_type(batch.lost, tuple[int, ...])
    queue.lease().complete()  # type: ignore[union-attr]


def holding(lease: Lease) -> None:
    assert_type(lease.id, str)
    assert_type(lease.payload, bytes)
    assert_type(lease.text, str)
    assert_type(lease.headers, dict[str, str | int | float | bool | None])
    assert_type(lease.attempts, int)
    assert_type(lease.deliveries, int)
    assert_type(lease.suspect, bool)
    assert_type(lease.token, int)
    assert_type(lease.deadline, float)
    assert_type(lease.remaining, float)
    assert_type(lease.settled, bool)
    assert_type(lease.dead, bool)
    assert_type(lease.complete(), None)
    assert_type(lease.release(), None)
    assert_type(lease.release(delay=1.5), None)
    assert_type(lease.fail("boom", retry_in=None), None)
    assert_type(lease.fail(ValueError("boom")), None)
    assert_type(lease.bury("why", ValueError()), None)
    assert_type(lease.extend(30), float)
    with lease as held:
        assert_type(held, Lease)
    # The body's exception is never swallowed, so a function may return from within.
    assert_type(within(lease), int)
    item: Item = lease
    lease.payload = b""  # type: ignore[misc]
    assert_type(item.payload, bytes)


def within(lease: Lease) -> int:
    with lease:
        return 1


def draining(queue: Queue) -> None:
    assert_type(queue.drain(ttl=30, batch=10, wait=None), Iterator[Lease])
    for lease in queue.drain():
        assert_type(lease, Lease)


def settling(queue: Queue, leases: list[Lease]) -> None:
    assert_type(queue.complete_many(leases), list[bool])
    assert_type(queue.complete_many(iter(leases)), list[bool])
    assert_type(queue.release_many(leases, delay=1), list[bool])
    assert_type(queue.fail_many(leases, "boom", retry_in=1), list[bool])
    assert_type(queue.bury_many(leases, "why", OSError()), list[bool])
    assert_type(queue.extend_many(leases, ttl=30), list[bool])
    queue.complete_many([1])  # type: ignore[list-item]


def looking_after(queue: Queue) -> None:
    assert_type(queue.reclaim(), int)
    assert_type(queue.reclaim(hold=1), int)
    assert_type(queue.seal(), bool)
    assert_type(queue.unseal(), bool)
    assert_type(queue.pause(), bool)
    assert_type(queue.resume(), bool)
    assert_type(queue.purge(), int)
    assert_type(queue.purge("dead"), int)
    queue.purge("everything")  # type: ignore[arg-type]
    report = queue.check(repair=True)
    assert_type(report, Report)
    assert_type(report.findings, Sequence[Finding])
    assert_type(report.accounted, bool | None)
    assert_type(report.as_dict(), dict[str, object])
    assert_type(queue.delete(), None)
    assert_type(queue.delete(force=True), None)
    queue.delete(True)  # type: ignore[call-arg]


def looking_at(queue: Queue) -> None:
    stats = queue.stats()
    assert_type(stats, Stats)
    assert_type(stats.waiting, int)
    assert_type(stats.delayed, int)
    assert_type(stats.grouped, int)
    assert_type(stats.groups, int)
    assert_type(stats.unique, int)
    assert_type(stats.configuration, Mapping[str, float])
    assert_type(stats.leased, int)
    assert_type(stats.expired, int)
    assert_type(stats.dead, int)
    assert_type(stats.oldest, float | None)
    assert_type(stats.next_due, float | None)
    assert_type(stats.sealed, bool)
    assert_type(stats.paused, bool)
    assert_type(stats.totals, Mapping[str, int])
    assert_type(stats.live, int)
    assert_type(stats.drained, bool)
    assert_type(stats.as_dict(), dict[str, object])
    stats.waiting = 1  # type: ignore[misc]

    assert_type(queue.waiting(), Iterator[WaitingItem])
    for waiting in queue.waiting(offset=10, count=10):
        assert_type(waiting.id, str | None)
        assert_type(waiting.state, str)
        assert_type(waiting.due_in, float)
        assert_type(waiting.payload, bytes)
    assert_type(queue.leases(), Iterator[LeasedItem])
    for leased in queue.leases(offset=10, count=10):
        assert_type(leased.id, str)
        assert_type(leased.token, int)
        assert_type(leased.worker, str)
        assert_type(leased.deadline, float)
        assert_type(leased.expires_in, float)
    assert_type(queue.dead(), Iterator[DeadLetter])
    for letter in queue.dead(offset=10, count=10):
        assert_type(letter.id, str)
        assert_type(letter.reason, str)
        assert_type(letter.worker, str)
        assert_type(letter.error, str)
        assert_type(letter.died_at, float)
        assert_type(queue.redrive([letter]), int)
        assert_type(letter.as_dict(), dict[str, object])
        assert_type(DeadLetter.from_dict(letter.as_dict()), DeadLetter)
        assert_type(queue.import_dead([letter]), int)
    assert_type(queue.redrive(["…"]), int)
    assert_type(queue.redrive(), int)
    assert_type(queue.redrive(reason="why", limit=10), int)


def errors(lost: LeaseLost, unavailable: ServerUnavailable) -> None:
    assert_type(lost.tokens, tuple[int, ...])
    assert_type(unavailable.ids, tuple[str, ...])
    assert_type(unavailable.outcome_unknown, bool)
    kinds: list[type[PyQueueError]] = [
        EmbeddedUnavailable,
        InvalidName,
        LeaseLost,
        MalformedMessage,
        MessageTooLarge,
        PermissionDenied,
        QueueFull,
        QueueNotEmpty,
        QueueSealed,
        SchemaMismatch,
        ServerUnavailable,
        StaleCall,
        WrongType,
    ]
    value_errors: list[type[ValueError]] = [InvalidName, MalformedMessage, MessageTooLarge]
    assert_type(kinds[0](""), PyQueueError)
    assert_type(value_errors[0](""), ValueError)
    assert_type(pyqueue.__version__, str)


class Metrics(Hooks):
    def finished(self, lease: Lease | AsyncLease, outcome: str, seconds: float) -> None:
        assert_type(lease.id, str)


def handler(lease: Lease) -> int:
    raise Retry(in_=30, error=ValueError())


async def async_handler(lease: AsyncLease) -> int:
    raise Retry


def lost(lease: Lease) -> None:
    pass


def workers(queue: Queue, async_queue: AsyncQueue) -> None:
    worker = Worker(
        queue,
        handler,
        concurrency=1,
        prefetch=0,
        ttl=1.5,
        max_lease=60,
        until="drained",
        pool="processes",
        grace=5,
        retry_on=(OSError, ValueError),
        bury_on=KeyError,
        on_lease_lost=lost,
        hooks=Metrics(),
    )
    assert_type(worker.run(), int)
    assert_type(worker.stop(), None)
    Worker(queue, async_handler)  # type: ignore[arg-type]
    Worker(async_queue, handler)  # type: ignore[arg-type]
    Worker(queue, handler, until="sometime")  # type: ignore[arg-type]
    AsyncWorker(async_queue, handler)  # type: ignore[arg-type]
    AsyncWorker(async_queue, async_handler, on_lease_lost=lost)  # type: ignore[arg-type]


async def async_workers(queue: AsyncQueue) -> None:
    worker = AsyncWorker(queue, async_handler, concurrency=1000, until="sealed", signals=False)
    assert_type(await worker.run(), int)
    assert_type(worker.stop(), None)
