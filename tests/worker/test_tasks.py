"""``AsyncWorker``, on a real server."""

import asyncio
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRedisRetry
from redis.backoff import NoBackoff

from pyqueue import AsyncLease, AsyncQueue, AsyncWorker, Hooks, Lease, LeaseLost, Queue, Retry
from pyqueue import _operations as op
from pyqueue.worker import Outcome
from tests.contract.relay import Relay
from tests.servers import SECONDS, Server
from tests.worker.tools import steal

T = TypeVar("T")


async def nothing(lease: AsyncLease) -> None:
    """A handler."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Polls until it is true, while the loop goes on."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        await asyncio.sleep(0.002)


class Gate:
    """Handlers wait at it."""

    def __init__(self) -> None:
        self.entered: list[AsyncLease] = []
        self.cancelled: list[str] = []
        self._open = asyncio.Event()

    async def __call__(self, lease: AsyncLease) -> None:
        self.entered.append(lease)
        try:
            async with asyncio.timeout(SECONDS):
                await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(lease.text)
            raise

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def running(worker: AsyncWorker) -> AsyncIterator[asyncio.Task[int]]:
    """Runs a worker while the test does something; it is cancelled at the end."""
    task = asyncio.create_task(worker.run())
    try:
        await asyncio.sleep(0)
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def drained(server: Server, worker: Callable[[AsyncQueue], AsyncWorker]) -> int:
    """Runs a worker on a queue of its own to its end."""
    async with AsyncQueue("job2", url=server.url) as queue:
        return await worker(queue).run()


def test_each_item_is_handled_once_and_completed(server: Server, queue: Queue) -> None:
    payloads = [f"item{number}" for number in range(2000)]
    queue.push_many(payloads)
    seen: list[str] = []

    async def handler(lease: AsyncLease) -> None:
        seen.append(lease.text)
        if len(seen) % 7 == 0:
            await asyncio.sleep(0)

    assert asyncio.run(drained(server, lambda q: AsyncWorker(q, handler, until="drained"))) == 0
    assert Counter(seen) == Counter(payloads)
    totals = queue.stats().totals
    assert {x for x, n in totals.items() if n} == {"pushed", "completed"}
    assert queue.stats().drained


def test_each_item_has_a_task_of_its_own(server: Server, queue: Queue) -> None:
    queue.push_many(map(str, range(300)))
    tasks: set[asyncio.Task[object] | None] = set()

    async def handler(lease: AsyncLease) -> None:
        tasks.add(asyncio.current_task())

    asyncio.run(drained(server, lambda q: AsyncWorker(q, handler, until="drained")))
    assert len(tasks) == 300


def test_handlers_run_at_once_up_to_the_concurrency(server: Server, queue: Queue) -> None:
    queue.push_many(map(str, range(30)))

    async def main() -> None:
        gate = Gate()
        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, gate, concurrency=20, until="drained")
            async with running(worker) as task:
                await until(lambda: len(gate.entered) == 20, "twenty run")
                assert queue.stats().waiting == 10
                gate.open()
                assert await task == 0
        assert len(gate.entered) == 30

    asyncio.run(main())


class Hopeless(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Hopeless("a"), "Hopeless"),
        (KeyError("a"), "KeyError"),
        (ValueError("a"), "failed"),
        (Retry(in_=0, error="just so"), "failed"),
        (SystemExit(3), "failed"),
    ],
)
def test_the_class_of_an_exception_decides(
    server: Server, queue: Queue, error: BaseException, reason: str
) -> None:
    queue.configure(max_attempts=2, backoff=0)
    queue.push("apple")
    seen = []

    async def handler(lease: AsyncLease) -> None:
        seen.append(lease.attempts)
        raise error

    def worker(own: AsyncQueue) -> AsyncWorker:
        return AsyncWorker(own, handler, until="drained", retry_on=ValueError, bury_on=(Hopeless,))

    assert asyncio.run(drained(server, worker)) == 0
    (letter,) = queue.dead()
    assert letter.reason == reason
    assert seen == ([0, 1] if reason == "failed" else [0])
    assert "pyqueue/worker" not in letter.error
    assert ("just so" if isinstance(error, Retry) else type(error).__name__) in letter.error


def test_a_handler_settles_by_itself(server: Server, queue: Queue) -> None:
    queue.configure(max_attempts=1)
    queue.push_many(["complete", "push", "fail", "bury", "release", "extend", "raise"])

    async def handler(lease: AsyncLease) -> None:
        match lease.text:
            case "complete":
                await lease.complete()
            case "push":
                await lease.complete(push="pushed")
            case "fail":
                await lease.fail("as told")
            case "bury":
                await lease.bury("because")
            case "release" if lease.deliveries == 0:
                await lease.release()
            case "extend":
                await lease.extend(30)
            case "raise":
                await lease.complete()
                raise ValueError

    assert asyncio.run(drained(server, lambda q: AsyncWorker(q, handler, until="drained"))) == 0
    totals = queue.stats().totals
    assert (totals["completed"], totals["failed"], totals["released"]) == (6, 1, 1)
    assert {x.text: x.reason for x in queue.dead()} == {"fail": "failed", "bury": "because"}


class SlowToHear(AsyncQueue):
    """Hears that an item is completed only after the next heartbeat."""

    beats = 0

    async def _perform(self, operation: op.Operation[T]) -> T:
        result = await super()._perform(operation)
        if isinstance(operation, op.Extend):
            self.beats += 1
        elif isinstance(operation, op.Complete):
            before = self.beats
            await until(lambda: self.beats > before, "a heartbeat")
        return result


def test_a_heartbeat_just_when_the_handler_settles_is_no_news(server: Server, queue: Queue) -> None:
    """The lease is gone, since its own handler has ended it: that must not be cancelled."""
    queue.push("apple")
    went_on: list[str] = []
    lost: list[AsyncLease] = []

    async def handler(lease: AsyncLease) -> None:
        await lease.complete()
        went_on.append(lease.text)

    async def main() -> int:
        async with SlowToHear("job2", url=server.url) as slow:
            worker = AsyncWorker(slow, handler, ttl=0.3, until="drained", on_lease_lost=lost.append)
            return await worker.run()

    assert asyncio.run(main()) == 0
    assert (went_on, lost) == (["apple"], [])
    assert queue.stats().totals["completed"] == 1


def test_a_cancelled_error_of_the_handlers_own_gives_the_item_back(
    server: Server, queue: Queue
) -> None:
    """After a while: it would be leased again at once, and again."""
    queue.push("apple")
    seen = []

    async def handler(lease: AsyncLease) -> None:
        seen.append((time.monotonic(), lease.attempts))
        if len(seen) == 1:
            raise asyncio.CancelledError

    assert asyncio.run(drained(server, lambda q: AsyncWorker(q, handler, until="drained"))) == 0
    (first, _), (second, attempts) = seen
    assert attempts == 0
    assert second - first >= 0.9


def test_a_keyboard_interrupt_of_a_handler_ends_the_worker(server: Server, queue: Queue) -> None:
    queue.push_many(["a", "b", "c"])

    async def handler(lease: AsyncLease) -> None:
        raise KeyboardInterrupt

    assert asyncio.run(drained(server, lambda q: AsyncWorker(q, handler, concurrency=1))) == 130
    assert queue.stats().waiting == 3


def test_a_suspect_runs_alone(server: Server, queue: Queue) -> None:
    queue.push("suspect")
    lease = queue.lease(ttl=0.001)
    assert lease is not None
    while not queue.stats().expired:
        pass
    assert queue.reclaim(hold=0) == 1
    queue.push_many(map(str, range(200)), priority=1)
    queue.push_many(map(str, range(200)))
    active = 0
    beside = []

    async def handler(lease: AsyncLease) -> None:
        nonlocal active
        active += 1
        before = active
        for _ in range(20 if lease.suspect else 2):
            await asyncio.sleep(0)
        if lease.suspect:
            beside.append((lease.text, before, active))
        active -= 1

    assert asyncio.run(drained(server, lambda q: AsyncWorker(q, handler, until="drained"))) == 0
    assert beside == [("suspect", 1, 1)]
    assert queue.stats().totals["completed"] == 401


def test_leases_are_extended_and_what_is_ahead_of_slow_items_goes_back(
    server: Server, queue: Queue
) -> None:
    queue.push_many(map(str, range(1000)))

    async def main() -> None:
        gate = Gate()

        async def handler(lease: AsyncLease) -> None:
            if int(lease.text) >= 600:
                await gate(lease)

        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, handler, concurrency=5, ttl=0.5, until="drained")
            async with running(worker) as task:
                await until(lambda: len(gate.entered) == 5, "five run")
                first = gate.entered[0].deadline
                assert queue.stats().leased > 5
                await until(lambda: queue.stats().leased == 5, "the rest is given back")
                await until(lambda: gate.entered[0].deadline > first + 0.7, "it was extended")
                gate.open()
                assert await task == 0

    asyncio.run(main())
    totals = queue.stats().totals
    assert totals["completed"] == 1000
    assert totals["released"] > 0
    assert totals["expired"] == totals["failed"] == 0


def test_a_lost_lease_cancels_the_handler(server: Server, queue: Queue) -> None:
    queue.push("apple")

    async def main() -> None:
        gate = Gate()
        lost: list[AsyncLease] = []
        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, gate, ttl=0.5, on_lease_lost=lost.append)
            async with running(worker):
                await until(lambda: gate.entered, "it runs")
                steal(queue, gate.entered[0])
                await until(lambda: gate.cancelled, "it is cancelled")
                await until(lambda: len(gate.entered) == 2, "it is leased again")
                assert lost == gate.entered[:1]
                assert lost[0].settled
                with pytest.raises(LeaseLost):
                    await lost[0].extend()
                gate.open()
                await until(lambda: queue.stats().drained, "and completed")

    asyncio.run(main())
    totals = queue.stats().totals
    assert (totals["completed"], totals["released"], totals["failed"]) == (1, 1, 0)


def test_max_lease_takes_an_item_away_from_a_handler_that_hangs(
    server: Server, queue: Queue
) -> None:
    queue.push("apple")

    async def main() -> None:
        gate = Gate()
        async with (
            AsyncQueue("job2", url=server.url) as own,
            running(AsyncWorker(own, gate, ttl=0.3, max_lease=0.5)),
        ):
            await until(lambda: len(gate.entered) == 2, "it is tried again")
            gate.open()
            await until(lambda: queue.stats().drained, "and done")
        assert gate.cancelled == ["apple"]
        assert gate.entered[1].suspect

    asyncio.run(main())


def test_stop_waits_for_what_runs_and_gives_the_rest_back(server: Server, queue: Queue) -> None:
    queue.push_many(map(str, range(500)))

    async def main() -> None:
        gate = Gate()

        async def handler(lease: AsyncLease) -> None:
            if int(lease.text) >= 300:
                await gate(lease)

        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, handler, concurrency=3)
            async with running(worker) as task:
                await until(lambda: len(gate.entered) == 3, "three run")
                threading.Thread(target=worker.stop).start()
                await until(lambda: queue.stats().leased == 3, "the rest is given back")
                gate.open()
                assert await task == 0

    asyncio.run(main())
    stats = queue.stats()
    assert (stats.waiting, stats.leased, stats.totals["completed"]) == (197, 0, 303)
    lease = queue.lease()
    assert lease is not None
    assert (lease.text, lease.attempts) == ("303", 0)


def test_after_the_grace_what_runs_is_cancelled_and_given_back(
    server: Server, queue: Queue
) -> None:
    queue.push_many(["a", "b", "c"])

    async def main() -> None:
        gate = Gate()
        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, gate, concurrency=2, grace=0.1)
            async with running(worker) as task:
                await until(lambda: len(gate.entered) == 2, "two run")
                worker.stop()
                assert await task == 0
        assert sorted(gate.cancelled) == ["a", "b"]

    asyncio.run(main())
    stats = queue.stats()
    assert (stats.waiting, stats.delayed, stats.leased) == (3, 0, 0)
    assert stats.totals["failed"] == 0


@pytest.mark.parametrize("times", [1, 2])
def test_cancelled_it_gives_everything_back(server: Server, queue: Queue, times: int) -> None:
    """Also when it is cancelled once more meanwhile, as anyio does."""
    queue.push_many(map(str, range(500)))

    async def main() -> None:
        gate = Gate()

        async def handler(lease: AsyncLease) -> None:
            if int(lease.text) >= 300:
                await gate(lease)

        async with AsyncQueue("job2", url=server.url) as own:
            task = asyncio.create_task(AsyncWorker(own, handler, concurrency=3).run())
            await until(lambda: len(gate.entered) == 3, "three run")
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: queue.stats().leased == 0, "all is given back")
        assert len(gate.cancelled) == 3

    asyncio.run(main())
    stats = queue.stats()
    assert (stats.waiting, stats.totals["completed"], stats.delayed) == (200, 300, 0)
    assert stats.totals["failed"] == stats.totals["expired"] == 0


def test_a_handler_that_cannot_be_cancelled(
    server: Server, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.push("a")

    async def main() -> None:
        runs, stubborn, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handler(lease: AsyncLease) -> None:
            runs.set()
            while not stubborn.is_set():
                try:
                    await stubborn.wait()
                except asyncio.CancelledError:
                    continue
            done.set()

        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, handler, grace=0)
            async with running(worker) as task:
                await runs.wait()
                worker.stop()
                assert await task == 0
                assert queue.stats().waiting == 1
                stubborn.set()
                await done.wait()

    asyncio.run(main())
    assert "1 handlers go on when cancelled" in caplog.text


def test_new_items_wake_it(server: Server, queue: Queue, client: redis.Redis) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def handler(lease: AsyncLease) -> None:
            seen.append(lease.text)

        async with AsyncQueue("job2", url=server.url) as own, running(AsyncWorker(own, handler)):
            for number in range(5):
                await until(lambda: client.info("clients")["blocked_clients"], "it is blocked")
                seen.clear()
                client.rpush("job2", str(number))
                await until(lambda: seen, "it was handled")
                queue.push("delayed", delay=0.05)
                await until(lambda: "delayed" in seen, "so was that")
            await until(lambda: queue.stats().drained, "all is completed")

    asyncio.run(main())


def test_the_server_goes_away_and_comes_back(server: Server, queue: Queue) -> None:
    queue.push_many(map(str, range(300)))
    queue.configure(backoff=0)
    seen: Counter[str] = Counter()

    async def main() -> None:
        gate = Gate()

        async def handler(lease: AsyncLease) -> None:
            seen[lease.text] += 1
            if lease.text == "150":
                await gate(lease)
                if seen["150"] == 1:
                    raise ValueError

        client = redis.asyncio.Redis.from_url(server.url, retry=AsyncRedisRetry(NoBackoff(), 0))
        async with (
            AsyncQueue("job2", client=client) as own,
            running(AsyncWorker(own, handler, until="drained")) as task,
        ):
            await until(lambda: gate.entered, "it has begun")
            server.stop(kill=True)
            gate.open()
            assert not task.done()
            server.start()
            assert await task == 0
        await client.aclose()

    asyncio.run(main())
    assert seen.pop("150") == 2
    assert set(seen.values()) == {1}
    assert len(seen) == 299


def test_the_server_stays_away(
    server: Server, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.push("a")

    async def main() -> None:
        gate = Gate()
        client = redis.asyncio.Redis.from_url(server.url, retry=AsyncRedisRetry(NoBackoff(), 0))
        async with (
            AsyncQueue("job2", client=client) as own,
            running(AsyncWorker(own, gate, server_wait=0.3, grace=0.1)) as task,
        ):
            await until(lambda: gate.entered, "it runs")
            server.stop(kill=True)
            gate.open()
            assert await task == 69
        await client.aclose()

    asyncio.run(main())
    assert "could not be settled: the server does not answer" in caplog.text


def test_lost_replies_lose_and_double_nothing(relay: Relay, queue: Queue) -> None:
    queue.push_many(map(str, range(200)))
    seen: Counter[str] = Counter()

    async def handler(lease: AsyncLease) -> None:
        seen[lease.text] += 1
        if int(lease.text) % 50 == 0:
            relay.lose_replies()
        if int(lease.text) % 50 == 25:
            relay.lose_requests()

    async def main() -> None:
        client = redis.asyncio.Redis.from_url(relay.url, retry=AsyncRedisRetry(NoBackoff(), 0))
        async with AsyncQueue("job2", client=client) as own:
            assert await AsyncWorker(own, handler, concurrency=3, until="drained").run() == 0
        await client.aclose()

    asyncio.run(main())
    assert seen == Counter(str(number) for number in range(200))
    totals = queue.stats().totals
    assert (totals["completed"], totals["expired"], totals["failed"]) == (200, 0, 0)


class Recorder(Hooks):
    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def started(self, lease: Lease | AsyncLease) -> None:
        self.calls.append((lease.text, "started"))

    def error(self, lease: Lease | AsyncLease, error: BaseException) -> None:
        self.calls.append((lease.text, "error", type(error).__name__))
        raise RuntimeError("in a hook")

    def finished(self, lease: Lease | AsyncLease, outcome: Outcome, seconds: float) -> None:
        assert 0 <= seconds < SECONDS
        self.calls.append((lease.text, "finished", outcome))


def test_hooks(server: Server, queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    queue.configure(max_attempts=1)
    queue.push_many(["done", "failed", "settled"])
    recorder = Recorder()

    async def handler(lease: AsyncLease) -> None:
        if lease.text == "failed":
            raise ValueError
        if lease.text == "settled":
            await lease.complete()

    def worker(own: AsyncQueue) -> AsyncWorker:
        return AsyncWorker(own, handler, until="drained", hooks=recorder)

    with caplog.at_level(logging.INFO):
        assert asyncio.run(drained(server, worker)) == 0
    assert sorted(recorder.calls) == [
        ("done", "finished", "completed"),
        ("done", "started"),
        ("failed", "error", "ValueError"),
        ("failed", "finished", "failed"),
        ("failed", "started"),
        ("settled", "finished", "settled"),
        ("settled", "started"),
    ]
    assert "a hook has raised an exception" in caplog.text


def test_signals(server: Server, queue: Queue) -> None:
    """The handlers of before are put back."""
    before = signal.getsignal(signal.SIGTERM)
    queue.push_many(map(str, range(10)))

    async def main() -> None:
        gate = Gate()
        async with (
            AsyncQueue("job2", url=server.url) as own,
            running(AsyncWorker(own, gate, concurrency=2)) as task,
        ):
            await until(lambda: len(gate.entered) == 2, "two run")
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: queue.stats().leased == 2, "nothing is leased ahead")
            signal.raise_signal(signal.SIGINT)
            assert await task == 143
        assert sorted(gate.cancelled) == ["0", "1"]

    asyncio.run(main())
    assert queue.stats().waiting == 10
    assert signal.getsignal(signal.SIGTERM) == before


def test_several_workers_of_one_loop(server: Server, queue: Queue) -> None:
    """As parts of a program that handles signals itself."""
    queue.push_many(map(str, range(3000)))
    seen: list[tuple[int, str]] = []

    async def main() -> None:
        async def one(number: int) -> None:
            async def handler(lease: AsyncLease) -> None:
                seen.append((number, lease.text))
                await asyncio.sleep(0)

            async with AsyncQueue("job2", url=server.url) as own:
                worker = AsyncWorker(own, handler, until="drained", signals=False)
                assert await worker.run() == 0

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(one(number))

    asyncio.run(main())
    assert Counter(text for _, text in seen) == Counter(map(str, range(3000)))
    assert {number for number, _ in seen} == {0, 1, 2}


def test_it_runs_once_at_a_time(server: Server) -> None:
    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as own:
            worker = AsyncWorker(own, nothing)
            async with running(worker):
                with pytest.raises(RuntimeError, match="runs already"):
                    await worker.run()
            with pytest.raises(ValueError, match="concurrency"):
                AsyncWorker(own, nothing, concurrency=0)

    asyncio.run(main())
