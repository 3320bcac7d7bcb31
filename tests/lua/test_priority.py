"""Priorities: the zset ``priority`` before and after the list, and the markers that wake for it."""

import pytest

from tests.lua.harness import PRIORITY, START, WAKE, VirtualQueue, envelope
from tests.lua.scenes import asking, message, number_of


def numbers(queue: VirtualQueue, n: int = 100) -> list[int]:
    """What a lease of n gives."""
    return [number_of(m) for m in queue.lease(n).messages if m is not None]


def test_the_higher_first_the_list_is_zero(queue: VirtualQueue) -> None:
    queue.ask(
        *(asking(p, priority=p) for p in (1, 20)),
        asking(30, priority=-30),
        message(0),
        asking(2, priority=-2),
        asking(10, priority=10),
    )
    assert numbers(queue) == [20, 10, 1, 0, 2, 30]
    assert queue.lease().word == b"empty"


def test_one_by_one_is_the_same_order(queue: VirtualQueue) -> None:
    for number in (3, -1, 5, 0, -7):
        queue.ask(asking(number + 10, priority=number))
    assert [numbers(queue, 1) for _ in range(5)] == [[15], [13], [10], [9], [3]]
    assert numbers(queue, 1) == []


def test_what_becomes_due_in_the_call_goes_before_what_it_had_found(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=5))
    queue.ask(asking(2, priority=9), delay=1_000)
    queue.sleep(1_000)
    assert numbers(queue, 1) == [2]
    assert numbers(queue, 1) == [1]


@pytest.mark.parametrize("level", [-(2**20), -1, 1, 2**20])
def test_first_in_first_out_within_one(queue: VirtualQueue, level: int) -> None:
    queue.ask(*(asking(number, priority=level) for number in range(50)))
    for number in range(50, 100):
        queue.now -= 1_000  # the order is not the clock's
        queue.ask(asking(number, priority=level))
    assert [score for score, _ in queue.ranked()] == [-level] * 100
    assert numbers(queue) == list(range(100))


@pytest.mark.parametrize("level", [0, 2**20 + 1, -(2**20) - 1, 1.5, "7", True, None, [1], 1e300])
def test_what_is_no_priority_is_in_the_list(queue: VirtualQueue, level: object) -> None:
    queue.ask(asking(1, priority=level), message(2))
    assert queue.ranked() == []
    assert numbers(queue) == [1, 2]
    assert queue.state().flags & PRIORITY == 0


def test_given_back_it_is_before_its_equals(queue: VirtualQueue) -> None:
    queue.ask(*(asking(number, priority=3) for number in range(4)), asking(9, priority=4))
    tokens = queue.take(4)
    queue.release(*tokens[1:])
    assert [score for score, _ in queue.ranked()] == [-3.5, -3.5, -3.5, -3]
    queue.ask(asking(5, priority=4))
    assert numbers(queue) == [5, 0, 1, 2, 3]


def test_given_back_it_is_not_before_the_next_level(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=-1), asking(2, priority=1))
    queue.release(*queue.take(2))
    queue.ask(message(0), asking(3, priority=2), asking(4, priority=-2))
    assert numbers(queue) == [3, 2, 0, 1, 4]


@pytest.mark.parametrize("how", ["reclaim", "lease", "unseen", "release"])
def test_several_keep_their_order(queue: VirtualQueue, how: str) -> None:
    queue.ask(
        *(asking(number, priority=2) for number in range(3)),
        *(message(number) for number in range(3, 6)),
        *(asking(number, priority=-2) for number in range(6, 9)),
        asking(9, priority=1),
    )
    order = [0, 1, 2, 9, 3, 4, 5, 6, 7, 8]
    other = queue.caller()
    tokens = queue.lease(1000, by=other, seen=False).tokens
    if how == "reclaim":
        queue.sleep(60_000)
        assert queue.reclaim()[:2] == [10, 0]
    elif how == "lease":
        queue.sleep(60_000)
        queue.lease(0)
    elif how == "unseen":
        queue.call("release", 0, by=other)
    else:
        queue.release(*tokens)
    got = []
    while (answer := queue.lease(1000)).word == b"items":  # suspects come alone
        got += [number_of(m) for m in answer.messages if m is not None]
    assert got == order


