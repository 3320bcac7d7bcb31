"""Histories of true concurrency: recorded from many processes, and checked.

Run as a script, it forks workers on one queue that lease for moments only, dawdle, settle one lease
from two threads at once, try again with tokens that they have settled or lost, and are stopped
(SIGSTOP) in the middle of anything until their leases have run out. Each call is recorded with the
time before it and after it, and what it answered.

``check`` then looks for an order of all calls on an item that agrees with those times and with
what one item may do (``steps``): the search of Wing and Gong with the memory of Lowe, as in Knossos
and Porcupine. A history is linearizable when that of each of its items is, so each search is small.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, NoReturn

import redis

from pyqueue import Batch, Lease, Queue
from tests.faults import fleet

#: Seconds that a lease lasts, and of a worker's dawdling.
TTL = 0.1
#: How often an item may fail or run out.
MAX_ATTEMPTS = 6
SETTLING = ("complete", "release", "fail", "bury", "extend")


@dataclass(frozen=True)
class Taken:
    """A lease as its worker got it; times in ms by the server's clock."""

    token: int
    payload: str
    deliveries: int
    attempts: int
    #: When it was made, until when it lasts.
    start: int
    deadline: int


@dataclass(frozen=True)
class Settled:
    """What became of one token."""

    token: int
    held: bool
    #: Until when it was extended, ms.
    deadline: int = 0
    dead: bool = False


@dataclass(frozen=True)
class Call:
    """A call: what was asked, between which times, and the answer."""

    verb: str
    #: Monotonic, ns: the same clock for all processes of a machine.
    invoked: int
    returned: int
    #: The same by the server's clock, ms: at the earliest, at the latest.
    earliest: int
    latest: int
    #: What was pushed.
    payloads: Sequence[str] = ()
    settled: Sequence[Settled] = ()
    #: How long what was given back must wait at the least, ms.
    delay: int = 0
    taken: Sequence[Taken] = ()
    drained: bool = False

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Call:
        fields = json.loads(text)
        fields["settled"] = [Settled(**settled) for settled in fields["settled"]]
        fields["taken"] = [Taken(**taken) for taken in fields["taken"]]
        return cls(**fields)


# What one item may do


class Item(NamedTuple):
    """The state of one item: absent, waiting, leased, done or dead."""

    state: str = "absent"
    #: Of a lease.
    token: int = 0
    #: Until when it is leased at the least, or must wait, ms by the server's clock.
    until: int = 0
    deliveries: int = 0
    attempts: int = 0


class Event(NamedTuple):
    """The part of a call that concerns one item."""

    call: Call
    taken: Taken | None = None
    settled: Settled | None = None

    def __str__(self) -> str:
        call = self.call
        what = self.taken or self.settled or ""
        return f"{call.invoked}..{call.returned} ({call.earliest}) {call.verb} {what}"


def expired(item: Item) -> Item:
    """The item after its lease ran out and was reclaimed."""
    attempts = item.attempts + 1
    state = "dead" if attempts >= MAX_ATTEMPTS else "waiting"
    return Item(state, 0, 0, item.deliveries + 1, attempts)


def steps(item: Item, event: Event) -> Iterator[Item]:
    """The states that the item can be in after the event; none if it cannot be what happened."""
    call, taken, settled = event
    if taken is not None:
        if item.state == "leased" and taken.start >= item.until:
            item = expired(item)
        counts = (item.deliveries, item.attempts) == (taken.deliveries, taken.attempts)
        if item.state == "waiting" and taken.start >= item.until and counts:
            yield item._replace(state="leased", token=taken.token, until=taken.deadline)
    elif settled is None:
        if item.state == "absent":
            yield Item("waiting")
    elif settled.held:
        if item.state == "leased" and item.token == settled.token:
            yield from accepted(item, call, settled)
    elif item.state != "leased" or item.token != settled.token:
        yield item
    elif call.latest >= item.until:
        yield expired(item)  # somebody has reclaimed it, and who is not asked here


