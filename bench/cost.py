"""What each verb costs a busy server: µs and commands per item, as `INFO commandstats` has them.

The calls of several workers are sent in one pipeline, as they reach a server that has enough to
do: one that waits for its next command between any two answers from cold caches, three to six
times slower, and the figure would say more about the machine than about the script.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import redis
from redis.client import NEVER_DECODE

from pyqueue import Queue
from pyqueue import _operations as op
from pyqueue._calls import Slot
from pyqueue._keys import Keys
from pyqueue._message import envelope, new_id

from .measure import Cost, Meter, Spread, spread
from .servers import Server

T = TypeVar("T")
NAME = "pyqueue-bench:cost"
PAYLOAD = b"x" * 64
TTL = 600.0
WORKER = b"worker-5d4f8c7b9-x2x7q:1"
#: Pipelines per repetition: few, so that it is over before the machine turns to somebody else.
ROUNDS = 5

#: The least that a script must do to complete items and lease as many: no state, no replay memory,
#: no check. KEYS waiting, leases, leased; ARGV deadline, first new token, tokens to complete.
FLOOR = """#!lua flags=allow-oom
local n = #ARGV - 2
redis.call('ZREM', KEYS[2], unpack(ARGV, 3))
redis.call('HDEL', KEYS[3], unpack(ARGV, 3))
local messages = redis.call('LPOP', KEYS[1], n)
local fields, scores = {}, {}
for i = 1, n do
  local token = string.format('%.0f', ARGV[2] + i)
  fields[2 * i - 1], fields[2 * i] = token, messages[i]
  scores[2 * i - 1], scores[2 * i] = ARGV[1], token
end
redis.call('HSET', KEYS[3], unpack(fields))
redis.call('ZADD', KEYS[2], unpack(scores))
return messages
"""
NOTHING = "#!lua flags=allow-oom\nreturn 1"

Round = Callable[[], object]


class Bench:
    """The queue that is measured, and the pipeline that its workers' calls go through."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.queue = Queue(NAME, client=client)
        self.keys = Keys(NAME)
        self._slots: list[Slot] = []

    def run(self, operations: Sequence[op.Operation[T]]) -> list[T]:
        """One call of each worker, all in one pipeline."""
        pipeline = self.client.pipeline(transaction=False)
        send: Callable[..., object] = pipeline.execute_command
        while len(self._slots) < len(operations):
            self._slots.append(Slot())
        for slot, operation in zip(self._slots, operations, strict=False):
            script = operation.script
            keys = self.keys.pick(script.keys)
            call: tuple[op.Arg, ...] = ()
            if script.takes_call:
                slot.number += 1
                call = (slot.id, slot.number, slot.ack)
            arguments = (script.sha, len(keys), *keys, "", *call, *operation.args())
            send("EVALSHA", *arguments, **{NEVER_DECODE: True})
        results: list[T] = []
        for slot, operation, reply in zip(
            self._slots, operations, pipeline.execute(), strict=False
        ):
            result = operation.decode(cast("op.Reply", reply))
            if operation.script.takes_call and operation.recorded(result):
                slot.ack = slot.number
            results.append(result)
        return results

    def load(self) -> None:
        """Loads the scripts; a pipeline cannot repair NOSCRIPT."""
        for operation in (op.Lease, op.Push, op.Complete, op.Release, op.Fail, op.Extend):
            self.client.script_load(operation.script.source)
        for reader in (op.Reclaim, op.ReadStats):
            self.client.script_load(reader.script.source)

    def fill(self, count: int) -> None:
        """Pushes ``count`` items."""
        for start in range(0, count, 1000):
            self.queue.push_many([PAYLOAD] * min(1000, count - start))

    def tokens(self, count: int, ttl: float = TTL) -> list[int]:
        """Pushes and leases ``count`` items."""
        self.fill(count)
        found: list[int] = []
        while len(found) < count:
            batch = self.queue.lease_many(min(1000, count - len(found)), ttl)
            found += [lease.token for lease in batch]
        return found


@dataclass(frozen=True, slots=True)
class Verb:
    """A row of the table."""

    name: str
    #: Items that one call deals with; figures are per item.
    items: int
    #: Calls in one pipeline.
    workers: int
    #: Makes what the rounds need, unmeasured; returns a round: one pipeline.
    prepare: Callable[[Bench, int, int], Round]


def _raw(bench: Bench, items: int, workers: int) -> Round:  # noqa: ARG001
    bench.client.rpush(NAME, *[PAYLOAD] * (workers * ROUNDS))
    processing = NAME + ":processing"

    def run() -> None:
        pipeline = bench.client.pipeline(transaction=False)
        for _ in range(workers):
            pipeline.lmove(NAME, processing, "LEFT", "RIGHT")
            pipeline.lrem(processing, 1, PAYLOAD)  # type: ignore[arg-type]
        assert pipeline.execute() == [PAYLOAD, 1] * workers

    return run


