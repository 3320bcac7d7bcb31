# ruff: noqa: ANN401 - whatever a verb takes and gives
"""Calls that tasks or threads make at the same time go together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import (
    AsyncQueue,
    LeaseLost,
    MessageTooLarge,
    PyQueueError,
    Queue,
    QueueFull,
    QueueSealed,
    ServerUnavailable,
)
from pyqueue._outgoing import FEW, MOST, MOST_BYTES
from tests.alarm import Interrupted, alarm  # noqa: F401 - a fixture
from tests.contract.relay import Relay
from tests.lua.harness import SCRIPTS
from tests.servers import Server, sources, wait_until

T = TypeVar("T")

# What differs is the client, not the server.
pytestmark = pytest.mark.parametrize("session_server", sources()[:1], indirect=True)


@pytest.fixture(autouse=True)
def scripts_are_known(client: redis.Redis) -> None:
    """So that each call is one."""
    for script in SCRIPTS.values():
        client.script_load(script.source)


def calls_of(client: redis.Redis, work: Callable[[], object]) -> int:
    """How many scripts the server runs for it."""

    def count() -> int:
        stats = client.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha")
        )

    before = count()
    work()
    return int(count() - before)


async def at_once(calls: Iterable[Any]) -> list[Any]:
    """Their results, and their errors."""
    return await asyncio.gather(*calls, return_exceptions=True)


def in_tasks(server: Server, work: Callable[[AsyncQueue], Any], **options: Any) -> Any:
    """What the work gives on an AsyncQueue."""

    async def main() -> Any:
        async with AsyncQueue("job2", **({"url": server.url} | options)) as queue:
            return await work(queue)

    return asyncio.run(main())


def in_threads(works: Iterable[Callable[..., T]], threads: int = 16) -> list[T | BaseException]:
    """What each of them returns or raises, all run at the same time."""
    works = list(works)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        futures = [pool.submit(work) for work in works]
        return [future.exception() or future.result() for future in futures]


# Tasks


def test_a_thousand_tasks_push_in_few_calls(server: Server, client: redis.Redis) -> None:
    async def push(queue: AsyncQueue) -> list[str]:
        return await at_once(queue.push(f"item {n}") for n in range(1000))

    ids: list[str] = []
    assert calls_of(client, lambda: ids.extend(in_tasks(server, push))) <= 4
    with Queue("job2", client=client) as queue:
        waiting = list(queue.waiting())
    assert [item.id for item in waiting] == ids
    assert [item.text for item in waiting] == [f"item {n}" for n in range(1000)]


def test_the_order_of_one_tasks_pushes_is_kept(server: Server, client: redis.Redis) -> None:
    async def push(queue: AsyncQueue) -> None:
        async def some(task: int) -> None:
            for number in range(20):
                await queue.push(f"{task} {number}")

        await asyncio.gather(*map(some, range(30)))

    assert calls_of(client, lambda: in_tasks(server, push)) < 200
    with Queue("job2", client=client) as queue:
        pushed = [item.text.split() for item in queue.waiting()]
    assert len(pushed) == 600
    for task in range(30):
        assert [int(n) for t, n in pushed if t == str(task)] == list(range(20))


def test_a_single_task_makes_one_call_for_each_of_its_own(
    server: Server, client: redis.Redis
) -> None:
    async def work(queue: AsyncQueue) -> None:
        for _ in range(5):
            await queue.push("apple")
            lease = await queue.lease()
            assert lease is not None
            await lease.extend(30)
            await lease.complete()

    assert calls_of(client, lambda: in_tasks(server, work)) == 20


def test_a_push_to_an_idle_lane_is_sent_at_once(server: Server) -> None:
    """Nothing waits for others that may come, nor for a call of another lane."""

    async def work(queue: AsyncQueue) -> None:
        await queue.push("apple")
        waits = 0
        push = queue.push("banana")
        try:
            while True:
                future = push.send(None)
                waits += 1
                assert future is not None, "it only gives way"
                while not future.done():  # noqa: ASYNC110 - of redis-py's
                    await asyncio.sleep(0)
        except StopIteration:
            pass
        assert waits == 1

    in_tasks(server, work)


def test_each_task_gets_its_own_answer(server: Server) -> None:
    async def work(queue: AsyncQueue) -> None:
        ids = await at_once(queue.push("x", unique=f"key {n // 2}") for n in range(20))
        assert ids[::2] == ids[1::2]
        assert len(set(ids)) == 10
        held = list(await queue.lease_many(10, ttl=600))
        for lease in held[::3]:
            await lease.complete()
        before = [lease.deadline for lease in held]
        extended = await at_once(lease.extend(900) for lease in held)
        for number, (lease, result) in enumerate(zip(held, extended, strict=True)):
            if number % 3 == 0:
                assert isinstance(result, LeaseLost)
                assert result.tokens == (lease.token,)
            else:
                assert result == lease.deadline > before[number] + 200
        # Of two that settle the same lease one finds it lost.
        for verb in ("complete", "release", "fail", "bury"):
            lease = held[{"complete": 1, "release": 2, "fail": 4, "bury": 5}[verb]]
            args = ("bad",) if verb == "bury" else ()
            results = await at_once(getattr(lease, verb)(*args) for _ in range(5))
            assert [type(x) for x in results].count(LeaseLost) == 4
            assert results.count(None) == 1
        totals = (await queue.stats()).totals
        assert totals["completed"] == 5
        assert totals["released"] == totals["failed"] == totals["dead"] == 1

    in_tasks(server, work)


def test_what_one_message_is_refused_for_is_his_alone(server: Server, client: redis.Redis) -> None:
    async def work(queue: AsyncQueue) -> None:
        await queue.configure(max_bytes=10)
        pushed = await at_once(queue.push("x" * (11 if n == 137 else 5)) for n in range(300))
        assert [type(x) for x in pushed] == [
            MessageTooLarge if n == 137 else str for n in range(300)
        ]
        assert [item.id async for item in queue.waiting()] == [
            id for id in pushed if isinstance(id, str)
        ]

    assert calls_of(client, lambda: in_tasks(server, work)) < 30


def test_those_who_come_first_get_the_room_that_there_is(server: Server) -> None:
    async def work(queue: AsyncQueue) -> None:
        await queue.configure(max_waiting=50)
        pushed = await at_once(queue.push(f"{n}") for n in range(120))
        assert [type(x) for x in pushed] == [str] * 50 + [QueueFull] * 70
        assert [item.text async for item in queue.waiting()] == [f"{n}" for n in range(50)]

    in_tasks(server, work)


def test_a_seal_refuses_all_without_asking_for_each(server: Server, client: redis.Redis) -> None:
    async def work(queue: AsyncQueue) -> None:
        await queue.seal()
        pushed = await at_once(queue.push("x") for _ in range(500))
        assert {type(x) for x in pushed} == {QueueSealed}
        assert len({id(x) for x in pushed}) == 500

    assert calls_of(client, lambda: in_tasks(server, work)) <= 4


def test_a_call_of_several_is_bounded(relay: Relay) -> None:
    async def work(queue: AsyncQueue) -> None:
        for size, count, most in ((1, 2500, MOST), (MOST_BYTES // 4 - 100, 20, 4)):
            relay.calls.clear()
            await asyncio.gather(*(queue.push("x" * size) for _ in range(count)))
            assert -(-count // most) <= len(relay.calls) <= -(-count // most) + 2
            for call in relay.calls:
                assert call.count(b"\0PQ\1\1") <= MOST
        await queue.purge()
        await queue.push_many(["x"] * 500)
        held = [*await queue.lease_many(500, ttl=600)]
        relay.calls.clear()
        await asyncio.gather(*(lease.extend(600) for lease in held))
        assert 500 // FEW < len(relay.calls) <= 500 // FEW + 3

    async def main() -> None:
        async with AsyncQueue("job2", url=relay.url) as queue:
            await work(queue)

    asyncio.run(main())


def test_a_caller_who_is_cancelled_changes_nothing_for_the_others(
    server: Server, client: redis.Redis
) -> None:
    async def work(queue: AsyncQueue) -> None:
        await queue.push("before")
        tasks = [asyncio.create_task(queue.push(f"{n}")) for n in range(300)]
        await asyncio.sleep(0)  # the first is sent, the others wait for their batch
        for task in tasks[::7]:
            task.cancel()
        results = await at_once(tasks)
        for number, result in enumerate(results):
            kind = asyncio.CancelledError if number % 7 == 0 else str
            assert isinstance(result, kind), (number, result)
        await queue.close()
        waiting = {item.id: item.text async for item in queue.waiting()}
        # What was asked for is done, for those who went away too.
        assert sorted(waiting.values()) == sorted(["before", *map(str, range(300))])
        assert all(waiting[x] == f"{n}" for n, x in enumerate(results) if isinstance(x, str))

    in_tasks(server, work)


def test_an_unknown_outcome_is_each_tasks_own(relay: Relay, client: redis.Redis) -> None:
    """And each repeats its push under its id, at the same time: nothing is there twice."""

    async def main() -> None:
        given = redis.asyncio.Redis.from_url(relay.url, retry=AsyncRetry(NoBackoff(), 0))
        async with given, AsyncQueue("job2", client=given) as queue:
            for lose, there in ((relay.lose_replies, 40), (relay.lose_requests, 0)):
                lose(2)  # of the first who comes, and of all those who come meanwhile
                errors = await at_once(queue.push(f"{n}") for n in range(40))
                assert client.llen("job2") == there
                assert {type(error) for error in errors} == {ServerUnavailable}
                assert all(error.outcome_unknown for error in errors)
                assert len({error.ids for error in errors}) == 40
                ids = [error.ids[0] for error in errors]
                assert await at_once(queue.push(f"{n}", id=id) for n, id in enumerate(ids)) == ids
                waiting = {item.id: item.text async for item in queue.waiting()}
                assert waiting == {id: f"{n}" for n, id in enumerate(ids)}
                assert client.llen("job2") == 40
                await queue.purge()

    asyncio.run(main())


def test_without_batching_each_call_goes_by_itself(server: Server, client: redis.Redis) -> None:
    async def push(queue: AsyncQueue) -> None:
        await asyncio.gather(*(queue.push("x") for _ in range(50)))

    assert calls_of(client, lambda: in_tasks(server, push, batching=False)) == 50


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from Python 3.12 on")
def test_eager_tasks_push_as_well(server: Server) -> None:
    async def work(queue: AsyncQueue) -> None:
        eager: Any = vars(asyncio)["eager_task_factory"]
        asyncio.get_running_loop().set_task_factory(eager)
        tasks = [asyncio.create_task(queue.push(f"{n}")) for n in range(100)]
        assert len(set(await asyncio.gather(*tasks))) == 100

    in_tasks(server, work)


# Threads


@pytest.fixture
def shared(server: Server) -> Iterator[Queue]:
    """A queue for many threads."""
    with Queue("job2", url=server.url, batching=True) as queue:
        yield queue


def test_sixteen_threads_push_together(shared: Queue, client: redis.Redis) -> None:
    def push(thread: int) -> Callable[[], list[str]]:
        return lambda: [shared.push(f"{thread} {n}") for n in range(50)]

    ids: list[Any] = []
    calls = calls_of(client, lambda: ids.extend(in_threads(map(push, range(16)))))
    assert calls < 800
    waiting = {item.id: item.text for item in shared.waiting()}
    assert len(waiting) == 800
    for thread, own in enumerate(ids):
        assert [waiting[id] for id in own] == [f"{thread} {n}" for n in range(50)]
    order = [text.split() for text in waiting.values()]
    for thread in range(16):
        assert [int(n) for t, n in order if t == str(thread)] == list(range(50))


def test_a_single_thread_makes_one_call_for_each_of_its_own(
    shared: Queue, client: redis.Redis
) -> None:
    def work() -> None:
        for _ in range(5):
            shared.push("apple")
            lease = shared.lease()
            assert lease is not None
            lease.extend(30)
            lease.complete()

    assert calls_of(client, work) == 20


class Gate:
    """Holds the first call of a queue back until others wait in its lane, so that they go
    together; an error can be raised in its place.
    """

    def __init__(self, queue: Queue, others: int, error: BaseException | None = None) -> None:
        self._queue, self._others, self._error = queue, others, error
        self._perform = queue._lanes._perform  # type: ignore[union-attr]
        queue._lanes._perform = self  # type: ignore[union-attr]
        self.entered = threading.Event()

    def waiting(self) -> int:
        lanes = self._queue._lanes
        assert lanes is not None
        return sum(len(lane.waiting) for lane in lanes._here.lanes.values())

    def __call__(self, operation: Any, results: list[Any]) -> Any:
        if self.entered.is_set():
            return self._perform(operation, results)
        self.entered.set()
        wait_until(lambda: self.waiting() == self._others + 1, "the others wait")
        if self._error is not None:
            raise self._error
        return self._perform(operation, results)


def together(queue: Queue, works: Sequence[Callable[..., T]]) -> list[Any]:
    """The first work's call goes alone, and those of all others together after it."""
    gate = Gate(queue, len(works) - 1)

    def late(work: Callable[..., T]) -> Callable[[], T]:
        def wait() -> T:
            gate.entered.wait()
            return work()

        return wait

    return in_threads([works[0], *map(late, works[1:])], len(works))


