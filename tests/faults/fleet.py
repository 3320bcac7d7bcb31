"""Many worker processes on one queue, some of which are killed all the time.

Run as a script, it forks workers and replaces those that it kills, until the queue is sealed and
drained. Each worker writes what it knows into a file of its own, line by line; what was written
before a SIGKILL stays. ``read`` and ``check`` make sense of the files.
"""

import ctypes
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import redis

from pyqueue import Lease, LeaseLost, Queue, ServerUnavailable

#: What a line can say, and what follows: of a lease that it was got (payload, deadline in ms) or
#: extended (deadline), that it is to be completed, was completed, is to be given back, was lost.
GOT, EXTENDED, ENDING, COMPLETED, RETURNING, LOST = "got", "ext", "end", "done", "back", "lost"
#: The last line of a worker that came to its end. Of one that did not, some answers are unknown.
QUIT = "quit"
#: The exit code of a worker for which the server was out of reach for too long.
UNAVAILABLE = 69


class Log:
    """A worker's file. Each line reaches it at once, in one write."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._fd = os.open(directory / f"{os.getpid()}.log", flags, 0o600)

    def write(self, word: str, *values: object) -> None:
        os.write(self._fd, (" ".join(map(str, (word, *values))) + "\n").encode())

    def got(self, lease: Lease) -> None:
        self.write(GOT, lease.token, lease.text, round(lease.deadline * 1000))

    def settled(self, leases: Sequence[Lease], held: Sequence[bool]) -> None:
        for lease, ok in zip(leases, held, strict=True):
            self.write(COMPLETED if ok else LOST, lease.token)


def one_by_one(queue: Queue, ttl: float, log: Log) -> None:
    """Leases one, completes it or gives it back, by its own verbs. Ends now and then."""
    for _ in range(300):
        lease = queue.lease(ttl, wait=0)
        if lease is None:
            return
        log.got(lease)
        try:
            match random.randrange(20):
                case 0:
                    log.write(RETURNING, lease.token)
                    lease.release(random.choice((0, 0.05)))
                case 1:
                    log.write(RETURNING, lease.token)
                    lease.fail("as told", retry_in=random.choice((0, 0.05)))
                case 2:
                    log.write(EXTENDED, lease.token, round(lease.extend(ttl) * 1000))
                    log.write(ENDING, lease.token)
                    lease.complete()
                    log.write(COMPLETED, lease.token)
                case _:
                    log.write(ENDING, lease.token)
                    lease.complete()
                    log.write(COMPLETED, lease.token)
        except LeaseLost:
            log.write(LOST, lease.token)


def in_batches(queue: Queue, ttl: float, log: Log) -> None:
    """Completes a batch in the call that leases the next."""
    done: list[Lease] = []
    for _ in range(50):
        batch = queue.lease_many(random.randint(1, 10), ttl, completed=done)
        log.settled(done, [lease.token not in batch.lost for lease in done])
        done = list(batch)
        for lease in done:
            log.got(lease)
        for lease in done:
            log.write(ENDING, lease.token)
        if not done:
            return
    log.settled(done, queue.complete_many(done))


def in_a_loop(queue: Queue, ttl: float, log: Log) -> None:
    """The loop of the README, which completes an item with the call for the next."""
    last: Lease | None = None
    try:
        for number, lease in enumerate(queue.drain(ttl, wait=0)):
            if last is not None:
                log.write(COMPLETED, last.token)
                last = None
            log.got(lease)
            if number == 100:
                log.write(RETURNING, lease.token)
                return  # leaves it unsettled
            with lease:
                log.write(ENDING, lease.token)
            last = lease
        if last is not None:
            log.write(COMPLETED, last.token)
    except LeaseLost as error:
        for token in error.tokens:
            log.write(LOST, token)


STYLES: Sequence[Callable[[Queue, float, Log], None]] = (one_by_one, in_batches, in_a_loop)


def work(url: str, name: str, ttl: float, directory: Path) -> None:
    """One worker, until the queue is sealed and drained."""
    random.seed()
    log = Log(directory)
    queue = Queue(name, url=url)
    try:
        while True:
            random.choice(STYLES)(queue, ttl, log)
            batch = queue.lease_many(1, ttl, wait=0.5)
            for lease in batch:
                log.got(lease)
                log.write(ENDING, lease.token)
                log.settled([lease], queue.complete_many([lease]))
            if batch.drained and batch.sealed:
                break
    except ServerUnavailable:
        os._exit(UNAVAILABLE)
    queue.close()
    log.write(QUIT)


def fork(run: Callable[[], None]) -> int:
    """A child process that does this and ends, at the latest with its parent."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:
            run()
            code = 0
    except BaseException as error:  # noqa: BLE001 - a child must not run on in its parent's code
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(
    url: str, name: str, ttl: float, directory: Path, workers: int, kill_every: float
) -> NoReturn:
    """Runs the fleet. Exits with 1 when a worker ends with an error."""

    def start() -> int:
        return fork(lambda: work(url, name, ttl, directory))

    pids = [start() for _ in range(workers)]
    kills = errors = 0
    client = redis.Redis.from_url(url)
    next_kill = time.monotonic() + kill_every
    while pids:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            pids.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            if code == UNAVAILABLE:
                pids.append(start())
            else:
                errors += code != 0
        elif time.monotonic() < next_kill or len(pids) < workers:  # or the first have finished
            time.sleep(0.005)
        else:
            next_kill = time.monotonic() + random.uniform(0.5, 1.5) * kill_every
            victim = random.choice(pids)
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            pids.remove(victim)
            kills += 1
            pids.append(start())
            if kills % 4 == 0:
                disturb(client)
    print(kills)
    sys.exit(min(errors, 1))


