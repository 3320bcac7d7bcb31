"""States: a queue together with what its workers know, in a form in which equal ones are equal.

Every state has a canonical form, and only that is stored, loaded into the server and explored on.
Two states have the same form only if nothing that can follow tells them apart, so that walking on
from one stands for both:

- **Renamed**, since the scripts treat all names alike. Items of one kind are numbered in the order
  of their places. Tokens that are held are numbered in their order, directly below the state's
  last token, those of one remembered call next to each other, as they were. Tokens that are not
  held never will be again (no token is issued twice), so all of them are 1. Numbers of calls are
  replaced by their rank within the slot, where only their order is looked at. Workers are sorted.
  The time is always `START`, and other times are relative to it.
- **Clipped**, where only a comparison with the present matters. A past due time keeps its place in
  the order and no more. A past deadline is before the outage guard, before the last call, or after
  it: the guard asks for nothing else. How many were told of the next event is none or some; that
  changes `wait` by 50 ms. The memory of calls is as if rotated just now until five minutes have
  gone by, which no walk reaches but in one step.
- **With limits** the time at which a lease was taken matters for `max_lease`, so tokens keep their
  millisecond there, relative to now; and the bucket of the rate is one more time.
- **Left out**, because each step is checked by itself: counters (a step must raise them by what it
  did), deliveries, and when and by whom an item died. No script decides anything by them.

A form that is not perfectly canonical (items that change places with each other) only makes more
states of one. What a worker knows is in the form: what it believes to hold, its last two calls, of
which copies may still arrive, whether it has seen the answer, and whether it sends the keys of the
features. One that is dead knows nothing, but copies of its calls may still be on their way.

A second queue of the same tag, which follow-ups go to, is a state within the state.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgpack

from pyqueue._keys import SUFFIXES, Keys
from tests.lua import harness
from tests.lua.harness import (
    CAPS,
    MAGIC,
    NEVER,
    RATE,
    SETTINGS_FLAG,
    START,
    TEST_FLAG,
    WAKE,
    Letter,
)

KEYS = Keys("q")
NAMES = ("waiting", *SUFFIXES)
ALL = tuple(KEYS.pick((name,))[0] for name in NAMES)
#: The queue that follow-ups may go to.
OTHER = Keys("{q}r")
OTHER_ALL = tuple(OTHER.pick((name,))[0] for name in NAMES)

#: The last token of each state that has one: above the clock's, so that the next is one more.
LAST = START * 1000 + 500
#: What every token that is not held is called.
GONE = 1
OUTAGE = 5_000
ROTATION = 300_000
#: Places of past times that matter by their order only; none is within `OUTAGE` of now.
SILENT, GUARDED = START - 50_000, START - 60_000

#: What has become of an item. One that is in a call that has not arrived is SENT: no other call
#: may have it.
UNBORN, SENT, LIVE, DONE = range(4)
#: The counters beside the state, all of them; other fields of meta are configuration.
COUNTERS = (
    *("released", "failed", "expired", "unseen"),
    *("dead", "redriven", "purged", "missing", "imported"),
)


class Message(NamedTuple):
    """A message of an item; its payload is the item's letter."""

    item: int
    raw: bool
    flags: int
    attempts: int

    @property
    def suspect(self) -> bool:
        return self.flags % 2 == 1


#: The flag of a message whose headers ask for something.
ASKS = 2
MARKER = Message(-1, False, 128, 0)


class Kind(NamedTuple):
    """What the items of a kind ask for when they are pushed."""

    priority: int = 0
    group: str = ""
    #: Dedupe key, and for how many ms it holds; 0: until the item is settled.
    unique: str = ""
    window: int = 0
    delay: int = 0

    @property
    def headers(self) -> bytes:
        asked = {
            ":priority": self.priority,
            ":group": self.group,
            ":unique": self.unique,
            ":unique_for": self.window / 1000,
        }
        headers = {name: value for name, value in asked.items() if value}
        return bytes(msgpack.packb(headers)) if headers else b""

    @property
    def options(self) -> bytes:
        asks = self != Kind()
        return b"%d %d 0" % (self.delay, self.window) if asks else b""

    @property
    def held(self) -> bool:
        """Whether it holds anything while it is there."""
        return bool(self.group or self.unique)

    def new(self, item: int) -> Message:
        """The message of one that is pushed."""
        return Message(item, False, ASKS if self.headers else 0, 0)

    def bond(self, item: int) -> bytes:
        """What a lease of it holds beside the message."""
        if not self.held:
            return b""
        return (
            Codec.id(item)
            + struct.pack(">H", len(self.unique))
            + (self.unique + self.group).encode()
        )


