"""Processes that fork while their client is in use. Run as a script, which fails if anything does.

``crowd``: threads work on one client until the queue is drained, and children of theirs that were
forked at any instant go on with the same client. ``unanswered``: a call is not answered, and then
the process forks.
"""

import os
import random
import sys
import threading
import warnings
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import Queue, ServerUnavailable
from tests.faults import fleet

THREADS = 4
CHILDREN = 60
#: No lease runs out, seconds.
TTL = 600.0


def work(queue: Queue, directory: Path) -> None:
    """Works until the queue is drained."""
    log = fleet.Log(directory)
    while not queue.stats().drained:
        random.choice(fleet.STYLES)(queue, TTL, log)
    log.write(fleet.QUIT)


def child(queue: Queue, directory: Path) -> None:
    """Works a little, on the client that it was born with."""
    random.seed()
    log = fleet.Log(directory)
    fleet.one_by_one(queue, TTL, log)
    queue.close()
    log.write(fleet.QUIT)


def crowd(queue: Queue, directory: Path) -> None:
    """Threads and children on one client."""
    # A log is named by its process, so each thread has a folder.
    folders = [directory / str(number) for number in range(THREADS)]
    for folder in folders:
        folder.mkdir()
    threads = [threading.Thread(target=work, args=(queue, folder)) for folder in folders]
    for thread in threads:
        thread.start()
    pids = []
    for _ in range(CHILDREN):
        queue.stats()
        pids.append(fleet.fork(lambda: child(queue, directory)))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    for thread in threads:
        thread.join()
    queue.close()
    assert not any(codes), codes


def unanswered(queue: Queue, directory: Path) -> None:
    """The first call is not answered. What it leased is the parent's to give back."""
    try:
        queue.lease(TTL)
    except ServerUnavailable:
        pass
    else:
        raise AssertionError("the call was answered")

    def other() -> None:
        lease = queue.lease(TTL)
        assert lease is not None
        assert lease.text == "banana"
        lease.complete()
        queue.close()
        assert queue.stats().leased == 1

    _, status = os.waitpid(fleet.fork(other), 0)
    assert status == 0
    lease = queue.lease(TTL)
    assert lease is not None
    assert (lease.text, lease.deliveries, lease.attempts) == ("apple", 1, 0)
    lease.complete()
    queue.close()


if __name__ == "__main__":
    # Python 3.12 warns of just what is tried here.
    warnings.simplefilter("ignore", DeprecationWarning)
    what, url, name, directory = sys.argv[1:]
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 3)) as client:
        if what == "crowd":
            crowd(Queue(name, client=client), Path(directory))
        else:
            unanswered(Queue(name, client=client), Path(directory))
