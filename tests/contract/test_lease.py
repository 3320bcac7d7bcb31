"""Holding an item: lease, lease_many, the lease itself, and the lease as a context manager."""

import logging
import time

import pytest
import redis

from pyqueue import Batch, Lease, LeaseLost, MalformedMessage, Queue
from tests.contract.conftest import OpenQueue
from tests.contract.relay import Relay
from tests.lua.harness import VirtualQueue, envelope


def take(queue: Queue, ttl: float = 60) -> Lease:
    lease = queue.lease(ttl)
    assert lease is not None
    return lease


def test_a_lease_knows_its_item(queue: Queue, clock: VirtualQueue) -> None:
    id = queue.push("größe", headers={"a": 1})
    lease = take(queue, ttl=7.5)
    assert lease.id == id
    assert lease.payload == "größe".encode()
    assert lease.text == "größe"
    assert lease.headers == {"a": 1}
    assert (lease.attempts, lease.deliveries, lease.suspect) == (0, 0, False)
    assert lease.token == clock.now * 1000
    assert lease.deadline == clock.now / 1000 + 7.5
    assert 7 < lease.remaining <= 7.5
    assert (lease.settled, lease.dead) == (False, False)
    assert repr(lease) == f"<Lease {id} token={lease.token} queue='job2'>"


def test_what_anybody_pushed_is_leased_too(queue: Queue, client: redis.Redis) -> None:
    client.rpush("job2", b"\xff", "")
    first, second = queue.lease_many(2)
    assert (first.payload, second.payload) == (b"\xff", b"")
    assert first.id != second.id
    with pytest.raises(UnicodeDecodeError):
        _ = first.text
    first.release()
    again = take(queue)
    assert (again.id, again.deliveries) == (first.id, 1)


def test_headers_of_another_program(queue: Queue, client: redis.Redis) -> None:
    client.rpush("job2", envelope(b"x", headers=b"\x81\x90\x01"))
    with pytest.raises(MalformedMessage, match="the headers cannot be read"):
        _ = take(queue).headers


def test_nothing_to_lease(queue: Queue) -> None:
    assert queue.lease() is None
    assert list(queue.lease_many(10)) == []


def test_many_malformed_messages_do_not_hide_what_comes_after_them(
    queue: Queue, client: redis.Redis
) -> None:
    """The script works through some 100 of them in a call; whoever does not wait gets it too."""
    client.rpush("job2", *[b"\0PQ\1 malformed"] * 250, "good")
    lease = queue.lease()
    assert lease is not None
    assert lease.payload == b"good"
    assert queue.stats().dead == 250


def test_a_batch(queue: Queue) -> None:
    queue.push_many(str(number) for number in range(5))
    batch = queue.lease_many(3)
    assert isinstance(batch, Batch)
    assert (len(batch), bool(batch)) == (3, True)
    assert [lease.text for lease in batch] == ["0", "1", "2"]
    assert batch[1].text == "1"
    assert [lease.text for lease in batch[1:]] == ["1", "2"]
    assert [lease.token for lease in batch] == list(range(batch[0].token, batch[0].token + 3))
    assert (batch.reason, batch.drained, batch.sealed, batch.fresh) == (
        "items",
        False,
        False,
        False,
    )
    assert (batch.retry_in, batch.lost) == (None, ())
    assert "Batch items" in repr(batch)


def test_why_there_is_none(queue: Queue, clock: VirtualQueue) -> None:
    nothing = queue.lease_many(1)
    assert (nothing.reason, nothing.drained, nothing.fresh) == ("drained", True, True)
    queue.push("apple")
    lease = take(queue, ttl=30)
    nothing = queue.lease_many(1)
    assert (nothing.reason, nothing.drained, nothing.retry_in) == ("empty", False, 30.0)
    queue.pause()
    assert queue.lease_many(1).reason == "paused"
    lease.complete()
    queue.seal()
    nothing = queue.lease_many(1)
    assert (nothing.drained, nothing.sealed, nothing.fresh) == (True, True, False)


def test_what_is_done_is_completed_with_the_next_lease(queue: Queue, client: redis.Redis) -> None:
    queue.push_many(list("abc"))
    lost, kept = queue.lease_many(2)
    with Queue("job2", client=client) as other:
        other.complete_many([lost])
    batch = queue.lease_many(5, completed=[lost, kept])
    assert [lease.text for lease in batch] == ["c"]
    assert batch.lost == (lost.token,)
    assert lost.settled
    assert kept.settled
    assert queue.stats().totals["completed"] == 2


