"""KeyboardInterrupt, and what else a signal's handler raises, at the worst instant of a call."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
import redis

from pyqueue import Queue
from tests.contract.conftest import OpenQueue


def interrupt(call: Callable[[], object], reply: int = 1) -> None:
    """Interrupts a call when it has sent a command, and has not begun to read its n-th reply."""
    left = reply

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        code = frame.f_code
        if (
            event == "call"
            and code.co_name == "read_response"
            and code.co_filename.endswith("connection.py")
        ):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        sys.setprofile(before)


@pytest.fixture(params=["of its own", "shared"])
def warm(request: pytest.FixtureRequest, open_queue: OpenQueue, client: redis.Redis) -> Queue:
    """A queue with a connection, whose scripts the server knows; with a client of its own, or of
    its user.
    """
    queue = open_queue() if request.param == "of its own" else open_queue(client=client)
    queue.push("first")
    queue.stats()
    lease = queue.lease()
    assert lease is not None
    lease.complete()
    return queue


def test_the_next_call_does_not_take_the_reply_of_an_interrupted_one(warm: Queue) -> None:
    interrupt(lambda: warm.push("a"))
    assert warm.stats().waiting == 1
    interrupt(warm.stats)
    assert warm.push("b")
    assert warm.stats().waiting == 2


def test_what_an_interrupted_call_leased_goes_back(warm: Queue) -> None:
    warm.push("a")
    interrupt(warm.lease)
    lease = warm.lease()
    assert lease is not None
    assert (lease.payload, lease.attempts) == (b"a", 0)


def test_an_interrupted_wait_leaves_no_message_behind(warm: Queue, client: redis.Redis) -> None:
    interrupt(lambda: warm.lease(wait=5), reply=2)
    client.rpush(warm.name, "a")
    lease = warm.lease()
    assert lease is not None
    assert lease.payload == b"a"
