"""The whole state of a queue, read from all of its keys and taken apart.

Read without the library's own code but for the names of the keys: a slip in one of the two shows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from pyqueue._keys import Keys
from tests.lua.harness import MAGIC, WAKE, Letter, State

SUSPECT = 1


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


class Delayed(NamedTuple):
    """A member of ``delayed``."""

    due: int
    sequence: int
    message: bytes


class Held(NamedTuple):
    """A value of ``leased``."""

    worker: bytes
    message: bytes


class Remembered(NamedTuple):
    """The last recorded call of a slot."""

    number: int
    first: int
    leased: int


COUNTERS = (
    *("released", "failed", "expired", "unseen"),
    *("dead", "redriven", "purged", "missing"),
)


@dataclass(frozen=True)
class Snapshot:
    """Everything that the keys of a queue hold, in their order."""

    waiting: Sequence[bytes]
    handoff: Sequence[bytes]
    delayed: Sequence[Delayed]
    leases: Mapping[int, int]
    leased: Mapping[int, Held]
    dead: Mapping[bytes, Letter]
    died: Mapping[bytes, int]
    calls: Mapping[bytes, Remembered]
    #: None when there is none.
    state: State | None
    counters: Mapping[str, int]
    #: All keys of the server, of other queues too.
    keys: frozenset[bytes]
    #: Those of the queue that have a TTL.
    expiring: Sequence[bytes]

    def live(self) -> Iterator[bytes]:
        """The messages of everything that is neither done nor dead. Markers are no items."""
        yield from (x for x in (*self.waiting, *self.handoff) if x != WAKE)
        yield from (entry.message for entry in self.delayed)
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
for i, command in ipairs({
  'LRANGE', 'LRANGE', 'ZRANGE', 'ZRANGE', 'HGETALL', 'HGETALL', 'ZRANGE', 'HGETALL', 'HGETALL', 'HGETALL',
}) do
  if command == 'HGETALL' then
    all[i] = redis.call(command, KEYS[i])
  elseif command == 'ZRANGE' then
    all[i] = redis.call(command, KEYS[i], 0, -1, 'WITHSCORES')
  else
    all[i] = redis.call(command, KEYS[i], 0, -1)
  end
end
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) >= 0 then
    expiring[#expiring + 1] = key
  end
end
all[#all + 1], all[#all + 2] = redis.call('KEYS', '*'), expiring
return all
"""  # noqa: E501 - Lua
_KEYS = (
    *("waiting", "handoff", "delayed", "leases", "leased"),
    *("dead", "died", "calls0", "calls1", "meta", "every"),
)


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def read(client: redis.Redis, keys: Keys) -> Snapshot:
    """Reads everything at once."""
    picked = keys.pick(_KEYS)
    evaluate: Any = client.eval
    *found, names, expiring = evaluate(_READ, len(picked), *picked)
    waiting, handoff, delayed, leases, leased, dead, died, younger, older, meta_fields = found
    meta = dict(_pairs(meta_fields))
    return Snapshot(
        waiting=waiting,
        handoff=handoff,
        delayed=[
            Delayed(int(due), int.from_bytes(member[:8], "big"), member[8:])
            for member, due in _pairs(delayed)
        ],
        leases={int(token): int(deadline) for token, deadline in _pairs(leases)},
        leased={
            int(token): Held(value[1 : 1 + value[0]], value[1 + value[0] :])
            for token, value in _pairs(leased)
        },
        dead={id: Letter.unpack(record) for id, record in _pairs(dead)},
        died={id: int(time) for id, time in _pairs(died)},
        calls={
            slot: Remembered(*struct.unpack_from(">QQH", record))
            for slot, record in (*_pairs(older), *_pairs(younger))
        },
        state=State.unpack(meta[b"state"]) if b"state" in meta else None,
        counters={name: int(meta.get(name.encode(), 0)) for name in COUNTERS},
        keys=frozenset(names),
        expiring=expiring,
    )