class Found(NamedTuple):
    """A message as the server has it after a step."""

    message: Message
    id: bytes
    deliveries: int


class Call(NamedTuple):
    """What a worker sent. Tokens and items come last in ARGV; which items, the verb knows."""

    verb: str
    args: tuple[int | bytes, ...]
    tokens: tuple[int, ...] = ()
    items: tuple[int, ...] = ()
    number: int = 0
    ack: int = 0
    #: Into which queue each of the items goes, when not all go into this one.
    targets: tuple[int, ...] = ()
    #: With the keys of the features.
    wide: bool = True


class Record(NamedTuple):
    """What the server remembers of a slot, and what its answer was."""

    number: int
    first: int
    leases: int
    outcomes: bytes
    #: 0 or 1: in which of the two hashes.
    older: int
    answer: tuple[Any, ...]


class Worker(NamedTuple):
    """A client with one slot."""

    number: int = 0
    ack: int = 0
    #: The tokens that it believes to hold.
    held: tuple[int, ...] = ()
    #: Its newest call, and the one before: a second copy of each may arrive.
    last: Call | None = None
    previous: Call | None = None
    #: The answer to the newest was not seen.
    doubt: bool = False
    record: Record | None = None
    #: It sends the keys of the features.
    wide: bool = True
    #: It is dead: only copies of its calls are left.
    gone: bool = False


class State(NamedTuple):
    """A queue and its workers. Times are ms of the server's clock, which stands at START."""

    version: int = 1
    flags: int = TEST_FLAG
    last: int = 0
    event: int = 0
    asked: int = 0
    called: int = 0
    guard_from: int = 0
    guard_at: int = 0
    rotated: int = 0
    #: Whether anything was ever pushed by a call.
    pushed: int = 0
    tail: bytes = b""
    config: tuple[tuple[bytes, bytes], ...] = ()
    waiting: tuple[Message, ...] = ()
    handoff: tuple[Message, ...] = ()
    #: Due time and message, in their order.
    delayed: tuple[tuple[int, Message], ...] = ()
    #: Token, deadline and message.
    leased: tuple[tuple[int, int, Message], ...] = ()
    #: Reason and message.
    dead: tuple[tuple[bytes, Message], ...] = ()
    #: What has become of each item.
    items: tuple[int, ...] = ()
    workers: tuple[Worker, ...] = ()
    #: Score and message, in their order.
    priority: tuple[tuple[float, Message], ...] = ()
    #: Due time, 0 for none, and message, in the order of their groups and in them.
    grouped: tuple[tuple[int, Message], ...] = ()
    #: Group and the item at its head.
    groups: tuple[tuple[str, int], ...] = ()
    #: Dedupe key, the item that has it, expiry.
    unique: tuple[tuple[str, int, int], ...] = ()
    #: Of the rate limit: when the next lease would come in µs, and how many were told to wait.
    bucket: tuple[int, int] = (0, 0)
    #: The queue that follow-ups may go to.
    other: State | None = None

    def pack(self) -> bytes:
        return bytes(msgpack.packb(self))

    @classmethod
    def unpack(cls, packed: bytes) -> State:
        return cls._made(msgpack.unpackb(packed, use_list=False))

    @classmethod
    def _made(cls, values: tuple[Any, ...]) -> State:
        def call(found: Any) -> Call | None:  # noqa: ANN401 - plain tuples
            return found and Call(*found)

        state = cls(*values)
        return state._replace(
            waiting=tuple(Message(*x) for x in state.waiting),
            handoff=tuple(Message(*x) for x in state.handoff),
            delayed=tuple((due, Message(*x)) for due, x in state.delayed),
            leased=tuple((token, deadline, Message(*x)) for token, deadline, x in state.leased),
            dead=tuple((reason, Message(*x)) for reason, x in state.dead),
            priority=tuple((score, Message(*x)) for score, x in state.priority),
            grouped=tuple((due, Message(*x)) for due, x in state.grouped),
            workers=tuple(
                Worker(*x[:3], call(x[3]), call(x[4]), x[5], x[6] and Record(*x[6]), *x[7:])
                for x in state.workers
            ),
            other=cls._made(state.other) if state.other else None,
        )

    def setting(self, name: bytes) -> int | None:
        """What the queue is configured with; None for its default."""
        value = dict(self.config).get(name)
        return None if value is None else int(value)

    @property
    def features(self) -> int:
        """The flags that its configuration asks for."""
        asked = dict(self.config)
        return (
            RATE * (b"rate" in asked)
            | CAPS * (not asked.keys().isdisjoint((b"max_leased", b"max_waiting")))
            | SETTINGS_FLAG * (b"max_lease" in asked)
        )


