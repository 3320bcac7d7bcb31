"""lua/redrive.lua"""

from tests.lua.harness import MAGIC, START, WAKE, VirtualQueue, envelope, raw_id
from tests.lua.scenes import message


def test_it_goes_to_the_tail_and_its_attempts_restart(queue: VirtualQueue) -> None:
    queue.rpush(envelope(b"x", deliveries=3, attempts=4, headers=b"\x81\xa1a\x01"), "next")
    queue.fail(*queue.take(), error=b"boom")
    assert list(queue.dead()) == [b"i" * 16]
    assert queue.call("redrive", b"i" * 16) == []
    assert queue.waiting() == [b"next", envelope(b"x", deliveries=4, headers=b"\x81\xa1a\x01")]
    assert queue.dead() == {}
    assert queue.counters() == {"failed": 1, "dead": 1, "redriven": 1}


def test_the_order_is_that_of_the_ids(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(3)))
    queue.bury(*queue.take(3))
    queue.call("redrive", *(message(number)[4:20] for number in (2, 0, 1)))
    assert [m[27:] for m in queue.waiting()] == [b"pushed 2", b"pushed 0", b"pushed 1"]


def test_what_killed_its_worker_is_still_a_suspect(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 1)
    queue.rpush("a")
    (token,) = queue.take()
    queue.sleep(60_000)
    queue.reclaim()
    queue.call("redrive", raw_id(token))
    assert queue.waiting() == [envelope(b"a", raw_id(token), flags=1, deliveries=1)]


def test_what_stays_is_said_by_position(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    queue.bury(*queue.take(2))
    ids = [message(1)[4:20], b"no such id......", message(1)[4:20], b"", message(2)[4:20]]
    assert queue.call("redrive", *ids) == [1, 2, 3]
    assert len(queue.waiting()) == 2
    with queue.unchanged():
        assert queue.again() == [1, 2, 3]


def test_what_is_malformed_stays_dead(queue: VirtualQueue) -> None:
    queue.rpush(envelope(b"x", headers=b"\x01"))
    queue.lease()
    (id,) = queue.dead()
    assert queue.call("redrive", id) == [0]
    with queue.unchanged():
        assert queue.again() == [0]
    assert list(queue.dead()) == [id]
    assert queue.waiting() == []


def test_it_can_die_again(queue: VirtualQueue) -> None:
    queue.push(message(1))
    for number in range(3):
        queue.now += 1
        queue.bury(*queue.take(), reason=b"time %d" % number)
        ((died, letter),) = queue.dead().values()
        assert (died, letter.reason) == (queue.now, b"time %d" % number)
        queue.call("redrive", message(1)[4:20])
    assert queue.counters() == {"dead": 3, "redriven": 3}


def test_one_to_a_thousand(queue: VirtualQueue) -> None:
    for count in (0, 1001):
        with queue.refused("ARGUMENT ids is not an integer from 1 to 1000"):
            queue.call("redrive", *[b"i" * 16] * count)
    queue.push(*(message(number) for number in range(1000)))
    queue.bury(*queue.take(1000))
    assert queue.call("redrive", *(message(number)[4:20] for number in range(1000))) == []
    assert len(queue.waiting()) == 1000


def test_only_envelopes_are_redriven(queue: VirtualQueue) -> None:
    """Whatever somebody put into a dead letter: the scripts put nothing raw there."""
    kinds = {
        b"raw": False,
        b"": False,
        MAGIC: False,
        WAKE: False,
        envelope(b"x", flags=128): False,
        envelope(b"x", headers=b"\x81\xa1a"): False,
        envelope(b"x"): True,
        envelope(b"x", headers=b"\x81\xa1a\x01"): True,
        envelope(b"x", flags=1, attempts=2): True,
    }
    for content, redriven in kinds.items():
        record = b"\1\3why\1w\0\4boom" + content
        queue.client.hset(queue.key("dead"), b"some id........!", record)
        queue.client.zadd(queue.key("died"), {b"some id........!": START})
        assert queue.call("redrive", b"some id........!") == ([] if redriven else [0]), content
        assert len(queue.waiting()) == redriven, content
        assert len(queue.dead()) == 1 - redriven, content
        queue.client.delete(queue.name)