def accepted(item: Item, call: Call, settled: Settled) -> Iterator[Item]:
    """What a verb makes of the item whose lease it was given."""
    back = Item("waiting", 0, call.earliest + call.delay, item.deliveries + 1, item.attempts)
    match call.verb:
        case "extend":
            yield item._replace(until=settled.deadline)
        case "complete" | "lease":
            yield Item("done")
        case "release":
            yield back
        case "bury":
            yield Item("dead")
        case "fail":
            attempts = item.attempts + 1
            if settled.dead == (attempts >= MAX_ATTEMPTS):
                yield Item("dead") if settled.dead else back._replace(attempts=attempts)


# The checks


def check(calls: Sequence[Call]) -> Counter[str]:
    """All of the checks. Returns what happened, for the reader."""
    calls = sorted(calls, key=lambda call: call.invoked)
    tokens_rise(calls)
    items = by_item(calls)
    ends: dict[str, Event] = {}
    for payload, events in items.items():
        for end in one_end(payload, events):
            ends[payload] = end
        in_order(payload, events)
    drained_is_true(calls, items, ends)
    seen = Counter(call.verb for call in calls)
    seen["events"] = sum(map(len, items.values()))
    seen["items"] = len(items)
    for call in calls:
        seen["leases"] += len(call.taken)
        seen["lost"] += sum(not settled.held for settled in call.settled)
        seen["drained"] += call.drained
    return seen


def tokens_rise(calls: Sequence[Call]) -> None:
    """I5: none is issued twice, and those of a call are greater than all that were known before."""
    issued = [lease.token for call in calls for lease in call.taken]
    assert len(set(issued)) == len(issued), "I5: a token was issued twice"
    highest, last = 0, list[tuple[int, int]]()
    for call in sorted(calls, key=lambda call: call.returned):
        if call.taken:
            highest = max(highest, *(lease.token for lease in call.taken))
            last.append((call.returned, highest))
    for call in calls:
        before = bisect_left(last, (call.invoked, 0))
        if before and call.taken:
            least = min(lease.token for lease in call.taken)
            assert least > last[before - 1][1], f"I5: tokens did not rise: {call}"


def by_item(calls: Iterable[Call]) -> dict[str, list[Event]]:
    """The events of each item, in the order of their beginning."""
    calls = list(calls)
    payload_of = {lease.token: lease.payload for call in calls for lease in call.taken}
    items: dict[str, list[Event]] = defaultdict(list)
    for call in calls:
        for payload in call.payloads:
            items[payload].append(Event(call))
        for settled in call.settled:
            items[payload_of[settled.token]].append(Event(call, settled=settled))
        for taken in call.taken:
            items[taken.payload].append(Event(call, taken=taken))
    return items


def one_end(payload: str, events: Sequence[Event]) -> Iterator[Event]:
    """I2: an item is completed or buried at most once, and a token ends at most once."""
    accepted = [event for event in events if event.settled is not None and event.settled.held]
    ends = [event for event in accepted if ends_item(event)]
    assert len(ends) <= 1, f"I2: {payload} has ended twice: {shown(ends)}"
    tokens = Counter(
        event.settled.token for event in accepted if event.settled and event.call.verb != "extend"
    )
    assert max(tokens.values(), default=0) <= 1, f"I2: a token has ended twice: {shown(accepted)}"
    return iter(ends)


def ends_item(event: Event) -> bool:
    assert event.settled is not None
    return event.call.verb in ("complete", "lease", "bury") or event.settled.dead


def drained_is_true(
    calls: Iterable[Call], items: dict[str, list[Event]], ends: dict[str, Event]
) -> None:
    """Who was told that nothing is left was told so when no item was live from his call's beginning
    to its end.
    """
    lives = sorted(
        (events[0].call.returned, ends[payload].call.invoked, payload)
        for payload, events in items.items()
        if payload in ends
    )
    # Of those that were pushed by then, when the last one ended, and which.
    longest = list(accumulate(((died, payload) for _, died, payload in lives), max))
    for call in calls:
        before = bisect_left(lives, call.invoked, key=lambda life: life[0])
        if call.drained and before:
            died, payload = longest[before - 1]
            assert died < call.returned, f"{payload} was live when the queue was drained: {call}"


