"""What each verb costs a busy server: µs and commands per item, as `INFO commandstats` has them.

All calls of a repetition are sent at once, as they reach a server that has enough to do. One that
waits for its next command between any two answers from cold caches, three to six times slower: the
figure would say more about the machine than about the script.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

import redis
from redis.client import NEVER_DECODE

from pyqueue import Message, Queue, _scripts
from pyqueue import _operations as op
from pyqueue._calls import Slot
from pyqueue._keys import Keys
from pyqueue._message import envelope, id_bytes, new_id
from pyqueue._outgoing import encode

from .measure import Cost, Meter, Spread, spread
from .servers import Server

T = TypeVar("T")
NAME = "pyqueue-bench:cost"
#: Another queue of the same tag, for follow-ups.
OTHER = "{pyqueue-bench:cost}next"
PAYLOAD = b"x" * 64
TTL = 600.0
WORKER = b"worker-5d4f8c7b9-x2x7q:1"

#: The least that a script must do to complete items and lease as many: no state, no replay memory,
#: no check. KEYS waiting, leases, leased; ARGV deadline, last token, tokens to complete.
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


@dataclass(frozen=True, slots=True)
class Verb:
    """A row of the table."""

    name: str
    #: Items that one call deals with; figures are per item.
    items: int
    #: How many callers there are, each with its own items in flight.
    workers: int
    #: Calls of each worker in a repetition.
    rounds: int
    #: Makes what the calls need, unmeasured; returns what sends the calls and checks the answers.
    prepare: Callable[[Bench, Verb], Callable[[], object]]
    group: str = "verbs"
    #: The name of the row that it is compared with, beside the raw loop.
    plain: str = ""

    @property
    def calls(self) -> int:
        """All calls of a repetition."""
        return self.workers * self.rounds


#: Makes the i-th message.
Make: TypeAlias = Callable[[int], Message]


def plain_message(_: int) -> Message:
    """One that asks for nothing."""
    return Message(payload=PAYLOAD)


class Bench:
    """The queue that is measured."""

    def __init__(self, client: redis.Redis, name: str = NAME) -> None:
        self.client = client
        self.queue = Queue(name, client=client)
        self.keys = Keys(name)
        self.other = Queue(OTHER, client=client)
        #: Whether scripts are sent the keys of the features, as a client does that knows of any.
        self.wide = False
        for script in map(_scripts.load, _scripts.names()):
            client.script_load(script.source)

    def clear(self) -> None:
        """Deletes what is there."""
        self.queue.delete(force=True)
        self.other.delete(force=True)

    def close(self) -> None:
        """Deletes what is there, and closes the queues."""
        self.clear()
        self.queue.close()
        self.other.close()

    def state(self) -> bytes:
        """The packed state; empty when there is none yet."""
        meta = self.keys.pick(("meta",))[0]
        return cast("bytes | None", self.client.hget(meta, "state")) or b""

    def notice(self) -> None:
        """Learns whether the queue uses features."""
        flags = int.from_bytes(self.state()[1:5], "big")
        self.wide = flags & 244 != 0

    def run(self, verb: Verb, operations: Sequence[op.Operation[T]]) -> list[T]:
        """Sends calls, the workers' in turn, each from a slot of its own."""
        slots = [Slot() for _ in range(verb.workers)]
        pipeline = self.client.pipeline(transaction=False)
        send: Callable[..., object] = pipeline.execute_command
        for i, operation in enumerate(operations):
            script, slot = operation.script, slots[i % verb.workers]
            keys = self.keys.pick(script.keys, wide=self.wide or operation.wide)
            keys += operation.other_keys()
            # A script carries out a slot's calls in their order: so each has seen the one before.
            slot.number += 1
            call = (slot.id, slot.number, slot.number - 1) if script.takes_call else ()
            arguments = (script.sha, len(keys), *keys, "", *call, *operation.args())
            send("EVALSHA", *arguments, **{NEVER_DECODE: True})
        replies = cast("list[op.Reply]", pipeline.execute())
        return [
            operation.decode(reply) for operation, reply in zip(operations, replies, strict=True)
        ]

    def once(self, operation: op.Operation[T]) -> T:
        """Sends one call, from a slot of its own."""
        (result,) = self.run(Verb("", 1, 1, 1, _nothing), [operation])
        return result

    def send(self, commands: Sequence[Sequence[op.Arg]], replies: Sequence[object]) -> None:
        """Sends plain commands, and holds their replies against those given."""
        pipeline = self.client.pipeline(transaction=False)
        send: Callable[..., object] = pipeline.execute_command
        for command in commands:
            send(*command)
        assert pipeline.execute() == list(replies)

    def fill(self, count: int, make: Make = plain_message) -> None:
        """Pushes ``count`` items."""
        self.queue.push_many(map(make, range(count)))

    def tokens(self, count: int, ttl: float = TTL, make: Make = plain_message) -> list[int]:
        """Pushes and leases ``count`` items."""
        self.fill(count, make)
        found: list[int] = []
        while len(found) < count:
            batch = self.queue.lease_many(min(1000, count - len(found)), ttl)
            found += [lease.token for lease in batch]
        return found

    def foretell(self) -> int:
        """Sets the last token an hour ahead of the clock and returns it: so the tokens to come are
        known, and calls that complete them can be sent before they are issued.
        """
        self.notice()
        meta, state = self.keys.pick(("meta",))[0], self.state()
        last = (time.time_ns() // 1000) + 3_600_000_000
        self.client.hset(meta, "state", state[:5] + struct.pack(">Q", last) + state[13:])
        return last


def _raw(bench: Bench, verb: Verb) -> Callable[[], object]:
    bench.client.rpush(NAME, *[PAYLOAD] * verb.calls)
    done = NAME + ":processing"
    pair = [("LMOVE", NAME, done, "LEFT", "RIGHT"), ("LREM", done, 1, PAYLOAD)]
    return lambda: bench.send(pair * verb.calls, [PAYLOAD, 1] * verb.calls)


def _nothing(bench: Bench, verb: Verb) -> Callable[[], object]:
    sha = str(bench.client.script_load(NOTHING))
    return lambda: bench.send([("EVALSHA", sha, 0)] * verb.calls, [1] * verb.calls)


def _floor(bench: Bench, verb: Verb) -> Callable[[], object]:
    sha = str(bench.client.script_load(FLOOR))
    names = (bench.keys.waiting, *bench.keys.pick(("leases", "leased")))
    message = envelope(new_id(), PAYLOAD)
    at_once = verb.workers * verb.items
    for _ in range(verb.rounds + 1):
        bench.client.rpush(NAME, *[message] * at_once)

    def call(number: int) -> tuple[op.Arg, ...]:
        last = 1_700_000_000_000_000 + number * verb.items
        old = range(last - at_once + 1, last - at_once + 1 + verb.items)
        return ("EVALSHA", sha, 3, *names, 1_700_000_000_000, last, *old)

    def send(start: int, stop: int) -> None:
        calls = [call(number) for number in range(start, stop)]
        bench.send(calls, [[message] * verb.items] * len(calls))

    send(-verb.workers, 0)
    return lambda: send(0, verb.calls)


def both(
    make: Make | None = plain_message,
    configure: Callable[[Queue], object] = lambda _: None,
    lease: type[op.Lease] = op.Lease,
) -> Callable[[Bench, Verb], Callable[[], object]]:
    """Each worker completes what it holds and leases as many, in one call. Without ``make`` the
    messages are raw; the queue is configured at first; ``lease`` is the operation.
    """

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        at_once = verb.workers * verb.items
        configure(bench.queue)
        if make is None:
            for _ in range(verb.rounds + 1):
                bench.client.rpush(NAME, *[PAYLOAD] * at_once)
            # So that the queue has a state.
            bench.queue.complete_many(bench.queue.lease_many(1))
            bench.fill(1)
        else:
            bench.fill(at_once * (verb.rounds + 1), make)
        return work_off(bench, verb, lease)

    return prepare


def work_off(bench: Bench, verb: Verb, lease: type[op.Lease] = op.Lease) -> Callable[[], object]:
    """What `both` does with a queue that has been filled."""
    last = bench.foretell()
    for reply in bench.run(verb, [lease(verb.items, TTL, WORKER)] * verb.workers):
        # A priority is a sequence number more.
        assert reply.first_token == last + 1
        last += verb.items
    last -= verb.workers * verb.items

    def call(number: int) -> op.Lease:
        old = last + 1 + number * verb.items
        return lease(verb.items, TTL, WORKER, range(old, old + verb.items))

    def run() -> None:
        for reply in bench.run(verb, [call(number) for number in range(verb.calls)]):
            assert len(reply.messages) == verb.items
            assert not reply.lost

    return run


def push(
    make: Make = plain_message,
    operation: type[op.Push] = op.Push,
    before: Callable[[Bench], object] = lambda _: None,
) -> Callable[[Bench, Verb], Callable[[], object]]:
    """Pushes messages, after something else was done."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        before(bench)
        calls = []
        for start in range(0, verb.calls * verb.items, verb.items):
            encoded = [encode(make(i), 1 << 20) for i in range(start, start + verb.items)]
            options, _ = encoded[0]
            calls.append(operation([message for _, message in encoded], options))
        return lambda: bench.run(verb, calls)

    return prepare


def lease_with(lease: type[op.Lease] = op.Lease) -> Callable[[Bench, Verb], Callable[[], object]]:
    """Leases what waits."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        bench.fill(verb.items * verb.calls)

        def run() -> None:
            for reply in bench.run(verb, [lease(verb.items, TTL, WORKER)] * verb.calls):
                assert len(reply.messages) == verb.items

        return run

    return prepare


def on_tokens(
    operation: Callable[[Sequence[int]], op.Operation[T]],
    good: Callable[[T], bool],
    make: Make = plain_message,
    configure: Callable[[Queue], object] = lambda _: None,
) -> Callable[[Bench, Verb], Callable[[], object]]:
    """A verb on leases that ends them."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        configure(bench.queue)
        tokens = bench.tokens(verb.items * verb.calls, make=make)
        some = [tokens[i : i + verb.items] for i in range(0, len(tokens), verb.items)]
        calls = [operation(each) for each in some]

        def run() -> None:
            assert all(good(result) for result in bench.run(verb, calls))

        return run

    return prepare


def _extend(bench: Bench, verb: Verb) -> Callable[[], object]:
    tokens = bench.tokens(verb.items * verb.workers)
    some = [tokens[i : i + verb.items] for i in range(0, len(tokens), verb.items)]

    def run() -> None:
        replies = bench.run(verb, [op.Extend(mine, TTL) for mine in some] * verb.rounds)
        assert all(all(reply.deadlines) for reply in replies)

    return run


def reclaim(make: Make = plain_message) -> Callable[[Bench, Verb], Callable[[], object]]:
    """Takes back leases that have run out."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        # In one call: a lease call would reclaim what another has leased before.
        tokens = bench.tokens(verb.items * verb.calls, 0.05, make)
        time.sleep(0.06)

        def run() -> None:
            replies = bench.run(verb, [op.Reclaim(verb.items, 0)] * verb.calls)
            assert sum(reply.reclaimed for reply in replies) == len(tokens)

        return run

    return prepare


def redrive(make: Make = plain_message) -> Callable[[Bench, Verb], Callable[[], object]]:
    """Puts dead letters back."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        count = verb.items * verb.calls
        bench.fill(count, make)
        while batch := bench.queue.lease_many(1000, TTL):
            bench.queue.bury_many(batch, "why")
        ids = [id_bytes(letter.id) for letter in bench.queue.dead()]
        assert len(ids) == count
        calls = [op.Redrive(ids[i : i + verb.items]) for i in range(0, count, verb.items)]

        def run() -> None:
            kept = bench.run(verb, calls)
            assert not any(kept)

        return run

    return prepare


def purge(make: Make = plain_message) -> Callable[[Bench, Verb], Callable[[], object]]:
    """Drops what waits."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        bench.fill(verb.items * verb.calls, make)

        def run() -> None:
            # Where each item has to be looked at a call drops 200.
            calls = verb.calls if make is plain_message else verb.calls * verb.items // 200
            replies = bench.run(verb, [op.Purge("waiting")] * calls)
            assert sum(reply.dropped for reply in replies) == verb.items * verb.calls

        return run

    return prepare


def _configure(bench: Bench, verb: Verb) -> Callable[[], object]:
    return lambda: bench.run(verb, [op.Configure({"max_attempts": 7, "ttl": 30.0})] * verb.calls)


def _stats(bench: Bench, verb: Verb) -> Callable[[], object]:
    bench.tokens(20)
    bench.fill(20)
    return lambda: bench.run(verb, [op.ReadStats()] * verb.calls)


def _poll(in_flight: int, word: str) -> Callable[[Bench, Verb], Callable[[], object]]:
    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        if in_flight:
            bench.tokens(in_flight)
        else:
            bench.queue.complete_many(bench.queue.lease_many(1))

        def run() -> None:
            for reply in bench.run(verb, [op.Lease(1, TTL, WORKER)] * verb.calls):
                assert reply.word == word

        return run

    return prepare


def none_lost(lost: Sequence[int]) -> bool:
    """All were settled."""
    return not lost


def waits_again(reply: op.FailReply) -> bool:
    """None is dead."""
    return not reply.lost and not reply.dead


_complete = on_tokens(op.Complete, none_lost)
_release = on_tokens(op.Release, none_lost)
_release_delayed = on_tokens(lambda tokens: op.Release(tokens, 60), none_lost)
_fail_at_once = on_tokens(lambda tokens: op.Fail(tokens, "error", 0), waits_again)
_bury = on_tokens(lambda tokens: op.Bury(tokens, "why"), none_lost)
_fail = on_tokens(lambda tokens: op.Fail(tokens, "error"), waits_again)

RAW = "raw LMOVE + LREM"
BOTH = "complete + lease"
BOTH_100 = "complete + lease 100"
VERBS: tuple[Verb, ...] = (
    Verb(RAW, 1, 20, 20, _raw),
    Verb("a script that does nothing", 1, 20, 20, _nothing),
    Verb("the barest complete + lease", 1, 20, 20, _floor),
    Verb("the barest complete + lease 100", 100, 4, 5, _floor),
    Verb(BOTH, 1, 20, 20, both()),
    Verb("complete + lease, raw message", 1, 20, 20, both(None)),
    Verb("complete + lease 10", 10, 10, 5, both()),
    Verb(BOTH_100, 100, 4, 5, both()),
    Verb("complete + lease 100, one worker", 100, 1, 20, both()),
    Verb("complete + lease 1000", 1000, 2, 3, both()),
    Verb("push", 1, 20, 20, push()),
    Verb("push_many 100", 100, 4, 5, push()),
    Verb("push_many 1000", 1000, 2, 3, push()),
    Verb("lease", 1, 20, 5, lease_with()),
    Verb("lease 100", 100, 4, 5, lease_with()),
    Verb("complete", 1, 20, 5, _complete),
    Verb("complete 100", 100, 4, 5, _complete),
    Verb("release", 1, 20, 5, _release),
    Verb("release 100", 100, 4, 5, _release),
    Verb("release, delayed", 1, 20, 5, _release_delayed),
    Verb("fail, at once", 1, 20, 5, _fail_at_once),
    Verb("fail, backoff", 1, 20, 5, _fail),
    Verb("extend", 1, 20, 20, _extend),
    Verb("extend 100", 100, 4, 5, _extend),
    Verb("reclaim", 1, 20, 5, reclaim()),
    Verb("reclaim 100", 100, 1, 5, reclaim()),
    Verb("bury", 1, 20, 5, _bury),
    Verb("redrive 100", 100, 1, 5, redrive()),
    Verb("purge", 1000, 1, 1, purge()),
    Verb("configure", 1, 20, 5, _configure),
    Verb("stats", 1, 20, 20, _stats),
    Verb("empty poll, 20 in flight", 1, 20, 20, _poll(20, "empty")),
    Verb("empty poll, drained", 1, 20, 20, _poll(0, "drained")),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A verb's figures, per item."""

    verb: Verb
    micros: Spread
    #: Times the raw LMOVE + LREM of the same repetition.
    ratio: Spread
    #: Times the plain row of the same repetition.
    to_plain: Spread | None
    #: µs of processor time with socket work, over all repetitions: the clock behind it is coarse.
    cpu: float
    calls: float
    commands: float
    #: µs and calls of each command per item.
    each: dict[str, tuple[float, float]]


def measure(server: Server, repetitions: int, verbs: Sequence[Verb]) -> Iterator[Row]:
    """Runs every verb once per repetition, in turn; yields the rows when all is done. The raw loop
    must be among them, and the rows that others are compared with.
    """
    costs: dict[str, list[Cost]] = {verb.name: [] for verb in verbs}
    with server.client() as client:
        meter = Meter(client)
        bench = Bench(client)
        for repetition in range(repetitions + 1):
            for verb in verbs:
                bench.clear()
                bench.wide = False
                run = verb.prepare(bench, verb)
                bench.notice()
                meter.start()
                run()
                cost = meter.stop()
                # The first repetition warms up.
                if repetition:
                    costs[verb.name].append(cost.per(verb.items * verb.calls))
        bench.close()

    def times(name: str, base: str) -> Spread:
        pairs = zip(costs[name], costs[base], strict=True)
        return spread([mine.micros / its.micros for mine, its in pairs])

    for verb in verbs:
        rows = costs[verb.name]
        names = sorted({name for row in rows for name in row.each})
        yield Row(
            verb,
            spread([row.micros for row in rows]),
            times(verb.name, RAW),
            times(verb.name, verb.plain) if verb.plain else None,
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