def _nothing(bench: Bench, items: int, workers: int) -> Round:  # noqa: ARG001
    sha = str(bench.client.script_load(NOTHING))

    def run() -> None:
        pipeline = bench.client.pipeline(transaction=False)
        for _ in range(workers):
            pipeline.evalsha(sha, 0)
        assert pipeline.execute() == [1] * workers

    return run


def _floor(bench: Bench, items: int, workers: int) -> Round:
    sha = str(bench.client.script_load(FLOOR))
    keys = (bench.keys.waiting, *bench.keys.pick(("leases", "leased")))
    messages = [envelope(new_id(), PAYLOAD) for _ in range(items * workers * (ROUNDS + 1))]
    for start in range(0, len(messages), 1000):
        bench.client.rpush(NAME, *messages[start : start + 1000])
    first = 1_700_000_000_000_000

    def run(just_lease: bool = False) -> None:
        nonlocal first
        pipeline = bench.client.pipeline(transaction=False)
        for worker in range(workers):
            new = first + worker * items
            old = range(new - workers * items, new - workers * items + items)
            pipeline.evalsha(sha, 3, *keys, 1_700_000_000_000, new - 1, *old)
        first += workers * items
        replies = pipeline.execute()
        assert just_lease or all(len(reply) == items for reply in replies)

    run(just_lease=True)
    return run


def _both(bench: Bench, items: int, workers: int, raw: bool = False) -> Round:
    """Each worker completes what it holds and leases as many, in one call."""
    count = items * workers * (ROUNDS + 1)
    if raw:
        bench.client.rpush(NAME, *[PAYLOAD] * count)
    else:
        bench.fill(count)
    held: list[Sequence[int]] = [()] * workers

    def run() -> None:
        replies = bench.run([op.Lease(items, TTL, WORKER, tokens) for tokens in held])
        for i, reply in enumerate(replies):
            assert len(reply.messages) == items
            assert not reply.lost
            held[i] = range(reply.first_token, reply.first_token + items)

    run()
    return run


def _both_raw(bench: Bench, items: int, workers: int) -> Round:
    return _both(bench, items, workers, raw=True)


def _push(bench: Bench, items: int, workers: int) -> Round:
    messages = [envelope(new_id(), PAYLOAD) for _ in range(items)]
    return lambda: bench.run([op.Push(messages)] * workers)


def _lease(bench: Bench, items: int, workers: int) -> Round:
    bench.fill(items * workers * ROUNDS)

    def run() -> None:
        for reply in bench.run([op.Lease(items, TTL, WORKER)] * workers):
            assert len(reply.messages) == items

    return run


def _on_tokens(
    make: Callable[[Sequence[int]], op.Operation[T]], good: Callable[[T], bool]
) -> Callable[[Bench, int, int], Round]:
    def prepare(bench: Bench, items: int, workers: int) -> Round:
        tokens = iter(bench.tokens(items * workers * ROUNDS))

        def run() -> None:
            mine = [[next(tokens) for _ in range(items)] for _ in range(workers)]
            assert all(good(result) for result in bench.run([make(some) for some in mine]))

        return run

    return prepare


def _extend(bench: Bench, items: int, workers: int) -> Round:
    tokens = bench.tokens(items * workers)
    some = [tokens[i * items : (i + 1) * items] for i in range(workers)]

    def run() -> None:
        assert all(map(all, bench.run([op.Extend(mine, TTL) for mine in some])))

    return run


def _reclaim(bench: Bench, items: int, workers: int) -> Round:
    count = items * workers * ROUNDS
    bench.fill(count)
    # One lease's reclaim must not be the next one's work.
    while count:
        got = len(bench.queue.lease_many(min(count, 1000), 0.2))
        assert got
        count -= got
    time.sleep(0.25)

    def run() -> None:
        for reply in bench.run([op.Reclaim(items, 0)] * workers):
            assert reply.reclaimed == items

    return run


def _stats(bench: Bench, items: int, workers: int) -> Round:  # noqa: ARG001
    bench.tokens(20)
    bench.fill(20)
    return lambda: bench.run([op.ReadStats()] * workers)


def _empty(bench: Bench, items: int, workers: int) -> Round:  # noqa: ARG001
    bench.tokens(20)
    return lambda: _polls(bench, workers, "empty")


def _drained(bench: Bench, items: int, workers: int) -> Round:  # noqa: ARG001
    bench.queue.complete_many(bench.queue.lease_many(1, completed=()))
    return lambda: _polls(bench, workers, "drained")


