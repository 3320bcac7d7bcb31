"""The measurements: which peers do what, how often, and how the figures are taken.

Each row has a process of its own for the whole run, on the clients' core, and in it as many workers
as the row says. The repetitions are interleaved: every row once, then every row again, so that
whatever else the machine does hits all of them alike; ratios are taken within a repetition.
"""

from __future__ import annotations

import gc
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import cast

import redis

from . import peers
from .measure import Cost, Meter
from .peers import Peer
from .servers import Server, pin_client

PREFIX = "pyqueue-bench:"
#: Seconds that the workers of a row have to come together.
START = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """One subject doing one thing."""

    group: str
    name: str
    peer: type[Peer]
    #: Items in a repetition.
    items: int
    workers: int = 1
    threads: bool = False


PUSH, WORK, WAKE, MEMORY, FLEET = "push", "work", "wake", "memory", "fleet"
#: What the ratios of a group are taken of.
BASE = {
    PUSH: "RPUSH, one at a time",
    WORK: "raw LMOVE + LREM",
    WAKE: "raw BLMOVE",
    MEMORY: "list filled by RPUSH",
    FLEET: "raw LMOVE + LREM",
}
TUTORIAL = "rediswq.py"

ROWS: tuple[Row, ...] = (
    Row(PUSH, "RPUSH, one at a time", peers.Raw, 2000),
    Row(PUSH, "RPUSH, 1,000 at a time", peers.RawBulk, 100_000),
    Row(PUSH, "XADD, one at a time", peers.Streams, 2000),
    Row(PUSH, "XADD, 1,000 in a pipeline", peers.StreamsBulk, 10_000),
    Row(PUSH, "pyqueue push", peers.PyQueue, 2000),
    Row(PUSH, "pyqueue push_many", peers.PyQueueBulk, 40_000),
    Row(WORK, "raw LMOVE + LREM", peers.Raw, 1500),
    Row(WORK, "raw LMOVE + LREM, packed by hand", peers.RawByHand, 2000),
    Row(WORK, TUTORIAL, peers.Tutorial, 600),
    Row(WORK, "rediswq.py, LLEN of both lists always", peers.TutorialBoth, 600),
    Row(WORK, "Streams, COUNT 1", peers.Streams, 1000),
    Row(WORK, "Streams, COUNT 100", peers.Streams100, 10_000),
    Row(WORK, "pyqueue, one round trip per item", peers.PyQueue, 2500),
    Row(WORK, "pyqueue, the same, items pushed by RPUSH", peers.PyQueueRaw, 2500),
    Row(WORK, "pyqueue, lease and complete apart", peers.PyQueueTwo, 1500),
    Row(WORK, "pyqueue drain()", peers.PyQueueDrain, 2500),
    Row(WORK, "pyqueue drain(batch=100)", peers.PyQueueDrain100, 10_000),
    Row(WORK, "pyqueue.rediswq, the tutorial's worker", peers.PyQueueTutorial, 1000),
    Row(WORK, "pyqueue, batches of 10", peers.PyQueue10, 10_000),
    Row(WORK, "pyqueue, batches of 100", peers.PyQueue100, 40_000),
    Row(WORK, "pyqueue, batches of 1,000", peers.PyQueue1000, 40_000),
    Row(WAKE, "raw BLMOVE", peers.Raw, 60),
    Row(WAKE, TUTORIAL, peers.Tutorial, 60),
    Row(WAKE, "Streams", peers.Streams, 60),
    Row(WAKE, "pyqueue lease(wait=…)", peers.PyQueue, 60),
    Row(MEMORY, "list filled by RPUSH", peers.Raw, 100_000),
    Row(MEMORY, "stream", peers.StreamsBulk, 100_000),
    Row(MEMORY, "pyqueue", peers.PyQueueBulk, 100_000),
    *(
        Row(FLEET, name, peer, items, workers, threads)
        for workers, threads in ((1, False), (4, False), (16, False), (4, True), (16, True))
        for name, peer, items in (
            ("raw LMOVE + LREM", peers.Raw, 1600),
            (TUTORIAL, peers.Tutorial, 640),
            ("pyqueue, one round trip per item", peers.PyQueue, 2400),
            ("pyqueue, batches of 100", peers.PyQueue100, 32_000),
        )
    ),
)


@dataclass(slots=True)
class Sample:
    """One repetition of a row, per item."""

    #: Items per second; of MEMORY bytes per item; of WAKE nothing.
    rate: float
    cost: Cost | None = None
    #: µs of processor time of the workers, per item.
    client_cpu: float = 0.0
    #: Seconds from just before the push to the worker having its item.
    latencies: list[float] = field(default_factory=list)


# In the row's process


@dataclass(frozen=True, slots=True)
class Worked:
    """What a worker did: from when to when (monotonic), how many items."""

    began: float
    ended: float
    count: int
    #: Seconds of processor time; of threads, of the thread.
    cpu: float


def _consume(peer: Peer, go: Callable[[], object]) -> Worked:
    """Works until the queue is empty. It ended when the last item was done: what comes after, a
    tutorial's worker that waits for 2 s, is not counted.
    """
    peer.client.ping()
    gc.collect()
    go()
    count, began, cpu = 0, time.monotonic(), time.thread_time()
    ended = began
    for done in peer.consume():
        count += done
        ended = time.monotonic()
    return Worked(began, ended, count, time.thread_time() - cpu)