def test_each_thread_gets_its_own_answer(shared: Queue, client: redis.Redis) -> None:
    ids: list[Any] = []
    calls = calls_of(
        client,
        lambda: ids.extend(
            together(shared, [partial(shared.push, "x", unique=f"{n // 2}") for n in range(16)])
        ),
    )
    assert calls == 2
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 8


def test_what_one_message_is_refused_for_is_its_threads_alone(
    shared: Queue, client: redis.Redis
) -> None:
    shared.configure(max_bytes=10)
    works = [partial(shared.push, "x" * (11 if n == 7 else 5)) for n in range(16)]
    pushed = together(shared, works)
    assert [type(x) for x in pushed] == [MessageTooLarge if n == 7 else str for n in range(16)]
    assert shared.stats().waiting == 15
    shared.seal()
    pushed = together(shared, [lambda: shared.push("x")] * 16)
    assert {type(x) for x in pushed} == {QueueSealed}


def test_an_unknown_outcome_is_each_threads_own(relay: Relay, client: redis.Redis) -> None:
    given = redis.Redis.from_url(relay.url, retry=Retry(NoBackoff(), 0))
    with given, Queue("job2", client=given, batching=True) as queue:
        relay.lose_replies(2)
        works = [partial(queue.push, f"{n}") for n in range(12)]
        errors = together(queue, works)
        assert {type(error) for error in errors} == {ServerUnavailable}
        ids = [error.ids[0] for error in errors]
        assert len(set(ids)) == 12
        assert client.llen("job2") == 12
        repeat = [partial(queue.push, f"{n}", id=id) for n, id in enumerate(ids)]
        assert in_threads(repeat) == ids
        assert client.llen("job2") == 12


