"""lua/lease.lua"""

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lua.harness import (
    MAGIC,
    NEVER,
    PAUSED,
    SEALED,
    START,
    WAKE,
    Answer,
    Letter,
    State,
    VirtualQueue,
    envelope,
    raw_id,
)
from tests.lua.scenes import asking, message

SUSPECT = 1
MIB = 1 << 20


def payloads(messages: Iterable[bytes | None]) -> list[bytes]:
    """What is in messages, raw or not."""
    return [m[27:] if m.startswith(MAGIC) else m for m in messages if m is not None]


# What is leased


def test_items_come_first_in_first_out_with_rising_tokens(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.push(message(1))
    queue.rpush("c")
    answer = queue.lease(3, ttl=7_000, worker=b"me")
    first = START * 1000
    assert answer == Answer(b"items", START, [], [], first, START + 7_000, [b"a", b"b", message(1)])
    assert queue.leased() == {
        first: (START + 7_000, b"me", b"a"),
        first + 1: (START + 7_000, b"me", b"b"),
        first + 2: (START + 7_000, b"me", message(1)),
    }
    assert queue.waiting() == [b"c"]
    assert queue.lease(5).tokens == [first + 3]


def test_any_bytes_are_an_item_of_their_own(queue: VirtualQueue) -> None:
    given = [b"", b"", b"a", b"a", b"\0", b"\0PQ", b"\0PQ\2", bytes(range(256)), b"x" * 1000_000]
    queue.rpush(*given)
    assert queue.lease(100).messages == given
    assert queue.state().raw == len(given)


def test_what_was_handed_off_comes_first(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.client.lpush(queue.name, "released")
    assert queue.lease(1).messages == [b"a"]
    assert queue.lease(3).messages == [b"b", b"released", b"c"]
    assert not queue.client.exists(queue.key("handoff"))


def test_it_takes_from_the_handoff_before_it_looks_into_the_list(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert queue.lease(1).messages == [b"a"]
    assert queue.waiting() == [b"b", b"c"]


def test_none_to_a_thousand(queue: VirtualQueue) -> None:
    queue.rpush(*map(str, range(1100)))
    for n in (-1, 1001, "", "x", "1.5", "nan"):
        with queue.refused("ARGUMENT n is not an integer from 0 to 1000"):
            queue.call("lease", n, 60_000, b"w")
    assert queue.lease(0).word == b"empty"
    assert queue.lease(1000).messages == [b"%d" % number for number in range(1000)]
    assert queue.lease(1000).messages == [b"%d" % number for number in range(1000, 1100)]


def test_bad_arguments(queue: VirtualQueue) -> None:
    queue.rpush("a")
    for ttl in ("0", "-1", "0.5", "x", "nan", "1e14"):
        with queue.refused("ARGUMENT ttl is not an integer from 1 to 10000000000000"):
            queue.call("lease", 1, ttl, b"w")
    with queue.refused("ARGUMENT length of the worker's name is not"):
        queue.lease(worker=b"w" * 256)
    with queue.refused("ARGUMENT tokens is not an integer from 0 to 1000"):
        queue.lease(done=range(1001))


def test_any_worker_name_that_fits(queue: VirtualQueue) -> None:
    for name in (b"", b"w" * 255, b"\0\xff\r\n"):
        queue.rpush("payload")
        (token,) = queue.lease(worker=name).tokens
        assert queue.leased()[token][1:] == (name, b"payload")


def test_the_longest_and_the_shortest_lease(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    assert queue.lease(ttl=10**13).deadline == START + 10**13
    assert queue.lease(ttl=1).deadline == START + 1


# Bytes


def test_a_call_leases_at_most_1_mib(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (MIB // 4)] * 10)
    assert len(queue.lease(1000).messages) == 4
    assert len(queue.lease(5).messages) == 4
    assert len(queue.lease(1000).messages) == 2


def test_but_always_one(queue: VirtualQueue) -> None:
    queue.rpush(b"x" * (9 * MIB), b"y" * (9 * MIB))
    assert len(queue.lease(1000).messages) == 1
    assert len(queue.lease(1000).messages) == 1


@pytest.mark.parametrize("size", [1, 4000, 4096, 5000, MIB])
def test_one_of_any_size_is_taken_out_of_the_list(queue: VirtualQueue, size: int) -> None:
    queue.rpush(b"x" * size, b"y" * size)
    for byte in (b"x", b"y"):
        answer = queue.lease()
        assert answer.messages == [byte * size]
        assert len(queue.waiting()) == (byte == b"x")
        queue.release(*answer.tokens)
        assert queue.take()
    assert queue.waiting() == []


def test_small_ones_before_large_ones_do_not_deceive_it(queue: VirtualQueue) -> None:
    """How many are read at once follows from the size of those before."""
    queue.rpush(*[b"small"] * 20, *[b"x" * (MIB // 4)] * 20)
    answer = queue.lease(1000)
    assert len(answer.messages) == 20 + 3
    assert len(queue.waiting()) == 20 - 3


def test_a_batch_of_small_ones_is_whole(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * 1_000] * 1000)
    assert len(queue.lease(1000).messages) == 1000


# Settling


def test_what_is_done_is_completed_in_the_same_call(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    tokens = queue.take(2)
    answer = queue.lease(done=tokens)
    assert (answer.lost, answer.messages) == ([], [b"c"])
    assert queue.state().completed == 2
    assert list(queue.leased()) == answer.tokens


def test_the_lost_are_said_by_position_with_every_answer(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    queue.complete(token)
    queue.rpush("b")
    assert queue.lease(done=[token, 7]).lost == [0, 1]
    assert queue.lease(done=[token]).lost == [0]
    queue.change_state(flags=queue.state().flags | PAUSED)
    assert queue.lease(done=[7, token]).lost == [0, 1]


def test_a_token_given_twice_counts_once(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    assert queue.lease(done=[token, token]).lost == []
    assert queue.state().completed == 1


def test_what_ran_out_is_settled_before_it_is_reclaimed(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    queue.sleep(60_000)
    answer = queue.lease(done=[a])
    assert answer.lost == []
    assert payloads(answer.messages) == [b"b"]
    assert queue.counters() == {"expired": 1}
    assert b not in queue.leased()


# Reclaim


def test_leases_that_ran_out_come_back_to_the_head_in_their_order(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(5)))
    tokens = queue.take(3, ttl=10_000)
    queue.extend(tokens[0], ttl=12_000)  # by deadline it is the last
    queue.sleep(11_999)
    assert queue.lease(0).word == b"empty"
    assert payloads(queue.waiting()) == [b"pushed 1", b"pushed 2", b"pushed 3", b"pushed 4"]
    queue.sleep(1)
    queue.lease(0)
    assert payloads(queue.waiting())[:3] == [b"pushed 0", b"pushed 1", b"pushed 2"]


def test_order_holds_among_those_that_ran_out_together(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(3)))
    a, b, c = queue.take(3)
    queue.extend(c, ttl=1_000)
    queue.extend(a, ttl=2_000)
    queue.extend(b, ttl=3_000)
    queue.sleep(3_000)
    queue.lease(0)
    assert payloads(queue.waiting()) == [b"pushed 0", b"pushed 1", b"pushed 2"]


def test_to_the_millisecond(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(ttl=10_000)
    queue.sleep(9_999)
    assert queue.lease().rest == [1]
    queue.sleep(1)
    assert queue.lease().word == b"items"


def test_a_reclaimed_item_is_a_suspect_with_an_attempt_charged(queue: VirtualQueue) -> None:
    queue.rpush("apple")
    (first,) = queue.take()
    queue.sleep(60_000)
    (again,) = queue.lease().messages
    assert again == envelope(b"apple", raw_id(first), flags=SUSPECT, deliveries=1, attempts=1)
    assert queue.counters() == {"expired": 1}
    assert queue.state().raw == 1


def test_used_up_attempts_are_death(queue: VirtualQueue) -> None:
    queue.push(message(1))
    for attempt in range(1, 5):
        assert queue.lease().messages
        queue.sleep(60_000)
        assert queue.dead() == {}, attempt
    queue.lease(worker=b"last")
    queue.sleep(60_000)
    assert queue.lease().word == b"drained"
    dead = envelope(b"pushed 1", message(1)[4:20], flags=SUSPECT, deliveries=5, attempts=5)
    assert queue.dead() == {
        message(1)[4:20]: (queue.now, Letter(b"expired", b"last", b"the lease ran out", dead))
    }
    assert queue.counters() == {"expired": 5, "dead": 1}


def test_at_most_100_are_reclaimed_in_a_call(queue: VirtualQueue) -> None:
    queue.rpush(*map(str, range(250)))
    queue.take(250)
    queue.sleep(60_000)
    seen = []
    for _ in range(4):
        answer = queue.lease(0)
        seen.append((len(queue.leased()), answer.rest))
    assert seen == [(150, [0]), (50, [0]), (0, [-1]), (0, [-1])]


def test_large_ones_are_reclaimed_few_at_a_time(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (MIB // 8)] * 24)
    for _ in range(3):
        queue.lease(100)
    queue.sleep(60_000)
    queue.lease(0)
    assert len(queue.leased()) == 24 - 4


def test_a_lease_whose_message_somebody_took_away_is_counted(queue: VirtualQueue) -> None:
    """As an eviction does, or a foreign HDEL. It must not stop the others."""
    queue.rpush("a", "b")
    a, _ = queue.take(2)
    queue.client.hdel(queue.key("leased").decode(), str(a))
    queue.sleep(60_000)
    assert payloads(queue.lease().messages) == [b"b"]
    assert queue.counters() == {"expired": 1, "missing": 1}


# Suspects


def suspect(payload: bytes) -> bytes:
    return envelope(payload, flags=SUSPECT, deliveries=1, attempts=1)


def test_a_suspect_is_leased_alone(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", suspect(b"1"), suspect(b"2"), "c")
    batches = [payloads(queue.lease(10).messages) for _ in range(4)]
    assert batches == [[b"a", b"b"], [b"1"], [b"2"], [b"c"]]


def test_a_suspect_in_the_handoff_is_leased_alone(queue: VirtualQueue) -> None:
    queue.rpush(suspect(b"1"), "a")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert payloads(queue.lease(10).messages) == [b"1"]
    assert payloads(queue.lease(10).messages) == [b"a"]


def test_a_batch_from_the_handoff_ends_before_a_suspect_in_the_list(queue: VirtualQueue) -> None:
    queue.rpush("a", suspect(b"1"), "b")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert payloads(queue.lease(10).messages) == [b"a"]
    assert payloads(queue.lease(10).messages) == [b"1"]
    assert payloads(queue.lease(10).messages) == [b"b"]


def test_once_a_suspect_always_a_suspect(queue: VirtualQueue) -> None:
    queue.rpush(suspect(b"1"), "a")
    queue.release(*queue.take(1))
    assert payloads(queue.lease(10).messages) == [b"1"]


# What is due


def test_what_is_due_goes_to_the_tail_in_order_of_time(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(4)))
    a, b, c = queue.take(3)
    queue.release(b, delay=1_000)
    queue.release(a, delay=2_000)
    queue.release(c, delay=1_000)
    queue.sleep(2_000)
    assert payloads(queue.lease(10).messages) == [
        b"pushed 3",
        b"pushed 1",
        b"pushed 2",
        b"pushed 0",
    ]


def test_at_most_100_are_promoted_in_a_call(queue: VirtualQueue) -> None:
    queue.rpush(*map(str, range(250)))
    queue.release(*queue.take(250), delay=1_000)
    queue.client.delete(queue.name)
    queue.sleep(1_000)
    taken = [len(queue.lease(1000).messages) for _ in range(3)]
    assert taken == [100, 100, 50]


def test_large_ones_are_promoted_few_at_a_time(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (MIB // 4)] * 8)
    queue.release(*queue.take(4), *queue.take(4), delay=5_000)
    queue.sleep(5_000)
    for waiting in (2, 4, 6, 8):
        queue.lease(0)
        assert len(queue.waiting()) == waiting


def test_what_was_reclaimed_leaves_less_to_be_promoted(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (MIB // 4)] * 6)
    queue.release(*queue.take(3), delay=1_000)
    queue.take(3, ttl=1_000)
    queue.sleep(1_000)
    moved = []
    for _ in range(4):
        assert queue.lease(0).rest == [0] * (len(queue.delayed()) > 0) or [-1]
        moved.append((len(queue.leased()), len(queue.delayed())))
    assert moved == [(1, 3), (0, 2), (0, 0), (0, 0)]


# Why there is nothing


def test_drained_fresh_and_sealed(queue: VirtualQueue) -> None:
    assert queue.lease() == Answer(b"drained", START, [], [0, 1])
    assert queue.lease() == Answer(b"drained", START, [], [0, 1])
    queue.rpush("a")
    (token,) = queue.take()
    assert queue.lease().word == b"empty"
    assert queue.lease(done=[token]) == Answer(b"drained", START, [], [0, 0])
    queue.change_state(flags=queue.state().flags | SEALED)
    assert queue.lease().rest == [1, 0]


def test_a_queue_that_was_pushed_to_is_not_fresh(queue: VirtualQueue) -> None:
    queue.push(message(1))
    queue.client.delete(queue.name)
    assert queue.lease().rest == [0, 0]


def test_dead_letters_do_not_count(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.bury(*queue.take())
    assert queue.lease().word == b"drained"


@pytest.mark.parametrize("where", ["leased", "delayed", "handoff"])
def test_anything_alive_keeps_it_from_being_drained(queue: VirtualQueue, where: str) -> None:
    queue.rpush("a")
    if where == "handoff":
        queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
        assert queue.lease(0).word == b"empty"
        return
    (token,) = queue.take()
    if where == "delayed":
        queue.release(token, delay=60_000)
    assert queue.lease().word == b"empty"


def test_a_paused_queue_leases_nothing_but_settles_and_reclaims(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    a, _ = queue.take(2)
    queue.change_state(flags=queue.state().flags | PAUSED)
    queue.sleep(60_000)
    assert queue.lease(10, done=[a]) == Answer(b"paused", queue.now, [], [-1])
    assert payloads(queue.waiting()) == [b"b", b"c"]
    assert queue.leased() == {}


def test_a_marker_is_no_item_of_a_paused_queue(queue: VirtualQueue) -> None:
    """Nor of one that may lease nothing. While there is an item the marker stays: it may be what a
    worker is to wake for that is about to block.
    """
    queue.push(envelope(b"a"))
    tokens = queue.take()
    queue.release(*tokens, delay=10)
    queue.call("pause", 1)
    assert (queue.lease().word, queue.waiting()) == (b"paused", [WAKE])
    queue.client.delete(queue.key("delayed"))
    queue.client.rpush(queue.key("handoff"), WAKE)
    assert queue.lease().word == b"drained"
    queue.rpush(WAKE, "a")
    assert (queue.lease().word, queue.waiting()) == (b"paused", [b"a"])


def test_a_paused_queue_can_be_drained(queue: VirtualQueue) -> None:
    queue.change_state(flags=queue.state().flags | PAUSED)
    assert queue.lease().word == b"drained"


# When to come back


def test_the_k_th_to_ask_is_told_the_event_and_50_ms_for_each_before(
    queue: VirtualQueue,
) -> None:
    queue.rpush("a", "b")
    queue.take(1, ttl=1_500)
    queue.take(1, ttl=90_000)
    waits = [queue.lease(by=queue.caller()).rest[0] for _ in range(4)]
    assert waits == [1_500, 1_550, 1_600, 1_650]
    queue.sleep(100)
    assert queue.lease().rest == [1_600]


def test_what_is_far_is_told_to_everybody_alike(queue: VirtualQueue) -> None:
    """They will ask again before it comes."""
    queue.rpush("a")
    queue.take(1, ttl=2_000)
    assert [queue.lease(by=queue.caller()).rest[0] for _ in range(3)] == [2_000] * 3
    assert queue.state().asked == 0


def test_a_new_event_is_told_from_the_beginning(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, _ = queue.take(2, ttl=1_500)
    assert [queue.lease().rest[0] for _ in range(2)] == [1_500, 1_550]
    queue.extend(a, ttl=1_000)
    assert [queue.lease().rest[0] for _ in range(2)] == [1_000, 1_050]


def test_without_an_event_nothing_will_happen(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert queue.lease(0).rest == [-1]
    assert queue.state().event == NEVER


def test_the_bound_of_the_next_event_is_the_earliest(queue: VirtualQueue) -> None:
    queue.rpush(*"abc")
    queue.take(1, ttl=30_000)
    queue.take(1, ttl=20_000)
    (token,) = queue.take(1, ttl=40_000)
    assert queue.state().event == START + 20_000
    queue.release(token, delay=10_000)
    assert queue.state().event == START + 10_000


def test_a_bound_that_is_too_low_is_corrected_when_it_is_reached(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, _ = queue.take(1, ttl=1_000), queue.take(1, ttl=9_000)
    queue.complete(*a)
    queue.sleep(1_000)
    assert queue.lease().rest == [8_000]
    assert queue.state().event == START + 9_000


def test_before_the_next_event_no_range_is_read(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.take()
    queue.client.config_resetstat()
    queue.take()
    called = set(queue.client.info("commandstats"))
    assert not called & {"cmdstat_zrangebyscore", "cmdstat_zrange"}


# Idle polls


def test_an_idle_poll_is_not_remembered(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(1, ttl=600_000)
    before = queue.dump()
    other = queue.caller()
    queue.lease(by=other)
    queue.now += 999
    queue.lease(by=other)
    assert queue.dump() == before
    queue.now += 1
    queue.lease(by=other)
    assert queue.state().called == queue.now
    assert not queue.client.hexists(queue.key("calls0"), other.slot.decode())


def test_polls_of_a_queue_that_does_not_exist_leave_nothing(queue: VirtualQueue) -> None:
    """I6: or a worker that waits for a deleted queue would make it again."""
    queue.client.delete(queue.key("meta"))
    for number in range(3):
        reply = queue.send("lease", b"new slot", number + 1, 0, 1, 60_000, b"w", now="")
        assert (reply[0], reply[3:]) == (b"drained", [0, 1])
    assert queue.dump() == {}


# Outages


def test_after_an_outage_workers_may_extend_first(queue: VirtualQueue) -> None:
    """For one heartbeat's time: a third of the ttl, 5 s at most. No attempt is charged."""
    queue.rpush("a", "b")
    a, _b = queue.take(2, ttl=9_000)
    queue.now += 60_000
    back = queue.now
    assert queue.lease(ttl=9_000) == Answer(b"empty", back, [], [3_000])
    queue.now += 2_000
    assert queue.extend(a, ttl=9_000) == [queue.now, queue.now + 9_000]
    queue.now += 999
    assert queue.lease(ttl=9_000).word == b"empty"
    queue.now += 1
    assert payloads(queue.lease(ttl=9_000).messages) == [b"b"]
    assert a in queue.leased()
    assert queue.counters() == {"expired": 1}


def test_the_hold_is_five_seconds_at_most(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(ttl=9_000)
    queue.now += 60_000
    assert queue.lease(ttl=600_000).rest == [5_000]


def test_who_holds_less_long_is_not_held_up_by_others(queue: VirtualQueue) -> None:
    """How long an outage holds leases is a matter of each call, not of who came first."""
    queue.rpush("a")
    queue.take(ttl=9_000)
    queue.now += 60_000
    assert queue.lease(ttl=60_000).rest == [5_000]
    assert queue.lease(ttl=3_000, by=queue.caller()).rest == [1_000]
    queue.now += 1_000
    assert queue.lease(ttl=60_000).rest == [4_000]
    assert payloads(queue.lease(ttl=3_000).messages) == [b"a"]


def test_while_leases_are_held_nobody_is_told_to_ask_at_once(queue: VirtualQueue) -> None:
    """And those who are told of the end of it are no herd."""
    queue.rpush("a", "b")
    queue.take(1, ttl=9_000)
    queue.take(1, ttl=62_000)
    queue.now += 60_000
    assert queue.lease(ttl=9_000).rest == [3_000]
    queue.now += 1_500
    others = [queue.caller() for _ in range(3)]
    assert [queue.lease(ttl=9_000, by=x).rest[0] for x in others] == [1_500, 1_550, 1_600]
    queue.now += 1_500
    assert payloads(queue.lease(ttl=9_000).messages) == [b"a"]
    # It ran out during the hold.
    assert payloads(queue.lease(ttl=9_000).messages) == [b"b"]


def test_what_had_run_out_before_the_outage_is_not_held(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.take(1, ttl=1_000)
    queue.take(1, ttl=60_000)
    queue.sleep(4_000)
    queue.now += 100_000
    assert payloads(queue.lease(ttl=9_000).messages) == [b"a"]
    assert queue.lease(ttl=9_000).word == b"empty"


def test_five_seconds_without_a_call_are_no_outage(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(ttl=3_000)
    queue.now += 5_000
    assert queue.lease().word == b"items"


def test_a_hold_that_is_no_whole_number_ends_when_it_says(queue: VirtualQueue) -> None:
    """A third of a ttl need not be one. Whoever comes when he was told finds the item."""
    queue.rpush("a")
    queue.take(ttl=1_000)
    queue.now += 60_000
    (wait,) = queue.lease(ttl=1_000).rest
    assert wait == 333
    queue.now += wait
    assert queue.lease(ttl=1_000).word == b"items"


def test_a_clock_that_jumped_ahead_and_back_holds_nothing_for_long(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(ttl=9_000)
    queue.now += 3_600_000
    queue.lease(ttl=9_000)
    queue.now -= 3_600_000 - 20_000
    wait = 0
    while (answer := queue.lease(ttl=9_000)).word == b"empty":
        wait += answer.rest[0]
        queue.now += answer.rest[0]
        assert wait <= 5_000
    assert payloads(answer.messages) == [b"a"]


def test_clock_back(queue: VirtualQueue) -> None:
    """Deadlines are kept; a clock that is an hour slow makes leases an hour longer, no more."""
    queue.rpush("a", "b")
    queue.take(ttl=9_000)
    queue.now -= 3_600_000
    assert queue.lease().messages == [b"b"]
    assert queue.lease().word == b"empty"
    queue.sleep(3_600_000 + 9_000)
    assert payloads(queue.lease().messages) == [b"a"]


# Messages that are none


def test_a_wake_marker_is_discarded(queue: VirtualQueue) -> None:
    queue.rpush(WAKE)
    assert queue.lease(10).word == b"drained"
    assert queue.waiting() == []
    queue.rpush(WAKE, "a", WAKE, WAKE)
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    answer = queue.lease(10)
    assert answer.messages == [b"a"]
    assert queue.complete(*answer.tokens) == []
    assert queue.dump().keys() == {"{job2}:calls0", "{job2}:meta"}
    assert queue.counters() == {}


def test_after_a_wake_marker_the_time_of_the_event_is_told(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.release(*queue.take(), delay=700)
    assert queue.waiting() == [WAKE]
    assert queue.lease() == Answer(b"empty", START, [], [700])
    assert queue.waiting() == []


MALFORMED = {
    "magic alone": MAGIC,
    "one byte short": envelope(b"")[:-1],
    "headers cut": envelope(b"", headers=b"\x81\xa1a\x01")[:-1],
    "headers missing": MAGIC + b"i" * 16 + b"\0\0\0\0\0\xff\xff",
    "headers are a number": envelope(b"p", headers=b"\x01"),
    "headers are a list": envelope(b"p", headers=b"\x91\x01"),
    "headers are an empty list": envelope(b"p", headers=b"\x90"),
    "headers are text": envelope(b"p", headers=b"\xa1a"),
    "headers are nil": envelope(b"p", headers=b"\xc0"),
    "map without its value": envelope(b"p", headers=b"\x81\xa1a"),
    "map that claims 2^32 - 1": envelope(b"p", headers=b"\xdf\xff\xff\xff\xff"),
    "list that claims 2^32 - 1": envelope(b"p", headers=b"\x81\xa1a\xdd\xff\xff\xff\xff"),
    "text that claims 2^32 - 1": envelope(b"p", headers=b"\x81\xa1a\xdb\xff\xff\xff\xff"),
    "nil as key": envelope(b"p", headers=b"\x81\xc0\x01"),
    "nan as key": envelope(b"p", headers=b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01"),
    "a type that is none": envelope(b"p", headers=b"\x81\xa1a\xc1"),
    "an extension": envelope(b"p", headers=b"\x81\xa1a\xd4\x01\x01"),
    "deep list": envelope(b"p", headers=b"\x81\xa1a" + b"\x91" * 65_000 + b"\x01"),
    "deep map": envelope(b"p", headers=b"\x81\xa1a" * 21_000 + b"\x01"),
    "deep keys": envelope(b"p", headers=b"\x81" * 60_000 + b"\x01" * 5_000),
    "many objects": envelope(b"p", headers=b"\x80" * 65_000),
    "flag of markers": envelope(b"p", flags=128),
    "almost a marker": WAKE + b"\0",
    "marker with a count": WAKE[:-1] + b"\1",
    "marker and suspect": WAKE[:20] + b"\x81" + WAKE[21:],
    "marker with an id": MAGIC + b"\1" * 16 + WAKE[20:],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_begins_with_the_magic_and_does_not_parse_is_dead(
    queue: VirtualQueue, name: str
) -> None:
    queue.rpush("before", MALFORMED[name], "after")
    # Of long ones that are looked through nothing more is leased in the same call.
    leased = [*queue.lease(10).messages, *queue.lease(10).messages]
    assert leased == [b"before", b"after"]
    ((died, letter),) = queue.dead().values()
    assert (died, letter) == (START, Letter(b"malformed", b"", b"", MALFORMED[name]))
    assert queue.waiting() == []
    assert queue.counters() == {"dead": 1}


@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_a_map_of_any_size_is_well_formed(queue: VirtualQueue, size: int) -> None:
    """Each of the three ways to begin one."""
    begin = bytes([0x80 + size]) if size < 16 else b"\xde" + size.to_bytes(2, "big")
    entries = b"".join(b"\xcd" + key.to_bytes(2, "big") + b"\xc0" for key in range(size))
    for headers in (begin + entries, b"\xdf" + size.to_bytes(4, "big") + entries):
        queue.rpush(envelope(b"x", headers=headers))
        answer = queue.lease()
        assert answer.word == b"items", headers
        queue.complete(*answer.tokens)


def test_a_malformed_one_keeps_its_id_if_it_has_one(queue: VirtualQueue) -> None:
    broken = envelope(b"p", b"0123456789abcdef", headers=b"\x01")
    queue.rpush(broken)
    queue.lease()
    assert list(queue.dead()) == [b"0123456789abcdef"]
    queue.rpush(broken, MAGIC)
    queue.lease()
    assert len(queue.dead()) == 3


def test_many_malformed_ones_do_not_make_a_call_long(queue: VirtualQueue) -> None:
    queue.rpush(*[MAGIC] * 1000, "good")
    assert queue.lease(1) == Answer(b"empty", START, [], [0])
    assert len(queue.dead()) == 101
    calls = 1
    while (answer := queue.lease(1)).word != b"items":
        assert answer.rest == [0]
        calls += 1
    assert answer.messages == [b"good"]
    assert (calls, len(queue.dead())) == (9, 1000)


def test_large_malformed_ones_do_not_make_a_call_long(queue: VirtualQueue) -> None:
    """A call looks at 1 MiB, whatever becomes of them."""
    for number in range(10):
        queue.rpush(MAGIC + bytes([number]) + b"x" * (MIB // 4))
    queue.rpush("good")
    for dead in (3, 6, 9):
        assert queue.lease(1000) == Answer(b"empty", START, [], [0])
        assert len(queue.dead()) == dead
    assert queue.lease(1000).messages == [b"good"]
    assert len(queue.dead()) == 10


def test_large_headers_do_not_make_a_call_long(queue: VirtualQueue) -> None:
    """To look through 60 KiB of them takes a millisecond."""
    headers = b"\xde\x27\x10" + b"".join(
        b"\xcd%b\xc0" % bytes(divmod(i, 256)) for i in range(10_000)
    )
    queue.rpush(*[envelope(b"", b"%016d" % number, headers=headers) for number in range(10)])
    taken = [len(queue.lease(10).messages) for _ in range(11)]
    assert taken == [1] * 10 + [0]


def test_a_large_message_after_a_small_malformed_one_is_leased_next(queue: VirtualQueue) -> None:
    queue.rpush(MAGIC, b"x" * 5 * MIB)
    assert queue.lease(10) == Answer(b"empty", START, [], [0])
    assert queue.lease(10).messages == [b"x" * 5 * MIB]


def test_only_malformed_ones_leave_a_drained_queue(queue: VirtualQueue) -> None:
    queue.rpush(MAGIC)
    assert queue.lease() == Answer(b"drained", START, [], [0, 0])


def headers() -> st.SearchStrategy[bytes]:
    containers = (b"\x80", b"\x81", b"\x8f", b"\xde\0\1", b"\xdf\0\0\0\1", b"\x91")
    others = (b"\xa1a", b"\xc4\1x", b"\x01", b"\xff", b"\xc0", b"\xc1", b"\xd4\1\1")
    nan = b"\xcb\x7f\xf8" + bytes(6)
    return st.lists(st.sampled_from([*containers, *others, nan]), max_size=12).map(b"".join)


def nearly_envelopes() -> st.SearchStrategy[bytes]:
    """Bytes that begin with the magic: cut, overlong, with headers that are nearly msgpack."""
    whole = st.builds(
        envelope,
        st.binary(max_size=8),
        st.binary(min_size=16, max_size=16),
        flags=st.sampled_from([0, 1, 2, 127, 128, 129, 255]),
        deliveries=st.sampled_from([0, 1, 65535]),
        attempts=st.sampled_from([0, 1, 65535]),
        headers=headers(),
    )
    cut = st.tuples(whole, st.integers(4, 60)).map(lambda given: given[0][: given[1]])
    return st.one_of(whole, cut, st.binary(max_size=60).map(lambda tail: MAGIC + tail))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(nearly_envelopes(), min_size=1, max_size=8))
def test_no_bytes_break_a_queue(queue: VirtualQueue, given_messages: list[bytes]) -> None:
    """Each is leased, is dead, or is a marker, and is still itself after it went through verbs."""
    queue.client.flushdb()
    queue.put_state(State())
    queue.me = queue.caller()

    def hold_all() -> tuple[list[int], list[bytes]]:
        tokens, messages = [], []
        while (answer := queue.lease(3)).word == b"items":
            tokens += answer.tokens
            messages += [m for m in answer.messages if m is not None]
        return tokens, messages

    queue.rpush(*given_messages)
    tokens, _ = hold_all()
    assert queue.release(*tokens) == []
    tokens, _ = hold_all()
    if tokens:
        queue.fail(*tokens, retry_in=0)
    tokens, messages = hold_all()
    if tokens:
        assert queue.complete(*tokens) == []
    assert queue.lease().word == b"drained"

    def identity(message: bytes) -> bytes:
        return message[:21] + message[25:]

    dead = [letter.message for _, letter in queue.dead().values()]
    expected = sorted(identity(m) for m in given_messages if m != WAKE)
    assert sorted(map(identity, messages + dead)) == expected


# Copies


def test_a_copy_gets_the_same_leases(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    answer = queue.lease(2)
    with queue.unchanged():
        assert Answer.of(queue.again()) == answer


def test_a_copy_is_told_what_of_it_is_gone_since(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    answer = queue.lease(3, ttl=60_000)
    queue.call("complete", answer.first, by=queue.caller())
    copy = Answer.of(queue.again())
    assert copy.messages == [None, b"b", b"c"]
    assert copy.first == answer.first
    assert copy.deadline == START + 60_000


def test_a_copy_of_an_answer_without_items_is_answered_anew(queue: VirtualQueue) -> None:
    assert queue.lease().word == b"drained"
    queue.rpush("a")
    assert Answer.of(queue.again()).messages == [b"a"]
    # Nobody knows that he holds it; the next call of the slot gives it back.
    assert queue.lease(0).word == b"empty"
    assert payloads(queue.waiting()) == [b"a"]
    assert queue.counters() == {"unseen": 1}


def test_a_copy_that_settled_says_the_same_again(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    assert queue.lease(done=[token, 7]).lost == [1]
    with queue.unchanged():
        copy = Answer.of(queue.again())
    assert (copy.word, copy.lost, copy.rest) == (b"empty", [1], [0])


def test_what_becomes_due_in_the_call_needs_no_keys_of_features(queue: VirtualQueue) -> None:
    """It has written by then, and can refuse no more."""
    queue.ask(asking(1, max_attempts=3), delay=1_000)
    queue.wide = False
    queue.sleep(1_000)
    assert queue.lease().messages == [asking(1, max_attempts=3)]
    assert not queue.wide
