"""An exception at an instant that the test chooses, by a timer: a test module imports ``alarm``."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest


class Interrupted(BaseException):
    """Like KeyboardInterrupt, or the cancellation of a task."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM (``signal.setitimer``) raises Interrupted in the main thread."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raise_it)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
