"""What a fleet of idle workers costs the server, whom a push wakes, and how a burst is worked off.

The workers are real to the server: each has a connection of its own and sends what a worker sends,
by pyqueue's own flow and operations. They live in one process, which waits for all of their sockets
at once, so that a thousand of them fit on a benchmark's one client core.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import redis

from pyqueue import Message, Queue, _flows
from pyqueue import _operations as op
from pyqueue._calls import Slot
from pyqueue._keys import Keys
from pyqueue._wire import pack

from .cost import PAYLOAD
from .measure import Meter, Spread, spread
from .servers import Server

NAME = "pyqueue-bench:fleet"
TTL = 60.0
#: Seconds until what a fleet is asked for must have happened.
PATIENCE = 60.0


def connect(url: str) -> socket.socket:
    """A socket to the server of a URL, as redis-py reads it."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(parts.path)
    else:
        connection = socket.create_connection((parts.hostname, parts.port or 6379))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if parts.password:
        raise ValueError("a server with a password is not known here")
    connection.setblocking(False)
    return connection


class Worker:
    """One that leases, completes with its next call, and blocks when there is nothing."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.socket = connect(fleet.url)
        self.blocked = False
        self._fleet = fleet
        self._reader = hiredis.Reader()
        self._slot = Slot()
        self._lease = op.Lease(1, TTL, b"worker-%d" % number)
        self._flow: Any = None
        self._operation = self._lease

    def begin(self) -> None:
        """Sends the first call."""
        self._call(self._lease)

    def _call(self, operation: op.Lease) -> None:
        fleet, slot = self._fleet, self._slot
        self._operation = operation
        slot.number += 1
        args = ("", slot.id, slot.number, slot.ack, *operation.args())
        fleet.scripts += 1
        self.socket.sendall(
            b"*%d\r\n%b%b" % (3 + len(fleet.names) + len(args), fleet.beginning, pack(args))
        )

    def read(self) -> None:
        """What came goes on to where it was asked for."""
        self._reader.feed(self.socket.recv(1 << 16))
        reply = self._reader.gets()
        while reply is not False:
            if isinstance(reply, hiredis.HiredisError):
                raise RuntimeError(f"the server answered {reply}")  # noqa: TRY004
            if self.blocked:
                self.blocked = False
                self._fleet.blocked -= 1
                self._fleet.woken += reply is not None
                self.go_on()
            else:
                self._answered(self._operation.decode(reply))
            reply = self._reader.gets()

    def _answered(self, result: op.LeaseReply) -> None:
        if self._operation.recorded(result):
            self._slot.ack = self._slot.number
        self._fleet.completed += len(self._operation.completed) - len(result.lost)
        if self._flow is not None:
            self._follow(lambda: cast("_flows.Step", self._flow.send(result)))
        elif result.messages:
            self._work(result)
        else:
            self._flow = _flows.wait_for_items(result, self._lease, None, False)
            self.go_on()

    def go_on(self) -> None:
        """After a wait."""
        self._follow(lambda: cast("_flows.Step", next(self._flow)))

    def _follow(self, advance: Callable[[], _flows.Step]) -> None:
        try:
            step = advance()
        except StopIteration as stop:
            self._flow = None
            self._work(stop.value)
            return
        if isinstance(step, _flows.Call):
            self._call(step.operation)
        elif isinstance(step, _flows.Block):
            self.blocked = True
            self._fleet.blocked += 1
            fleet = self._fleet
            seconds = f"{step.seconds:.3f}"
            self.socket.sendall(
                b"*6\r\n" + pack(("BLMOVE", *fleet.lists, "LEFT", "RIGHT", seconds))
            )
        else:
            self._fleet.later(step.seconds, self)

    def _work(self, result: op.LeaseReply) -> None:
        """Nothing to do: the item is completed with the next call, which leases the next."""
        self._fleet.taken.append(time.perf_counter())
        tokens = [result.first_token]
        self._call(op.Lease(1, TTL, self._lease.worker, tokens))


class Fleet:
    """Workers, and what they have done so far."""

    def __init__(self, url: str, size: int, name: str = NAME) -> None:
        keys = Keys(name)
        self.url = url
        self.names = keys.pick(op.Lease.script.keys, wide=False)
        self.lists = keys.pick(("waiting", "handoff"))
        self.beginning = pack(("EVALSHA", op.Lease.script.sha, len(self.names), *self.names))
        self.scripts = self.woken = self.completed = self.blocked = 0
        #: When items were leased.
        self.taken: list[float] = []
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Worker]] = []
        self._count = 0
        with redis.Redis.from_url(url) as client:
            client.script_load(op.Lease.script.source)
        self.workers = [Worker(self, number) for number in range(size)]
        for worker in self.workers:
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)
            worker.begin()

    def later(self, seconds: float, worker: Worker) -> None:
        """A worker sleeps."""
        self._count += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._count, worker))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Lets the workers go on for so long, or until something is so; returns whether it is."""
        end = time.monotonic() + seconds
        while not until():
            now = time.monotonic()
            if now >= end:
                return False
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2].go_on()
            soonest = min(self._timers[0][0], end) if self._timers else end
            for key, _ in self._selector.select(max(soonest - now, 0)):
                cast("Worker", key.data).read()
        return True

    def rest(self) -> None:
        """Until all of them are blocked. Raises RuntimeError when that takes too long."""
        if not self.run(PATIENCE, lambda: self.blocked == len(self.workers)):
            raise RuntimeError(f"{self.blocked} of {len(self.workers)} workers are blocked")

    def close(self) -> None:
        """Closes all connections."""
        self._selector.close()
        for worker in self.workers:
            worker.socket.close()


