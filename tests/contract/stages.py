"""Worker processes that are killed all the time, on a pipeline of queues or on groups.

Run as a script, it forks workers of one kind and replaces those that it kills, until a line comes
on standard input; then it lets them end, and prints how many it has killed.
"""

import os
import random
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyqueue import Lease, LeaseLost, Message, Queue, ServerUnavailable
from tests.faults.fleet import fork

STAGES = ("{p}first", "{p}second", "{p}third")
TTL = 0.4


def pipeline(url: str, _: Path, ends: threading.Event) -> None:
    """Moves items from stage to stage, now and then in another way."""
    queues = [Queue(name, url=url) for name in STAGES]
    while not ends.is_set():
        number = random.randrange(2)
        try:
            lease = queues[number].lease(TTL, wait=0.05)
            if lease is None:
                continue
            after = Message(payload=lease.payload, queue=STAGES[number + 1])
            match random.randrange(10):
                case 0:
                    lease.release()
                case 1:
                    # What follows from its death does not, since it lives.
                    lease.fail("as told", retry_in=0, push=after)
                case _:
                    lease.complete(push=after)
        except (LeaseLost, ServerUnavailable):
            pass  # whether it was moved is known to the server


def groups(url: str, directory: Path, ends: threading.Event) -> None:
    """Leases, writes down what it got, and completes or fails it."""
    queue = Queue("job2", url=url)
    file = os.open(directory / f"{os.getpid()}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while not ends.is_set():
        try:
            done: list[Lease] = []
            for lease in queue.lease_many(random.randint(1, 5), TTL, wait=0.05):
                os.write(file, f"{lease.token} {lease.text}\n".encode())
                time.sleep(0.005)  # its work
                if random.randrange(10):
                    done.append(lease)
                else:
                    lease.fail("as told", retry_in=random.choice((0, 0.02)))
            queue.complete_many(done)
        except (LeaseLost, ServerUnavailable):
            pass  # it comes again


KINDS: dict[str, Callable[[str, Path, threading.Event], None]] = {
    "pipeline": pipeline,
    "groups": groups,
}


def main(kind: str, url: str, directory: Path, workers: int, kill_every: float) -> None:
    def work() -> None:
        random.seed()
        ends = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ends.set())
        KINDS[kind](url, directory, ends)

    pids = [fork(work) for _ in range(workers)]
    kills = 0
    while not select.select([sys.stdin], [], [], random.uniform(0.5, 1.5) * kill_every)[0]:
        victim = random.randrange(workers)
        os.kill(pids[victim], signal.SIGKILL)
        os.waitpid(pids[victim], 0)
        kills += 1
        pids[victim] = fork(work)
    failed = 0
    for pid in pids:
        # One that was forked just now may not have its handler yet.
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.01)
        failed += os.waitstatus_to_exitcode(ended[1]) not in (0, -signal.SIGTERM)
    print(kills)
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    kind, url, directory, workers, kill_every = sys.argv[1:]
    main(kind, url, Path(directory), int(workers), float(kill_every))
