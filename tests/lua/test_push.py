"""lua/push.lua"""

import redis

from tests.lua.harness import SEALED, START, State, VirtualQueue, envelope
from tests.lua.scenes import message


def test_messages_are_appended_in_order_byte_for_byte(queue: VirtualQueue) -> None:
    queue.rpush("raw")
    messages = [message(1), envelope(b"", headers=b"\x81\xa1a\x01"), envelope(b"\0\xff\r\n")]
    assert queue.push(*messages) == 3
    assert queue.push(message(2)) == 1
    assert queue.waiting() == [b"raw", *messages, message(2)]
    assert queue.state().pushed == 4
    assert queue.stats()["total_pushed"] == 4


def test_the_first_push_makes_the_queue(queue: VirtualQueue) -> None:
    client = queue.client
    client.delete(queue.key("meta"))
    queue.send("push", b"new slot", 1, 0, "", message(1), now="")
    state = queue.state()
    assert (state.version, state.flags, state.last, state.pushed) == (1, 0, 0, 1)
    assert client.hget(queue.key("meta"), "schema") == b"1"
    assert set(queue.dump()) == {"job2", "{job2}:calls0", "{job2}:meta"}


def test_one_to_a_thousand(queue: VirtualQueue) -> None:
    for count in (0, 1001):
        with queue.refused("ARGUMENT messages is not an integer from 1 to 1000"):
            queue.push(*[message(1)] * count)
    assert queue.push(*(message(number) for number in range(1000))) == 1000
    assert queue.waiting() == [message(number) for number in range(1000)]


def test_a_sealed_queue_takes_nothing(queue: VirtualQueue) -> None:
    assert queue.push(message(1)) == 1
    queue.change_state(flags=queue.state().flags | SEALED)
    with queue.refused("SEALED"):
        queue.push(message(2), by=queue.caller())
    with queue.unchanged():
        assert queue.again() == [1]  # it was taken before


def test_equal_messages_are_two(queue: VirtualQueue) -> None:
    queue.push(message(1), message(1))
    assert queue.waiting() == [message(1)] * 2


def test_large_messages(queue: VirtualQueue) -> None:
    large = envelope(b"x" * (1 << 20))
    queue.push(*[large] * 4)
    assert queue.waiting() == [large] * 4


def test_it_does_nothing_else(queue: VirtualQueue) -> None:
    """Whoever only pushes neither reclaims nor promotes, and moves no token."""
    queue.rpush("a", "b")
    expired, late = queue.take(2)
    queue.release(late, delay=1_000)
    queue.sleep(61_000)
    state, delayed = queue.state(), queue.delayed()
    queue.push(message(1))
    assert list(queue.leased()) == [expired]
    assert queue.delayed() == delayed
    after = queue.state()
    assert (after.last, after.event) == (state.last, state.event)


def test_after_an_outage_it_sets_the_guard(queue: VirtualQueue) -> None:
    """Any script may be the first that runs after it."""
    queue.push(message(1))
    queue.now += 5_000
    queue.push(message(2))
    assert queue.state().guard_at == 0
    queue.now += 5_001
    queue.push(message(3))
    assert (queue.state().guard_from, queue.state().guard_at) == (START + 5_000, START + 10_001)


def test_state_of_zeros_is_the_state_of_a_new_queue(client: redis.Redis) -> None:
    queue = VirtualQueue(client)
    assert queue.state() == State()
    assert len(State().pack()) == 63