class Dump(NamedTuple):
    """What the server holds after a step, in the names of the state before."""

    state: harness.State
    meta: dict[bytes, bytes]
    waiting: list[Found]
    handoff: list[Found]
    delayed: list[tuple[int, Found]]
    leases: dict[int, int]
    leased: dict[int, Found]
    dead: dict[bytes, tuple[bytes, Found]]
    died: frozenset[bytes]
    #: By worker: hash, record.
    calls: dict[int, tuple[int, bytes]]
    priority: list[tuple[float, Found]]
    grouped: list[tuple[int, Found]]
    groups: dict[str, int]
    unique: dict[str, tuple[int, int]]
    unique_due: dict[str, int]
    special: dict[int, bytes]
    #: Nothing is there at all.
    empty: bool
    other: Dump | None

    @property
    def bucket(self) -> tuple[int, int]:
        """Raises ValueError when it is not in whole µs, as all of the rates here are."""
        packed = self.meta.get(b"bucket")
        if packed is None:
            return 0, 0
        arrival, part, told = struct.unpack(">QIH", packed)
        if part:
            raise ValueError("the bucket is not in whole microseconds")
        return arrival, told

    def places(self) -> Iterator[tuple[str, Found]]:
        """Every message, markers too, and where it is."""
        if self.other:
            yield from ((f"other {place}", found) for place, found in self.other.places())
        for found in self.waiting:
            yield "waiting", found
        for found in self.handoff:
            yield "handoff", found
        for _, found in self.delayed:
            yield "delayed", found
        for found in self.leased.values():
            yield "leased", found
        for _, found in self.priority:
            yield "priority", found
        for _, found in self.grouped:
            yield "grouped", found
        for _, found in self.dead.values():
            yield "dead", found


# To the server and back