def disturb(client: redis.Redis) -> None:
    """What servers do to clients: a connection breaks, the scripts are forgotten."""
    with suppress(redis.RedisError):  # that client is gone, or so is the server
        connections = [
            connection["id"]
            for connection in client.client_list(_type="normal")
            if connection["cmd"] != "client|list"
        ]
        client.script_flush()
        client.client_kill_filter(_id=random.choice(connections or ["0"]))


@dataclass
class Held:
    """What is known of one lease."""

    token: int
    payload: str
    #: When it was got, and until when it was held at the least, ms by the server's clock.
    start: int
    deadline: int
    words: set[str] = field(default_factory=set)
    #: Its worker did not come to its end.
    killed: bool = False

    @property
    def unknown(self) -> bool:
        """Whether it was to be completed, and nobody lived to hear the answer."""
        return ENDING in self.words and not self.words & {COMPLETED, LOST}


def read(directory: Path, ttl: float) -> Iterator[Held]:
    """All leases of all workers."""
    for path in directory.glob("*.log"):
        found: dict[int, Held] = {}
        words: list[str] = [""]
        for line in path.read_text().splitlines():
            words = line.split(" ")
            if words[0] == GOT:
                token, deadline = int(words[1]), int(words[3])
                start = deadline - round(ttl * 1000)
                found[token] = Held(token, words[2], start, deadline)
            elif words[0] != QUIT:
                lease = found[int(words[1])]
                lease.words.add(words[0])
                if words[0] == EXTENDED:
                    lease.deadline = max(lease.deadline, int(words[2]))
        for lease in found.values():
            lease.killed = words[0] != QUIT
        yield from found.values()


def check(leases: Sequence[Held], payloads: Sequence[str]) -> Counter[str]:
    """Each item was completed exactly once, and never had two live leases. Returns what happened,
    for the reader.
    """
    assert len({lease.token for lease in leases}) == len(leases), "a token was issued twice"
    by_payload: dict[str, list[Held]] = {payload: [] for payload in payloads}
    for lease in sorted(leases, key=lambda lease: lease.token):
        by_payload[lease.payload].append(lease)
    seen: Counter[str] = Counter()
    for payload, held in by_payload.items():
        completed = [lease for lease in held if COMPLETED in lease.words]
        assert len(completed) <= 1, f"{payload} was completed twice: {held}"
        if completed:
            assert completed[0] is held[-1], f"{payload} was leased after it was completed: {held}"
        else:
            # A worker was killed between the server's answer and its own next line.
            assert any(x.unknown and x.killed for x in held), f"{payload} is lost: {held}"
        for earlier, later in pairwise(held):
            assert RETURNING in earlier.words or later.start >= earlier.deadline, (
                f"{payload} had two live leases: {held}"
            )
        seen["completed"] += len(completed)
        seen["unknown"] += not completed
        seen["leased again"] += len(held) > 1
        seen["lost"] += sum(LOST in lease.words for lease in held)
    return seen


if __name__ == "__main__":
    url, name, ttl, directory, workers, kill_every = sys.argv[1:]
    main(url, name, float(ttl), Path(directory), int(workers), float(kill_every))
