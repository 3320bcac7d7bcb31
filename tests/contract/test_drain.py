"""The loop over everything there is: drain."""

import logging
import threading
import time

import pytest
import redis

from pyqueue import LeaseLost, Queue
from tests.contract.conftest import OpenQueue
from tests.lua.harness import VirtualQueue


def calls(client: redis.Redis) -> int:
    """Round trips that ran a script."""
    stats = client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_everything_is_worked_off_in_order(queue: Queue) -> None:
    queue.push_many(list("abc"))
    done = []
    for lease in queue.drain():
        with lease:
            done.append(lease.text)
    assert done == ["a", "b", "c"]
    assert queue.stats().totals["completed"] == 3
    assert queue.stats().drained


def test_an_empty_queue_has_nothing(queue: Queue) -> None:
    assert list(queue.drain()) == []


@pytest.mark.parametrize(("batch", "expected"), [(1, 11), (3, 5), (10, 2), (1000, 2)])
def test_completing_costs_no_round_trip(
    queue: Queue, client: redis.Redis, batch: int, expected: int
) -> None:
    assert list(queue.drain()) == []  # the server knows the script now
    queue.push_many(list("0123456789"))
    client.config_resetstat()
    for lease in queue.drain(batch=batch):
        with lease:
            pass
    assert calls(client) == expected
    assert queue.stats().totals["completed"] == 10


def test_what_is_left_unsettled_is_released_when_the_loop_goes_on(queue: Queue) -> None:
    queue.push_many(list("ab"))
    seen = []
    for lease in queue.drain():
        seen.append((lease.text, lease.deliveries))
        if len(seen) < 4:
            continue
        lease.complete()
        queue.purge()
    assert seen == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert queue.stats().totals["released"] == 3


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_left_is_released_when_the_loop_is_left(queue: Queue, batch: int) -> None:
    queue.push_many(list("abcd"))
    for lease in queue.drain(batch=batch):
        if lease.text == "b":
            break
        lease.complete()
    assert [(item.text, item.attempts) for item in queue.waiting()] == [
        ("b", 0),
        ("c", 0),
        ("d", 0),
    ]
    stats = queue.stats()
    assert (stats.leased, stats.totals["completed"]) == (0, 1)


def test_break_in_the_body_of_the_lease_completes_it(queue: Queue) -> None:
    queue.push_many(list("ab"))
    for lease in queue.drain():
        with lease:
            break
    assert queue.stats().totals["completed"] == 1
    assert [item.text for item in queue.waiting()] == ["b"]


@pytest.mark.parametrize("batch", [1, 4])
def test_an_exception_fails_its_item_completes_those_before_and_releases_the_rest(
    queue: Queue, batch: int
) -> None:
    queue.push_many(list("abcd"))
    with pytest.raises(ZeroDivisionError):
        for lease in queue.drain(batch=batch):
            with lease:
                if lease.text == "c":
                    raise ZeroDivisionError
    stats = queue.stats()
    assert (stats.totals["completed"], stats.totals["failed"]) == (2, 1)
    assert [item.text for item in queue.waiting()] == ["d", "c"]
    assert stats.leased == 0


def test_an_interrupt_charges_nothing(queue: Queue) -> None:
    queue.push_many(list("abcd"))
    with pytest.raises(KeyboardInterrupt):
        for lease in queue.drain(batch=4):
            with lease:
                if lease.text == "b":
                    raise KeyboardInterrupt
    waiting = {item.text: item.attempts for item in queue.waiting()}
    assert waiting == {"b": 0, "c": 0, "d": 0}
    assert queue.stats().totals["completed"] == 1


def test_a_generator_that_is_closed_releases(queue: Queue) -> None:
    queue.push_many(list("ab"))
    leases = iter(queue.drain(batch=2))
    next(leases)
    assert queue.stats().leased == 2
    leases.close()  # type: ignore[attr-defined]
    assert queue.stats().leased == 0
    assert [item.text for item in queue.waiting()] == ["a", "b"]


def test_failed_items_are_waited_for(queue: Queue) -> None:
    queue.push_many(list("ab"))
    seen = []
    for lease in queue.drain():
        seen.append((lease.text, lease.attempts))
        if seen[-1] == ("a", 0):
            lease.fail("boom", retry_in=0.05)
        else:
            lease.complete()
    assert seen == [("a", 0), ("b", 0), ("a", 1)]


def test_items_of_others_are_waited_for(queue: Queue, open_queue: OpenQueue) -> None:
    """Who ends early leaves nobody for the item of a worker that dies."""
    queue.push("apple")
    other = open_queue()
    held = other.lease(ttl=0.3)
    assert held is not None
    began = time.monotonic()
    seen = []
    for lease in queue.drain():
        with lease:
            seen.append(lease)
    assert [(lease.text, lease.attempts, lease.suspect) for lease in seen] == [("apple", 1, True)]
    assert time.monotonic() - began >= 0.25


def test_it_ends_when_another_completes_the_last(queue: Queue, open_queue: OpenQueue) -> None:
    queue.push("apple")
    held = open_queue().lease(ttl=0.5)
    assert held is not None
    thread = threading.Thread(target=lambda: next(queue.drain(), None))
    thread.start()
    held.complete()
    thread.join(10)
    assert not thread.is_alive()


def test_it_ends_after_a_while_without_an_item(queue: Queue, open_queue: OpenQueue) -> None:
    queue.push("apple")
    assert open_queue().lease() is not None
    began = time.monotonic()
    assert list(queue.drain(wait=0.1)) == []
    assert 0.1 <= time.monotonic() - began < 2


def test_what_was_completed_too_late_is_said(
    queue: Queue, clock: VirtualQueue, open_queue: OpenQueue
) -> None:
    queue.push_many(list("ab"))
    other = open_queue()
    other._clock = queue._clock
    with pytest.raises(LeaseLost, match="completed too late") as caught:
        for lease in queue.drain(ttl=10):
            with lease:
                clock.sleep(10_000)
                other.reclaim(hold=0)
    assert caught.value.tokens == (lease.token,)
    # And what was leased in that very call is held by nobody.
    assert queue.stats().leased == 0


def test_at_the_end_of_the_loop_nobody_can_be_told_but_the_log(
    queue: Queue, clock: VirtualQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.push_many(list("ab"))
    caplog.set_level(logging.WARNING, "pyqueue")
    leases = queue.drain(ttl=10)
    lease = next(leases)
    clock.sleep(10_000)
    queue.reclaim(hold=0)
    del leases
    assert f"cannot release item {lease.id} token {lease.token}: its lease is lost" in caplog.text


@pytest.mark.parametrize("batch", [0, 1001])
def test_bad_batches(queue: Queue, batch: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 1000"):
        next(queue.drain(batch=batch))


def test_a_suspect_comes_alone(queue: Queue, clock: VirtualQueue) -> None:
    queue.push_many(list("abc"))
    first = queue.lease(ttl=1)
    assert first is not None
    clock.sleep(1_000)
    batches = []
    for lease in queue.drain(batch=10):
        with lease:
            batches.append((lease.text, lease.suspect, queue.stats().leased))
    assert batches == [("a", True, 1), ("b", False, 2), ("c", False, 2)]