@dataclass(frozen=True, slots=True)
class Idle:
    """A fleet with nothing to do."""

    name: str
    #: Of one core, by the server's own account.
    percent: float
    #: Those within scripts among them.
    commands_per_second: float
    #: Lease calls per second and worker, and µs of processor time for one with its BLMOVE.
    polls: float
    micros: float


@dataclass(frozen=True, slots=True)
class Woken:
    """Single pushes onto a fleet that is blocked."""

    pushes: int
    #: Workers that were woken per push.
    least: int
    most: int
    #: µs from before the push to the lease.
    latency: Spread


@dataclass(frozen=True, slots=True)
class Burst:
    """Many items at once onto a fleet that is blocked."""

    name: str
    items: int
    #: Scripts that the workers had run when the last item was completed, per item.
    scripts: Spread
    #: Times that a blocked worker was woken, per item.
    woken: Spread
    seconds: Spread


def idle(fleet: Fleet, meter: Meter, seconds: float, name: str) -> Idle:
    """Watches a fleet that has nothing to do."""
    fleet.rest()
    fleet.run(min(seconds, 2.5))  # the polls come evenly by then
    scripts = fleet.scripts
    meter.start()
    began = time.monotonic()
    fleet.run(seconds)
    passed = time.monotonic() - began
    cost = meter.stop()
    polls = fleet.scripts - scripts
    return Idle(
        name,
        cost.cpu / passed / 1e4,
        sum(calls for _, calls in cost.each.values()) / passed,
        polls / passed / len(fleet.workers),
        cost.cpu / max(polls, 1),
    )


def wake(fleet: Fleet, client: redis.Redis, pushes: int) -> Woken:
    """Pushes single items, as any program may."""
    woken, times = [], []
    for _ in range(pushes):
        fleet.rest()
        before, done = fleet.woken, fleet.completed
        fleet.taken.clear()
        began = time.perf_counter()
        client.rpush(NAME, PAYLOAD)
        assert fleet.run(PATIENCE, lambda: fleet.completed > done)  # noqa: B023
        times.append((fleet.taken[0] - began) * 1e6)
        woken.append(fleet.woken - before)
    return Woken(pushes, min(woken), max(woken), spread(times))


