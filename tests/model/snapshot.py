"""The whole state of a queue, read from all of its keys and taken apart.

Read without the library's own code but for the names of the keys: a slip in one of the two shows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis

from pyqueue._keys import Keys
from tests.lua.harness import MAGIC, WAKE, Letter, State

SUSPECT, SPECIAL = 1, 2


class Parts(NamedTuple):
    """A message taken apart. What has no id is all payload: raw, malformed, a marker."""

    id: bytes | None
    flags: int
    deliveries: int
    attempts: int
    headers: bytes
    payload: bytes

    @classmethod
    def of(cls, message: bytes) -> Parts:
        if not message.startswith(MAGIC) or len(message) < 27:
            return cls(None, 0, 0, 0, b"", message)
        flags, deliveries, attempts, size = struct.unpack_from(">BHHH", message, 20)
        if len(message) < 27 + size or flags >= 128:
            return cls(None, 0, 0, 0, b"", message)
        headers, payload = message[27 : 27 + size], message[27 + size :]
        return cls(message[4:20], flags, deliveries, attempts, headers, payload)

    def pack(self) -> bytes:
        if self.id is None:
            return self.payload
        counts = (self.flags, self.deliveries, self.attempts, len(self.headers))
        return MAGIC + self.id + struct.pack(">BHHH", *counts) + self.headers + self.payload


class Ranked(NamedTuple):
    """A member of ``delayed`` or ``priority``."""

    score: float
    sequence: int
    message: bytes


class Behind(NamedTuple):
    """A member of ``grouped``, without its group."""

    sequence: int
    due: int
    message: bytes


class Held(NamedTuple):
    """A value of ``leased``."""

    worker: bytes
    message: bytes


class Bond(NamedTuple):
    """A value of ``special``: what a lease holds beside its message. Empty for none."""

    id: bytes
    key: bytes
    group: bytes


class Claim(NamedTuple):
    """A value of ``unique``: who has a key, and until when, 0 for until it is settled."""

    id: bytes
    expiry: int


class Remembered(NamedTuple):
    """The last recorded call of a slot."""

    number: int
    first: int
    leased: int


COUNTERS = (
    *("released", "failed", "expired", "unseen"),
    *("dead", "redriven", "purged", "missing", "imported"),
)


@dataclass(frozen=True)
class Snapshot:
    """Everything that the keys of a queue hold, in their order."""

    waiting: Sequence[bytes]
    handoff: Sequence[bytes]
    priority: Sequence[Ranked]
    delayed: Sequence[Ranked]
    #: By group, in the order of ``grouped``.
    grouped: Mapping[bytes, Sequence[Behind]]
    groups: Mapping[bytes, bytes]
    unique: Mapping[bytes, Claim]
    unique_due: Mapping[bytes, int]
    leases: Mapping[int, int]
    leased: Mapping[int, Held]
    special: Mapping[int, Bond]
    dead: Mapping[bytes, Letter]
    died: Mapping[bytes, int]
    calls: Mapping[bytes, Remembered]
    #: None when there is none.
    state: State | None
    counters: Mapping[str, int]
    #: All other fields of ``meta``.
    settings: Mapping[str, bytes]
    #: All keys of the server, of other queues too.
    keys: frozenset[bytes] = field(compare=False)
    #: Those of the queue that have a TTL.
    expiring: Sequence[bytes]

    def dormant(self) -> Iterator[bytes]:
        """The messages of everything that waits. Markers are no items."""
        yield from (x for x in (*self.handoff, *self.waiting) if x != WAKE)
        yield from (entry.message for entry in (*self.priority, *self.delayed))
        yield from (entry.message for behind in self.grouped.values() for entry in behind)

    def live(self) -> Iterator[bytes]:
        """The messages of everything that is neither done nor dead."""
        yield from self.dormant()
        yield from (held.message for held in self.leased.values())

    def messages(self) -> Iterator[bytes]:
        """The live ones, and those of the dead letters."""
        yield from self.live()
        yield from (letter.message for letter in self.dead.values())

    @property
    def markers(self) -> int:
        """How many wake markers there are."""
        return [*self.waiting, *self.handoff].count(WAKE)


#: One command, since the model reads everything after each step.
_READ = """
local all, expiring = {}, {}
local readers = {
  list = { 'LRANGE', 0, -1 },
  zset = { 'ZRANGE', 0, -1, 'WITHSCORES' },
  hash = { 'HGETALL' },
}
for i, key in ipairs(KEYS) do
  local reader = readers[redis.call('TYPE', key).ok]
  all[i] = reader and redis.call(reader[1], key, unpack(reader, 2)) or {}
  if reader and redis.call('PTTL', key) >= 0 then
    expiring[#expiring + 1] = key
  end
end
all[#all + 1], all[#all + 2] = redis.call('KEYS', '*'), expiring
return all
"""
_KEYS = (
    *("waiting", "handoff", "priority", "delayed", "grouped", "groups", "unique", "unique_due"),
    *("leases", "leased", "special", "dead", "died", "calls0", "calls1", "meta"),
)


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _ranked(flat: list[bytes]) -> list[Ranked]:
    return [
        Ranked(float(score), int.from_bytes(member[:8], "big"), member[8:])
        for member, score in _pairs(flat)
    ]


def _grouped(flat: list[bytes]) -> dict[bytes, list[Behind]]:
    found: dict[bytes, list[Behind]] = {}
    for member, score in _pairs(flat):
        assert score == b"0"
        group, _, rest = member.partition(b"\0")
        sequence, due = int.from_bytes(rest[:8], "big"), int.from_bytes(rest[8:14], "big")
        found.setdefault(group, []).append(Behind(sequence, due, rest[14:]))
    return found


def _bond(value: bytes) -> Bond:
    end = 18 + int.from_bytes(value[16:18], "big")
    return Bond(value[:16], value[18:end], value[end:])


def read(client: redis.Redis, keys: Keys) -> Snapshot:
    """Reads everything at once."""
    picked = keys.pick(_KEYS)
    evaluate: Any = client.eval
    *contents, names, expiring = evaluate(_READ, len(picked), *picked)
    found = dict(zip(_KEYS, contents, strict=True))
    meta = dict(_pairs(found["meta"]))
    packed = meta.pop(b"state", None)
    meta.pop(b"schema", None)
    meta.pop(b"bucket", None)
    return Snapshot(
        waiting=found["waiting"],
        handoff=found["handoff"],
        priority=_ranked(found["priority"]),
        delayed=_ranked(found["delayed"]),
        grouped=_grouped(found["grouped"]),
        groups=dict(_pairs(found["groups"])),
        unique={
            key: Claim(value[:16], int.from_bytes(value[16:], "big"))
            for key, value in _pairs(found["unique"])
        },
        unique_due={key: int(due) for key, due in _pairs(found["unique_due"])},
        leases={int(token): int(deadline) for token, deadline in _pairs(found["leases"])},
        leased={
            int(token): Held(value[1 : 1 + value[0]], value[1 + value[0] :])
            for token, value in _pairs(found["leased"])
        },
        special={int(token): _bond(value) for token, value in _pairs(found["special"])},
        dead={id: Letter.unpack(record) for id, record in _pairs(found["dead"])},
        died={id: int(time) for id, time in _pairs(found["died"])},
        calls={
            slot: Remembered(*struct.unpack_from(">QQH", record))
            for slot, record in (*_pairs(found["calls1"]), *_pairs(found["calls0"]))
        },
        state=None if packed is None else State.unpack(packed),
        counters={name: int(meta.pop(name.encode(), 0)) for name in COUNTERS},
        settings={name.decode(): value for name, value in meta.items()},
        keys=frozenset(names),
        expiring=expiring,
    )
