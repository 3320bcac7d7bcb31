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
from typing import Any

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
from tests.lua.harness import MAGIC, START, WAKE, State, envelope
from tests.model.invariants import Ledger
from tests.model.reference import Answer, Call, LeaseAnswer, Reference, Sealed, Stale
from tests.model.snapshot import Snapshot, read
from tests.servers import wait_until

WORKERS = 4
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
)
RAW = (b"apple", b"apple", b"", b"\0", b"\0PQ", b"\0PQ\2" + bytes(40), bytes(range(256)))
#: Envelopes that somebody made by hand: known and unknown flags, headers, an id twice.
FOREIGN = (
    envelope(b"by hand"),
    envelope(b"by hand", headers=b"\x81\xa1k\xa1v"),
    envelope(b"suspect", b"s" * 16, flags=1, deliveries=3, attempts=3),
    envelope(b"last chance", b"t" * 16, attempts=4),
    envelope(b"", b"u" * 16, flags=6, headers=b"\x80"),
)


@dataclass
class Worker:
    """A caller: a slot, and what it has sent."""

    slot: bytes
    number: int = 0
    ack: int = 0
    #: Operation, number and ack of its calls, the newest last.
    sent: list[tuple[op.Operation[Any], int, int]] = field(default_factory=list)
    #: The reply of the last call was not seen.
    in_doubt: bool = False


