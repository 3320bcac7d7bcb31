# ruff: noqa: ANN401 - whatever a verb takes and gives
"""What only AsyncQueue has: cancellation, event loops, uvloop, anyio, Cluster and Sentinel."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pyqueue import AsyncLease, AsyncQueue, Queue, ServerUnavailable
from tests.contract.relay import Relay
from tests.servers import PORTS, LocalServer, Server, launch, sources

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

# What differs is the client, not the server.
pytestmark = [
    pytest.mark.parametrize("session_server", sources()[:1], indirect=True),
    # Of a test that fails anyway; raised in uvloop, it would hang.
    pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning"),
]

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not for this system"
        ),
    ),
]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs a coroutine in a loop of each kind."""
    factory = None
    if request.param == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop

    def run(work: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)

    return run


async def until(condition: Callable[[], Awaitable[object]], what: str, seconds: float = 10) -> None:
    """Polls until it is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        assert loop.time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.002)


class Cut(Awaitable[T]):
    """Awaits something in a task that is cancelled when it waits for the ``at``-th time: while
    nothing has come yet, or when it has, but the task has not seen it.
    """

    def __init__(self, work: Coroutine[Any, Any, T], at: int, when: str) -> None:
        self.work, self.at, self.when = work, at, when

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        waits = 0
        try:
            future = self.work.send(None)
            while True:
                waits += 1
                if waits == self.at:
                    if self.when == "waiting" or future is None:
                        asyncio.get_running_loop().call_soon(task.cancel)
                    else:
                        future.add_done_callback(lambda _: task.cancel())
                try:
                    yield future
                except BaseException as error:  # noqa: BLE001 - passed on
                    future = self.work.throw(error)
                else:
                    future = self.work.send(None)
        except StopIteration as stop:
            return cast("T", stop.value)


async def cut(work: Coroutine[Any, Any, T], at: int, when: str) -> bool:
    """Whether it was cancelled before it had ended."""

    async def main() -> T:
        return await Cut(work, at, when)

    task = asyncio.create_task(main())
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


#: What a verb is tried on is made anew each time: two messages wait, and one is leased.
Verb = Callable[[AsyncQueue, AsyncLease], Coroutine[Any, Any, object]]


async def drained(queue: AsyncQueue) -> None:
    async for lease in queue.drain(ttl=600, batch=2, wait=0):
        async with lease:
            pass


VERBS: dict[str, Verb] = {
    "lease": lambda queue, _: queue.lease(ttl=600),
    "lease_many": lambda queue, lease: queue.lease_many(5, 600, completed=[lease]),
    "lease, waiting": lambda queue, _: queue.lease_many(1, 600, 0.02),
    "drain": lambda queue, _: drained(queue),
    "push": lambda queue, _: queue.push("pushed"),
    "push, delayed": lambda queue, _: queue.push("pushed", delay=600, unique="pushed"),
    "push_many": lambda queue, _: queue.push_many(["pushed", "pushed"]),
    "complete": lambda _, lease: lease.complete(),
    "complete and push": lambda _, lease: lease.complete(push="pushed"),
    "release": lambda _, lease: lease.release(),
    "fail": lambda _, lease: lease.fail("bad", retry_in=600),
    "fail and push": lambda _, lease: lease.fail("bad", retry_in=600, push="pushed"),
    "bury": lambda _, lease: lease.bury("bad"),
    "extend": lambda _, lease: lease.extend(900),
    "stats": lambda queue, _: queue.stats(),
    "seal": lambda queue, _: queue.seal(),
    "close": lambda queue, _: queue.close(),
}
#: What each changes of the counts, once it has been sent. A lease is given back instead.
CHANGES: dict[str, dict[str, int]] = {
    "lease_many": {"completed": 1},
    "push": {"pushed": 1},
    "push, delayed": {"pushed": 1},
    "push_many": {"pushed": 2},
    "complete": {"completed": 1},
    "complete and push": {"completed": 1, "pushed": 1},
    "release": {"released": 1},
    "fail": {"failed": 1},
    "fail and push": {"failed": 1},
    "bury": {"dead": 1},
}
ENDS = ("lease_many", "complete", "complete and push", "release", "fail", "fail and push", "bury")


@pytest.mark.parametrize("given", ["its own client", "a pool of one"])
@pytest.mark.parametrize("when", ["waiting", "answered"])
@pytest.mark.parametrize("name", VERBS)
def test_cancelled_wherever_it_waits(  # noqa: PLR0915 - one story
    name: str, when: str, given: str, server: Server, client: redis.Redis
) -> None:
    """Nothing is lost, doubled or left behind, and no reply is taken for another's."""

    async def main() -> None:
        options: dict[str, Any] = {"url": server.url}
        if given == "a pool of one":
            options = {"client": redis.asyncio.Redis.from_url(server.url, max_connections=1)}
        queue = AsyncQueue("job2", **options)
        at = 1
        while await trial(queue, at):
            at += 1
            assert at < 40, "it never ended"
        assert at > 1, "it never waited"
        connections = client.info("clients")["connected_clients"]
        assert connections <= (3 if given == "a pool of one" else 8)
        await queue.close()
        if "client" in options:
            await options["client"].aclose()

    async def trial(queue: AsyncQueue, at: int) -> bool:
        with Queue("job2", client=client) as other:
            with contextlib.suppress(redis.ResponseError):
                other.delete(force=True)
            before_ids = [] if name == "lease, waiting" else other.push_many(["one", "two"])
            other.push("held", priority=1)
            if at % 2:
                lease = await queue.lease(ttl=600)
            else:  # connects anew
                await queue.close()
                lease = await queue.lease(ttl=600)
            assert lease is not None
            assert lease.text == "held"
            start = other.stats()
            if at % 3 == 0:
                await queue.close()
            work = VERBS[name](queue, lease)
            cancelled = await cut(work, at, when)
            if not cancelled:
                return False

            async def settled() -> bool:
                if queue._rescues or queue._lanes._lanes:
                    return False
                stats = other.stats()
                changed = {
                    total: value - start.totals[total]
                    for total, value in stats.totals.items()
                    if value != start.totals[total] and total != "unseen"
                }
                held = 0 if changed and name in ENDS else 1
                if name == "drain":
                    # What it had in hand and had done is completed, the rest is given back.
                    changed.pop("completed", 0), changed.pop("released", 0)
                    return stats.leased == 1 and not changed
                return stats.leased == held and changed == CHANGES.get(name, {})

            await until(settled, f"{name}, cut at {at}: {other.stats()}")
            stats = other.stats()
            for item in other.waiting():
                assert item.attempts == (1 if item.text == "held" and "fail" in name else 0)
            # The next calls get their own answers.
            other.unseal()
            next_id = await queue.push("next", priority=5)
            assert (await queue.stats()).waiting == other.stats().waiting
            following = await queue.lease(ttl=600)
            assert following is not None
            assert (following.id, following.text, following.attempts) == (next_id, "next", 0)
            await following.complete()
            if name in ("push", "push, delayed", "push_many"):
                # Once it was asked for, it goes on.
                texts = [item.text for item in other.waiting()]
                assert texts.count("pushed") in (0, CHANGES[name]["pushed"])
            report = await queue.check()
            assert report.ok, report
            assert report.accounted, report
            if name not in ENDS and stats.leased == 1:
                await lease.complete()
            assert [x for x in before_ids if x not in {i.id for i in other.waiting()}] == [] or (
                name == "drain"
            )
        return True

    asyncio.run(main())


