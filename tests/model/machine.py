"""Many simulated workers and producers on one real queue, interleaved at the grain of the scripts.

Time is an argument of each call, so that hours pass in a moment. After each step the whole state of
the server is compared with the reference, and the invariants are checked on the server's state
alone.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import msgpack
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pyqueue import _operations as op
from pyqueue._keys import Keys
from pyqueue._message import id_text
from pyqueue.models import DeadLetter
from tests.lua.harness import MAGIC, START, WAKE, State, envelope
from tests.model.invariants import DOWNSTREAM, MAIN, Ledger
from tests.model.reference import Answer, Call, LeaseAnswer, Reference, Refused, hold_of
from tests.model.snapshot import SPECIAL, SUSPECT, Snapshot, read
from tests.servers import wait_until

#: More would only make the steps slower.
MOST_ITEMS = 60
MOST_BLOCKED = 3

MALFORMED = (
    MAGIC,
    MAGIC + b"short",
    MAGIC + bytes(22),
    WAKE + b"x",
    envelope(b"", flags=128),
    envelope(b"x", flags=129, headers=b"\x80"),
    MAGIC + b"i" * 16 + struct.pack(">BHHH", 0, 0, 0, 100) + b"\x80",
    envelope(b"no map", headers=b"\x01"),
    envelope(b"unknown byte", headers=b"\xc1"),
    envelope(b"cut off", headers=b"\x81\xa1k"),
    envelope(b"", headers=b"\x81\xa1k\xdf\xff\xff\xff\xff"),
    envelope(b"bytes", flags=2, headers=b"\x81\xa6:group\xc4\x01g"),
)
RAW = (b"apple", b"apple", b"", b"\0", b"\0PQ", b"\0PQ\2" + bytes(40), bytes(range(256)))


def headers_of(**asked: object) -> bytes:
    """Headers that ask for something."""
    packed: bytes = msgpack.packb({f":{name}": x for name, x in asked.items() if x is not None})
    return packed if packed != b"\x80" else b""


#: Envelopes that somebody made by hand: known and unknown flags, headers, an id twice; names of
#: ours with values that ask for something, and with others.
FOREIGN = (
    envelope(b"by hand"),
    envelope(b"by hand", headers=b"\x81\xa1k\xa1v"),
    envelope(b"suspect", b"s" * 16, flags=1, deliveries=3, attempts=3),
    envelope(b"last chance", b"t" * 16, attempts=4),
    envelope(b"", b"u" * 16, flags=6, headers=b"\x80"),
    envelope(b"no flag", b"n" * 16, headers=headers_of(group="g", unique="u1", priority=9)),
    envelope(b"no headers", b"m" * 16, flags=SPECIAL),
    *(
        envelope(b"asks %d" % i, b"%016d" % (i // 2), flags=flags, headers=headers)
        for i, (flags, headers) in enumerate(
            (
                (SPECIAL, headers_of(group="g")),
                (SPECIAL, headers_of(unique="u1")),
                (SPECIAL, headers_of(priority=5)),
                (SPECIAL | SUSPECT, headers_of(priority=-5)),
                (SPECIAL, headers_of(priority=0, max_attempts=1)),
                (SPECIAL, headers_of(priority=1.5, backoff=-1, backoff_max=0)),
                (SPECIAL, headers_of(priority=True, max_attempts=0, backoff=0)),
                (SPECIAL, headers_of(priority=2**20 + 1, unique=7, group="h" * 256)),
                (SPECIAL, headers_of(group="", unique="a\0b")),
                (SPECIAL, headers_of(group={"g": [None]}, unique="u2", max_attempts="3")),
                (SPECIAL, headers_of(group="h", unique="u2", priority=-(2**20), backoff=1e10)),
                (SPECIAL, msgpack.packb({1: 2, ":group": b"\xff", "k": "v"}, use_bin_type=False)),
            )
        )
    ),
)


@dataclass
class Worker:
    """A caller: a slot, and what it has sent."""

    side: Side
    slot: bytes
    number: int = 0
    ack: int = 0
    #: Operation, number and ack of its calls, the newest last.
    sent: list[tuple[op.Operation[Any], int, int]] = field(default_factory=list)
    #: The reply of the last call was not seen.
    in_doubt: bool = False
    #: Whether its calls name the keys of the features: once a script has asked for them.
    wide: bool = False


@dataclass
class Side:
    """A queue: what it is, what it should be, what went in and out."""

    keys: Keys
    reference: Reference
    ledger: Ledger
    real: Snapshot
    #: Workers that were told to wait.
    asked: int = 0
    tokens: list[int] = field(default_factory=list)


WORKERS = 4
#: One caller more, who works on the queue downstream.
callers = st.sampled_from([*range(WORKERS), *range(WORKERS), WORKERS])
delays = st.sampled_from([0, 0, 0, 0.001, 0.5, 1.9, 2.2, 30])
SETTLING = st.one_of(
    st.just(op.Complete),
    st.builds(lambda delay: partial(op.Release, delay=delay), delays),
    st.builds(
        lambda retry_in: partial(op.Fail, error="boom", retry_in=retry_in),
        st.sampled_from([None, None, 0, 0.2, 5]),
    ),
    st.just(partial(op.Bury, reason="why", error="x")),
    st.builds(
        lambda ttl: partial(op.Extend, ttl=ttl), st.sampled_from([0.001, 1, 15, 90, 600, None])
    ),
)
messages = st.one_of(
    st.sampled_from(RAW),
    st.sampled_from(RAW),
    st.sampled_from(RAW),
    st.sampled_from(FOREIGN),
    st.sampled_from((*MALFORMED, WAKE)),
)
#: Of whether a reply was seen.
mostly = st.sampled_from([True, True, False])
special_headers = st.builds(
    headers_of,
    group=st.sampled_from([None, None, "g", "g", "g", "h"]),
    unique=st.sampled_from([None, None, None, None, "1", "2"]),
    priority=st.sampled_from([None, None, None, 1, 5, 5, -5, 2**20]),
    max_attempts=st.sampled_from([None, None, None, 1, 2, 65535]),
    backoff=st.sampled_from([None, None, None, 0, 0.5, 7200]),
    backoff_max=st.sampled_from([None, None, None, 0, 1]),
)
any_headers = st.one_of(
    st.sampled_from([b"", b"\x81\xa1k\xa1v"]),
    special_headers,
    special_headers,
)
windows = st.sampled_from([0, 0, 0, 0.5, 60, 7200])
chosen_ids = st.sampled_from([b"chosen by hand 1", b"chosen by hand 2", b"chosen by hand 3"])
SETTINGS: dict[str, list[float | None]] = {
    "max_attempts": [None, 1, 3, 65535],
    "backoff_base": [None, 0, 0.5, 100],
    "backoff_max": [None, 0, 2, 1000],
    "ttl": [None, 5, 100],
    "max_lease": [None, 10, 100],
    "max_leased": [None, None, 0, 1, 3],
    "max_waiting": [None, None, 5, 20],
    "max_bytes": [None, None, 0, 5, 100],
    "rate": [None, 0.5, 1, 2, 100],
    "burst": [None, 1, 3],
}
#: Answers that differ by whether a wake marker is taken for a message.
WAITING_WORDS = {"empty", "group", "limit", "rate"}


class Machine(RuleBasedStateMachine):
    """The rules: what can happen."""

    #: Rule steps of all examples so far.
    steps: ClassVar = 0

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.scripts: dict[str, str] = {}
        self.blocked: list[Any] = []
        self.names = 0
        client.flushdb()
        self.now, self.elapsed = START, 0
        self.ttl = 0.0
        self.exported: list[DeadLetter] = []
        self.downstream = self.begin(DOWNSTREAM)
        self.main = self.begin(MAIN)
        self.workers = [self.new_worker(self.main) for _ in range(WORKERS)]
        self.workers.append(self.new_worker(self.downstream))

    def begin(self, keys: Keys) -> Side:
        """A queue that does not exist yet, but for the flag that lets the tests make the time."""
        meta = keys.pick(("meta",))[0]
        self.client.hset(meta.decode(), mapping={"state": State().pack(), "schema": "1"})
        reference = Reference(self.now, self.elapsed, MALFORMED)
        if keys is MAIN:
            reference.downstream = self.downstream.reference
        return Side(keys, reference, Ledger(MALFORMED), read(self.client, keys))

    def teardown(self) -> None:
        for connection in self.blocked:
            connection.disconnect()
        if self.blocked:
            # Else it takes the next example's first message.
            self.blocked.clear()
            wait_until(self.all_block, "the blocked connections are gone")

    def new_name(self) -> bytes:
        self.names += 1
        return b"slot%04d" % self.names

    def new_worker(self, side: Side) -> Worker:
        return Worker(side, self.new_name())

    def new_id(self) -> bytes:
        self.names += 1
        return b"%016d" % self.names

    @property
    def real(self) -> Snapshot:
        return self.main.real

    # What all rules go through

    def call(self, worker: Worker, operation: op.Operation[Any], *, seen: bool = True) -> None:
        """The next call of a worker."""
        worker.number += 1
        worker.sent.append((operation, worker.number, worker.ack))
        result = self.send(worker, operation, worker.number, worker.ack)
        worker.in_doubt = not seen
        if seen and result is not None and operation.recorded(result):
            worker.ack = worker.number

    def send(self, worker: Worker, operation: op.Operation[Any], number: int, ack: int) -> Any:  # noqa: ANN401, PLR0912 - the operation's own
        """Sends a call to both, and compares. Returns the result, None if it was refused."""
        call = Call(worker.slot, number, ack)
        side, reference = worker.side, worker.side.reference
        before = side.real
        for queue in (self.main.reference, self.downstream.reference):
            queue.now, queue.elapsed, queue.followed = self.now, self.elapsed, []
        result: Any = None
        answer: Answer | None = None
        again, refused, expected = False, "", ""
        try:
            result = self.evalsha(
                side.keys, operation, self.now, call.slot, number, ack, *operation.args(), by=worker
            )
        except redis.ResponseError as error:
            refused = str(error).partition(" ")[0]
        if isinstance(result, op.LeaseReply):
            reference.issued = result.first_token
        try:
            answer, again = reference.apply(call, operation)
        except Refused as error:
            expected = str(error)
        assert refused == expected
        after = read(self.client, side.keys)
        served = 0
        if answer is not None and not again:
            if isinstance(operation, op.Purge):
                # Markers behind an item are counted as items.
                assert isinstance(answer, op.PurgeReply)
                assert 0 <= result.dropped - answer.dropped <= before.markers
                answer = reference.dropped(call, result)
            if isinstance(operation, op.Lease):
                # Who calls is awake, learns of it, and takes the marker; the others ask again soon.
                reference.newly_delayed = [x for x in reference.newly_delayed if x.due is None]
            served = reference.agree(before, after)
            if after.priority and isinstance(result, op.LeaseReply) and result.messages:
                assert after.waiting or served, "the next was not woken for what is left"
            if isinstance(operation, op.Lease) and result.retry_in == 0:
                hold = hold_of(reference.ttl(operation.ttl))
                assert reference.next_event(hold) <= self.now, "told to ask again at once"
        if answer is not None:
            self.compare(side, operation, result, answer, after)
        if again or refused:
            assert after == before, "a copy or a refused call has changed something"
        else:
            side.ledger.followed(reference.followed)
            side.ledger.carried_out(call, operation, result, before, after, self.now)
        if isinstance(result, op.LeaseReply) and result.word == "items":
            side.tokens += range(result.first_token, result.first_token + len(result.messages))
        if isinstance(operation, (op.CompletePush, op.FailPush)) and side is self.main:
            self.follow()
        self.settle_down(side, after, served)
        return result

    def follow(self) -> None:
        """What became of the queue downstream."""
        side = self.downstream
        before, side.real = side.real, read(self.client, side.keys)
        followed = side.reference.followed
        side.reference.agree(before, side.real)
        side.ledger.followed(followed)
        side.reference.check(side.real)

    def evalsha(
        self,
        keys: Keys,
        operation: op.Operation[Any],
        *args: op.Arg,
        by: Worker | None = None,
    ) -> Any:  # noqa: ANN401
        script = operation.script
        evalsha: Any = self.client.evalsha
        wide = operation.wide or (by is not None and by.wide)
        while True:
            picked = keys.pick(script.keys, wide=wide) + operation.other_keys()
            try:
                return operation.decode(evalsha(script.sha, len(picked), *picked, *args))
            except redis.exceptions.NoScriptError:
                self.client.script_load(script.source)
            except redis.ResponseError as error:
                if by is None or wide or not str(error).startswith("WIDE "):
                    raise
                by.wide = wide = True

    def compare(
        self,
        side: Side,
        operation: op.Operation[Any],
        result: object,
        answer: Answer,
        after: Snapshot,
    ) -> None:
        if not isinstance(result, op.LeaseReply):
            assert result == answer
            return
        assert isinstance(answer, LeaseAnswer)
        assert isinstance(operation, op.Lease)
        reference = side.reference
        if answer.word == "items" and not any(m is not None for m in answer.messages):
            # To a copy that came too late: for its caller there is just more to ask.
            assert result == op.LeaseReply("empty", answer.lost, self.now / 1000, retry_in=0)
            return
        word = answer.word
        if word in WAITING_WORDS and result.word in WAITING_WORDS and after.markers:
            word = result.word
        assert result == op.LeaseReply(
            word,
            answer.lost,
            self.now / 1000,
            answer.first,
            answer.deadline / 1000,
            answer.messages,
            result.retry_in,
            answer.sealed,
            answer.fresh,
        )
        if word == "rate":
            assert result.retry_in == reference.rate_wait()
        elif word in WAITING_WORDS:
            hold = hold_of(reference.ttl(operation.ttl))
            reference.check_wait(result.retry_in, hold, side.asked)
            side.asked += 1
        else:
            assert result.retry_in is None

    def settle_down(self, side: Side, real: Snapshot, served: int) -> None:
        """After each command the server serves those who wait for the list, the first first."""
        side.real = real
        side.reference.check(real)
        if side is not self.main:
            assert not served
            return
        for message in real.handoff[len(real.handoff) - served :]:
            connection = self.blocked.pop(0)
            assert connection.read_response(disable_decoding=True) == message
            connection.disconnect()
        assert not (self.blocked and real.waiting), "somebody blocks at a list that is not empty"

    @invariant()
    def the_invariants_hold(self) -> None:
        Machine.steps += 1
        for side in (self.main, self.downstream):
            real = side.real
            side.ledger.check(real)
            assert real.state is not None
            event = max(side.reference.next_event(0), self.now)
            assert real.state.event <= event, "an event would be missed"
        if self.blocked and self.real.priority:
            # Whoever was woken for it has yet to call, and wakes the next if there is more.
            assert self.real.handoff, "somebody blocks while there is something to lease"

    # Producers

    @initialize(ttl=st.sampled_from([0.9, 15.0, 60.0]), messages=st.lists(messages, max_size=12))
    def begin_with(self, ttl: float, messages: list[bytes]) -> None:
        """One ttl for most leases, so that many run out at once."""
        self.ttl = ttl
        if messages:
            self.rpush(messages)

    def may_grow(self) -> bool:
        return sum(1 for x in (self.main, self.downstream) for _ in x.real.messages()) < MOST_ITEMS

    def draw_messages(
        self, data: st.DataObject, headers: st.SearchStrategy[bytes], window: float, most: int
    ) -> list[bytes]:
        """New ones. Dedupe keys that hold until their items are settled begin with u."""
        drawn = data.draw(
            st.lists(st.tuples(st.sampled_from(RAW), headers), min_size=1, max_size=most)
        )
        return [self.message(payload, packed, window) for payload, packed in drawn]

    def message(self, payload: bytes, headers: bytes, window: float, id: bytes = b"") -> bytes:
        unpacked = msgpack.unpackb(headers) if headers else {}
        if ":unique" in unpacked:
            unpacked[":unique"] = ("w" if window else "u") + unpacked[":unique"]
            headers = msgpack.packb(unpacked)
        flags = SPECIAL if any(name.startswith(":") for name in unpacked) else 0
        return envelope(payload, id or self.new_id(), headers=headers, flags=flags)

    @precondition(may_grow)
    @rule(
        worker=callers,
        payloads=st.lists(st.sampled_from(RAW), min_size=1, max_size=5),
        headers=st.sampled_from([b"", b"\x81\xa1k\xa1v"]),
        seen=mostly,
    )
    def push(self, worker: int, payloads: list[bytes], headers: bytes, seen: bool) -> None:
        messages = [self.message(payload, headers, 0) for payload in payloads]
        self.call(self.workers[worker], op.Push(messages), seen=seen)

    @precondition(may_grow)
    @rule(worker=callers, delay=delays, window=windows, seen=mostly, data=st.data())
    def push_special(
        self, worker: int, delay: float, window: float, seen: bool, data: st.DataObject
    ) -> None:
        messages = self.draw_messages(data, any_headers, window, 4)
        self.call(self.workers[worker], op.Push(messages, (delay, window, False)), seen=seen)

    @precondition(may_grow)
    @rule(
        worker=callers,
        count=st.integers(1, 5),
        group=st.sampled_from(["g", "h"]),
        priority=st.sampled_from([None, None, 5]),
        delay=delays,
        seen=mostly,
    )
    def push_group(
        self, worker: int, count: int, group: str, priority: int | None, delay: float, seen: bool
    ) -> None:
        headers = headers_of(group=group, priority=priority)
        messages = [self.message(b"%d" % i, headers, 0) for i in range(count)]
        self.call(self.workers[worker], op.Push(messages, (delay, 0, False)), seen=seen)

    @precondition(may_grow)
    @rule(
        worker=callers,
        ids=st.lists(chosen_ids, min_size=1, max_size=3),
        headers=any_headers,
        delay=delays,
        window=windows,
        seen=mostly,
    )
    def push_chosen(
        self,
        worker: int,
        ids: list[bytes],
        headers: bytes,
        delay: float,
        window: float,
        seen: bool,
    ) -> None:
        """Ids that their maker has chosen, each to be taken in once."""
        messages = [self.message(id, headers, window, id) for id in ids]
        self.call(self.workers[worker], op.Push(messages, (delay, window, True)), seen=seen)

    @precondition(may_grow)
    @rule(data=st.data())
    def raw_push(self, data: st.DataObject) -> None:
        """Anybody may, also what looks like ours, and what he has read elsewhere in the queue, so
        that two items have one id.
        """
        known = sorted(self.real.messages())
        copies = [st.sampled_from(known)] if known else []
        self.rpush(data.draw(st.lists(st.one_of(messages, *copies), min_size=1, max_size=6)))

    def rpush(self, messages: list[bytes]) -> None:
        self.client.rpush("job2", *messages)
        self.main.reference.waiting += messages
        self.main.ledger.pushed_raw(messages)
        self.others_acted()

    def others_acted(self) -> None:
        """After a command that is none of the scripts."""
        before, after = self.real, read(self.client, MAIN)
        self.settle_down(self.main, after, self.main.reference.wakes(before, after))

    # Workers

    def something_waits(self) -> bool:
        return any(True for _ in self.real.dormant())

    @precondition(something_waits)
    @rule(worker=callers, seen=mostly)
    def lease_one(self, worker: int, seen: bool) -> None:
        self.call(self.workers[worker], op.Lease(1, self.ttl, b"worker%d" % worker), seen=seen)

    @precondition(something_waits)
    @rule(worker=callers, n=st.sampled_from([2, 3, 12]), seen=mostly)
    def lease_many(self, worker: int, n: int, seen: bool) -> None:
        self.call(self.workers[worker], op.Lease(n, self.ttl, b"w"), seen=seen)

    @precondition(something_waits)
    @rule(
        worker=st.integers(0, WORKERS - 1),
        n=st.sampled_from([1, 3, 12]),
        operations=st.lists(st.one_of(st.just(op.Complete), SETTLING), max_size=4),
    )
    def work(self, worker: int, n: int, operations: list[Callable[..., Any]]) -> None:
        """Leases, and settles some of it."""
        caller = self.workers[worker]
        known = len(self.main.tokens)
        self.call(caller, op.Lease(n, self.ttl, b"worker"))
        for token, operation in zip(self.main.tokens[known:], operations, strict=False):
            self.call(caller, operation([token]))

    @rule(
        worker=callers,
        n=st.sampled_from([0, 1, 5]),
        ttl=st.sampled_from([0, 0, None, 0.9, 6, 60]),
        seen=mostly,
    )
    def poll(self, worker: int, n: int, ttl: float | None, seen: bool) -> None:
        """With the ttl of the queue (None), too, and with others than the usual (0): how long
        leases are held after an outage depends on it.
        """
        ttl = self.ttl if ttl == 0 else ttl
        self.call(self.workers[worker], op.Lease(n, ttl, b"worker%d" % worker), seen=seen)

    @precondition(lambda self: self.real.leases)
    @rule(worker=callers, n=st.sampled_from([0, 1, 1, 2, 1000]), seen=mostly, data=st.data())
    def complete_and_lease(self, worker: int, n: int, seen: bool, data: st.DataObject) -> None:
        """A worker's loop."""
        caller = self.workers[worker]
        tokens = self.draw_tokens(data, caller)
        self.call(caller, op.Lease(n, self.ttl, b"", tokens), seen=seen)

    def draw_tokens(self, data: st.DataObject, worker: Worker) -> list[int]:
        """Held ones mostly, whoever holds them, and now and then one that is not held any more, was
        never issued, or is given twice.
        """
        held = sorted(worker.side.real.leases)
        some = [st.sampled_from(held)] * 12 if held else []
        others = st.sampled_from([1, *worker.side.tokens[-20:]])
        return data.draw(st.lists(st.one_of(*some, others), min_size=1, max_size=4))

    @precondition(lambda self: self.real.leases)
    @rule(worker=callers, operation=SETTLING, seen=mostly, data=st.data())
    def settle(
        self, worker: int, operation: Callable[..., Any], seen: bool, data: st.DataObject
    ) -> None:
        caller = self.workers[worker]
        self.call(caller, operation(self.draw_tokens(data, caller)), seen=seen)

    @precondition(lambda self: self.real.leases)
    @rule(worker=callers, token=st.integers(0, 100), retry_in=st.sampled_from([None, 0, 0.2]))
    def fail_one(self, worker: int, token: int, retry_in: float | None) -> None:
        caller = self.workers[worker]
        tokens = sorted(caller.side.real.leases) or [1]
        self.call(caller, op.Fail([tokens[token % len(tokens)]], "e", retry_in))

    @precondition(lambda self: self.real.leases and self.may_grow())
    @rule(
        worker=callers,
        fails=st.booleans(),
        retry_in=st.sampled_from([None, 0, 0.2]),
        follow=st.lists(st.tuples(st.booleans(), delays, windows), min_size=1, max_size=3),
        seen=mostly,
        data=st.data(),
    )
    def settle_and_push(
        self,
        worker: int,
        fails: bool,
        retry_in: float | None,
        follow: list[tuple[bool, float, float]],
        seen: bool,
        data: st.DataObject,
    ) -> None:
        caller = self.workers[worker]
        follow_ups = []
        for own, delay, window in follow:
            queue = None if own or caller.side is self.downstream else DOWNSTREAM
            (message,) = self.draw_messages(data, any_headers, window, 1)
            follow_ups.append(op.FollowUp(queue, delay, window, message))
        token = self.draw_tokens(data, caller)[0]
        operation: op.Operation[Any] = (
            op.FailPush(token, follow_ups, "boom", retry_in)
            if fails
            else op.CompletePush(token, follow_ups)
        )
        self.call(caller, operation, seen=seen)

    @rule(worker=callers, operation=SETTLING, seen=mostly, data=st.data())
    def settle_whatever(
        self, worker: int, operation: Callable[..., Any], seen: bool, data: st.DataObject
    ) -> None:
        caller = self.workers[worker]
        tokens = st.sampled_from([1, *caller.side.tokens])
        chosen = data.draw(st.lists(tokens, min_size=1, max_size=4))
        self.call(caller, operation(chosen), seen=seen)

    @rule(worker=callers, seen=mostly)
    def close(self, worker: int, seen: bool) -> None:
        """The last call of a slot, which gives back what it does not know that it has."""
        self.call(self.workers[worker], op.Release(()), seen=seen)

    @rule(worker=callers, limit=st.sampled_from([1, 2, 1000]), seen=mostly)
    def reclaim(self, worker: int, limit: int, seen: bool) -> None:
        self.call(self.workers[worker], op.Reclaim(limit, min(self.ttl / 3, 5)), seen=seen)

    @rule(worker=callers)
    def die(self, worker: int) -> None:
        """Another takes its place, with a slot of its own. Its leases run out."""
        self.workers[worker] = self.new_worker(self.workers[worker].side)

    # Operators

    @rule(
        worker=callers,
        operation=st.one_of(
            st.builds(op.Seal, st.sampled_from([True, False, False])),
            st.builds(op.Pause, st.sampled_from([True, False, False])),
        ),
        seen=mostly,
    )
    def seal_or_pause(self, worker: int, operation: op.Operation[bool], seen: bool) -> None:
        self.call(self.workers[worker], operation, seen=seen)

    @rule(worker=callers, seen=mostly, data=st.data())
    def configure(self, worker: int, seen: bool, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(SETTINGS)), min_size=1, max_size=3))
        settings = {name: data.draw(st.sampled_from(SETTINGS[name])) for name in names}
        self.call(self.workers[worker], op.Configure(settings), seen=seen)

    @precondition(
        lambda self: self.real.settings or self.main.reference.sealed or self.main.reference.paused
    )
    @rule(worker=callers, seen=mostly)
    def open_again(self, worker: int, seen: bool) -> None:
        """Else most queues would be all but stopped soon."""
        caller = self.workers[worker]
        self.call(caller, op.Configure(dict.fromkeys(SETTINGS)), seen=seen)
        self.call(caller, op.Seal(False))
        self.call(caller, op.Pause(False))

    @precondition(lambda self: len(list(self.real.messages())) > 12)
    @rule(worker=callers, what=st.sampled_from(["waiting", "dead"]), seen=mostly)
    def purge(self, worker: int, what: str, seen: bool) -> None:
        self.call(self.workers[worker], op.Purge(what), seen=seen)

    @precondition(lambda self: self.real.dead)
    @rule(worker=callers, seen=mostly, data=st.data())
    def redrive(self, worker: int, seen: bool, data: st.DataObject) -> None:
        caller = self.workers[worker]
        ids = st.sampled_from([*sorted(caller.side.real.dead) * 4, b"no such letter.."])
        dead = data.draw(st.lists(ids, min_size=1, max_size=4))
        self.call(caller, op.Redrive(dead), seen=seen)

    @precondition(may_grow)
    @rule(
        worker=callers, headers=any_headers, age=st.integers(0, 5_000), seen=mostly, data=st.data()
    )
    def import_letters(
        self, worker: int, headers: bytes, age: int, seen: bool, data: st.DataObject
    ) -> None:
        """Of another queue, one of them malformed; or what was exported here, now or earlier, so
        that it may be there still, or be back already.
        """
        self.exported += self.evalsha(MAIN, op.ReadDead(0, 3), self.now, 0, 3).entries
        if age < 1_000 or not self.exported:
            id = self.new_id()
            good, bad = self.message(b"imported", headers, 0, id), MALFORMED[age % len(MALFORMED)]
            letters = [
                DeadLetter(message, id_text(id), (self.now - age) / 1000, "why", "who", "what")
                for id, message in ((id, good), (self.new_id(), bad))
            ]
        else:
            del self.exported[:-6]
            letters = data.draw(st.lists(st.sampled_from(self.exported), min_size=1, max_size=3))
        self.others_acted()
        self.call(self.workers[worker], op.Import(letters), seen=seen)

    @rule(force=st.sampled_from([False, False, False, True]))
    def delete(self, force: bool) -> None:
        reply = self.evalsha(MAIN, op.Delete(force), self.now, int(force))
        expected = self.main.reference.delete(force)
        assert (reply.deleted, reply.dead) == (expected.deleted, expected.dead)
        # Markers behind an item are counted as items.
        assert expected.live <= reply.live <= expected.live + self.real.markers
        if not reply.deleted:
            self.others_acted()
            return
        left = read(self.client, MAIN).keys - set(DOWNSTREAM.all)
        assert not left, "I6: a key is left behind"
        # Tokens go on rising by the clock alone, of which they are never ahead for long.
        issued = self.main.ledger.last_token
        self.pass_time(max(issued // 1000 - self.now, 0) + 1)
        tokens = self.main.tokens
        self.main = self.begin(MAIN)
        self.main.tokens = tokens
        self.main.ledger.last_token = issued
        for worker in self.workers[:WORKERS]:
            worker.side = self.main

    @rule(flush=st.booleans(), count=st.sampled_from([1000, 3]))
    def look(self, flush: bool, count: int) -> None:
        """Everything that only reads."""
        if flush:
            self.client.script_flush()
        self.stats()
        self.read_pages(count)
        self.others_acted()

    def stats(self) -> None:
        found = self.evalsha(MAIN, op.ReadStats(), self.now)
        real, reference = self.real, self.main.reference
        items = sum(message != WAKE for message in (*real.waiting, *real.handoff))
        items += len(real.priority)
        # Markers that are not at the head cannot be told from items in O(1).
        assert items <= found.waiting <= items + real.markers
        assert (found.delayed, found.leased, found.dead, found.sealed, found.paused) == (
            len(real.delayed),
            len(real.leases),
            len(real.dead),
            reference.sealed,
            reference.paused,
        )
        assert found.grouped == sum(map(len, reference.grouped.values()))
        assert (found.groups, found.unique) == (len(reference.groups), len(reference.unique))
        assert found.expired == sum(x <= self.now for x in real.leases.values())
        due = min((entry.score for entry in real.delayed), default=None)
        assert found.next_due == (None if due is None else max(due - self.now, 0) / 1000)
        counted = {"pushed": reference.pushed, "completed": reference.completed}
        assert +Counter(found.totals) == +Counter(
            {**reference.counters, **counted, "raw": reference.raw}
        )

    def read_pages(self, count: int) -> None:
        """What waits, is leased and is dead, in the order in which it is shown."""
        waiting = self.read_all(op.ReadWaiting, count)
        assert [(x.state, x.message) for x in waiting] == self.main.reference.listing()
        leases = self.read_all(op.ReadLeases, count)
        assert [x.token for x in leases] == [
            token for _, token in sorted((y, x) for x, y in self.real.leases.items())
        ]
        dead = self.read_all(op.ReadDead, count)
        assert [x.id for x in dead] == [
            id_text(id) for _, id in sorted((y, x) for x, y in self.real.died.items())
        ]

    def read_all(self, operation: Callable[[int, int], op.Operation[Any]], count: int) -> list[Any]:
        entries: list[Any] = []
        offset: int | None = 0
        while offset is not None:
            page = self.evalsha(MAIN, operation(offset, count), self.now, offset, count)
            entries += page.entries
            offset = page.next
        return entries

    # Time

    def pass_time(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.elapsed += milliseconds

    @rule(milliseconds=st.sampled_from([1, 50, 333, 900, 1_000, 2_000, 4_999]))
    def time_passes(self, milliseconds: int) -> None:
        self.pass_time(milliseconds)

    @rule(worker=st.integers(0, WORKERS - 1), seconds=st.sampled_from([6, 15, 20]))
    def time_passes_while_somebody_calls(self, worker: int, seconds: int) -> None:
        """So that it is no outage, and leases that run out are not held."""
        while seconds > 0:
            self.pass_time(min(seconds, 5) * 1000)
            seconds -= 5
            self.call(self.workers[worker], op.Extend([1], 1))

    @rule(seconds=st.sampled_from([6, 20, 70, 400, 3_700, -1, -3_600, -7_201]))
    def outage(self, seconds: int) -> None:
        """Or the clock goes back."""
        if seconds > 0:
            self.pass_time(seconds * 1000)
        # After a deletion only the clock keeps the tokens rising.
        elif self.real.state and self.real.state.last >= self.main.ledger.last_token:
            self.now += seconds * 1000
            for side in (self.main, self.downstream):
                side.ledger.leased.clear()

    # Blocked workers

    @precondition(lambda self: len(self.blocked) < MOST_BLOCKED)
    @rule()
    def block(self) -> None:
        """A worker's BLMOVE. What becomes of the worker does not matter any more."""
        pool: Any = self.client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.send_command("BLMOVE", "job2", "{job2}:handoff", "LEFT", "RIGHT", "0")
        self.blocked.append(connection)
        if not self.real.waiting:
            wait_until(self.all_block, "BLMOVE blocks")
        else:
            wait_until(connection.can_read, "BLMOVE moves the head")
        self.others_acted()

    def all_block(self) -> bool:
        info: Any = self.client.info("clients")
        return bool(info["blocked_clients"] == len(self.blocked))

    # The network

    @rule(worker=callers, back=st.sampled_from([0, 0, 0, 1, 2]))
    def copy(self, worker: int, back: int) -> None:
        """The last call arrives once more: a retry, whether the reply to the first was seen or not.
        Or an earlier one does, as long as the slot is remembered.
        """
        caller = self.workers[worker]
        if len(caller.sent) <= back or (back and caller.slot not in caller.side.reference.memory):
            return
        operation, number, ack = caller.sent[-1 - back]
        result = self.send(caller, operation, number, ack)
        if back == 0 and caller.in_doubt and result is not None and operation.recorded(result):
            caller.ack, caller.in_doubt = number, False
