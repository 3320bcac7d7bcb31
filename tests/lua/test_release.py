"""lua/release.lua"""

import pytest

from tests.lua.harness import WAKE, VirtualQueue, envelope, raw_id
from tests.lua.scenes import busy, message


def test_it_goes_to_the_head_and_no_attempt_is_charged(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    (token,) = queue.take()
    assert queue.release(token) == []
    assert queue.waiting() == [
        envelope(b"pushed 1", message(1)[4:20], deliveries=1),
        message(2),
    ]
    assert queue.leased() == {}
    assert queue.counters() == {"released": 1}


def test_a_raw_message_keeps_the_id_of_its_first_token(queue: VirtualQueue) -> None:
    queue.rpush("apple", "")
    apple, empty = queue.take(2)
    queue.release(apple, empty)
    assert queue.waiting() == [
        envelope(b"apple", raw_id(apple), deliveries=1),
        envelope(b"", raw_id(empty), deliveries=1),
    ]
    again = queue.take(2)
    queue.release(*again)
    assert queue.waiting()[0] == envelope(b"apple", raw_id(apple), deliveries=2)
    assert queue.state().raw == 2


def test_several_are_at_the_head_in_the_order_given(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(6)))
    tokens = queue.take(4)
    queue.release(tokens[2], tokens[0], tokens[1])
    assert [m[27:] for m in queue.waiting()] == [
        b"pushed 2",
        b"pushed 0",
        b"pushed 1",
        b"pushed 4",
        b"pushed 5",
    ]


def test_headers_and_unknown_flags_survive(queue: VirtualQueue) -> None:
    given = envelope(b"x", flags=64, deliveries=3, attempts=2, headers=b"\x81\xa1a\x01")
    queue.rpush(given)
    queue.release(*queue.take())
    after = envelope(b"x", flags=64, deliveries=4, attempts=2, headers=b"\x81\xa1a\x01")
    assert queue.waiting() == [after]


def test_deliveries_stop_at_what_fits(queue: VirtualQueue) -> None:
    queue.rpush(envelope(b"x", deliveries=65535))
    queue.release(*queue.take())
    assert queue.waiting() == [envelope(b"x", deliveries=65535)]


def test_the_lost_are_said_by_position_and_the_others_go_back(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    a, b = queue.take(2)
    queue.complete(a)
    assert queue.release(a, 7, b) == [0, 1]
    assert len(queue.waiting()) == 1


def test_a_token_given_twice_gives_its_item_back_once(queue: VirtualQueue) -> None:
    queue.push(message(1))
    (token,) = queue.take()
    assert queue.release(token, token) == [1]
    assert len(queue.waiting()) == 1
    assert queue.counters() == {"released": 1}


def test_a_lease_that_ran_out_and_was_not_reclaimed_is_released(queue: VirtualQueue) -> None:
    queue.push(message(1))
    (token,) = queue.take()
    queue.sleep(3_600_000)
    assert queue.release(token) == []
    assert queue.waiting() == [envelope(b"pushed 1", message(1)[4:20], deliveries=1)]


def test_with_a_delay_it_waits_for_its_time(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    a, b = queue.take(2)
    queue.release(a, b, delay=10_000)
    assert [(due - queue.now, m[27:]) for due, m in queue.delayed()] == [
        (10_000, b"pushed 1"),
        (10_000, b"pushed 2"),
    ]
    assert queue.leased() == {}
    queue.sleep(9_999)
    assert queue.lease(10).word == b"empty"
    queue.sleep(1)
    assert [m and m[27:] for m in queue.lease(10).messages] == [b"pushed 1", b"pushed 2"]


@pytest.mark.parametrize("name", ["waiting", "delayed"])
def test_a_foreign_type_stops_it_before_it_delays_anything(queue: VirtualQueue, name: str) -> None:
    """The list too, since a worker may have to be woken through it."""
    scene = busy(queue)
    queue.client.set(queue.key(name), "somebody else's")
    for caller in (queue.me, scene.unlucky):
        with queue.refused("WRONGTYPE"):
            queue.call("release", 1_000, *scene.tokens, by=caller)


def test_equal_messages_that_are_delayed_alike_stay_two(queue: VirtualQueue) -> None:
    queue.rpush(message(1), message(1))
    queue.release(*queue.take(2), delay=5_000)
    assert len(queue.delayed()) == 2


@pytest.mark.parametrize(("delay", "woken"), [(1, True), (2_099, True), (2_100, False)])
def test_what_is_due_before_blocked_workers_ask_again_wakes_one(
    queue: VirtualQueue, delay: int, woken: bool
) -> None:
    queue.push(message(1))
    (token,) = queue.take()
    queue.release(token, delay=delay)
    assert queue.waiting() == [WAKE] * woken
    assert queue.state().event == queue.now + delay


def test_nobody_is_woken_for_what_is_later_than_what_a_worker_was_told(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2), message(3))
    a, b, c = queue.take(3)
    queue.release(a, delay=500)
    assert queue.lease().rest == [500]
    queue.release(b, delay=500)
    queue.release(c, delay=1_000)
    assert queue.waiting() == []
    assert queue.state().event == queue.now + 500


def test_one_is_woken_when_nobody_was_told_of_the_earlier_event(queue: VirtualQueue) -> None:
    """The deadline of a lease that was settled since, for example: nobody asked before it."""
    queue.push(message(1))
    (token,) = queue.take(ttl=400)
    queue.release(token, delay=500)
    assert queue.waiting() == [WAKE]
    assert queue.state().event == queue.now + 400


def test_nobody_is_woken_while_something_waits(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    (token,) = queue.take()
    queue.release(token, delay=10)
    assert queue.waiting() == [message(2)]


def test_no_marker_gets_behind_what_is_given_back(queue: VirtualQueue) -> None:
    """There it would be counted as an item, by `stats` and by `purge`."""
    queue.push(message(1), message(2))
    tokens = queue.take(2)
    queue.release(tokens[1], delay=1_000)
    assert queue.waiting() == [WAKE]
    queue.release(tokens[0])
    assert [m[27:] for m in queue.waiting()] == [b"pushed 1"]
    assert queue.stats()["waiting"] == 1
    assert queue.call("purge", "waiting") == [2, 0]


def test_without_a_token_only_what_was_never_seen_goes_back(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2), message(3))
    queue.take()
    queue.lease(2, seen=False)
    assert queue.release() == []
    assert [m[27:] for m in queue.waiting()] == [b"pushed 2", b"pushed 3"]
    assert queue.counters() == {"unseen": 2}


def test_bad_arguments(queue: VirtualQueue) -> None:
    for delay in ("", "-1", "0.5", "x", "nan", "1e14"):
        with queue.refused("ARGUMENT delay is not an integer from 0 to 10000000000000"):
            queue.call("release", delay, 7)
    with queue.refused("ARGUMENT tokens is not an integer from 0 to 1000"):
        queue.release(*range(1001))


def test_a_thousand(queue: VirtualQueue) -> None:
    messages = [message(number) for number in range(1000)]
    queue.push(*messages)
    assert queue.release(*queue.take(1000)) == []
    assert [m[27:] for m in queue.waiting()] == [m[27:] for m in messages]


def test_a_slot_that_closes_makes_no_queue(queue: VirtualQueue) -> None:
    """It was deleted meanwhile."""
    queue.rpush("a")
    queue.take()
    queue.call("delete", 1)
    assert queue.send("release", b"slot-one", 9, 0, 0, now="") == []
    assert queue.dump() == {}