def test_a_failed_one_comes_after_its_equals(queue: VirtualQueue) -> None:
    """As in the list, where it goes to the tail."""
    queue.ask(asking(1, priority=5), asking(2, priority=5), message(3))
    queue.fail(*queue.take(), retry_in=0)
    assert numbers(queue) == [2, 1, 3]


def test_due_again_it_goes_by_its_priority(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=5), asking(2, priority=-5), delay=1_000)
    assert queue.ranked() == []
    assert queue.lease().rest == [1_000]
    queue.push(message(3))
    queue.sleep(1_000)
    assert numbers(queue) == [1, 3, 2]


def test_released_with_a_delay_and_failed_with_one(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=5), asking(2, priority=5), asking(3, priority=6))
    a, b, c = queue.take(3)
    queue.release(a, delay=1_000)
    queue.fail(b, retry_in=1_000)
    queue.fail(c, retry_in=2_000)
    queue.push(message(9))
    queue.sleep(2_000)
    assert queue.ranked() == []
    assert numbers(queue) == [3, 1, 2, 9]


def test_redriven_and_raw_pushed_ones_have_theirs(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=5))
    queue.bury(*queue.take())
    queue.push(message(2))
    queue.call("redrive", message(1)[4:20])
    assert numbers(queue) == [1, 2]


def test_one_that_came_by_rpush_is_served_from_the_list_and_goes_back_by_its_priority(
    queue: VirtualQueue,
) -> None:
    queue.rpush(message(0), asking(1, priority=5))
    a, b = queue.take(2)
    assert queue.state().flags & PRIORITY
    queue.release(a, b)
    assert [number_of(m) for _, m in queue.ranked()] == [1]
    assert numbers(queue) == [1, 0]


def test_a_suspect_is_alone_also_here(queue: VirtualQueue) -> None:
    suspect = asking(1, priority=5)
    queue.ask(asking(0, priority=5), suspect[:20] + b"\3" + suspect[21:], asking(2, priority=5))
    assert [numbers(queue) for _ in range(3)] == [[0], [1], [2]]


def test_a_spoiled_one_is_dead(queue: VirtualQueue) -> None:
    """Somebody wrote into the zset."""
    queue.ask(asking(0, priority=5))
    queue.client.zadd(queue.key("priority"), {b"12345678\0PQ\1 broken": -9})
    assert numbers(queue) == [0]
    assert [letter.reason for _, letter in queue.dead().values()] == [b"malformed"]
    assert queue.ranked() == []


def test_many_levels_in_pages(queue: VirtualQueue) -> None:
    """More than is read at once, in each part."""
    levels = [7] * 150 + [0] * 150 + [-7] * 150
    queue.ask(*(asking(number, priority=level) for number, level in enumerate(levels)))
    assert [number for _ in range(4) for number in numbers(queue, 1000)] == list(range(450))
    assert not queue.client.exists(queue.key("priority"))


def test_large_ones_are_leased_within_1_mib(queue: VirtualQueue) -> None:
    large = asking(1, priority=3) + b"x" * (1 << 18)
    queue.ask(*[large] * 6)
    assert [len(queue.lease(100).messages) for _ in range(3)] == [3, 3, 0]


# Waking


def test_the_first_one_pushes_a_marker_and_only_onto_an_empty_list(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=1))
    assert queue.waiting() == [WAKE]
    queue.ask(asking(2, priority=1), asking(3, priority=-1))
    assert queue.waiting() == [WAKE]
    queue.client.delete(queue.name)
    queue.push(message(4))
    queue.ask(asking(5, priority=1))
    assert queue.waiting() == [message(4)]