async def count(queue: AsyncQueue) -> tuple[int, int]:
    """How many wait, and how many are leased."""
    stats = await queue.stats()
    return stats.waiting, stats.leased


async def counts(queue: AsyncQueue, waiting: int, leased: int) -> None:
    """Until that is what there is."""

    async def so() -> bool:
        return await count(queue) == (waiting, leased)

    await until(so, f"{waiting} wait, {leased} are leased")


async def connected(client: redis.Redis, number: int) -> None:
    """Until the server has so many connections."""

    async def so() -> bool:
        return bool(client.info("clients")["connected_clients"] == number)

    await until(so, f"{number} connections")


def test_timeouts_of_every_kind_lose_nothing(run: Run[None], server: Server) -> None:
    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            for seconds in (0.0, 0.0002, 0.0005, 0.001):
                await queue.push("apple")
                for attempt in range(8):
                    held: list[AsyncLease] = []

                    async def lease(held: list[AsyncLease] = held) -> None:
                        lease = await queue.lease(ttl=600, wait=5)
                        assert lease is not None
                        held.append(lease)

                    match attempt % 4:
                        case 0:
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(seconds):
                                    await lease()
                        case 1:
                            with contextlib.suppress(TimeoutError):
                                await asyncio.wait_for(lease(), seconds)
                        case 2:
                            with anyio.move_on_after(seconds):
                                await lease()
                        case _:
                            with contextlib.suppress(ExceptionGroup):
                                async with asyncio.TaskGroup() as group:
                                    group.create_task(lease())
                                    group.create_task(failing(seconds))
                    if held:
                        assert (held[0].text, held[0].attempts) == ("apple", 0)
                        await held[0].release()
                    await counts(queue, 1, 0)
                await queue.purge()
            report = await queue.check()
            assert report.ok
            assert report.accounted

    async def failing(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ValueError

    run(main())


def test_a_timeout_ends_the_waiting_for_an_item(run: Run[None], server: Server) -> None:
    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.03):
                        await queue.lease(wait=None)
                await queue.push("apple")
                lease = await queue.lease()
                assert lease is not None
                await lease.complete()

    run(main())


