"""lua/extend.lua"""

from tests.lua.harness import START, VirtualQueue


def test_it_moves_the_deadline(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    queue.now += 10_000
    assert queue.extend(a, ttl=30_000) == [queue.now, START + 40_000]
    assert {token: deadline for token, (deadline, _, _) in queue.leased().items()} == {
        a: START + 40_000,
        b: START + 60_000,
    }


def test_an_earlier_deadline_is_known_as_the_next_event(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    assert queue.state().event == START + 60_000
    queue.extend(a, ttl=1_000)
    assert queue.state().event == START + 1_000
    queue.extend(b, ttl=600_000)
    assert queue.state().event == START + 1_000
    assert queue.lease().rest == [1_000]
    queue.sleep(1_000)
    assert queue.lease().messages[0] is not None


def test_a_lost_lease_has_no_deadline(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    queue.complete(a)
    before = queue.leased()
    assert queue.extend(a, b, 7, ttl=60_000) == [START, 0, START + 60_000, 0]
    assert queue.leased() == before


def test_a_lease_that_ran_out_and_was_not_reclaimed_is_extended(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    queue.sleep(3_600_000)
    assert queue.extend(token, ttl=1_000) == [queue.now, queue.now + 1_000]
    assert queue.lease().word == b"empty"


def test_a_reclaimed_lease_is_lost(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (old,) = queue.take()
    queue.sleep(60_000)
    (new,) = queue.lease().tokens
    assert queue.extend(old) == [queue.now, 0]
    assert list(queue.leased()) == [new]


def test_twice_in_one_call_is_the_same(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    assert queue.extend(token, token) == [START, START + 60_000, START + 60_000]


def test_a_copy_says_what_holds_now(queue: VirtualQueue) -> None:
    """Not what held once: a worker that hears of a later deadline may act on it."""
    queue.rpush("a")
    (token,) = queue.take()
    queue.extend(token, ttl=30_000)
    queue.call("complete", token, by=queue.caller())
    with queue.unchanged():
        assert queue.again() == [START, 0]


def test_bad_arguments(queue: VirtualQueue) -> None:
    for ttl in ("0", "-1", "0.5", "x", "nan", "1e14"):
        with queue.refused("ARGUMENT ttl is not an integer from 1 to 10000000000000"):
            queue.call("extend", ttl, 7)
    for count in (0, 1001):
        with queue.refused("ARGUMENT tokens is not an integer from 1 to 1000"):
            queue.extend(*range(count))


def test_a_thousand_and_the_longest(queue: VirtualQueue) -> None:
    queue.rpush(*map(str, range(1000)))
    tokens = queue.take(1000)
    longest = 10**13
    assert queue.extend(*tokens, ttl=longest) == [START, *[START + longest] * 1000]
    assert queue.extend(tokens[0], ttl=1) == [START, START + 1]