class Codec:
    """Writes states into a server and reads them. `kinds` has that of each item."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = kinds
        self.headers = [kind.headers for kind in kinds]
        self._bytes: dict[Message, bytes] = {MARKER: WAKE}
        self._found: dict[bytes, Found] = {}

    @staticmethod
    def id(item: int) -> bytes:
        return b"item%012d" % item

    @staticmethod
    def slot(worker: int) -> bytes:
        return b"worker%02d" % worker

    def message(self, message: Message, deliveries: int = 1) -> bytes:
        """Everything that ever was in an envelope has been delivered once, for all that matters."""
        made = self._bytes.get(message)
        if made is None:
            made = b"%c" % (97 + message.item)
            if not message.raw:
                made = harness.envelope(
                    made,
                    self.id(message.item),
                    flags=message.flags,
                    deliveries=deliveries,
                    attempts=message.attempts,
                    headers=self.headers[message.item],
                )
            self._bytes[message] = made
        return made

    def letter(self, reason: bytes, message: Message) -> bytes:
        return b"\1%c%s\1w\0\1e" % (len(reason), reason) + self.message(message)

    def found(self, raw: bytes) -> Found:
        """Raises ValueError for what was never pushed."""
        found = self._found.get(raw)
        if found is None:
            if len(self._found) > 100_000:
                self._found.clear()
            found = self._found[raw] = self._parse(raw)
        return found

    def _parse(self, raw: bytes) -> Found:
        if raw == WAKE:
            return Found(MARKER, b"", 1)
        if not raw.startswith(MAGIC):
            item = raw[0] - 97 if len(raw) == 1 else -1
            if not 0 <= item < len(self.headers):
                raise ValueError(f"nobody has pushed {raw!r}")
            return Found(Message(item, True, 0, 0), b"", 0)
        flags, deliveries, attempts, size = struct.unpack_from(">BHHH", raw, 20)
        item = raw[-1] - 97
        known = 0 <= item < len(self.headers) and len(raw) == 28 + size
        if not known or raw[27 : 27 + size] != self.headers[item]:
            raise ValueError(f"nobody has pushed {raw!r}")
        return Found(Message(item, False, flags, attempts), raw[4:20], deliveries)

    def load(self, state: State) -> bytes:
        """The commands that make the state on an empty database, for `LOAD`."""
        write = self._commands(state, KEYS)
        if state.other:
            write += self._commands(state.other, OTHER)
        return bytes(msgpack.packb(write, use_bin_type=False))

    def _commands(self, state: State, keys: Keys) -> list[list[bytes | int]]:
        write: list[list[bytes | int]] = []

        def key(name: str, command: bytes, values: list[bytes | int]) -> None:
            if values:
                write.append([command, keys.pick((name,))[0], *values])

        key("waiting", b"RPUSH", [self.message(x) for x in state.waiting])
        key("handoff", b"RPUSH", [self.message(x) for x in state.handoff])
        delayed: list[bytes | int] = []
        for i, (due, message) in enumerate(state.delayed):
            # Sequence numbers rise, all below the tokens to come.
            delayed += [b"%d" % due, struct.pack(">Q", START * 1000 + i) + self.message(message)]
        key("delayed", b"ZADD", delayed)
        leases: list[bytes | int] = []
        leased: list[bytes | int] = []
        for token, deadline, message in state.leased:
            leases += [b"%d" % deadline, b"%d" % token]
            leased += [b"%d" % token, b"\1w" + self.message(message)]
        key("leases", b"ZADD", leases)
        key("leased", b"HSET", leased)
        dead: list[bytes | int] = []
        died: list[bytes | int] = []
        for reason, message in state.dead:
            dead += [self.id(message.item), self.letter(reason, message)]
            died += [b"%d" % START, self.id(message.item)]
        key("dead", b"HSET", dead)
        key("died", b"ZADD", died)
        self._load_features(state, key)
        calls: tuple[list[bytes | int], list[bytes | int]] = ([], [])
        for i, worker in enumerate(state.workers):
            if worker.record:
                number, first, count, outcomes, older, _ = worker.record
                value = struct.pack(">QQH", number, first, count) + outcomes
                calls[older].extend((self.slot(i), value))
        key("calls0", b"HSET", calls[0])
        key("calls1", b"HSET", calls[1])
        packed = harness.State(*state[:9], pushed=state.pushed, tail=state.tail).pack()
        meta: list[bytes | int] = [b"state", packed, b"schema", b"%d" % state.version]
        for field, value in state.config:
            meta += [field, value]
        if state.bucket != (0, 0):
            meta += [b"bucket", struct.pack(">QIH", state.bucket[0], 0, state.bucket[1])]
        key("meta", b"HSET", meta)
        return write

    def _load_features(
        self, state: State, key: Callable[[str, bytes, list[bytes | int]], None]
    ) -> None:
        ranked: list[bytes | int] = []
        for i, (score, message) in enumerate(state.priority):
            member = struct.pack(">Q", START * 1000 + i) + self.message(message)
            ranked += [b"%g" % score, member]
        key("priority", b"ZADD", ranked)
        grouped: list[bytes | int] = []
        for i, (due, message) in enumerate(state.grouped):
            group = self.kinds[message.item].group.encode()
            place = struct.pack(">Q", START * 1000 + i) + due.to_bytes(6, "big")
            grouped += [0, group + b"\0" + place + self.message(message)]
        key("grouped", b"ZADD", grouped)
        heads: list[bytes | int] = []
        for name, item in state.groups:
            heads += [name.encode(), self.id(item)]
        key("groups", b"HSET", heads)
        keys: list[bytes | int] = []
        expiries: list[bytes | int] = []
        for name, item, expiry in state.unique:
            keys += [name.encode(), self.id(item) + expiry.to_bytes(6, "big")]
            if expiry:
                expiries += [b"%d" % expiry, name.encode()]
        key("unique", b"HSET", keys)
        key("unique_due", b"ZADD", expiries)
        bonds: list[bytes | int] = []
        for token, _, message in state.leased:
            bond = self.kinds[message.item].bond(message.item)
            if bond:
                bonds += [b"%d" % token, bond]
        key("special", b"HSET", bonds)

    def dump(self, packed: bytes) -> Dump:
        """What `DUMP` answered. Raises ValueError when something is there that nobody put there."""
        content: list[list[bytes]] = msgpack.unpackb(packed, raw=True)
        other = self._dump(content[len(NAMES) :], None) if len(content) > len(NAMES) else None
        return self._dump(content[: len(NAMES)], other)

    def _dump(self, content: list[list[bytes]], other: Dump | None) -> Dump:
        every = dict(zip(NAMES, content, strict=True))
        meta = _pairs(every["meta"])
        members = every["delayed"]
        calls = {
            int(slot[6:]): (older, record)
            for older in (1, 0)
            for slot, record in _pairs(every[f"calls{older}"]).items()
        }
        letters = {id: Letter.unpack(x) for id, x in _pairs(every["dead"]).items()}
        return Dump(
            state=harness.State.unpack(meta[b"state"]) if meta else harness.State(),
            meta=meta,
            waiting=[self.found(x) for x in every["waiting"]],
            handoff=[self.found(x) for x in every["handoff"]],
            delayed=[
                (int(due), self.found(member[8:]))
                for member, due in zip(members[::2], members[1::2], strict=True)
            ],
            leases={int(k): int(v) for k, v in _pairs(every["leases"]).items()},
            leased={int(k): self.found(v[1 + v[0] :]) for k, v in _pairs(every["leased"]).items()},
            dead={id: (x.reason, self.found(x.message)) for id, x in letters.items()},
            died=frozenset(every["died"][::2]),
            calls=calls,
            priority=[
                (float(score), self.found(member[8:]))
                for member, score in zip(
                    every["priority"][::2], every["priority"][1::2], strict=True
                )
            ],
            grouped=[self._grouped(member) for member in every["grouped"][::2]],
            groups={k.decode(): int(v[4:]) for k, v in _pairs(every["groups"]).items()},
            unique={
                k.decode(): (int(v[4:16]), int.from_bytes(v[16:], "big"))
                for k, v in _pairs(every["unique"]).items()
            },
            unique_due={k.decode(): int(v) for k, v in _pairs(every["unique_due"]).items()},
            special={int(k): v for k, v in _pairs(every["special"]).items()},
            empty=not any(content),
            other=other,
        )

    @staticmethod
    def content(packed: bytes) -> list[list[bytes]]:
        """Of a dump everything but who called, and when."""
        content: list[list[bytes]] = msgpack.unpackb(packed, raw=True)
        for at, name in enumerate(NAMES):
            if name in {"calls0", "calls1"}:
                content[at] = []
            elif name == "meta":
                meta = _pairs(content[at])
                state = harness.State.unpack(meta.pop(b"state"))
                told = replace(state, called=0, guard_from=0, guard_at=0, rotated=0)
                content[at] = [told.pack(), *(x for pair in sorted(meta.items()) for x in pair)]
        return content

    def _grouped(self, member: bytes) -> tuple[int, Found]:
        group, _, rest = member.partition(b"\0")
        found = self.found(rest[14:])
        if self.kinds[found.message.item].group.encode() != group:
            raise ValueError(f"{member!r} is in another group")
        return int.from_bytes(rest[8:14], "big"), found


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


#: Empties the database, then runs the commands. KEYS: all keys of the queue.
LOAD = """
redis.call('DEL', unpack(KEYS))
for _, command in ipairs(cmsgpack.unpack(ARGV[1])) do
  redis.call(unpack(command))