def test_a_cancelled_task_leaves_blmove(
    run: Run[None], server: Server, client: redis.Redis
) -> None:
    async def main() -> None:
        async def blocked() -> bool:
            return bool(client.info("clients")["blocked_clients"] == 1)

        async with AsyncQueue("job2", url=server.url) as queue:
            task = asyncio.create_task(queue.lease(wait=None))
            await until(blocked, "it waits")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await queue.push_many(["apple", "banana"])
            for text in ("apple", "banana"):
                lease = await queue.lease()
                assert lease is not None
                assert (lease.text, lease.attempts) == (text, 0)
                await lease.complete()
            assert client.info("clients")["blocked_clients"] == 0

    run(main())


def test_a_lease_is_released_in_a_scope_that_is_cancelled_all_along(
    run: Run[None], server: Server
) -> None:
    """In anyio every await in a cancelled scope is cancelled, that of the release too."""

    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            await queue.push("apple")
            with anyio.CancelScope() as scope:
                lease = await queue.lease(ttl=600)
                assert lease is not None
                async with lease:
                    scope.cancel()
                    await anyio.sleep(10)
            await counts(queue, 1, 0)
            assert [item.attempts async for item in queue.waiting()] == [0]

    run(main())


def test_a_drain_in_a_cancelled_scope_completes_what_is_done(
    run: Run[None], server: Server
) -> None:
    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            await queue.push_many([f"{n}" for n in range(10)])
            with anyio.CancelScope() as scope:
                async for lease in queue.drain(ttl=600, batch=6):
                    async with lease:
                        if lease.text == "3":
                            scope.cancel()
                            await anyio.sleep(10)
            await counts(queue, 7, 0)
            stats = await queue.stats()
            assert stats.totals["completed"] == 3
            assert stats.totals["released"] == 3

    run(main())


def test_a_drain_that_is_cancelled_with_items_done_completes_them(
    run: Run[None], server: Server
) -> None:
    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            await queue.push("apple")

            async def work() -> None:
                async for lease in queue.drain(ttl=600):
                    async with lease:
                        pass
                    task.cancel()  # comes when it completes this one and asks for the next

            task = asyncio.create_task(work())
            with pytest.raises(asyncio.CancelledError):
                await task
            await counts(queue, 0, 0)
            assert (await queue.stats()).totals["completed"] == 1

    run(main())