def in_order(payload: str, events: Sequence[Event]) -> None:
    """There is an order of the events that agrees with their times and that an item can go through.
    (I7 is a part of that: to lease what another holds is no step, and so is a token's success
    after a later lease.)
    """
    everything = (1 << len(events)) - 1
    best, stuck = 0, Item()
    seen = {(0, Item())}
    stack = [(0, Item())]
    while stack:
        done, item = stack.pop()
        if done == everything:
            return
        if done.bit_count() >= best:
            best, stuck = done.bit_count(), item
        left = [number for number in range(len(events)) if not done >> number & 1]
        # What begins after another has returned cannot come before it.
        horizon = min(events[number].call.returned for number in left)
        for number in left:
            if events[number].call.invoked <= horizon:
                for following in steps(item, events[number]):
                    reached = (done | 1 << number, following)
                    if reached not in seen:
                        seen.add(reached)
                        stack.append(reached)
    raise AssertionError(
        f"{payload}: no order explains it; {best} events lead to {stuck}: {shown(events)}"
    )


def shown(events: Iterable[Event]) -> str:
    return "\n  ".join(["", *map(str, events)])


# The recording


@dataclass
class Worker:
    """Calls verbs at random, and writes down each of them."""

    queue: Queue
    log: fleet.Log
    #: Held, as far as it knows; and settled or lost.
    held: list[Lease] = field(default_factory=list)
    old: list[Lease] = field(default_factory=list)

    def record(self, verb: str, run: Callable[[], dict[str, object]], **asked: object) -> None:
        earliest, invoked = time.time_ns() // 1_000_000, time.monotonic_ns()
        answer = run()
        returned, latest = time.monotonic_ns(), time.time_ns() // 1_000_000 + 1
        call = Call(verb, invoked, returned, earliest, latest, **asked | answer)  # type: ignore[arg-type]
        self.log.write(call.dump())

    def push(self, payloads: Sequence[str]) -> None:
        """Half of them as a plain producer does."""

        def run() -> dict[str, object]:
            if random.random() < 0.5:
                self.queue.push_many(payloads)
            else:
                self.queue._client.rpush(self.queue.name, *payloads)
            return {}

        self.record("push", run, payloads=payloads)

    def lease(self, n: int, ttl: float, done: Sequence[Lease] = ()) -> Batch[Lease]:
        """Leases, and completes what is done in the same call."""
        batches: list[Batch[Lease]] = []

        def run() -> dict[str, object]:
            batch = self.queue.lease_many(n, ttl, completed=done)
            batches.append(batch)
            return {
                "settled": [Settled(x.token, x.token not in batch.lost) for x in done],
                "taken": [taken(lease, ttl) for lease in batch],
                "drained": batch.drained,
            }

        self.record("lease", run)
        self.held += batches[0]
        return batches[0]

    def settle(self, verb: str, leases: Sequence[Lease]) -> None:
        """Settles or extends leases, held or not."""
        delay = random.choice((0, 0, 0.02))
        # Copies: another thread may settle the same.
        leases = [Lease(self.queue, x._message, x.token, x.deadline, x._until) for x in leases]

        def run() -> dict[str, object]:
            queue = self.queue
            match verb:
                case "complete":
                    held = queue.complete_many(leases)
                case "release":
                    held = queue.release_many(leases, delay)
                case "fail":
                    held = queue.fail_many(leases, "as told", retry_in=delay)
                case "bury":
                    held = queue.bury_many(leases, "as told")
                case _:
                    held = queue.extend_many(leases, TTL)
            return {
                "settled": [
                    Settled(
                        lease.token,
                        ok,
                        round(lease.deadline * 1000) if verb == "extend" and ok else 0,
                        verb == "fail" and ok and lease.dead,
                    )
                    for lease, ok in zip(leases, held, strict=True)
                ]
            }

        self.record(verb, run, delay=round(delay * 1000))

    def reclaim(self) -> None:
        def run() -> dict[str, object]:
            self.queue.reclaim()
            return {}

        self.record("reclaim", run)

    def forget(self, leases: Sequence[Lease]) -> None:
        """They are settled; some of them are tried again later."""
        self.old = [*self.old, *leases][-20:]

    def turn(self, both: ThreadPoolExecutor) -> Batch[Lease]:
        """Something like what workers do, or should not."""
        ttl = random.choice((TTL, TTL, 10 * TTL))
        done, self.held = self.held, []
        batch = self.lease(random.choice((1, 1, 3, 10)), ttl, done)
        self.forget(done)
        if random.random() < 0.1:
            time.sleep(random.uniform(0.5, 1.5) * TTL)  # some leases run out
        if self.old and random.random() < 0.2:
            self.settle(random.choice(SETTLING), [random.choice(self.old)])
        if random.random() < 0.05:
            self.reclaim()
        kinds = ("lease", "extend", "complete", "release", "fail", "bury", "race")
        (kind,) = random.choices(kinds, (40, 10, 15, 12, 12, 1, 10))
        if kind == "race":
            leases, self.held = self.held, []
            verbs = random.choices(SETTLING, k=2)
            for other in [both.submit(self.settle, verb, list(leases)) for verb in verbs]:
                other.result()
            self.forget(leases)
        elif kind != "lease" and self.held:
            leases = list(self.held)
            self.settle(kind, leases)
            if kind != "extend":
                self.held = []
                self.forget(leases)
        return batch