end
"""

#: All contents of all KEYS, in one string; ARGV has their types.
DUMP = """
local all = {}
for i, key in ipairs(KEYS) do
  if ARGV[i] == 'hash' then
    all[i] = redis.call('HGETALL', key)
  elseif ARGV[i] == 'zset' then
    all[i] = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  else
    all[i] = redis.call('LRANGE', key, 0, -1)
  end
end
return cmsgpack.pack(all)
"""

TYPES = {
    "waiting": b"list",
    "handoff": b"list",
    **dict.fromkeys(("leased", "special", "dead", "unique", "groups", "meta"), b"hash"),
    **dict.fromkeys(("calls0", "calls1"), b"hash"),
}


# The canonical form


class Renaming(NamedTuple):
    """How the names of a state became those of its canonical form."""

    #: The worker of each new number.
    workers: tuple[int, ...]
    #: The new number of each item.
    items: tuple[int, ...]
    #: New tokens by old ones; those that are missing are gone.
    tokens: dict[int, int]


def later(state: State, milliseconds: int) -> State:
    """The same state after some time."""

    def earlier(time: int) -> int:
        return time - milliseconds if 0 < time < NEVER else time

    arrival, told = state.bucket
    state = state._replace(
        bucket=(arrival and arrival - milliseconds * 1000, told),
        other=later(state.other, milliseconds) if state.other else None,
    )
    if state.flags & SETTINGS_FLAG:
        state = _taken_earlier(state, milliseconds * 1000)
    return state._replace(
        event=earlier(state.event),
        called=earlier(state.called),
        guard_from=earlier(state.guard_from),
        guard_at=earlier(state.guard_at),
        rotated=earlier(state.rotated),
        delayed=tuple((earlier(due), x) for due, x in state.delayed),
        leased=tuple((token, earlier(deadline), x) for token, deadline, x in state.leased),
        grouped=tuple((earlier(due), x) for due, x in state.grouped),
        unique=tuple((key, item, earlier(expiry)) for key, item, expiry in state.unique),
    )


def _taken_earlier(state: State, micros: int) -> State:
    """The same, but for the time in the tokens."""

    def earlier(token: int) -> int:
        return token - micros if token > GONE else token

    def renamed(call: Call | None) -> Call | None:
        return call and call._replace(tokens=tuple(map(earlier, call.tokens)))

    return state._replace(
        leased=tuple((earlier(token), deadline, x) for token, deadline, x in state.leased),
        workers=tuple(
            worker._replace(
                held=tuple(map(earlier, worker.held)),
                last=renamed(worker.last),
                previous=renamed(worker.previous),
                record=worker.record and worker.record._replace(first=earlier(worker.record.first)),
            )
            for worker in state.workers
        ),
    )


def canonical(state: State, kinds: Sequence[int], hold: int) -> tuple[State, Renaming]:
    """The canonical form. `kinds` says which items are alike, `hold` how long the guard holds."""
    items = _items(state, kinds)
    tokens = _tokens(state)
    workers = [_worker(worker, items, tokens) for worker in state.workers]
    order = sorted(range(len(workers)), key=lambda i: bytes(msgpack.packb(workers[i])))
    fates = [UNBORN] * len(items)
    for item, fate in enumerate(state.items):
        fates[items[item]] = fate
    other = state.other
    made = _clipped(state, items, tokens, hold)._replace(
        items=tuple(fates),
        workers=tuple(workers[i] for i in order),
        other=_clipped(other, items, {}, hold) if other else None,
    )
    return made, Renaming(tuple(order), tuple(items), tokens)


def _clipped(state: State, items: Sequence[int], tokens: dict[int, int], hold: int) -> State:
    """A queue's own part of the canonical form."""

    def named(message: Message) -> Message:
        return message if message.item < 0 else message._replace(item=items[message.item])

    called, guard_from, guard_at = state.called, state.guard_from, state.guard_at
    if START - called > OUTAGE and called:
        called = SILENT
    if guard_at + hold <= START:
        guard_from = guard_at = 0

    def deadline(time: int) -> int:
        if time > START:
            return time
        if time > state.called:
            return START
        return called if time > guard_from else GUARDED

    leased = [(tokens[t], deadline(time), named(x)) for t, time, x in state.leased]
    return state._replace(
        last=LAST if state.last else 0,
        event=max(state.event, START),
        asked=min(state.asked, 1),
        called=called,
        guard_from=GUARDED if guard_at else 0,
        guard_at=guard_at,
        rotated=START - ROTATION - 1 if START - state.rotated > ROTATION else START,
        pushed=min(state.pushed, 1),
        waiting=tuple(named(x) for x in state.waiting),
        handoff=tuple(named(x) for x in state.handoff),
        delayed=tuple((max(due, START), named(x)) for due, x in state.delayed),
        leased=tuple(sorted(leased)),
        dead=tuple(sorted((reason, named(x)) for reason, x in state.dead)),
        priority=tuple((score, named(x)) for score, x in state.priority),
        grouped=tuple((due if due > START else 0, named(x)) for due, x in state.grouped),
        groups=tuple(sorted((group, items[item]) for group, item in state.groups)),
        unique=tuple(
            sorted(
                (key, items[x], expiry and max(expiry, START)) for key, x, expiry in state.unique
            )
        ),
        bucket=_bucket(state),
    )


