"""The rate of a queue: a token bucket, as one number in ``meta``."""

import random

import pytest

from tests.lua.harness import RATE, Caller, VirtualQueue
from tests.lua.scenes import asking


def limited(queue: VirtualQueue, rate: float, burst: int | str = "", items: int = 3000) -> None:
    """Such a queue, with so many items."""
    queue.call("configure", "rate", rate, "burst", burst)
    for at in range(0, items, 1000):
        queue.rpush(*map(str, range(at, min(at + 1000, items))))


def worst(leased: list[tuple[int, int]], rate: float, burst: int) -> float:
    """By how much any window of (time in ms, how many) goes over the burst and the rate."""
    most, level, last = float("-inf"), 0.0, leased[0][0]
    for at, count in leased:
        # The largest sum of a window that ends here, less what it may hold.
        level = max(level - rate * (at - last) / 1000, 0) + count
        last = at
        most = max(most, level - burst)
    return most


def test_a_burst_at_once_then_evenly(queue: VirtualQueue) -> None:
    limited(queue, 2, 3)
    assert queue.state().flags & RATE
    assert len(queue.lease(100).messages) == 3
    start = queue.now
    times = []
    for _ in range(5):
        answer = queue.lease(100)
        assert (answer.word, len(answer.rest)) == (b"rate", 1)
        queue.sleep(answer.rest[0])
        assert len(queue.lease(100).messages) == 1
        times.append(queue.now - start)
    assert times == [500, 1000, 1500, 2000, 2500]


@pytest.mark.parametrize("rate", [0.3, 0.75, 1, 3, 7, 29.5, 333])
def test_the_hint_is_exact(queue: VirtualQueue, rate: float) -> None:
    """Not a millisecond earlier, and then at once; whoever follows it goes at the full rate."""
    limited(queue, rate, 1)
    queue.take()
    start = queue.now
    for number in range(1, 30):
        while (answer := queue.lease()).word == b"rate":
            (hint,) = answer.rest
            assert hint > 0
            if hint >= 2_000:
                queue.sleep(1_500)  # nobody sleeps longer than 2 s
                continue
            queue.sleep(hint - 1)
            assert queue.lease().word == b"rate"
            queue.sleep(1)
        assert answer.word == b"items"
        # Each is rounded up to a ms, and a burst of one saves nothing.
        assert 0 <= queue.now - start - number * 1000 / rate < number


def test_each_one_that_asks_is_told_the_time_of_one_more(queue: VirtualQueue) -> None:
    limited(queue, 10, 1)
    queue.take()
    workers = [queue.caller() for _ in range(5)]
    assert [queue.lease(by=worker).rest for worker in workers] == [[100 * k] for k in range(1, 6)]
    for worker in workers:
        queue.sleep(100)
        assert queue.lease(by=worker).word == b"items"


def test_a_worker_that_asks_often_for_a_far_time_is_told_the_same(queue: VirtualQueue) -> None:
    limited(queue, 0.1, 1)
    queue.take()
    hints = []
    for _ in range(8):
        hints += queue.lease().rest
        queue.sleep(1_000)
    assert hints == [10_000 - 1_000 * k for k in range(8)]


