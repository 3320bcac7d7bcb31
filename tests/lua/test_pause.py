"""lua/pause.lua"""

from tests.lua.harness import PAUSED, SEALED, VirtualQueue
from tests.lua.scenes import message


def test_it_pauses_and_resumes_and_says_whether_that_changed_it(queue: VirtualQueue) -> None:
    queue.push(message(1))
    assert queue.call("pause", 1) == 1
    assert queue.call("pause", 1) == 0
    assert queue.lease().word == b"paused"
    assert queue.call("pause", 0) == 1
    assert queue.call("pause", 0) == 0
    assert queue.lease().word == b"items"


def test_it_touches_no_other_flag(queue: VirtualQueue) -> None:
    flags = 1 << 31 | 1 << 20 | SEALED
    queue.change_state(flags=flags)
    queue.call("pause", 1)
    assert queue.state().flags == flags | PAUSED
    queue.call("pause", 0)
    assert queue.state().flags == flags


def test_a_paused_queue_takes_messages_and_settles(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    a, b = queue.take(2)
    queue.call("pause", 1)
    queue.push(message(3))
    assert queue.complete(a) == []
    assert queue.extend(b, ttl=1_000)[1] > 0
    assert queue.release(b) == []
    assert len(queue.waiting()) == 2


def test_bad_arguments(queue: VirtualQueue) -> None:
    for paused in ("", "2", "-1", "0.5", "x"):
        with queue.refused("ARGUMENT paused is not an integer from 0 to 1"):
            queue.call("pause", paused)