def test_how_many_can_be_completed_with_it(queue: Queue) -> None:
    queue.push("apple")
    lease = take(queue)
    with pytest.raises(ValueError, match="at most 1000 leases can be completed in one call"):
        queue.lease_many(1, completed=[lease] * 1001)
    assert not lease.settled
    assert queue.lease_many(1, completed=[lease] * 1000).drained


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_how_many_can_be_leased(queue: Queue, n: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 1000 items can be leased in one call"):
        queue.lease_many(n)


@pytest.mark.parametrize("ttl", [0, -1, 0.0004, 1e11, float("nan"), float("inf")])
def test_how_long_something_can_be_leased(queue: Queue, client: redis.Redis, ttl: float) -> None:
    queue.push("apple")
    with pytest.raises(ValueError, match="ttl is"):
        queue.lease(ttl)
    assert client.llen("job2") == 1
    take(queue, ttl=0.001)


def test_a_lease_that_ran_out_is_lost(queue: Queue, clock: VirtualQueue) -> None:
    queue.push("apple")
    old = take(queue, ttl=10)
    clock.sleep(10_000)
    new = take(queue)
    assert (new.attempts, new.deliveries, new.suspect) == (1, 1, True)
    assert new.token > old.token
    for verb in (old.complete, old.release, old.fail, lambda: old.bury("why"), old.extend):
        with pytest.raises(LeaseLost, match="ran out and was reclaimed") as caught:
            verb()
        assert caught.value.tokens == (old.token,)
        assert old.id in str(caught.value)
    assert old.settled
    new.complete()


def test_a_lease_that_ran_out_and_nobody_took_is_good_still(
    queue: Queue, clock: VirtualQueue
) -> None:
    queue.push_many(list("ab"))
    first, second = queue.lease_many(2, ttl=10)
    clock.sleep(1_000_000)
    first.complete()
    assert second.extend(5) == clock.now / 1000 + 5
    second.complete()


def test_extend_moves_the_deadline(queue: Queue, clock: VirtualQueue) -> None:
    queue.push("apple")
    lease = take(queue, ttl=10)
    clock.sleep(4_000)
    deadline = lease.extend(20)
    assert deadline == lease.deadline == clock.now / 1000 + 20
    assert 19 < lease.remaining <= 20
    assert not lease.settled
    for ttl in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="ttl is"):
            lease.extend(ttl)
    assert lease.deadline == deadline


# The lease as a context manager


def test_success_completes(queue: Queue) -> None:
    queue.push("apple")
    with take(queue) as lease:
        assert queue.stats().leased == 1
    assert lease.settled
    assert queue.stats().totals["completed"] == 1


def test_an_exception_fails_the_item_and_goes_on(queue: Queue, clock: VirtualQueue) -> None:
    queue.push("apple")
    with pytest.raises(ZeroDivisionError), take(queue) as lease:
        raise ZeroDivisionError("oh")
    assert lease.settled
    ((_, delayed),) = clock.delayed()
    assert delayed[22:25] == b"\1\0\1"  # a delivery, an attempt
    assert queue.stats().totals["failed"] == 1


def test_a_dead_letter_tells_the_exception(queue: Queue, client: redis.Redis) -> None:
    client.hset("{job2}:meta", "max_attempts", 1)
    queue.push("apple")
    with pytest.raises(ZeroDivisionError), take(queue) as lease:
        raise ZeroDivisionError("oh")
    assert lease.dead
    (letter,) = queue.dead()
    assert letter.error.startswith("Traceback")
    assert letter.error.endswith("ZeroDivisionError: oh\n")
    assert (letter.id, letter.reason, letter.attempts) == (lease.id, "failed", 1)


def test_of_a_long_exception_the_end_is_kept(queue: Queue, client: redis.Redis) -> None:
    client.hset("{job2}:meta", "max_attempts", 1)
    queue.push("apple")
    with pytest.raises(RuntimeError), take(queue):
        raise RuntimeError("ü" * 5_000 + "\ud800 at last")
    (letter,) = queue.dead()
    assert letter.error.endswith("\\ud800 at last\n")
    assert 2_040 <= len(letter.error.encode()) <= 2_048


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_stops_the_worker_releases_the_item(queue: Queue, error: type[BaseException]) -> None:
    queue.push("apple")
    with pytest.raises(error), take(queue) as lease:
        raise error
    assert lease.settled
    again = take(queue)
    assert (again.attempts, again.deliveries) == (0, 1)


def test_what_the_body_settled_is_left_alone(queue: Queue) -> None:
    queue.push("apple")
    with take(queue) as lease:
        lease.release(delay=60)
    stats = queue.stats()
    assert (stats.delayed, stats.totals["completed"]) == (1, 0)
    queue.push("banana")
    with pytest.raises(RuntimeError), take(queue) as lease:
        lease.bury("no good")
        raise RuntimeError
    assert queue.stats().totals["failed"] == 0


def test_success_with_a_lost_lease_raises(queue: Queue, clock: VirtualQueue) -> None:
    queue.push("apple")
    with pytest.raises(LeaseLost), take(queue, ttl=1):
        clock.sleep(1_000)
        take(queue)


def test_an_exception_is_not_hidden_by_a_lost_lease(
    queue: Queue, clock: VirtualQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.push("apple")
    caplog.set_level(logging.WARNING, "pyqueue")
    with pytest.raises(ZeroDivisionError), take(queue, ttl=1) as lease:
        clock.sleep(1_000)
        take(queue)
        raise ZeroDivisionError
    assert f"cannot fail item {lease.id} token {lease.token}" in caplog.text


# A reply that came so late that nothing is left of it


def test_a_repeated_answer_whose_leases_are_gone_is_no_answer(
    relay: Relay, open_queue: OpenQueue, client: redis.Redis
) -> None:
    """The reply was lost, the items were reclaimed before the second copy: there is more to do."""
    queue = open_queue(url=relay.url)
    other = open_queue("job2", client=client)
    queue.push_many(["first", "second"])
    stolen: list[Lease] = []

    def time_passes() -> None:
        relay.meanwhile = lambda: None
        time.sleep(0.002)
        while not (lease := other.lease_many(1)):
            time.sleep(0.001)
        stolen.extend(lease)

    relay.meanwhile = time_passes
    relay.lose_replies()
    lease = queue.lease(ttl=0.001)
    assert [lease.text for lease in stolen] == ["first"]
    assert lease is not None
    assert lease.text == "second"