@pytest.mark.parametrize(("rate", "burst"), [(1, 1), (5, 10), (0.5, 3), (1000, 100), (33.3, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_no_window_holds_more_than_the_burst_and_the_rate(
    queue: VirtualQueue, rate: float, burst: int, seed: int
) -> None:
    rng = random.Random(seed)
    limited(queue, rate, burst)
    leased = []
    total = 0
    start = queue.now
    while total < 200:
        answer = queue.lease(rng.choice([1, 2, 5, 1000]))
        if answer.word == b"items":
            leased.append((queue.now, len(answer.messages)))
            total += len(answer.messages)
        wait = answer.rest[0] if answer.word == b"rate" else 0
        queue.sleep(rng.choice([0, 1, wait, wait, int(rng.expovariate(rate / 3000))]))
    assert worst(leased, rate, burst) < 1e-3
    assert total <= burst + rate * (queue.now - start) / 1000 + 1e-3


@pytest.mark.parametrize("rate", [3, 29.5, 333, 4321.5, 1_000_000])
def test_a_burst_one_by_one_is_as_large(queue: VirtualQueue, rate: float) -> None:
    limited(queue, rate, 100)
    for _ in range(100):
        queue.take()
    assert queue.lease().word == b"rate"


@pytest.mark.parametrize("rate", [0.7, 3, 29.5])
def test_over_a_long_time_it_is_exact(queue: VirtualQueue, rate: float) -> None:
    """No error adds up."""
    limited(queue, rate, 4)
    start, total = queue.now, 0
    while total < 1000:
        answer = queue.lease(3)
        total += len(answer.messages)
        if answer.word == b"rate":
            queue.sleep(min(answer.rest[0], 2_000))
    assert abs((total - 4) * 1000 / rate - (queue.now - start)) <= 1


def test_what_is_not_used_is_saved_up_to_the_burst(queue: VirtualQueue) -> None:
    limited(queue, 10, 5)
    queue.complete(*queue.take(5))
    queue.sleep(200)
    queue.complete(*queue.take(2))
    assert queue.lease().word == b"rate"
    queue.sleep(3_600_000)
    assert len(queue.lease(100).messages) == 5
    assert queue.lease(100).word == b"rate"


@pytest.mark.parametrize(("rate", "burst"), [(7, 7), (7.9, 7), (0.2, 1), (1, 1)])
def test_the_burst_is_a_second_of_it_by_default(
    queue: VirtualQueue, rate: float, burst: int
) -> None:
    limited(queue, rate)
    assert len(queue.lease(100).messages) == burst
    assert queue.lease(100).word == b"rate"


def test_the_clock_goes_back_and_nobody_waits_longer_for_a_slow_rate(queue: VirtualQueue) -> None:
    limited(queue, 0.1, 1)
    queue.take()
    queue.now -= 3_600_000
    assert queue.lease().rest == [10_000]
    queue.sleep(10_000)
    assert queue.lease().word == b"items"


def test_the_clock_goes_back(queue: VirtualQueue) -> None:
    """The bucket is empty then, at the worst: nobody waits until that time has come again."""
    limited(queue, 1, 2)
    queue.take(2)
    queue.now -= 3_600_000
    assert queue.lease().rest == [1_000]
    queue.sleep(1_000)
    assert queue.lease().word == b"items"


def test_the_rate_is_changed(queue: VirtualQueue) -> None:
    limited(queue, 0.001, 2)
    queue.take(2)
    assert queue.lease().rest == [1_000_000]
    queue.call("configure", "rate", 10)
    assert queue.lease().rest == [100]
    queue.call("configure", "rate", "", "burst", "")
    assert queue.state().flags & RATE == 0
    assert len(queue.lease(100).messages) == 100


def test_what_is_settled_and_reclaimed_does_not_cost_anything(queue: VirtualQueue) -> None:
    limited(queue, 1, 2)
    a, _ = queue.take(2)
    answer = queue.lease(1, done=[a])
    assert (answer.word, answer.lost) == (b"rate", [])
    assert queue.state().completed == 1
    queue.call("complete", a)
    assert queue.lease(0).word == b"empty"
    queue.sleep(1_000)
    assert len(queue.lease(100, done=[7]).messages) == 1


def test_nothing_to_lease_is_empty_or_drained_whatever_the_bucket_says(
    queue: VirtualQueue,
) -> None:
    limited(queue, 1, 1, items=1)
    (token,) = queue.take()
    assert queue.lease().word == b"empty"
    queue.complete(token)
    assert queue.lease().word == b"drained"
    queue.ask(asking(1, priority=1))
    assert queue.lease().word == b"rate"
    queue.call("pause", 1)
    assert queue.lease().word == b"paused"


def test_a_copy_of_a_call_costs_nothing(queue: VirtualQueue) -> None:
    limited(queue, 1, 2)
    queue.lease(2)
    with queue.unchanged():
        assert queue.again()[0] == b"items"
        assert len(queue.again()) == 7


def test_priorities_and_the_handoff_are_limited_too(queue: VirtualQueue) -> None:
    limited(queue, 1, 2, items=5)
    queue.ask(asking(1, priority=5), asking(2, priority=5), asking(3, priority=5))
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert queue.lease(100).messages == [b"0", asking(1, priority=5)]
    queue.sleep(1_000)
    assert queue.lease(100).messages == [asking(2, priority=5)]


def test_a_malformed_one_is_free_of_charge(queue: VirtualQueue) -> None:
    limited(queue, 1, 1, items=0)
    queue.rpush(*[b"\0PQ\1 broken"] * 3, "a", "b")
    assert queue.lease(100).messages == [b"a"]
    assert len(queue.dead()) == 3


def test_the_bucket_is_in_meta_and_no_counter(queue: VirtualQueue) -> None:
    limited(queue, 1, 1)
    queue.take()
    bucket = queue.client.hget(queue.key("meta"), "bucket")
    assert bucket == (queue.now * 1000 + 1_000_000).to_bytes(8, "big") + bytes(6)
    queue.lease(by=Caller(b"somebody"))
    assert queue.client.hget(queue.key("meta"), "bucket") == bucket[:12] + b"\0\1"
    assert not [name for name in queue.stats() if "bucket" in name]