@pytest.mark.parametrize("error", [Interrupted(), RuntimeError("from a signal handler")])
def test_an_interrupt_in_the_thread_that_calls_stops_nobody_else(
    shared: Queue, error: BaseException
) -> None:
    gate = Gate(shared, 5, error)

    def late(number: int) -> Callable[[], str]:
        def push() -> str:
            gate.entered.wait()
            return shared.push(f"{number}")

        return push

    results = in_threads([lambda: shared.push("first"), *map(late, range(5))], 6)
    assert results[0] is error
    assert {type(x) for x in results[1:]} == {str}
    assert shared.stats().waiting == 5
    assert shared.push("after")


def test_an_interrupt_amid_a_call_for_several_leaves_them_to_repeat_it(
    shared: Queue, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know their ids, and that nobody knows; here the call was carried out."""
    evalsha = shared._wire.evalsha

    def interrupted(slot: Any, script: Any, keys: Any, args: Any) -> Any:
        reply = evalsha(slot, script, keys, args)
        if len(args) == 4 + 1 + 11:
            monkeypatch.undo()
            raise Interrupted
        return reply

    monkeypatch.setattr(shared._wire, "evalsha", interrupted)
    results = together(shared, [partial(shared.push, f"{n}") for n in range(12)])
    assert isinstance(results[0], str)
    assert [type(x) for x in results].count(Interrupted) == 1
    errors = [x for x in results if isinstance(x, ServerUnavailable)]
    assert len(errors) == 10
    assert all(error.outcome_unknown for error in errors)
    ids = [error.ids[0] for error in errors]
    assert client.llen("job2") == 12
    assert in_threads([partial(shared.push, "again", id=id) for id in ids]) == ids
    assert client.llen("job2") == 12


# Any instant may be within a finalizer of redis-py's, from where no exception goes anywhere.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("alarm")
def test_interrupts_at_any_instant_stop_no_other_thread(shared: Queue, client: redis.Redis) -> None:
    random.seed(2)
    ends = threading.Event()
    pushed: dict[int, list[str]] = {n: [] for n in range(4)}
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while not ends.is_set():
                try:
                    pushed[number].append(shared.push(f"{number}"))
                except ServerUnavailable as error:
                    pushed[number].append(shared.push(f"{number}", id=error.ids[0]))
        except PyQueueError as error:
            failures.append(error)

    def go_on(before: int) -> bool:
        return sum(map(len, pushed.values())) > before or bool(failures)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    interrupted = 0
    try:
        for _ in range(300):
            before = sum(map(len, pushed.values()))
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.003))
                try:
                    while True:
                        shared.push("mine")
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
            wait_until(partial(go_on, before), "the others go on")
    finally:
        ends.set()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    assert interrupted == 300
    there = [str(item.id) for item in shared.waiting() if item.text != "mine"]
    assert sorted(there) == sorted(id for own in pushed.values() for id in own)


@pytest.mark.usefixtures("alarm")
def test_a_signal_handler_may_use_the_queue_that_it_interrupts(
    shared: Queue, server: Server
) -> None:
    handled: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        handled.append(shared.push("from the handler"))

    signal.signal(signal.SIGALRM, handle)
    shared.push("apple")
    server.pause()
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGALRM)).start()
    threading.Timer(0.2, server.resume).start()
    shared.push("banana")
    wait_until(lambda: handled, "the handler ran")
    assert shared.stats().waiting == 3


def test_a_fork_while_threads_push_goes_on_by_itself(shared: Queue, client: redis.Redis) -> None:
    """The child has none of the threads that led the lanes."""
    ends, connected = threading.Event(), threading.Barrier(5)

    def work() -> None:
        shared.stats()
        connected.wait()  # redis-py does not survive a fork while it connects
        while not ends.is_set():
            shared.push("parent")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    connected.wait()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(10)  # ends the child if it hangs
                    for _ in range(10):
                        shared.push("child")
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    texts = [message[-5:] for message in client.lrange("job2", 0, -1)]
    assert texts.count(b"child") == 100