def _consume_together(row: Row, url: str, name: str) -> list[Worked]:
    """All workers of a row at once."""
    results: list[Worked] = []
    if row.threads:
        together = threading.Barrier(row.workers)

        def work() -> None:
            peer = row.peer(url, name)
            results.append(_consume(peer, lambda: together.wait(START)))
            peer.close()

        threads = [threading.Thread(target=work) for _ in range(row.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(row.workers)

        def work_alone(answer: Connection) -> None:
            peer = row.peer(url, name)
            answer.send(_consume(peer, lambda: barrier.wait(START)))
            peer.close()

        workers, pipes = [], []
        for _ in range(row.workers):
            mine, its = context.Pipe(duplex=False)
            worker = context.Process(target=work_alone, args=(its,))
            worker.start()
            # Here it is closed before the next fork: so the end of a worker is the end of its pipe.
            its.close()
            workers.append(worker)
            pipes.append(mine)
        results += [cast("Worked", pipe.recv()) for pipe in pipes]
        for worker in workers:
            worker.join()
    return results


def _push(peer: Peer, count: int) -> Worked:
    gc.collect()
    began, cpu = time.monotonic(), time.thread_time()
    peer.push(count)
    return Worked(began, time.monotonic(), count, time.thread_time() - cpu)


def _serve(row: Row, url: str, name: str, pipe: Connection) -> None:
    """What a row's process does: what it is told, until it is told nothing more. It answers with
    what its workers did.
    """
    pin_client()
    peer = row.peer(url, name)
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        answer: list[Worked] = []
        if order == "push":
            answer = [_push(peer, row.items)]
        elif order == "consume":
            alone = row.workers == 1
            answer = [_consume(peer, bool)] if alone else _consume_together(row, url, name)
        elif order == "wake":
            peer.wake()
            answer = [Worked(0.0, time.monotonic(), 1, 0.0)]
        elif order == "settle":
            peer.settle()
        elif order == "fill":
            peer.fill(row.items)
        else:
            assert order == "clean"
            peer.clean()
        pipe.send(answer)


# In the process that measures


class Runner:
    """A row, its process, and its samples."""

    def __init__(self, row: Row, server: Server, number: int) -> None:
        self.row = row
        self.name = f"{PREFIX}{number}"
        self.samples: list[Sample] = []
        self._server = server
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(row, server.url, self.name, other))
        self._process.start()
        other.close()

    def tell(self, order: str) -> None:
        """Gives an order."""
        self._pipe.send(order)

    def answer(self) -> list[Worked]:
        """Waits for the answer. Raises RuntimeError when the process has died of an error."""
        try:
            return cast("list[Worked]", self._pipe.recv())
        except EOFError:
            raise RuntimeError(f"the process of {self.row} has ended") from None

    def ask(self, order: str) -> list[Worked]:
        """Gives an order, and waits."""
        self.tell(order)
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(5)

    def repeat(self, client: redis.Redis, meter: Meter) -> None:
        """One more repetition."""
        self.ask("clean")
        if self.row.group == MEMORY:
            before = _used(client)
            self.ask("fill")
            self.samples.append(Sample((_used(client) - before) / self.row.items))
        elif self.row.group == WAKE:
            self.samples.append(Sample(0.0, latencies=list(self._wake(client))))
        else:
            order = "push" if self.row.group == PUSH else "consume"
            if order == "consume":
                self.ask("fill")
            meter.start()
            workers = self.ask(order)
            cost = meter.stop().per(self.row.items)
            assert len(workers) == self.row.workers
            assert sum(worker.count for worker in workers) == self.row.items, (self.row, workers)
            seconds = max(x.ended for x in workers) - min(x.began for x in workers)
            cpu = sum(worker.cpu for worker in workers) / self.row.items * 1e6
            self.samples.append(Sample(self.row.items / seconds, cost, cpu))
        self.ask("clean")

    def _wake(self, client: redis.Redis) -> Iterator[float]:
        streams = issubclass(self.row.peer, peers.Streams)
        payload = peers.payloads(1)[0]
        for _ in range(self.row.items):
            self.tell("wake")
            while not cast("dict[str, int]", client.info("clients"))["blocked_clients"]:
                # An answer now is that of a process that has died.
                if self._pipe.poll(0.001):
                    self.answer()
            # Blocked for a while: what is idle is cold.
            time.sleep(random.uniform(0.002, 0.006))
            began = time.monotonic()
            if streams:
                client.xadd(self.name, {"p": payload})
            else:
                client.rpush(self.name, payload)
            (woken,) = self.answer()
            yield woken.ended - began
            self.ask("settle")


def _used(client: redis.Redis) -> int:
    return int(cast("dict[str, int]", client.info("memory"))["used_memory"])


def run(
    server: Server,
    rows: Sequence[Row],
    repetitions: int,
    progress: Callable[[], object] = bool,
) -> list[Runner]:
    """Measures rows, a group after the other. Calls ``progress`` after each repetition of a row."""
    results: list[Runner] = []
    with server.client() as client:
        meter = Meter(client)
        for group in dict.fromkeys(row.group for row in rows):
            mine = [row for row in rows if row.group == group]
            runners = [Runner(row, server, len(results) + i) for i, row in enumerate(mine)]
            results += runners
            try:
                # The first repetition warms up: it loads scripts, opens connections.
                for repetition in range(repetitions + 1):
                    for runner in runners:
                        runner.repeat(client, meter)
                        if not repetition:
                            runner.samples.clear()
                        progress()
            finally:
                for runner in runners:
                    runner.close()
    return results


def select(groups: Sequence[str], scale: float = 1.0) -> list[Row]:
    """The rows of some groups, with so many times the items."""
    return [
        replace(row, items=max(2 * row.workers, int(row.items * scale)))
        for row in ROWS
        if row.group in groups
    ]
