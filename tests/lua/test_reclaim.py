"""lua/reclaim.lua"""

from tests.lua.harness import START, Letter, VirtualQueue, envelope, raw_id
from tests.lua.scenes import message


def test_what_ran_out_goes_to_the_head_in_order(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(4)))
    queue.take(2, ttl=10_000)
    queue.take(1, ttl=20_000)
    queue.sleep(10_000)
    assert queue.reclaim() == [2, 0, 0, 10_000]
    assert queue.waiting() == [
        envelope(b"pushed 0", message(0)[4:20], flags=1, deliveries=1, attempts=1),
        envelope(b"pushed 1", message(1)[4:20], flags=1, deliveries=1, attempts=1),
        message(3),
    ]
    assert len(queue.leased()) == 1
    assert queue.counters() == {"expired": 2}


def test_nothing_ran_out(queue: VirtualQueue) -> None:
    assert queue.reclaim() == [0, 0, 0, 0]
    queue.rpush("a")
    queue.take(ttl=10_000)
    assert queue.reclaim() == [0, 0, 0, 10_000]
    assert queue.counters() == {}


def test_used_up_attempts_are_death(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 2)
    queue.rpush("young", envelope(b"old", attempts=1))
    young, _ = queue.take(2)
    queue.sleep(60_000)
    assert queue.reclaim() == [1, 1, 0, 0]
    dead = envelope(b"old", flags=1, deliveries=1, attempts=2)
    assert queue.dead() == {
        b"i" * 16: (queue.now, Letter(b"expired", b"w", b"the lease ran out", dead))
    }
    assert queue.waiting() == [envelope(b"young", raw_id(young), flags=1, deliveries=1, attempts=1)]
    assert queue.counters() == {"max_attempts": 2, "expired": 2, "dead": 1}


def test_the_limit(queue: VirtualQueue) -> None:
    queue.rpush(*map(str, range(1000)))
    queue.take(1000)
    queue.sleep(60_000)
    assert queue.reclaim(limit=1) == [1, 0, 999, 0]
    assert queue.reclaim(limit=500) == [500, 0, 499, 0]
    assert queue.reclaim(limit=1000) == [499, 0, 0, 0]
    for limit in (0, 1001, -1, 1.5, "x"):
        with queue.refused("ARGUMENT limit is not an integer from 1 to 1000"):
            queue.call("reclaim", limit, 0)
    for hold in (-1, 1.5, "", "x"):
        with queue.refused("ARGUMENT hold is not an integer from 0"):
            queue.call("reclaim", 1, hold)


def test_large_ones_are_reclaimed_few_at_a_time(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (250 << 10)] * 8)
    queue.take(4)
    queue.take(4)
    queue.sleep(60_000)
    assert queue.reclaim() == [5, 0, 3, 0]
    assert queue.reclaim() == [3, 0, 0, 0]


def test_after_an_outage_it_is_held(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.take(1, ttl=1_000)
    queue.take(1, ttl=9_000)
    queue.sleep(2_000)
    queue.now += 60_000
    # What had run out before comes at once; the other may still be worked on.
    assert queue.reclaim(hold=3_000) == [1, 0, 1, 3_000]
    queue.now += 2_999
    assert queue.reclaim(hold=3_000) == [0, 0, 1, 1]
    queue.now += 1
    assert queue.reclaim(hold=3_000) == [1, 0, 0, 0]


def test_what_runs_out_during_the_hold_is_held_too(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(ttl=61_000)
    queue.now += 60_000
    assert queue.reclaim(hold=5_000) == [0, 0, 0, 5_000]
    queue.now += 2_000
    assert queue.reclaim(hold=5_000) == [0, 0, 1, 3_000]


def test_a_second_reclaim_finds_nothing(queue: VirtualQueue) -> None:
    """However many do it at once, an item is moved exactly once."""
    queue.rpush("a")
    queue.take()
    queue.sleep(60_000)
    replies = [queue.call("reclaim", 1000, 0, by=queue.caller()) for _ in range(3)]
    assert replies == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert len(queue.waiting()) == 1


def test_what_was_reclaimed_is_leased_again_with_a_higher_token(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (old,) = queue.take()
    queue.sleep(60_000)
    queue.reclaim()
    (new,) = queue.take()
    assert new > old
    assert queue.state().last == new
    assert queue.now == START + 60_000


def test_a_lease_whose_message_somebody_took_away_is_counted(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, _ = queue.take(2)
    queue.client.hdel(queue.key("leased").decode(), str(a))
    queue.sleep(60_000)
    assert queue.reclaim() == [1, 0, 0, 0]
    assert queue.counters() == {"expired": 1, "missing": 1}


def test_a_copy_of_a_dead_item_does_not_overwrite_it(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 1)
    queue.push(message(1), message(1))
    _, two = queue.take(2)
    queue.sleep(60_000)
    assert queue.reclaim() == [0, 2, 0, 0]
    assert set(queue.dead()) == {message(1)[4:20], raw_id(two)}