def woken(queue: VirtualQueue) -> bool:
    """Whether a blocked worker is served: BLMOVE as it is at once."""
    return bool(queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT"))


def test_a_burst_wakes_as_many_as_it_needs_one_after_the_other(queue: VirtualQueue) -> None:
    """Each worker that took one wakes the next; the last finds nothing more to wake for."""
    queue.ask(*(asking(number, priority=number + 1) for number in range(5)))
    served = []
    while woken(queue):
        served += numbers(queue, 1)
    assert served == [4, 3, 2, 1, 0]
    assert queue.waiting() == []
    assert queue.lease(0).word == b"empty"


def test_a_lease_that_takes_all_wakes_nobody(queue: VirtualQueue) -> None:
    queue.ask(*(asking(number, priority=1) for number in range(5)))
    assert woken(queue)
    assert len(numbers(queue, 5)) == 5
    assert not woken(queue)


def test_a_woken_one_that_dies_is_no_loss(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=1))
    assert woken(queue)
    assert numbers(queue, 1) == [1]  # another one asks
    assert queue.listed("handoff") == []


@pytest.mark.parametrize("how", ["release", "fail", "expire"])
def test_what_is_given_back_wakes(queue: VirtualQueue, how: str) -> None:
    queue.ask(asking(1, priority=1))
    assert woken(queue)
    (token,) = queue.take()
    assert not woken(queue)
    if how == "release":
        queue.release(token)
    elif how == "fail":
        queue.fail(token, retry_in=0)
    else:
        queue.sleep(60_000)
        queue.reclaim()
    assert queue.waiting() == [WAKE]


def test_what_is_given_back_beside_others_wakes_no_more_than_they_do(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=1))
    queue.push(message(2))
    queue.release(*queue.take(2))
    assert [number_of(m) for m in queue.waiting()] == [2]
    assert queue.stats()["waiting"] == 2
    assert woken(queue)
    assert numbers(queue, 1) == [2]
    assert woken(queue)
    assert numbers(queue, 1) == [1]


def test_a_promotion_wakes_the_others_too(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=1), asking(2, priority=1), delay=5_000)
    queue.lease()
    queue.client.delete(queue.name)
    queue.sleep(5_000)
    assert numbers(queue, 1) == [1]
    assert woken(queue)
    assert numbers(queue, 1) == [2]


@pytest.mark.parametrize("n", [1, 100])
def test_drained_is_exact_with_markers(queue: VirtualQueue, n: int) -> None:
    queue.ask(asking(1, priority=1))
    queue.rpush(WAKE, WAKE)
    assert queue.lease(n).messages == [asking(1, priority=1)]
    assert queue.lease(n).word == b"empty"
    queue.complete(*queue.leased())
    assert queue.lease(n).word == b"drained"
    assert queue.waiting() == []


def test_what_waits_by_priority_is_not_drained(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=-1))
    queue.client.delete(queue.name)
    assert queue.lease(0).word == b"empty"
    queue.call("pause", 1)
    assert queue.lease().word == b"paused"
    queue.call("pause", 0)
    assert numbers(queue) == [1]


def test_stats_and_pages_show_them(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=1), message(2), asking(3, priority=-1))
    stats = queue.stats()
    assert (stats["waiting"], stats["priority"]) == (3, 2)
    _, following, *rest = queue.call("waiting", 0, 100)
    assert following == -1
    assert rest[::3] == [b"priority", b"waiting", b"priority"]
    assert [number_of(m) for m in rest[2::3]] == [1, 2, 3]
    pages = [queue.call("waiting", offset, 1)[4:] for offset in range(4)]
    assert [[number_of(m) for m in page[::3]] for page in pages] == [
        [1],
        [],
        [2],
        [3],
    ]  # one is the marker's


def test_the_oldest_is_looked_for_at_both_heads(queue: VirtualQueue) -> None:
    old = (START - 5_000).to_bytes(6, "big") + bytes(10)
    ranked = asking(1, priority=1)
    queue.ask(ranked[:4] + old + ranked[20:])
    assert queue.stats()["oldest"] == 5_000
    queue.push(envelope(b"", (START - 7_000).to_bytes(6, "big") + bytes(10)))
    assert queue.stats()["oldest"] == 7_000


def test_purge_drops_them(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=1), asking(2, priority=-1), message(3))
    assert queue.call("purge", "waiting") == [3, 0]
    assert (queue.ranked(), queue.waiting()) == ([], [])
    assert queue.lease().word == b"drained"
