"""Ctrl-C, and whatever else is raised in the middle of a call."""

import os
import random
import signal
import threading

import pytest
import redis

from pyqueue import Queue
from tests.alarm import Interrupted, alarm  # noqa: F401 - a fixture
from tests.servers import wait_until

pytestmark = pytest.mark.threads


def test_ctrl_c_while_it_waits_loses_nothing(queue: Queue, client: redis.Redis) -> None:
    def interrupt() -> None:
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "it waits")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        queue.lease(wait=None)
    thread.join()
    client.rpush("job2", "apple", "banana")
    for text in ("apple", "banana"):
        lease = queue.lease()
        assert lease is not None
        assert lease.text == text
        lease.complete()
    assert queue.stats().drained


# Any instant may be within a finalizer of redis-py's, from where no exception goes anywhere.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("alarm")
def test_interrupts_at_any_instant_lose_nothing_and_confuse_nobody(
    queue: Queue, client: redis.Redis
) -> None:
    """A reply that was on its way must not be taken for that of the next call."""
    random.seed(1)
    seen: set[str] = set()
    interrupted = 0
    for number in range(400):
        client.rpush("job2", str(number))
        queue.stats()  # connects: redis-py does not recover from an interrupt in the midst of that
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.001))
            try:
                lease = queue.lease(ttl=600)
                assert lease is not None
                assert lease.text not in seen
                text = lease.text
                lease.complete()
                seen.add(text)
                assert queue.stats().totals["raw"] > 0
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            interrupted += 1
    assert interrupted > 5
    queue.close()
    # What was given to a caller who was interrupted before he knew is his until its lease ends.
    stats = queue.stats()
    assert stats.totals["completed"] + stats.waiting + stats.leased == 400
    assert stats.totals["completed"] >= len(seen)
    left = [item.text for item in [*queue.waiting(), *queue.leases()]]
    assert len(left) == len(set(left))
    assert not seen & set(left)
    assert {item.attempts for item in queue.waiting()} <= {0}
    wait_until(lambda: len(client.client_list()) <= 4, "no connection is left behind")
