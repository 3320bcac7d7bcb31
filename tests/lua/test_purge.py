"""lua/purge.lua"""

import pytest

from tests.lua.harness import WAKE, State, VirtualQueue
from tests.lua.scenes import busy


def test_it_drops_what_waits_and_nothing_else(queue: VirtualQueue) -> None:
    scene = busy(queue)
    leased, dead = queue.leased(), queue.dead()
    assert queue.call("purge", "waiting") == [6 + 1 + 1, 0]
    assert (queue.waiting(), queue.listed("handoff"), queue.delayed()) == ([], [], [])
    assert (queue.leased(), queue.dead()) == (leased, dead)
    assert queue.counters()["purged"] == 8
    assert queue.complete(*scene.tokens) == []


def test_it_drops_dead_letters_and_nothing_else(queue: VirtualQueue) -> None:
    busy(queue)
    leased, waiting = queue.leased(), queue.waiting()
    assert queue.call("purge", "dead") == [1, 0]
    assert queue.dead() == {}
    assert (queue.leased(), queue.waiting()) == (leased, waiting)
    assert len(queue.delayed()) == 1
    assert queue.counters()["purged"] == 1
    assert queue.call("purge", "dead") == [0, 0]


@pytest.mark.parametrize("name", ["dead", "died"])
def test_what_is_no_dead_letter_is_not_dropped_nor_anything_before_it(
    queue: VirtualQueue, name: str
) -> None:
    scene = busy(queue)
    queue.client.set(queue.key(name), "somebody else's")
    with queue.refused("WRONGTYPE"):
        queue.call("purge", "dead", by=scene.unlucky)


def test_wake_markers_do_not_count(queue: VirtualQueue) -> None:
    queue.rpush(WAKE, "a")
    assert queue.call("purge", "waiting") == [1, 0]
    queue.rpush(WAKE)
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert queue.call("purge", "waiting") == [0, 0]
    assert queue.lease().word == b"drained"
    assert queue.counters() == {"purged": 1}


def test_a_copy_drops_nothing_more(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    assert queue.call("purge", "waiting") == [2, 0]
    queue.rpush("c")
    with queue.unchanged():
        assert queue.again() == [2, 0]


def test_bad_arguments(queue: VirtualQueue) -> None:
    for what in ("", "all", "leased", "WAITING"):
        with queue.refused("ARGUMENT purge drops what is waiting or dead"):
            queue.call("purge", what)


def test_a_queue_that_was_purged_is_not_fresh(queue: VirtualQueue) -> None:
    queue.rpush("a")
    assert queue.call("purge", "waiting") == [1, 0]
    assert queue.lease().rest == [0, 0]
    queue.client.flushdb()
    queue.put_state(State())
    assert queue.call("purge", "waiting") == [0, 0]
    assert queue.lease().rest == [0, 1]