callers = st.integers(0, WORKERS - 1)
SETTLING = st.one_of(
    st.just(op.Complete),
    st.builds(
        lambda delay: partial(op.Release, delay=delay),
        st.sampled_from([0, 0, 0.001, 0.5, 1.9, 2.2, 30]),
    ),
    st.builds(
        lambda retry_in: partial(op.Fail, error="boom", retry_in=retry_in),
        st.sampled_from([None, None, 0, 0.2, 5]),
    ),
    st.just(partial(op.Bury, reason="why", error="x")),
    st.builds(lambda ttl: partial(op.Extend, ttl=ttl), st.sampled_from([0.001, 1, 15, 90, 600])),
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


class Machine(RuleBasedStateMachine):
    """The rules: what can happen."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.keys = Keys("job2")
        self.scripts: dict[str, str] = {}
        self.blocked: list[Any] = []
        self.names = 0
        self.workers = [Worker(self.new_name()) for _ in range(WORKERS)]
        client.flushdb()
        self.now, self.elapsed = START, 0
        self.tokens: list[int] = []
        self.ttl = 0.0
        #: Whether the calls name the keys of the features: once a script has asked for them.
        self.wide = False
        self.begin()

    def begin(self) -> None:
        """A queue that does not exist yet, but for the flag that lets the tests make the time."""
        meta = self.keys.pick(("meta",))[0]
        self.client.hset(meta.decode(), mapping={"state": State().pack(), "schema": "1"})
        self.reference = Reference(self.now, self.elapsed, MALFORMED)
        self.ledger = Ledger()
        self.real = read(self.client, self.keys)
        self.asked = 0

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

    # What all rules go through

    def call(self, worker: Worker, operation: op.Operation[Any], *, seen: bool = True) -> None:
        """The next call of a worker."""
        worker.number += 1
        worker.sent.append((operation, worker.number, worker.ack))
        result = self.send(worker, operation, worker.number, worker.ack)
        worker.in_doubt = not seen
        if seen and result is not None and operation.recorded(result):
            worker.ack = worker.number

    def send(self, worker: Worker, operation: op.Operation[Any], number: int, ack: int) -> Any:  # noqa: ANN401 - the operation's own
        """Sends a call to both, and compares. Returns the result, None if it was refused."""
        call = Call(worker.slot, number, ack)
        before = self.real
        self.reference.now, self.reference.elapsed = self.now, self.elapsed
        result: Any = None
        answer: Answer | None = None
        again, refused = False, ""
        try:
            result = self.evalsha(operation, self.now, call.slot, number, ack, *operation.args())
        except redis.ResponseError as error:
            refused = str(error).partition(" ")[0]
        try:
            answer, again = self.reference.apply(call, operation)
        except Stale:
            assert refused == "STALE"
        except Sealed:
            assert refused == "SEALED"
        else:
            assert not refused
        after = read(self.client, self.keys)
        if answer is not None:
            if not again:
                if isinstance(operation, op.Purge):
                    # Markers behind an item are counted as items.
                    assert isinstance(answer, op.PurgeReply)
                    assert 0 <= result.dropped - answer.dropped <= before.markers
                    answer = self.reference.dropped(call, result)
                self.reference.agree(before, after)
            self.compare(operation, result, answer)
        if again or refused:
            assert after == before, "a copy or a refused call has changed something"
        else:
            self.ledger.carried_out(call, operation, result, before, after, self.now)
        if isinstance(result, op.LeaseReply) and result.word == "items":
            self.tokens += range(result.first_token, result.first_token + len(result.messages))
        self.settle_down(after)
        return result

    def evalsha(self, operation: op.Operation[Any], *args: op.Arg) -> Any:  # noqa: ANN401
        script = operation.script
        evalsha: Any = self.client.evalsha
        while True:
            keys = self.keys.pick(script.keys, wide=self.wide or operation.wide)
            try:
                return operation.decode(evalsha(script.sha, len(keys), *keys, *args))
            except redis.exceptions.NoScriptError:
                self.client.script_load(script.source)
            except redis.ResponseError as error:
                if self.wide or not str(error).startswith("WIDE "):
                    raise
                self.wide = True

    def compare(self, operation: op.Operation[Any], result: object, answer: Answer) -> None:
        if not isinstance(result, op.LeaseReply):
            assert result == answer
            return
        assert isinstance(answer, LeaseAnswer)
        assert isinstance(operation, op.Lease)
        if answer.word == "items" and not any(m is not None for m in answer.messages):
            # To a copy that came too late: for its caller there is just more to ask.
            assert result == op.LeaseReply("empty", answer.lost, self.now / 1000, retry_in=0)
            return
        assert result == op.LeaseReply(
            answer.word,
            answer.lost,
            self.now / 1000,
            answer.first,
            answer.deadline / 1000,
            answer.messages,
            result.retry_in,
            answer.sealed,
            answer.fresh,
        )
        if answer.word == "empty":
            self.reference.check_wait(result.retry_in, operation.ttl, self.asked)
            self.asked += 1
        else:
            assert result.retry_in is None

    def settle_down(self, real: Snapshot | None = None) -> None:
        """After each command the server serves those who wait for the list, the first first."""
        while self.blocked and self.reference.waiting:
            message = self.reference.handed()
            connection = self.blocked.pop(0)
            assert connection.read_response(disable_decoding=True) == message
            connection.disconnect()
        self.real = real or read(self.client, self.keys)
        self.reference.check(self.real)

    @invariant()
    def the_invariants_hold(self) -> None:
        self.ledger.check(self.real)
        assert self.real.state is not None
        if self.real.state.guard_at <= self.now:  # else it is computed anew by the next call
            hold = min(self.ttl * 1000 // 3, 5_000)
            event = max(self.reference.next_event(hold), self.now)
            assert self.real.state.event <= event, "an event would be missed"

    # Producers

    @initialize(ttl=st.sampled_from([0.9, 15.0, 60.0]), messages=st.lists(messages, max_size=12))
    def begin_with(self, ttl: float, messages: list[bytes]) -> None:
        """One ttl for all leases: how long reclaim is held after an outage depends on it."""
        self.ttl = ttl
        if messages:
            self.rpush(messages)

    def may_grow(self) -> bool:
        return sum(1 for _ in self.real.messages()) < MOST_ITEMS

    @precondition(may_grow)
    @rule(
        worker=callers,
        payloads=st.lists(st.sampled_from(RAW), min_size=1, max_size=5),
        headers=st.sampled_from([b"", b"\x81\xa1k\xa1v"]),
        seen=mostly,
    )
    def push(self, worker: int, payloads: list[bytes], headers: bytes, seen: bool) -> None:
        messages = []
        for payload in payloads:
            self.names += 1
            messages.append(envelope(payload, b"%016d" % self.names, headers=headers))
        self.call(self.workers[worker], op.Push(messages), seen=seen)

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
        self.reference.waiting += messages
        self.ledger.pushed_raw(messages)
        self.settle_down()

    # Workers

    def something_waits(self) -> bool:
        return bool(self.real.waiting or self.real.handoff or self.real.delayed)

    @precondition(something_waits)
    @rule(worker=callers, seen=mostly)
    def lease_one(self, worker: int, seen: bool) -> None:
        self.call(self.workers[worker], op.Lease(1, self.ttl, b"worker%d" % worker), seen=seen)

    @precondition(something_waits)
    @rule(worker=callers, n=st.sampled_from([2, 3, 12]), seen=mostly)
    def lease_many(self, worker: int, n: int, seen: bool) -> None:
        self.call(self.workers[worker], op.Lease(n, self.ttl, b"w"), seen=seen)

    @rule(worker=callers, n=st.sampled_from([0, 1, 5]), seen=mostly)
    def poll(self, worker: int, n: int, seen: bool) -> None:
        self.call(self.workers[worker], op.Lease(n, self.ttl, b"worker%d" % worker), seen=seen)

    @precondition(lambda self: self.real.leases)
    @rule(worker=callers, n=st.sampled_from([0, 1, 1, 2, 1000]), seen=mostly, data=st.data())
    def complete_and_lease(self, worker: int, n: int, seen: bool, data: st.DataObject) -> None:
        """A worker's loop."""
        tokens = self.draw_tokens(data)
        self.call(self.workers[worker], op.Lease(n, self.ttl, b"", tokens), seen=seen)

    def draw_tokens(self, data: st.DataObject) -> list[int]:
        """Held ones mostly, whoever holds them, and now and then one that is not held any more, was
        never issued, or is given twice.
        """
        held = sorted(self.real.leases)
        some = [st.sampled_from(held)] * 12 if held else []
        others = st.sampled_from([1, *self.tokens[-20:]])
        return data.draw(st.lists(st.one_of(*some, others), min_size=1, max_size=4))

    @precondition(lambda self: self.real.leases)
    @rule(worker=callers, operation=SETTLING, seen=mostly, data=st.data())
    def settle(
        self, worker: int, operation: Callable[..., Any], seen: bool, data: st.DataObject
    ) -> None:
        self.call(self.workers[worker], operation(self.draw_tokens(data)), seen=seen)

    @precondition(lambda self: self.real.leases)
    @rule(worker=callers, token=st.integers(0, 100), retry_in=st.sampled_from([None, 0, 0.2]))
    def fail_one(self, worker: int, token: int, retry_in: float | None) -> None:
        tokens = sorted(self.real.leases)
        self.call(self.workers[worker], op.Fail([tokens[token % len(tokens)]], "e", retry_in))

    @rule(worker=callers, operation=SETTLING, seen=mostly, data=st.data())
    def settle_whatever(
        self, worker: int, operation: Callable[..., Any], seen: bool, data: st.DataObject
    ) -> None:
        tokens = st.sampled_from([1, *self.tokens])
        chosen = data.draw(st.lists(tokens, min_size=1, max_size=4))
        self.call(self.workers[worker], operation(chosen), seen=seen)

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
        self.workers[worker] = Worker(self.new_name())

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

    @rule(worker=callers, what=st.sampled_from(["waiting", "dead", "dead"]), seen=mostly)
    def purge(self, worker: int, what: str, seen: bool) -> None:
        self.call(self.workers[worker], op.Purge(what), seen=seen)

    @precondition(lambda self: self.reference.dead)
    @rule(worker=callers, seen=mostly, data=st.data())
    def redrive(self, worker: int, seen: bool, data: st.DataObject) -> None:
        ids = st.sampled_from([*sorted(self.reference.dead), b"no such letter.."])
        dead = data.draw(st.lists(ids, min_size=1, max_size=4))
        self.call(self.workers[worker], op.Redrive(dead), seen=seen)

    @rule(force=st.sampled_from([False, False, False, True]))
    def delete(self, force: bool) -> None:
        reply = self.evalsha(op.Delete(force), self.now, int(force))
        expected = self.reference.delete(force)
        assert (reply.deleted, reply.dead) == (expected.deleted, expected.dead)
        # Markers behind an item are counted as items.
        assert expected.live <= reply.live <= expected.live + self.real.markers
        if not reply.deleted:
            self.settle_down()
            return
        assert not read(self.client, self.keys).keys, "I6: a key is left behind"
        # Tokens go on rising by the clock alone, of which they are never ahead for long.
        issued = self.ledger.last_token
        self.pass_time(max(issued // 1000 - self.now, 0) + 1)
        self.begin()
        self.ledger.last_token = issued

    @rule(flush=st.booleans())
    def stats(self, flush: bool) -> None:
        if flush:
            self.client.script_flush()
        found = self.evalsha(op.ReadStats(), self.now)
        real, reference = self.real, self.reference
        items = sum(message != WAKE for message in (*real.waiting, *real.handoff))
        # Markers that are not at the head cannot be told from items in O(1).
        assert items <= found.waiting <= items + real.markers
        assert (found.delayed, found.leased, found.dead, found.sealed, found.paused) == (
            len(real.delayed),
            len(real.leases),
            len(real.dead),
            reference.sealed,
            reference.paused,
        )
        assert found.expired == sum(x <= self.now for x in real.leases.values())
        due = min((entry.due for entry in real.delayed), default=None)
        assert found.next_due == (None if due is None else max(due - self.now, 0) / 1000)
        counted = {"pushed": reference.pushed, "completed": reference.completed}
        assert +Counter(found.totals) == +Counter(
            {**reference.counters, **counted, "raw": reference.raw}
        )
        self.settle_down()

    # Time

    def pass_time(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.elapsed += milliseconds

    @rule(milliseconds=st.sampled_from([1, 50, 333, 900, 1_000, 2_000, 4_999]))
    def time_passes(self, milliseconds: int) -> None:
        self.pass_time(milliseconds)

    @rule(worker=callers, seconds=st.sampled_from([6, 15, 60]))
    def time_passes_while_somebody_calls(self, worker: int, seconds: int) -> None:
        """So that it is no outage, and leases that run out are not held."""
        while seconds > 0:
            self.pass_time(min(seconds, 5) * 1000)
            seconds -= 5
            self.call(self.workers[worker], op.Extend([1], 1))

    @rule(seconds=st.sampled_from([6, 20, 70, 400]))
    def outage(self, seconds: int) -> None:
        self.pass_time(seconds * 1000)

    # After a deletion only the clock keeps the tokens rising.
    @precondition(lambda self: self.real.state.last >= self.ledger.last_token)
    @rule(seconds=st.sampled_from([1, 3_600, 7_201]))
    def clock_goes_back(self, seconds: int) -> None:
        self.now -= seconds * 1000

    # Blocked workers

    @precondition(lambda self: len(self.blocked) < MOST_BLOCKED)
    @rule()
    def block(self) -> None:
        """A worker's BLMOVE. What becomes of the worker does not matter any more."""
        pool: Any = self.client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.send_command("BLMOVE", "job2", "{job2}:handoff", "LEFT", "RIGHT", "0")
        self.blocked.append(connection)
        if not self.reference.waiting:
            wait_until(self.all_block, "BLMOVE blocks")
        self.settle_down()

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
        if len(caller.sent) <= back or (back and caller.slot not in self.reference.memory):
            return
        operation, number, ack = caller.sent[-1 - back]
        result = self.send(caller, operation, number, ack)
        if back == 0 and caller.in_doubt and result is not None and operation.recorded(result):
            caller.ack, caller.in_doubt = number, False
