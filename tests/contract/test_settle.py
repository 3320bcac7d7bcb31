"""Ending leases: complete, release, fail, bury, one by one and many at once."""

from collections.abc import Callable

import pytest
import redis

from pyqueue import Lease, LeaseLost, Queue
from tests.lua.harness import VirtualQueue


def hold(queue: Queue, n: int) -> list[Lease]:
    queue.push_many(str(number) for number in range(n))
    leases: list[Lease] = []
    while len(leases) < n:
        leases += queue.lease_many(min(n - len(leases), 1000))
    return leases


def test_complete(queue: Queue) -> None:
    (lease,) = hold(queue, 1)
    lease.complete()
    assert lease.settled
    assert queue.stats().drained
    with pytest.raises(LeaseLost, match="was settled before"):
        lease.complete()


def test_release_goes_to_the_head_at_once(queue: Queue) -> None:
    first, second, _ = hold(queue, 3)
    queue.release_many([first, second])
    assert [item.text for item in queue.waiting()] == ["0", "1"]
    again = queue.lease()
    assert again is not None
    assert (again.text, again.deliveries, again.attempts) == ("0", 1, 0)


def test_release_after_a_while(queue: Queue, clock: VirtualQueue) -> None:
    (lease,) = hold(queue, 1)
    lease.release(delay=2.5)
    assert queue.lease() is None
    assert queue.stats().next_due == 2.5
    clock.sleep(2_500)
    assert queue.lease() is not None
    for delay in (-1, -0.001, float("nan"), 1e11):
        with pytest.raises(ValueError, match="delay is"):
            lease.release(delay)


def test_fail_charges_an_attempt_and_waits(queue: Queue, clock: VirtualQueue) -> None:
    (lease,) = hold(queue, 1)
    lease.fail("boom")
    assert not lease.dead
    wait = queue.stats().next_due
    assert wait is not None
    assert 0.5 <= wait <= 1
    clock.sleep(1_000)
    again = queue.lease()
    assert again is not None
    assert (again.attempts, again.deliveries, again.suspect) == (1, 1, False)
    again.fail("boom", retry_in=90)
    assert queue.stats().next_due == 90
    with pytest.raises(ValueError, match="retry_in is"):
        again.fail("boom", retry_in=-1)


def test_fail_at_once_goes_to_the_tail(queue: Queue) -> None:
    first, _ = hold(queue, 2)
    queue.push("last")
    first.fail(retry_in=0)
    assert [item.text for item in queue.waiting()] == ["last", "0"]


def test_failed_for_the_last_time_it_is_dead(queue: Queue) -> None:
    (lease,) = hold(queue, 1)
    for _ in range(4):
        lease.fail("boom", retry_in=0)
        assert not lease.dead
        again = queue.lease()
        assert again is not None
        lease = again
    lease.fail(ValueError("too much"))
    assert lease.dead
    assert queue.stats().drained
    (letter,) = queue.dead()
    assert (letter.reason, letter.attempts, letter.deliveries) == ("failed", 5, 5)
    assert letter.error == "ValueError: too much\n"


def test_bury(queue: Queue, clock: VirtualQueue) -> None:
    (lease,) = hold(queue, 1)
    lease.bury("no good", "bad input")
    assert lease.settled
    assert lease.dead
    (letter,) = queue.dead()
    assert (letter.id, letter.payload, letter.reason) == (lease.id, b"0", "no good")
    assert (letter.error, letter.died_at) == ("bad input", clock.now / 1000)
    assert letter.worker == queue._worker.decode()
    with pytest.raises(LeaseLost):
        lease.bury("again")
    assert "no good" in repr(letter)


def test_words_of_dead_letters_are_cut_between_characters(queue: Queue) -> None:
    (lease,) = hold(queue, 1)
    lease.bury("ü" * 200, "ü" * 2_000 + "\ud800")
    (letter,) = queue.dead()
    assert (letter.reason, letter.error) == ("ü" * 127, "ü" * 1_024)


@pytest.mark.parametrize("verb", ["complete", "release", "fail", "bury", "extend"])
def test_many_have_one_outcome_each(queue: Queue, client: redis.Redis, verb: str) -> None:
    leases = hold(queue, 5)
    with Queue("job2", client=client) as other:
        other.complete_many([leases[1], leases[3]])
    many: dict[str, Callable[[], list[bool]]] = {
        "complete": lambda: queue.complete_many(iter(leases)),
        "release": lambda: queue.release_many(iter(leases), delay=60),
        "fail": lambda: queue.fail_many(iter(leases), "boom", retry_in=60),
        "bury": lambda: queue.bury_many(iter(leases), "why"),
        "extend": lambda: queue.extend_many(iter(leases), ttl=90),
    }
    assert many[verb]() == [True, False, True, False, True]
    expected = [verb != "extend"] * 5
    expected[1] = expected[3] = True
    assert [lease.settled for lease in leases] == expected
    assert [lease.dead for lease in leases] == (
        [True, False, True, False, True] if verb == "bury" else [False] * 5
    )


@pytest.mark.parametrize("verb", ["complete", "release", "fail", "bury", "extend"])
def test_more_than_a_thousand(queue: Queue, verb: str) -> None:
    leases = hold(queue, 1_001)
    many: dict[str, Callable[[], list[bool]]] = {
        "complete": lambda: queue.complete_many(leases),
        "release": lambda: queue.release_many(leases),
        "fail": lambda: queue.fail_many(leases),
        "bury": lambda: queue.bury_many(leases, "why"),
        "extend": lambda: queue.extend_many(leases),
    }
    assert many[verb]() == [True] * 1_001


def test_none_at_all(queue: Queue, client: redis.Redis) -> None:
    assert queue.complete_many([]) == queue.release_many([]) == queue.fail_many([]) == []
    assert queue.bury_many([], "why") == queue.extend_many([]) == []
    assert not client.keys()


def test_a_lease_can_be_settled_through_another_queue_object(
    queue: Queue, client: redis.Redis
) -> None:
    """The token is the proof, whoever shows it."""
    (lease,) = hold(queue, 1)
    with Queue("job2", client=client) as other:
        assert other.complete_many([lease]) == [True]