def _bucket(state: State) -> tuple[int, int]:
    """How many were told to wait matters only while somebody has to, and then by their wait."""
    rate = state.setting(b"rate")
    if rate is None:
        return 0, 0
    arrival = max(state.bucket[0], START * 1000)
    ahead = arrival - START * 1000
    waits = ahead * rate > ((state.setting(b"burst") or rate) - 1) * 1_000_000
    return arrival, min(state.bucket[1], 1) if waits else 0


def _items(state: State, kinds: Sequence[int]) -> list[int]:
    """The new number of each item: by place, within those of its kind."""
    order: dict[int, None] = {}
    for queue in (state, state.other) if state.other else (state,):
        for message in (*queue.handoff, *queue.waiting):
            if message.item >= 0:
                order[message.item] = None
        for _, message in (*queue.delayed, *queue.priority, *queue.grouped):
            order[message.item] = None
    for _, _, message in sorted(state.leased):
        order[message.item] = None
    for _, message in sorted(state.dead, key=lambda entry: (entry[0], entry[1][1:])):
        order[message.item] = None
    # Then those that only copies of calls speak of, the rest last.
    for worker in state.workers:
        for call in (worker.last, worker.previous):
            if call:
                order.update(dict.fromkeys(call.items))
    rest = sorted(range(len(kinds)), key=lambda item: -state.items[item])
    order.update(dict.fromkeys(rest))
    free = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in set(kinds)}
    items = [0] * len(kinds)
    for item in order:
        items[item] = free[kinds[item]].pop(0)
    return items