def burst(
    fleet: Fleet, name: str, items: int, repetitions: int, push: Callable[[int], object]
) -> Burst:
    """Pushes many items at once, again and again."""
    scripts, woken, seconds = [], [], []
    for _ in range(repetitions):
        fleet.rest()
        calls, wakes, goal = fleet.scripts, fleet.woken, fleet.completed + items
        began = time.perf_counter()
        push(items)
        assert fleet.run(PATIENCE, lambda: fleet.completed >= goal)  # noqa: B023
        seconds.append(time.perf_counter() - began)
        scripts.append((fleet.scripts - calls) / items)
        woken.append((fleet.woken - wakes) / items)
    return Burst(name, items, spread(scripts), spread(woken), spread(seconds))


def pushes(client: redis.Redis, queue: Queue) -> dict[str, Callable[[int], object]]:
    """The ways in which a burst may come."""

    def raw(items: int) -> None:
        pipeline = client.pipeline(transaction=False)
        for start in range(0, items, 1000):
            pipeline.rpush(NAME, *[PAYLOAD] * min(1000, items - start))
        pipeline.execute()

    def many(items: int) -> None:
        queue.push_many([PAYLOAD] * items)

    def delayed(items: int) -> None:
        queue.push_many([Message(PAYLOAD, delay=1.0)] * items)

    return {"RPUSH": raw, "push_many": many, "delayed, due at once": delayed}


def measure(
    server: Server,
    size: int = 1000,
    seconds: float = 20.0,
    items: int = 10_000,
    repetitions: int = 5,
    log: Callable[[str], object] = bool,
) -> tuple[list[Idle], Woken, list[Burst]]:
    """All of it, on one fleet."""
    with server.client() as client, Queue(NAME, client=client) as queue:
        queue.delete(force=True)
        meter = Meter(client)
        fleet = Fleet(server.url, size)
        log("idle")
        found = [idle(fleet, meter, seconds, "a queue that was never used")]
        client.rpush(NAME, PAYLOAD)
        assert fleet.run(PATIENCE, lambda: fleet.completed == 1)
        found.append(idle(fleet, meter, seconds, "drained"))
        queue.push(PAYLOAD, delay=24 * 3600)
        found.append(idle(fleet, meter, seconds, "one item is delayed for a day"))
        queue.purge()
        log("single pushes")
        woken = wake(fleet, client, 100)
        bursts = []
        for name, push in pushes(client, queue).items():
            log(name)
            bursts.append(burst(fleet, name, items, repetitions, push))
        fleet.close()
        queue.delete(force=True)
    return found, woken, bursts


def heads_and_cells(
    found: Sequence[Idle], woken: Woken, bursts: Sequence[Burst]
) -> list[tuple[list[str], list[list[str]]]]:
    """The tables."""
    latency = woken.latency

    def idle_cells(x: Idle) -> list[str]:
        figures = (f"{x.commands_per_second:,.0f}", f"{x.polls:.2f}", f"{x.micros:.0f}")
        return [x.name, f"{x.percent:.2f}", *figures]

    def burst_cells(x: Burst) -> list[str]:
        figures = (x.scripts.median, x.woken.median, x.seconds.median)
        return [x.name, f"{x.items:,}", *(f"{figure:.2f}" for figure in figures)]

    woken_cells = [
        *(f"{woken.pushes}", f"{woken.least} to {woken.most}", f"{latency.median:.0f}"),
        f"{latency.low:.0f}-{latency.high:.0f}",
    ]
    return [
        (
            ["an idle fleet", "% of a core", "commands/s", "polls/s of a worker", "µs per poll"],
            [idle_cells(x) for x in found],
        ),
        (["single pushes", "workers woken by each", "p50 µs", "quartiles"], [woken_cells]),
        (
            ["a burst", "items", "scripts per item", "woken per item", "s"],
            [burst_cells(x) for x in bursts],
        ),
    ]


def as_json(found: Sequence[Idle | Woken | Burst]) -> list[dict[str, object]]:
    """For the file."""
    rows = []
    for one in found:
        values = ((field.name, getattr(one, field.name)) for field in fields(one))
        rows.append({k: v.as_list() if isinstance(v, Spread) else v for k, v in values})
    return rows