def test_a_drain_that_is_left_gives_back_what_it_holds(
    run: Run[None], server: Server, client: redis.Redis
) -> None:
    """With `break`, as a generator that is closed, and by an error; also at once before closing."""

    async def main() -> None:
        before = client.info("clients")["connected_clients"]
        for way in ("break", "error", "aclose"):
            async with AsyncQueue("job2", url=server.url) as queue:
                await queue.push_many(["apple", "banana", "cherry"])
                if way == "aclose":
                    leases = cast("Any", queue.drain(ttl=600, batch=3))
                    async with await anext(leases):
                        pass
                    await leases.aclose()
                else:
                    with contextlib.suppress(ValueError):
                        async for lease in queue.drain(ttl=600, batch=3):
                            async with lease:
                                if way == "error":
                                    raise ValueError
                            break
            async with AsyncQueue("job2", url=server.url) as queue:
                stats = await queue.stats()
                assert stats.leased == 0, way
                assert stats.waiting + stats.delayed == (3 if way == "error" else 2)
                await queue.delete(force=True)
            await connected(client, before)

    run(main())


def test_close_goes_on_when_its_caller_is_cancelled(
    run: Run[None], server: Server, client: redis.Redis
) -> None:
    async def main() -> None:
        before = client.info("clients")["connected_clients"]
        with anyio.CancelScope() as scope:
            async with AsyncQueue("job2", url=server.url) as queue:
                await queue.push("apple")
                await queue.lease()
                scope.cancel()

        await connected(client, before)

    run(main())


def test_fifty_cancellations_use_up_no_pool(
    run: Run[None], server: Server, client: redis.Redis
) -> None:
    async def main() -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            server.url, max_connections=1, timeout=5
        )
        for given in (
            redis.asyncio.Redis.from_url(server.url, max_connections=1),
            redis.asyncio.Redis(connection_pool=pool),
            redis.asyncio.Redis.from_url(server.url, single_connection_client=True),
        ):
            queue = AsyncQueue("job2", client=given)
            await queue.push("apple")
            for number in range(50):
                await cut(queue.lease(ttl=600), number % 5 + 1, "waiting")
                await cut(queue.push("banana"), number % 3 + 1, "answered")
                await queue.stats()
            await queue.close()
            stats = await queue.stats()
            assert stats.totals["pushed"] - stats.totals["completed"] == (
                stats.waiting + stats.leased
            )
            assert await given.ping()
            await queue.delete(force=True)
            await queue.close()
            await given.aclose()
        await pool.disconnect()

    run(main())


# Event loops


def test_one_queue_in_one_run_after_another(run: Run[None], server: Server) -> None:
    """Its connections were those of the first loop."""
    queue = AsyncQueue("job2", url=server.url)

    async def first() -> None:
        await queue.push("apple")
        await queue.close()

    async def second() -> None:
        lease = await queue.lease()
        assert lease is not None
        async with lease:
            assert lease.text == "apple"
        await queue.close()

    run(first())
    run(second())


NEVER_CLOSED = """
import asyncio, sys
from pyqueue import AsyncQueue

queue = AsyncQueue("job2", url=sys.argv[1])

async def use(payload):
    await queue.push(payload)
    asyncio.create_task(queue.lease(wait=None))
    await asyncio.sleep(0)

for number in range(4):
    asyncio.run(use(str(number)))
"""


def test_a_queue_that_is_never_closed(server: Server, client: redis.Redis) -> None:
    command = [sys.executable, "-c", NEVER_CLOSED, server.url]
    subprocess.run(command, check=True, timeout=20)
    assert client.llen("job2") + client.llen("{job2}:handoff") + client.hlen("{job2}:leased") == 4


def test_a_push_of_unknown_outcome_is_repeated_in_the_next_run(
    relay: Relay, client: redis.Redis
) -> None:
    """Its slot outlives the loop: else the message would be there twice."""
    given = redis.asyncio.Redis.from_url(relay.url, retry=Retry(NoBackoff(), 0))
    queue = AsyncQueue("job2", client=given)

    async def first() -> str:
        relay.lose_replies()
        with pytest.raises(ServerUnavailable) as caught:
            await queue.push("apple")
        await given.connection_pool.disconnect()
        return caught.value.ids[0]

    async def second() -> None:
        assert await queue.push("apple", id=message) == message
        await queue.close()
        await given.aclose()

    message = asyncio.run(first())
    asyncio.run(second())
    assert client.llen("job2") == 1


