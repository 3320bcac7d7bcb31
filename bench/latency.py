"""The longest calls that clients make at the default bounds: how long a script keeps the server
from everybody else, as its slow log has it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyqueue import Message
from pyqueue import _operations as op
from pyqueue._leases import PAGE
from pyqueue._message import id_bytes
from pyqueue._outgoing import FEW, MOST, encode

from .cost import TTL, WORKER, Bench, Make, plain_message
from .features import everything, group_of, later, ranked, unique, unique_for
from .measure import Meter
from .servers import Server

#: The most items in a call that looks at none of them; of others it is `FEW`.
MANY = MOST
MIB = 1 << 20
#: The most headers that a message can have, nearly: a map of 10,000 small numbers.
HEADERS = {f"{i:04x}": 1 for i in range(10_000)}


def held_twice(_: int) -> Message:
    """What costs a script most: each in a group of its own, with a dedupe key."""
    message = unique(0)
    return Message(payload=message.payload, unique=message.unique, group=message.unique)


def sized(size: int) -> Make:
    """Messages of so many bytes."""
    payload = b"x" * size
    return lambda _: Message(payload=payload)


def with_headers(_: int) -> Message:
    """One that is all headers."""
    return Message(payload=b"", headers=HEADERS)


@dataclass(frozen=True, slots=True)
class Case:
    """A row: a call, and what is there before it."""

    name: str
    #: Makes what the call needs; returns the call.
    prepare: Callable[[Bench], op.Operation[Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """ms of the call, over the repetitions; how many commands it runs."""

    name: str
    median: float
    least: float
    most: float
    commands: float


def _tokens(bench: Bench, make: Make, count: int, ttl: float = TTL) -> list[int]:
    tokens = bench.tokens(count, ttl, make)
    assert len(tokens) == count
    return tokens


def _on_tokens(
    operation: Callable[[list[int]], op.Operation[Any]],
    make: Make,
    count: int = FEW,
    behind: bool = False,
) -> Callable[[Bench], op.Operation[Any]]:
    """A call on many leases; ``behind``: with another item behind each in its group."""

    def prepare(bench: Bench) -> op.Operation[Any]:
        tokens = _tokens(bench, make, count)
        if behind:
            bench.fill(count, make)
        return operation(tokens)

    return prepare


def _pushed(make: Make, count: int) -> op.Push:
    encoded = [encode(make(i), 4 * MIB) for i in range(count)]
    return op.Push([message for _, message in encoded], encoded[0][0])


def _push(make: Make, count: int = FEW, before: Make | None = None) -> Callable[[Bench], op.Push]:
    def prepare(bench: Bench) -> op.Push:
        if before:
            bench.fill(2 * MANY, before)
            time.sleep(0.02)
        return _pushed(make, count)

    return prepare


def _briefly(_: int) -> Message:
    """Its dedupe key is forgotten by the next push."""
    message = unique(0)
    return Message(payload=b"", unique=message.unique, unique_for=0.001)


def _lease(make: Make, count: int, n: int = MANY) -> Callable[[Bench], op.Lease]:
    def prepare(bench: Bench) -> op.Lease:
        bench.fill(count, make)
        return op.Lease(n, TTL, WORKER)

    return prepare


def _both(make: Make, count: int) -> Callable[[Bench], op.Lease]:
    """Completes so many, and leases what it may."""

    def prepare(bench: Bench) -> op.Lease:
        tokens = _tokens(bench, make, count)
        bench.fill(MANY, make)
        return op.Lease(MANY, TTL, WORKER, tokens)

    return prepare


def _due(make: Make, count: int, n: int) -> Callable[[Bench], op.Lease]:
    def prepare(bench: Bench) -> op.Lease:
        bench.fill(count, make)
        time.sleep(0.06)
        return op.Lease(n, TTL, WORKER)

    return prepare


def _soon(size: int) -> Make:
    payload = b"x" * size
    return lambda _: Message(payload=payload, delay=0.05)


def _expired(operation: op.Operation[Any], make: Make) -> Callable[[Bench], op.Operation[Any]]:
    def prepare(bench: Bench) -> op.Operation[Any]:
        _tokens(bench, make, MANY, 0.05)
        time.sleep(0.06)
        return operation

    return prepare


def _all_at_once(bench: Bench) -> op.Lease:
    """Some to complete, a hundred expired, a hundred due, keys to forget, and full leases."""
    bench.fill(2 * MANY, _briefly)
    bench.queue.purge()
    bench.fill(100, _soon(64))
    bench.tokens(100, 0.05, held_twice)
    tokens = _tokens(bench, held_twice, FEW, 60)
    bench.fill(MANY, held_twice)
    time.sleep(0.06)
    return op.Lease(MANY, TTL, WORKER, tokens)


def _dead(make: Make) -> Callable[[Bench], op.Redrive]:
    def prepare(bench: Bench) -> op.Redrive:
        bench.fill(PAGE, make)
        bench.queue.bury_many(bench.queue.lease_many(PAGE, TTL), "why")
        ids = [id_bytes(letter.id) for letter in bench.queue.dead()]
        assert len(ids) == PAGE
        return op.Redrive(ids)

    return prepare


def _filled(
    operation: op.Operation[Any], make: Make, count: int = MANY
) -> Callable[[Bench], op.Operation[Any]]:
    def prepare(bench: Bench) -> op.Operation[Any]:
        bench.fill(count, make)
        return operation

    return prepare


def _one_attempt(
    operation: Callable[[list[int]], op.Operation[Any]],
) -> Callable[[Bench], op.Operation[Any]]:
    def prepare(bench: Bench) -> op.Operation[Any]:
        bench.queue.configure(max_attempts=1)
        tokens = _tokens(bench, held_twice, FEW)
        bench.fill(FEW, held_twice)
        return operation(tokens)

    return prepare


CASES: tuple[Case, ...] = (
    Case("push_many 1000", _push(plain_message, MANY)),
    Case("push_many 200, priority", _push(ranked)),
    Case("push_many 200, delayed", _push(later)),
    Case("push_many 200, dedupe key", _push(unique)),
    Case("push_many 200, dedupe key and group", _push(held_twice)),
    Case("push_many 200, one group", _push(group_of(1))),
    Case(
        "push_many 200, dedupe key for a time, 2000 to forget", _push(unique_for, before=_briefly)
    ),
    Case("push 1 MiB", _push(sized(MIB - 100), 1)),
    Case("push_many 200 of 4 KiB", _push(sized(4096))),
    Case("lease 1 of 1 MiB", _lease(sized(MIB - 100), 1, 1)),
    Case("lease 1 of 1 MiB, 10 are there", _lease(sized(MIB - 100), 10, 1)),
    Case("lease 1000 of 1 MiB, 20 are there", _lease(sized(MIB - 100), 20)),
    Case("lease 1000 of 4 KiB", _lease(sized(4096), MANY)),
    Case("lease 1000", _lease(plain_message, MANY)),
    Case("lease 1000, priority", _lease(ranked, MANY)),
    Case("lease 1000, dedupe key and group", _lease(held_twice, MANY)),
    Case("lease 1000, of 60 KiB of headers", _lease(with_headers, 60)),
    Case("lease 1000, 100 delayed and due", _due(_soon(64), 100, MANY)),
    Case("lease 1, 100 of 1 MiB delayed and due", _due(_soon(MIB - 100), 100, 1)),
    Case("lease 1, 1000 expired", _expired(op.Lease(1, TTL, WORKER), plain_message)),
    Case(
        "lease 1, 1000 expired, dedupe key and group",
        _expired(op.Lease(1, TTL, WORKER), held_twice),
    ),
    Case("complete 1000 + lease 1000", _both(plain_message, MANY)),
    Case("complete 200 + lease 1000, key and group", _both(held_twice, FEW)),
    Case("complete 200 + lease 1000, next of 1000 groups", _both(group_of(MANY), FEW)),
    Case("complete + lease, all at once", _all_at_once),
    Case("complete 1000", _on_tokens(op.Complete, plain_message, MANY)),
    Case("complete 200, dedupe key and group", _on_tokens(op.Complete, held_twice)),
    Case("complete 200, next of 200 groups", _on_tokens(op.Complete, group_of(FEW), behind=True)),
    Case("release 200", _on_tokens(op.Release, plain_message)),
    Case("release 200, priority", _on_tokens(op.Release, ranked)),
    Case("release 200, delayed", _on_tokens(lambda tokens: op.Release(tokens, 60), plain_message)),
    Case("release 1 MiB", _on_tokens(op.Release, sized(MIB - 100), 1)),
    Case("fail 200", _on_tokens(lambda tokens: op.Fail(tokens, "error"), plain_message)),
    Case("fail 200, dedupe key and group, dead", _one_attempt(lambda x: op.Fail(x, "error"))),
    Case("bury 200", _on_tokens(lambda tokens: op.Bury(tokens, "why"), plain_message)),
    Case("bury 200, dedupe key and group", _on_tokens(lambda x: op.Bury(x, "why"), held_twice)),
    Case("extend 200", _on_tokens(lambda tokens: op.Extend(tokens, TTL), plain_message)),
    Case("reclaim 200", _expired(op.Reclaim(FEW, 0), plain_message)),
    Case("reclaim 200, dedupe key and group", _expired(op.Reclaim(FEW, 0), held_twice)),
    Case("redrive 100", _dead(plain_message)),
    Case("redrive 100, dedupe key and group", _dead(held_twice)),
    Case("purge", _filled(op.Purge("waiting"), plain_message)),
    Case("purge, dedupe key and group", _filled(op.Purge("waiting"), held_twice)),
    Case("purge, 1000 groups of 3", _filled(op.Purge("waiting"), group_of(MANY), 3 * MANY)),
    Case("purge, all of them", _filled(op.Purge("waiting"), everything)),
    Case("a page of 1000 waiting", _filled(op.ReadWaiting(0, MANY), plain_message)),
    Case("check, 200 waiting", _filled(op.Check("waiting"), held_twice)),
    Case("check, 200 leased", _on_tokens(lambda _: op.Check("leased"), held_twice)),
)


def select(only: Sequence[str]) -> list[Case]:
    """The rows whose names contain one of the words; all without any."""
    return [case for case in CASES if not only or any(word in case.name for word in only)]


def measure(server: Server, repetitions: int, cases: Sequence[Case]) -> Iterator[Row]:
    """Makes every call once per repetition, in turn; yields the rows when all is done."""
    found: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    with server.client() as client:
        meter = Meter(client)
        bench = Bench(client)
        for repetition in range(repetitions + 1):
            for case in cases:
                bench.clear()
                bench.wide = False
                operation = case.prepare(bench)
                bench.notice()
                meter.start()
                bench.once(operation)
                cost = meter.stop()
                # The first repetition warms up.
                if repetition:
                    found[case.name].append((cost.micros / 1000, cost.commands))
        bench.close()
    for name, costs in found.items():
        times = [time for time, _ in costs]
        commands = statistics.median(commands for _, commands in costs)
        yield Row(name, statistics.median(times), min(times), max(times), commands)