def _polls(bench: Bench, workers: int, word: str) -> None:
    for reply in bench.run([op.Lease(1, TTL, WORKER)] * workers):
        assert reply.word == word


def _none(lost: Sequence[int]) -> bool:
    return not lost


def _waits(reply: op.FailReply) -> bool:
    return not reply.lost and not reply.dead


_complete = _on_tokens(op.Complete, _none)
_release = _on_tokens(op.Release, _none)

VERBS: tuple[Verb, ...] = (
    Verb("raw LMOVE + LREM", 1, 20, _raw),
    Verb("a script that does nothing", 1, 20, _nothing),
    Verb("barest complete + lease", 1, 20, _floor),
    Verb("barest complete + lease 100", 100, 4, _floor),
    Verb("complete + lease", 1, 20, _both),
    Verb("complete + lease, raw message", 1, 20, _both_raw),
    Verb("complete + lease 10", 10, 20, _both),
    Verb("complete + lease 100", 100, 4, _both),
    Verb("complete + lease 100, one worker", 100, 1, _both),
    Verb("complete + lease 1000", 1000, 2, _both),
    Verb("push", 1, 20, _push),
    Verb("push_many 100", 100, 4, _push),
    Verb("push_many 1000", 1000, 2, _push),
    Verb("lease", 1, 20, _lease),
    Verb("lease 100", 100, 4, _lease),
    Verb("complete", 1, 20, _complete),
    Verb("complete 100", 100, 4, _complete),
    Verb("release", 1, 20, _release),
    Verb("release 100", 100, 4, _release),
    Verb("release, delayed", 1, 20, _on_tokens(lambda x: op.Release(x, 60), _none)),
    Verb("fail, at once", 1, 20, _on_tokens(lambda x: op.Fail(x, "error", 0), _waits)),
    Verb("fail, backoff", 1, 20, _on_tokens(lambda x: op.Fail(x, "error"), _waits)),
    Verb("extend", 1, 20, _extend),
    Verb("extend 100", 100, 4, _extend),
    Verb("reclaim", 1, 20, _reclaim),
    Verb("reclaim 100", 100, 4, _reclaim),
    Verb("stats", 1, 20, _stats),
    Verb("empty poll, 20 in flight", 1, 20, _empty),
    Verb("empty poll, drained", 1, 20, _drained),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A verb's figures, per item."""

    verb: Verb
    micros: Spread
    #: Times the raw LMOVE + LREM of the same repetition.
    ratio: Spread
    #: µs of processor time with socket work, over all repetitions: the clock behind it is coarse.
    cpu: float
    calls: float
    commands: float
    #: µs and calls of each command per item.
    each: dict[str, tuple[float, float]]


def measure(server: Server, repetitions: int, only: str = "") -> Iterator[Row]:
    """Runs every verb once per repetition, in turn; yields the rows when all is done.

    ``only`` is a part of the names of the rows to measure; the raw loop is always among them.
    """
    verbs = [verb for i, verb in enumerate(VERBS) if i == 0 or only in verb.name]
    costs: dict[str, list[Cost]] = {verb.name: [] for verb in verbs}
    with server.client() as client:
        meter = Meter(client)
        for repetition in range(repetitions + 1):
            for verb in verbs:
                bench = Bench(client)
                bench.queue.delete(force=True)
                bench.load()
                run = verb.prepare(bench, verb.items, verb.workers)
                meter.start()
                for _ in range(ROUNDS):
                    run()
                cost = meter.stop()
                # The first repetition warms up.
                if repetition:
                    items = verb.items * verb.workers * ROUNDS
                    costs[verb.name].append(_per_item(cost, items))
        Bench(client).queue.delete(force=True)
    base = [cost.micros for cost in costs[verbs[0].name]]
    for verb in verbs:
        rows = costs[verb.name]
        names = sorted({name for row in rows for name in row.each})
        yield Row(
            verb,
            spread([row.micros for row in rows]),
            spread([row.micros / raw for row, raw in zip(rows, base, strict=True)]),
            sum(row.cpu for row in rows) / len(rows),
            spread([row.calls for row in rows]).median,
            spread([row.commands for row in rows]).median,
            {
                name: (
                    spread([row.each.get(name, (0.0, 0))[0] for row in rows]).median,
                    spread([row.each.get(name, (0.0, 0))[1] for row in rows]).median,
                )
                for name in names
            },
        )


def _per_item(cost: Cost, items: int) -> Cost:
    return Cost(
        cost.micros / items,
        cost.calls / items,
        cost.commands / items,
        cost.cpu / items,
        {name: (micros / items, calls / items) for name, (micros, calls) in cost.each.items()},
    )
