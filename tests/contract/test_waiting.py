"""Waiting for work: nobody polls, exactly one wakes, nothing is lost on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from pyqueue import Lease, Queue
from tests.contract.conftest import OpenQueue
from tests.servers import Server, wait_until


def blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


class Waiter:
    """A worker of its own that waits for one item."""

    def __init__(self, queue: Queue, wait: float | None = 20) -> None:
        self.lease: Lease | None = None
        self.woke = 0.0
        self._queue = queue
        self._wait = wait
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.lease = self._queue.lease(wait=self._wait)
        self.woke = time.monotonic()

    def join(self) -> Lease | None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.lease


@pytest.fixture
def waiter(open_queue: OpenQueue) -> Iterator[Callable[..., Waiter]]:
    """Makes workers that wait; at the end each gets something."""
    waiters: list[Waiter] = []

    def make(wait: float | None = 20) -> Waiter:
        waiters.append(Waiter(open_queue(), wait))
        return waiters[-1]

    yield make
    queue = open_queue()
    while any(waiter.thread.is_alive() for waiter in waiters):
        queue.push("the end")
        for waiter in waiters:
            waiter.thread.join(0.1)


def test_a_plain_rpush_wakes_at_once(waiter: Callable[..., Waiter], client: redis.Redis) -> None:
    one = waiter()
    wait_until(lambda: blocked(client) == 1, "it waits")
    pushed = time.monotonic()
    client.rpush("job2", "apple")
    lease = one.join()
    assert lease is not None
    assert lease.payload == b"apple"
    assert one.woke - pushed < 0.2
    assert not client.exists("{job2}:handoff")


def test_of_two_exactly_one_wakes(waiter: Callable[..., Waiter], client: redis.Redis) -> None:
    waiters = [waiter(), waiter()]
    wait_until(lambda: blocked(client) == 2, "both wait")
    client.config_resetstat()
    client.rpush("job2", "apple")
    wait_until(lambda: any(one.woke for one in waiters), "one wakes")
    assert blocked(client) == 1
    first, second = sorted(waiters, key=lambda one: not one.woke)
    assert first.join() is not None
    assert second.thread.is_alive()
    client.rpush("job2", "banana")
    lease = second.join()
    assert lease is not None
    assert lease.payload == b"banana"


def test_a_push_wakes_as_many_as_it_has_items_for(
    waiter: Callable[..., Waiter], client: redis.Redis, queue: Queue
) -> None:
    waiters = [waiter() for _ in range(3)]
    wait_until(lambda: blocked(client) == 3, "all wait")
    queue.push_many(list("ab"))
    wait_until(lambda: sum(one.woke > 0 for one in waiters) == 2, "two wake")
    assert sum(one.thread.is_alive() for one in waiters) == 1


def test_waiting_has_an_end(queue: Queue, client: redis.Redis) -> None:
    queue.push("apple")
    assert queue.lease() is not None
    began = time.monotonic()
    assert queue.lease(wait=0.15) is None
    assert 0.15 <= time.monotonic() - began < 1
    assert queue.lease(wait=-1) is None


def test_on_a_drained_queue_too(queue: Queue) -> None:
    began = time.monotonic()
    batch = queue.lease_many(1, wait=0.15)
    assert batch.drained
    assert time.monotonic() - began >= 0.15


def test_waiting_for_ever(waiter: Callable[..., Waiter], client: redis.Redis) -> None:
    one = waiter(None)
    wait_until(lambda: blocked(client) == 1, "it waits")
    client.rpush("job2", "apple")
    assert one.join() is not None


def test_what_becomes_due_wakes_at_its_time(queue: Queue) -> None:
    queue.push("apple")
    lease = queue.lease()
    assert lease is not None
    lease.release(delay=0.25)
    began = time.monotonic()
    again = queue.lease(wait=10)
    assert again is not None
    assert 0.2 <= time.monotonic() - began < 1


def test_what_becomes_due_sooner_wakes_one_that_waits(
    waiter: Callable[..., Waiter], queue: Queue, client: redis.Redis
) -> None:
    queue.push("apple")
    lease = queue.lease(ttl=60)
    assert lease is not None
    one = waiter()
    wait_until(lambda: blocked(client) == 1, "it waits")
    began = time.monotonic()
    lease.release(delay=0.2)
    assert one.join() is not None
    assert 0.15 <= one.woke - began < 1


def test_a_lease_that_runs_out_wakes_at_its_deadline(queue: Queue, open_queue: OpenQueue) -> None:
    queue.push("apple")
    assert queue.lease(ttl=0.25) is not None
    began = time.monotonic()
    lease = open_queue().lease(wait=10)
    assert lease is not None
    assert lease.suspect
    assert 0.2 <= time.monotonic() - began < 1


def test_a_paused_queue_is_waited_for_without_blocking(
    waiter: Callable[..., Waiter], queue: Queue, client: redis.Redis
) -> None:
    """BLMOVE would shovel the list into the handoff."""
    queue.push("apple")
    queue.pause()
    one = waiter()
    wait_until(lambda: client.info("commandstats").get("cmdstat_evalsha"), "it has asked")
    assert client.llen("job2") == 1
    queue.resume()
    lease = one.join()
    assert lease is not None
    assert lease.payload == b"apple"


def test_a_server_that_refuses_to_block_is_asked_again(
    waiter: Callable[..., Waiter], client: redis.Redis
) -> None:
    """A full server refuses BLMOVE; so may an ACL or a failover."""
    client.config_set("maxmemory", 1)
    try:
        one = waiter()
        wait_until(
            lambda: (
                client.info("commandstats").get("cmdstat_blmove", {"rejected_calls": 0})[
                    "rejected_calls"
                ]
                > 0
            ),
            "it was refused",
        )
        assert one.thread.is_alive()
    finally:
        client.config_set("maxmemory", 0)
    client.rpush("job2", "apple")
    assert one.join() is not None


WORKER = """
import sys
from pyqueue import Queue
queue = Queue("job2", url=sys.argv[1])
print("waits", flush=True)
lease = queue.lease(wait=None)
print("leased", flush=True)
"""


def test_a_worker_that_is_killed_between_being_woken_and_leasing_loses_nothing(
    server: Server, client: redis.Redis, queue: Queue
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, server.url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert worker.stdout is not None
    with worker:
        wait_until(lambda: blocked(client) == 1, "it waits")
        worker.send_signal(signal.SIGSTOP)
        client.rpush("job2", "apple")
        assert client.lrange("{job2}:handoff", 0, -1) == [b"apple"]
        assert queue.stats().waiting == 1
        worker.kill()
        assert worker.stdout.read() == "waits\n"
    lease = queue.lease()
    assert lease is not None
    assert (lease.payload, lease.attempts, lease.deliveries) == (b"apple", 0, 0)


def test_what_was_handed_off_comes_before_what_waits(queue: Queue, client: redis.Redis) -> None:
    client.rpush("job2", "first", "second")
    client.blmove("job2", "{job2}:handoff", 1)
    assert [item.payload for item in queue.waiting()] == [b"first", b"second"]
    assert [lease.payload for lease in queue.lease_many(2)] == [b"first", b"second"]
