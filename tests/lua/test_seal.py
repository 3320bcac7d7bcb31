"""lua/seal.lua"""

from tests.lua.harness import PAUSED, SEALED, VirtualQueue
from tests.lua.scenes import message


def test_it_seals_and_unseals_and_says_whether_that_changed_it(queue: VirtualQueue) -> None:
    assert queue.call("seal", 1) == 1
    assert queue.call("seal", 1) == 0
    with queue.refused("SEALED"):
        queue.push(message(1))
    assert queue.call("seal", 0) == 1
    assert queue.call("seal", 0) == 0
    assert queue.push(message(1)) == 1


def test_it_touches_no_other_flag(queue: VirtualQueue) -> None:
    flags = 1 << 31 | 1 << 20 | PAUSED
    queue.change_state(flags=flags)
    queue.call("seal", 1)
    assert queue.state().flags == flags | SEALED
    queue.call("seal", 0)
    assert queue.state().flags == flags


def test_a_sealed_queue_is_worked_off(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    queue.call("seal", 1)
    queue.rpush("raw")  # cannot be refused
    a, b, c = queue.take(3)
    queue.release(a)
    queue.fail(b, retry_in=0)
    queue.complete(c, *queue.take(2))
    assert queue.lease().rest == [1, 0]


def test_a_sealed_queue_that_never_had_an_item_is_fresh(queue: VirtualQueue) -> None:
    queue.call("seal", 1)
    assert queue.lease().rest == [1, 1]


def test_bad_arguments(queue: VirtualQueue) -> None:
    for sealed in ("", "2", "-1", "0.5", "x"):
        with queue.refused("ARGUMENT sealed is not an integer from 0 to 1"):
            queue.call("seal", sealed)
