"""lua/delete.lua"""

import pytest

from pyqueue._keys import SUFFIXES
from tests.lua.harness import START, WAKE, State, VirtualQueue
from tests.lua.scenes import busy, rich


def test_a_drained_queue_leaves_nothing(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.complete(*queue.take(2))
    assert queue.call("delete", 0) == [1, 0, 0]
    assert queue.dump() == {}


@pytest.mark.parametrize("where", ["waiting", "handoff", "delayed", "leased", "dead"])
def test_it_is_refused_while_anything_is_there(queue: VirtualQueue, where: str) -> None:
    queue.rpush("a")
    if where == "handoff":
        queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    elif where != "waiting":
        (token,) = queue.take()
        if where == "delayed":
            queue.release(token, delay=60_000)
        elif where == "dead":
            queue.bury(token)
    with queue.unchanged():
        assert queue.call("delete", 0) == ([0, 0, 1] if where == "dead" else [0, 1, 0])
    assert queue.call("delete", 1)[0] == 1
    assert queue.dump() == {}


def test_by_force_every_key_goes_and_it_says_what_was_there(queue: VirtualQueue) -> None:
    busy(queue)
    for suffix in SUFFIXES:
        if suffix not in {"priority", "grouped"} and not queue.client.exists(queue.key(suffix)):
            queue.client.set(queue.key(suffix), "of a later version")
    queue.client.set("job20", "another queue's")
    queue.client.set("{job2}", "no key of it")
    assert queue.call("delete", 1) == [1, 6 + 1 + 1 + 7, 1]
    assert queue.dump() == {"job20": b"another queue's", "{job2}": b"no key of it"}


def test_what_features_hold_is_live_too(queue: VirtualQueue) -> None:
    rich(queue)
    live = 1 + 4 + len(queue.waiting()) + len(queue.delayed()) + len(queue.ranked())
    live += len(queue.grouped()) + len(queue.leased()) - 4
    with queue.unchanged():
        assert queue.call("delete", 0) == [0, live, 1]
    assert queue.call("delete", 1) == [1, live, 1]
    assert queue.dump() == {}


@pytest.mark.parametrize("handed", [0, 1, 2])
def test_wake_markers_are_no_items(queue: VirtualQueue, handed: int) -> None:
    for _ in range(handed):
        queue.rpush(WAKE)
        queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.rpush(WAKE)
    assert queue.call("delete", 0) == [1, 0, 0]
    assert queue.dump() == {}


def test_an_item_behind_a_marker_is_one(queue: VirtualQueue) -> None:
    queue.rpush(WAKE, "a")
    with queue.unchanged():
        assert queue.call("delete", 0) == [0, 1, 0]


def test_a_queue_that_does_not_exist(queue: VirtualQueue) -> None:
    queue.client.delete(queue.key("meta"))
    assert queue.send("delete", 0, now="") == [1, 0, 0]


def test_tokens_rise_across_it(queue: VirtualQueue) -> None:
    """A worker of the old queue that still lives must not settle an item of the new one."""
    queue.rpush("a")
    (old,) = queue.take()
    queue.call("delete", 1)
    queue.put_state(State())
    queue.now = START + 1
    queue.rpush("b")
    (new,) = queue.take()
    assert new > old
    assert queue.complete(old) == [0]
