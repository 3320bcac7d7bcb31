"""Limits of a queue, and who wakes when for what is not simply in the list."""

import math
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from pyqueue import Batch, Lease, LeaseLost, Queue
from pyqueue._heartbeat import Heartbeat
from tests.contract.conftest import OpenQueue
from tests.contract.test_waiting import Waiter, blocked
from tests.lua.harness import VirtualQueue
from tests.servers import wait_until


def calls(client: redis.Redis) -> int:
    """Calls of scripts since the statistics were reset."""
    found = client.info("commandstats")
    return sum(int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha",))


class Workers:
    """Threads with a queue each that lease and complete until they are stopped."""

    def __init__(self, open_queue: OpenQueue, count: int) -> None:
        self.leases: list[Lease] = []
        #: Payloads and when they were there, by ``time.time``.
        self.got: list[tuple[str, float]] = []
        self._ends = threading.Event()
        self._queues = [open_queue() for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(x,)) for x in self._queues]
        for thread in self._threads:
            thread.start()

    def _run(self, queue: Queue) -> None:
        while not self._ends.is_set():
            lease = queue.lease(ttl=600, wait=5)
            if lease is not None:
                self.got.append((lease.text, time.time()))
                self.leases.append(lease)
                lease.complete()

    def stop(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def workers(open_queue: OpenQueue) -> Iterator[Callable[[int], Workers]]:
    made: list[Workers] = []

    def make(count: int) -> Workers:
        made.append(Workers(open_queue, count))
        return made[-1]

    yield make
    for some in made:
        some._ends.set()
    # What is blocked wakes.
    open_queue().push_many(["end"] * sum(len(some._threads) for some in made))
    for some in made:
        some.stop()


@pytest.fixture
def waiter(open_queue: OpenQueue) -> Iterator[Callable[[], Waiter]]:
    """Makes workers that wait; at the end each gets something."""
    waiters: list[Waiter] = []

    def make() -> Waiter:
        waiters.append(Waiter(open_queue()))
        return waiters[-1]

    yield make
    with open_queue() as queue:
        queue.configure(rate=None, max_leased=None)
        queue.push_many(["end"] * len(waiters))
    for one in waiters:
        one.join()


# --- rate


@pytest.mark.parametrize("burst", [1, 4])
def test_a_rate_is_never_exceeded_and_nobody_polls(
    queue: Queue, workers: Callable[[int], Workers], client: redis.Redis, burst: int
) -> None:
    """In whatever time, as many leases as the burst and what has come since; at its full speed."""
    rate, count, number = 40, 16, 80
    queue.configure(rate=rate, burst=burst)
    client.config_resetstat()
    queue.push_many(str(x) for x in range(number))
    fleet = workers(count)
    wait_until(lambda: len(fleet.leases) == number, "all are leased", 60)
    # By the server's clock, to the millisecond.
    times = sorted(round((lease.deadline - 600) * 1000) for lease in fleet.leases)
    for first in range(number):
        for last in range(first + 1, number):
            allowed = burst + rate * (times[last] - times[first] + 1) / 1000
            assert last - first + 1 <= allowed + 1e-6, (first, last, times)
    least = (number - burst) / rate
    spent = (times[-1] - times[0]) / 1000
    print(f"{number} in {spent:.2f} s, at least {least:.2f}; {calls(client)} calls")
    assert least - 0.002 <= spent < 2 * least + 2
    # Two for each item, and those of workers who meet at its time: few, for they sleep.
    assert calls(client) <= 10 * number


def test_the_hint_of_a_rate_is_exact(queue: Queue, clock: VirtualQueue) -> None:
    queue.configure(rate=4, burst=2)
    queue.push_many(list("abcde"))

    def lease() -> Batch[Lease]:
        return queue.lease_many(5, ttl=600)

    assert len(lease()) == 2
    batch = lease()
    assert (batch.reason, batch.retry_in) == ("rate", 0.25)
    assert lease().retry_in == 0.5, "the next who asks is told the next time"
    clock.sleep(249)
    assert lease().reason == "rate"
    clock.sleep(1)
    assert len(lease()) == 1
    clock.sleep(100_000)
    assert len(lease()) == 2


def test_a_slow_rate_wakes_at_its_time(queue: Queue, waiter: Callable[[], Waiter]) -> None:
    queue.configure(rate=2, burst=1)
    queue.push_many(["a", "b"])
    began = time.monotonic()
    assert queue.lease() is not None
    one = waiter()
    assert one.join() is not None
    assert 0.49 <= one.woke - began < 2


def test_a_rate_can_be_raised_and_removed(queue: Queue, waiter: Callable[[], Waiter]) -> None:
    queue.configure(rate=0.001)
    queue.push_many(["a", "b"])
    assert queue.lease() is not None
    one = waiter()
    queue.configure(rate=None)
    assert one.join() is not None


# --- max_leased, max_lease


def test_as_many_are_in_flight_as_may_be(queue: Queue, workers: Callable[[int], Workers]) -> None:
    queue.configure(max_leased=3)
    queue.push_many(map(str, range(60)))
    held = queue.lease_many(10)
    assert len(held) == 3
    assert queue.lease_many(10).reason == "limit"
    fleet = workers(8)
    for lease in held:
        lease.complete()
    seen = 0
    while len(fleet.leases) < 57:
        seen = max(seen, queue.stats().leased)
    assert seen <= 3


def test_the_reason_for_waiting_is_told(queue: Queue) -> None:
    queue.push_many(["a", "b"], group="g")
    lease = queue.lease()
    assert lease is not None
    assert queue.lease_many(1).reason == "group"
    queue.push("c")
    queue.configure(max_leased=1)
    assert queue.lease_many(1).reason == "limit"
    queue.configure(max_leased=None, rate=0.001, burst=1)
    assert len(queue.lease_many(1)) == 1
    queue.push("d")
    assert queue.lease_many(1).reason == "rate"
    queue.pause()
    assert queue.lease_many(1).reason == "paused"


def test_no_lease_lasts_longer_than_max_lease(queue: Queue, clock: VirtualQueue) -> None:
    queue.configure(max_lease=10, ttl=4)
    queue.push("a")
    lease = queue.lease(ttl=600)
    assert lease is not None
    begin = clock.now / 1000
    assert lease.deadline == begin + 10
    lease.release()
    lease = queue.lease()
    assert lease is not None
    assert lease.deadline == begin + 4
    for seconds, expected in ((3, 7), (6, 10), (9, 10), (9.9, 10)):
        clock.now = round((begin + seconds) * 1000)
        assert lease.extend() == begin + expected
    clock.now = round((begin + 10) * 1000)
    assert queue.reclaim(hold=0) == 1
    with pytest.raises(LeaseLost):
        lease.extend()


def test_a_heartbeat_ends_with_max_lease(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """The worker hangs, its heartbeat lives: it is told when its lease has run out."""
    queue.configure(max_lease=0.8)
    queue.push("a")
    lost = threading.Event()
    with Heartbeat(queue) as heartbeat:
        lease = queue.lease(ttl=0.3)
        assert lease is not None
        began = time.monotonic()
        heartbeat.add(lease, 0.3, lambda _: lost.set())
        wait_until(lost.is_set, "it is told")
        assert time.monotonic() - began >= 0.7
        assert "max_lease is reached" in caplog.text
        wait_until(lambda: queue.stats().expired, "it has run out")
        again = queue.lease(wait=10)
        assert again is not None
        assert (again.id, again.attempts) == (lease.id, 1)


def test_a_heartbeat_keeps_leases_of_the_queues_own_ttl(queue: Queue) -> None:
    queue.configure(ttl=0.3)
    queue.push_many(["a", "b"])
    with Heartbeat(queue) as heartbeat:
        leases = queue.lease_many(2)
        for lease in leases:
            heartbeat.add(lease)
        until = leases[0].deadline + 0.5
        wait_until(lambda: min(x.deadline for x in leases) > until, "they were extended twice")
        for lease in leases:
            heartbeat.remove(lease)
            lease.complete()


# --- who wakes


def lateness(open_queue: OpenQueue) -> list[float]:
    """How late workers that are blocked wake for what is pushed with a delay: 56 times, seconds."""
    late: list[float] = []
    errors: list[BaseException] = []

    def sample(name: str) -> None:
        queue = open_queue(name)
        waiters = [Waiter(open_queue(name)) for _ in range(2)]
        try:
            for number in range(7):
                delay = random.uniform(0.05, 0.6)
                time.sleep(random.uniform(0, 0.1))  # the server's timer is in any phase
                due = time.monotonic() + delay
                queue.push(str(number), delay=delay)
                wait_until(lambda: any(x.woke for x in waiters), "one wakes")
                woken = next(x for x in waiters if x.woke)
                waiters.remove(woken)
                lease = woken.join()
                assert lease is not None
                assert lease.text == str(number)
                late.append(woken.woke - due)
                lease.complete()
                waiters.append(Waiter(open_queue(name)))
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            queue.push_many(["end"] * len(waiters))
            for one in waiters:
                one.join()
            queue.purge()

    threads = [threading.Thread(target=sample, args=(f"q{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(late) == 56
    return sorted(late)


def test_what_is_due_wakes_those_who_were_blocked_before_it_was_pushed(
    open_queue: OpenQueue,
) -> None:
    """On an idle machine 99 of 100 are less than 110 ms late: a blocking command's time is up to
    100 ms late. Where others work too it may take another try, and there is some more room.
    """
    late, p99 = [math.inf], math.inf
    for _ in range(5):
        late = lateness(open_queue)
        p99 = late[math.ceil(0.99 * len(late)) - 1]
        print(f"late: median {statistics.median(late) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
        assert late[0] >= 0, "nobody gets it before its time"
        if p99 < 0.15:
            break
    assert statistics.median(late) < 0.11
    assert p99 < 0.5


@pytest.mark.parametrize("how", ["priority", "rpush", "group", "release", "due sooner"])
def test_a_blocked_worker_wakes_at_once(
    queue: Queue, waiter: Callable[[], Waiter], client: redis.Redis, how: str
) -> None:
    """Also while something is due later, of which it was told."""
    queue.push("much later", delay=600)
    queue.push_many(["a", "b"], group="g")
    held = queue.lease()
    assert held is not None
    queue.push("later", delay=1.9)
    one = waiter()
    wait_until(lambda: blocked(client) == 1, "it waits")
    began = time.monotonic()
    match how:
        case "priority":
            queue.push("p", priority=-1)
        case "rpush":
            client.rpush("job2", "raw")
        case "group":
            held.complete()
        case "release":
            held.release()
        case "due sooner":
            queue.push("soon", delay=0.3)
    lease = one.join()
    assert lease is not None
    expected = {"priority": "p", "rpush": "raw", "group": "b", "release": "a"}
    assert lease.text == expected.get(how, "soon")
    late = one.woke - began - (0.3 if how == "due sooner" else 0)
    print(f"{how}: {late * 1000:.1f} ms")
    assert late < 0.5
    lease.complete()


def test_a_push_of_many_priorities_wakes_as_many(
    queue: Queue, workers: Callable[[int], Workers], client: redis.Redis
) -> None:
    """One marker at first; each that takes something wakes the next."""
    fleet = workers(6)
    wait_until(lambda: blocked(client) == 6, "all wait")
    began = time.time()
    queue.push_many(map(str, range(6)), priority=3)
    wait_until(lambda: len(fleet.got) == 6, "all are leased")
    assert max(at for _, at in fleet.got) - began < 1


WORKER = """
import sys
from pyqueue import Queue
queue = Queue("job2", url=sys.argv[1])
print("waits", flush=True)
lease = queue.lease(wait=None)
print(lease.text, flush=True)
lease.complete()
"""


def test_a_process_that_waits_for_a_group_is_woken_by_another(
    queue: Queue, client: redis.Redis
) -> None:
    queue.push_many(["a", "b"], group="g")
    held = queue.lease()
    assert held is not None
    url = client.connection_pool.connection_kwargs["path"]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, f"unix://{url}"], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        wait_until(lambda: blocked(client) == 1, "it waits")
        held.complete()
        assert worker.stdout.read().split() == ["waits", "b"]