def taken(lease: Lease, ttl: float) -> Taken:
    deadline = round(lease.deadline * 1000)
    start = deadline - round(ttl * 1000)
    counts = (lease.deliveries, lease.attempts)
    return Taken(lease.token, lease.text, *counts, start, deadline)


def work(url: str, name: str, directory: Path) -> None:
    """One worker, until the queue is sealed and drained."""
    random.seed()
    with Queue(name, url=url) as queue, ThreadPoolExecutor(2) as both:
        worker = Worker(queue, fleet.Log(directory))
        batch = worker.turn(both)
        while not (batch.drained and batch.sealed):
            batch = worker.turn(both)
            if not batch and not worker.held:
                time.sleep(random.uniform(0, 0.005))


def produce(url: str, name: str, directory: Path, items: int) -> None:
    """Pushes while the others work, then seals."""
    random.seed()
    with Queue(name, url=url) as queue:
        worker = Worker(queue, fleet.Log(directory))
        left = [str(number) for number in range(items)]
        while left:
            some = random.randint(1, 20)
            worker.push(left[:some])
            left = left[some:]
            while queue.stats().waiting > 50:
                time.sleep(0.001)
        queue.seal()


def main(url: str, name: str, directory: Path, workers: int, items: int) -> NoReturn:
    """Runs them all, and stops one now and then until its leases have run out. Exits with 1 when
    one of them ends with an error.
    """
    with redis.Redis.from_url(url) as client:
        client.hset(f"{{{name}}}:meta", mapping={"max_attempts": MAX_ATTEMPTS})
    pids = [fleet.fork(lambda: work(url, name, directory)) for _ in range(workers)]
    everybody = [fleet.fork(lambda: produce(url, name, directory, items)), *pids]
    stopped: dict[int, float] = {}
    stops = errors = 0
    while everybody:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            everybody.remove(pid)
            stopped.pop(pid, None)
            errors += status != 0
            continue
        now = time.monotonic()
        for victim in [victim for victim, until in stopped.items() if until < now]:
            del stopped[victim]
            os.kill(victim, signal.SIGCONT)
        if len(stopped) < workers // 2:
            victim = random.choice(everybody)
            if victim not in stopped:
                os.kill(victim, signal.SIGSTOP)
                stopped[victim] = now + random.uniform(0.5, 3) * TTL
                stops += 1
        time.sleep(0.002)
    print(stops)
    sys.exit(min(errors, 1))


def read(directory: Path) -> Iterator[Call]:
    """All calls of all workers."""
    for path in directory.glob("*.log"):
        yield from map(Call.load, path.read_text().splitlines())


if __name__ == "__main__":
    url, name, directory, workers, items = sys.argv[1:]
    main(url, name, Path(directory), int(workers), int(items))