def test_two_loops_at_once_are_refused(server: Server) -> None:
    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            await queue.push("apple")

            def elsewhere() -> None:
                asyncio.run(queue.push("banana"))

            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(elsewhere)
            assert (await queue.stats()).waiting == 1

    asyncio.run(main())


def test_a_client_of_the_other_kind_is_refused(client: redis.Redis) -> None:
    with pytest.raises(TypeError, match=r"redis\.asyncio"):
        AsyncQueue("job2", client=cast("Any", client))
    with pytest.raises(TypeError, match=r"redis\.asyncio"):
        Queue("job2", client=cast("Any", redis.asyncio.Redis()))


def test_an_outage_during_cancellations_leaves_nothing_behind(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be given back now is given back by a later call of the same slot."""
    caplog.set_level(logging.ERROR, "pyqueue")

    async def main() -> None:
        async with AsyncQueue("job2", url=server.url) as queue:
            await queue.push_many(["apple", "banana"])
            server.pause()
            tasks = [asyncio.create_task(queue.lease(ttl=600)) for _ in range(2)]
            await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.resume()
            await counts(queue, 2, 0)
            report = await queue.check()
            assert report.ok
            assert report.accounted

    asyncio.run(main())


# Cluster and Sentinel


async def worked_off(queue: AsyncQueue, client: Any) -> None:
    """Pushes, waits, leases, completes, is cancelled."""
    ids = await asyncio.gather(*(queue.push(f"{n}") for n in range(50)))
    assert [item.id async for item in queue.waiting()] == ids
    done = [lease.text async for lease in completed(queue)]
    assert done == [f"{n}" for n in range(50)]
    waiting = asyncio.create_task(queue.lease(wait=10))

    async def blocked() -> bool:
        return bool((await client.info("clients"))["blocked_clients"] == 1)

    await until(blocked, "it waits")
    await queue.push("late")
    lease = await waiting
    assert lease is not None
    await lease.complete(push="after")
    at = 1
    while await cut(queue.lease(ttl=600), at, "waiting"):
        await counts(queue, 1, 0)
        at += 1
    assert at > 1
    await counts(queue, 0, 1)
    report = await queue.check()
    assert report.ok
    assert report.accounted


async def completed(queue: AsyncQueue) -> AsyncIterator[AsyncLease]:
    async for lease in queue.drain(ttl=30, batch=10):
        async with lease:
            yield lease


def test_a_cluster(run: Run[None], session_server: Server) -> None:
    with launch(session_server.source, "--cluster-enabled", "yes") as node, node.client() as direct:
        if not isinstance(node, LocalServer):
            pytest.skip("a Cluster of one is made of a local server")
        direct.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)

        async def main() -> None:
            async def up() -> bool:
                return bool(cast("Any", direct.cluster("info"))["cluster_state"] == "ok")

            await until(up, "the cluster is up")
            given = redis.asyncio.RedisCluster(host="127.0.0.1", port=node.port)
            plain = redis.asyncio.Redis.from_url(node.url)
            async with plain, given, AsyncQueue("job2", client=given) as queue:
                await worked_off(queue, plain)

        run(main())


@contextlib.contextmanager
def sentinel(server: LocalServer, directory: Path) -> Iterator[int]:
    """A Sentinel that watches the server as "main"; its port."""
    port = random.choice(PORTS)
    settings = directory / "sentinel.conf"
    settings.write_text(f"port {port}\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with subprocess.Popen(
        [server.binary, str(settings), "--sentinel", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield port
        finally:
            process.kill()


def test_a_sentinel(run: Run[None], server: Server, tmp_path: Path) -> None:
    if not isinstance(server, LocalServer):
        pytest.skip("a Sentinel watches a local server")

    async def main(port: int) -> None:
        watch: Any = cast("Any", redis.asyncio.Sentinel)([("127.0.0.1", port)])

        async def up() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                return bool(await watch.discover_master("main"))
            return False

        await until(up, "the Sentinel knows the master")
        given = watch.master_for("main")
        direct = redis.asyncio.Redis.from_url(server.url)
        async with direct, given, AsyncQueue("job2", client=given) as queue:
            await worked_off(queue, direct)
        for one in watch.sentinels:
            await one.aclose()

    with sentinel(server, tmp_path) as port:
        run(main(port))