def _tokens(state: State) -> dict[int, int]:
    """The new token of each held one, and of those that one remembered call issued with it."""
    held = {token for token, _, _ in state.leased}
    ranked = set(held)
    for worker in state.workers:
        if worker.record and worker.record.leases:
            issued = range(worker.record.first, worker.record.first + worker.record.leases)
            if not held.isdisjoint(issued):
                ranked.update(issued)
    if not state.flags & SETTINGS_FLAG:
        base = LAST - len(ranked) + 1
        return {token: base + i for i, token in enumerate(sorted(ranked))}
    renamed: dict[int, int] = {}
    for token in sorted(ranked, reverse=True):
        # The highest of each millisecond at the same place in it, the others below it.
        at = token // 1000 * 1000 + 500
        while at in renamed.values():
            at -= 1
        renamed[token] = at
    return renamed


def _worker(worker: Worker, items: Sequence[int], tokens: dict[int, int]) -> Worker:
    numbers = {0, worker.number, worker.ack}
    calls = [call for call in (worker.last, worker.previous) if call]
    for call in calls:
        numbers |= {call.number, call.ack}
    record = worker.record
    if record:
        numbers.add(record.number)
    ranks = {number: rank for rank, number in enumerate(sorted(numbers))}

    def renamed(call: Call | None) -> Call | None:
        return call and call._replace(
            tokens=tuple(tokens.get(token, GONE) for token in call.tokens),
            items=tuple(items[item] for item in call.items),
            number=ranks[call.number],
            ack=ranks[call.ack],
        )

    if record:
        first = tokens.get(record.first, GONE) if record.leases else 0
        record = record._replace(number=ranks[record.number], first=first)
    return Worker(
        ranks[worker.number],
        ranks[worker.ack],
        tuple(sorted({tokens.get(token, GONE) for token in worker.held})),
        renamed(worker.last),
        renamed(worker.previous),
        worker.doubt,
        record,
        worker.wide,
        worker.gone,
    )
