"""Calls the scripts as a client in another language would, on a queue whose time the test makes.

Nothing here is taken from the Python client but the key names and the scripts' text: the byte
layouts are written down a second time, from the protocol, so that a slip in one of them shows.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from itertools import count
from typing import Any, ClassVar, TypeAlias, cast

import pytest
import redis

from pyqueue._keys import FEATURES, OTHERS, SUFFIXES, Keys
from pyqueue._scripts import Script, load, names

Arg: TypeAlias = bytes | str | int | float
#: What a script answers; the verbs below say what theirs is.
Reply: TypeAlias = Any
#: The whole of a queue: name of the key → its content.
Dump: TypeAlias = dict[str, object]

TEST_FLAG = 1 << 31
SEALED, PAUSED, PRIORITY, SPECIAL = 1, 2, 4, 16
RATE, CAPS, GROUPS, SETTINGS_FLAG = 32, 64, 128, 256
#: What `configure` puts beside the counters.
SETTINGS = {
    *(b"max_attempts", b"backoff_base", b"backoff_max", b"ttl", b"max_lease"),
    *(b"max_leased", b"max_waiting", b"max_bytes", b"rate", b"burst"),
}
NEVER = 2**48 - 1
#: Some day in 2027, in ms. Tokens made of it have 16 digits, as they do until 2286.
START = 1_800_000_000_000

SCRIPTS = {name: load(name) for name in names()}
CHANGING = sorted(name for name, script in SCRIPTS.items() if script.takes_call)
READING = sorted(
    name for name, script in SCRIPTS.items() if "no-writes" in script.source.splitlines()[0]
)


@dataclass(frozen=True)
class State:
    """The packed field ``state`` of ``{N}:meta``."""

    #: Bytes of the numbers, big-endian, in the order of the fields.
    WIDTHS: ClassVar = (1, 4, 8, 6, 2, 6, 6, 6, 6, 6, 6, 6)

    version: int = 1
    flags: int = TEST_FLAG
    last: int = 0
    event: int = 0
    asked: int = 0
    called: int = 0
    guard_from: int = 0
    guard_at: int = 0
    rotated: int = 0
    pushed: int = 0
    completed: int = 0
    raw: int = 0
    tail: bytes = field(default=b"", kw_only=True)

    def pack(self) -> bytes:
        numbers = zip(astuple(self)[:-1], self.WIDTHS, strict=True)
        return b"".join(number.to_bytes(width, "big") for number, width in numbers) + self.tail

    @classmethod
    def unpack(cls, packed: bytes) -> "State":
        numbers, at = [], 0
        for width in cls.WIDTHS:
            numbers.append(int.from_bytes(packed[at : at + width], "big"))
            at += width
        return cls(*numbers, tail=packed[at:])


MAGIC = b"\0PQ\1"
WAKE = MAGIC + bytes(16) + b"\x80" + bytes(6)


def envelope(
    payload: bytes,
    id: bytes = b"i" * 16,
    *,
    flags: int = 0,
    deliveries: int = 0,
    attempts: int = 0,
    headers: bytes = b"",
) -> bytes:
    counts = struct.pack(">BHHH", flags, deliveries, attempts, len(headers))
    assert len(id) == 16
    return MAGIC + id + counts + headers + payload


def raw_id(token: int) -> bytes:
    """The id that a raw message has from its first token on."""
    milliseconds, micros = divmod(token, 1000)
    return (
        struct.pack(">Q", milliseconds)[2:]
        + struct.pack(">H", 0x7000 + micros)
        + b"\x80raw"
        + (b"\0\0\0\0")
    )


def value_of(worker: bytes, message: bytes) -> bytes:
    """What ``leased`` holds for a token."""
    return bytes([len(worker)]) + worker + message


@dataclass(frozen=True)
class Letter:
    """A record of ``dead``."""

    reason: bytes
    worker: bytes
    error: bytes
    message: bytes

    @classmethod
    def unpack(cls, record: bytes) -> "Letter":
        assert record[0] == 1
        at = 1
        fields = []
        for width in (1, 1, 2):
            size = int.from_bytes(record[at : at + width], "big")
            at += width
            fields.append(record[at : at + size])
            at += size
        reason, worker, error = fields
        return cls(reason, worker, error, record[at:])


@dataclass
class Caller:
    """A slot: what one client says about itself in a call."""

    slot: bytes
    number: int = 0
    ack: int = 0
    #: The last call, to send it again.
    last: tuple[str, tuple[Arg, ...], int, int] | None = None


@dataclass(frozen=True)
class Answer:
    """What ``lease`` answered."""

    word: bytes
    now: int
    lost: list[int]
    rest: list[int] = field(default_factory=list)
    first: int = 0
    deadline: int = 0
    messages: list[bytes | None] = field(default_factory=list)

    @classmethod
    def of(cls, reply: Reply) -> "Answer":
        word, now, lost, *rest = reply
        if word == b"items":
            return cls(word, now, lost, [], rest[0], rest[1], rest[2:])
        return cls(word, now, lost, rest)

    @property
    def tokens(self) -> list[int]:
        return list(range(self.first, self.first + len(self.messages)))


class VirtualQueue:
    """A queue made for tests: its state has the flag that lets a call bring its own time."""

    def __init__(self, client: redis.Redis, name: str = "job2", **state: Any) -> None:  # noqa: ANN401 - fields of State
        self.client = client
        self.name = name
        self.keys = Keys(name)
        self.now = START
        self.me = Caller(b"slot-one")
        self._slots = count()
        #: Whether calls name the keys of the features: from the first answer on that wants them.
        self.wide = False
        #: The other queues that follow-ups go to, in the order of their numbers, from 1.
        self.others: list[VirtualQueue] = []
        self.put_state(State(**state))

    # Raw access

    def key(self, name: str) -> bytes:
        return self.keys.pick((name,))[0]

    def state(self) -> State:
        packed = self.client.hget(self.key("meta"), "state")
        return State.unpack(cast("bytes", packed))

    def put_state(self, state: State) -> None:
        self.client.hset(self.key("meta"), mapping={"state": state.pack(), "schema": "1"})

    def change_state(self, **fields: Any) -> None:  # noqa: ANN401 - fields of State
        """Puts something else into the queue's state."""
        self.put_state(replace(self.state(), **fields))

    def counters(self) -> dict[str, int]:
        """The counters beside the state."""
        found = cast("dict[bytes, bytes]", self.client.hgetall(self.key("meta")))
        return {
            name.decode(): int(value)
            for name, value in found.items()
            if name not in {b"state", b"schema", b"bucket"}
        }

    def waiting(self) -> list[bytes]:
        return self.listed("waiting")

    def listed(self, name: str) -> list[bytes]:
        return cast("list[bytes]", self.client.lrange(self.key(name), 0, -1))

    def leased(self) -> dict[int, tuple[int, bytes, bytes]]:
        """Token → deadline, worker, message; I3 holds."""
        deadlines = {
            int(token): int(score)
            for token, score in cast(
                "list[tuple[bytes, float]]",
                self.client.zrange(self.key("leases"), 0, -1, withscores=True),
            )
        }
        values = cast("dict[bytes, bytes]", self.client.hgetall(self.key("leased")))
        assert set(deadlines) == {int(token) for token in values}, "I3"
        result = {}
        for token, value in values.items():
            size = value[0]
            worker, message = value[1 : 1 + size], value[1 + size :]
            result[int(token)] = (deadlines[int(token)], worker, message)
        return result

    def delayed(self) -> list[tuple[int, bytes]]:
        """Due time and message, by due time."""
        found = cast(
            "list[tuple[bytes, float]]",
            self.client.zrange(self.key("delayed"), 0, -1, withscores=True),
        )
        return [(int(score), member[8:]) for member, score in found]

    def ranked(self) -> list[tuple[float, bytes]]:
        """Score and message, the first to be leased first."""
        found = cast(
            "list[tuple[bytes, float]]",
            self.client.zrange(self.key("priority"), 0, -1, withscores=True),
        )
        return [(score, member[8:]) for member, score in found]

    def grouped(self) -> list[tuple[bytes, int, bytes]]:
        """Group, due time (0: none) and message, in the order of each group."""
        found = cast("list[bytes]", self.client.zrange(self.key("grouped"), 0, -1))
        parts = [member.partition(b"\0")[::2] for member in found]
        return [(group, int.from_bytes(rest[8:14], "big"), rest[14:]) for group, rest in parts]

    def holders(self, name: str) -> dict[bytes, bytes]:
        """Whose is each group, or dedupe key: ``groups`` or ``unique``, without the expiry."""
        found = cast("dict[bytes, bytes]", self.client.hgetall(self.key(name)))
        return {key: value[:16] for key, value in found.items()}

    def bound(self) -> dict[int, tuple[bytes, bytes, bytes]]:
        """Token → id, dedupe key, group."""
        found = cast("dict[bytes, bytes]", self.client.hgetall(self.key("special")))
        result = {}
        for token, value in found.items():
            end = 18 + int.from_bytes(value[16:18], "big")
            result[int(token)] = (value[:16], value[18:end], value[end:])
        return result

    def dead(self) -> dict[bytes, tuple[int, Letter]]:
        """Id → time of death, record."""
        records = cast("dict[bytes, bytes]", self.client.hgetall(self.key("dead")))
        died = dict(
            cast(
                "list[tuple[bytes, float]]",
                self.client.zrange(self.key("died"), 0, -1, withscores=True),
            )
        )
        assert set(records) == set(died)
        return {id: (int(died[id]), Letter.unpack(record)) for id, record in records.items()}

    def dump(self) -> Dump:
        """All of the server's keys with their contents, for exact comparisons."""
        return dump(self.client)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Asserts that nothing is written."""
        before = self.dump()
        yield
        assert self.dump() == before

    @contextmanager
    def refused(self, word: str) -> Iterator[None]:
        """Asserts that the server answers with an error that begins so, and nothing is written."""
        with self.unchanged(), pytest.raises(redis.ResponseError, match=rf"^{word}(\W|$)"):
            yield

    # Calls

    def named(self, script: Script) -> tuple[bytes, ...]:
        """KEYS: those of the features when the queue is known to want them."""
        names = self.keys.pick(script.keys, wide=self.wide)
        if "others" in script.keys:
            names += tuple(key for other in self.others for key in other.keys.pick(OTHERS))
        return names

    def caller(self) -> Caller:
        """Another client."""
        return Caller(b"slot%04d" % next(self._slots))

    def send(
        self, verb: str, *args: Arg, now: Arg | None = None, keys: Sequence[bytes] | None = None
    ) -> Reply:
        """Sends exactly this; the time comes first."""
        script = SCRIPTS[verb]
        names = self.named(script) if keys is None else keys
        at = self.now if now is None else now
        try:
            try:
                return self.client.evalsha(script.sha, len(names), *names, at, *args)
            except redis.exceptions.NoScriptError:
                return self.client.eval(script.source, len(names), *names, at, *args)
        except redis.ResponseError as error:
            if keys is not None or self.wide or not str(error).startswith("WIDE "):
                raise
        self.wide = True
        return self.send(verb, *args, now=now)

    def call(self, verb: str, *args: Arg, by: Caller | None = None, seen: bool = True) -> Reply:
        """The next call of a slot; with ``seen=False`` its reply gets lost on the way."""
        if not SCRIPTS[verb].takes_call:
            return self.send(verb, *args)
        by = self.me if by is None else by
        by.number += 1
        by.last = (verb, args, by.number, by.ack)
        reply = self.send(verb, by.slot, by.number, by.ack, *args)
        if seen and (verb != "lease" or reply[0] == b"items" or len(args) > 3):
            by.ack = by.number
        return reply

    def again(self, by: Caller | None = None) -> Reply:
        """A second copy of the slot's last call."""
        by = self.me if by is None else by
        assert by.last is not None
        verb, args, number, ack = by.last
        return self.send(verb, by.slot, number, ack, *args)

    # Verbs, as short as the tests want them

    def rpush(self, *payloads: bytes | str) -> None:
        """As any program may."""
        self.client.rpush(self.name, *payloads)

    def push(self, *messages: bytes, options: str = "", by: Caller | None = None) -> int:
        """How many were appended."""
        return cast("int", self.call("push", options, *messages, by=by)[0])

    def ask(
        self,
        *messages: bytes,
        delay: int = 0,
        window: int = 0,
        chosen: bool = False,
        by: Caller | None = None,
    ) -> Reply:
        """A push with options: {appended, position, id, ...}."""
        return self.call("push", f"{delay} {window} {chosen:d}", *messages, by=by)

    def lease(
        self,
        n: int = 1,
        ttl: int = 60_000,
        worker: bytes = b"w",
        done: Sequence[int] = (),
        *,
        by: Caller | None = None,
        seen: bool = True,
    ) -> Answer:
        return Answer.of(self.call("lease", n, ttl, worker, *done, by=by, seen=seen))

    def take(self, n: int = 1, ttl: int = 60_000) -> list[int]:
        """The tokens of exactly n messages."""
        tokens = self.lease(n, ttl).tokens
        assert len(tokens) == n
        return tokens

    def complete(self, *tokens: Arg) -> list[int]:
        return cast("list[int]", self.call("complete", *tokens))

    def release(self, *tokens: Arg, delay: int = 0) -> list[int]:
        return cast("list[int]", self.call("release", delay, *tokens))

    def fail(
        self, *tokens: Arg, retry_in: int | str = "", error: bytes = b"boom"
    ) -> list[list[int]]:
        return cast("list[list[int]]", self.call("fail", retry_in, error, *tokens))

    def bury(self, *tokens: Arg, reason: bytes = b"why", error: bytes = b"boom") -> list[int]:
        return cast("list[int]", self.call("bury", reason, error, *tokens))

    def extend(self, *tokens: Arg, ttl: int = 60_000) -> list[int]:
        return cast("list[int]", self.call("extend", ttl, *tokens))

    def reclaim(self, limit: int = 1000, hold: int = 0) -> list[int]:
        return cast("list[int]", self.call("reclaim", limit, hold))

    def stats(self) -> dict[str, int]:
        reply = self.call("stats")
        return dict(zip([name.decode() for name in reply[::2]], reply[1::2], strict=True))

    def sleep(self, milliseconds: int) -> None:
        """Time passes, while somebody calls often enough that it looks like no outage."""
        self.now += milliseconds
        self.change_state(called=self.now)


def command(client: redis.Redis, *args: Arg) -> Reply:
    """Runs any command; redis-py gives its method no types."""
    run: Any = client.execute_command
    return run(*args)


def dump(client: redis.Redis) -> Dump:
    """Everything on a server. No key of a queue may ever have a TTL."""
    read: dict[bytes, Callable[[bytes], object]] = {
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"string": client.get,
        b"set": client.smembers,
    }
    result: Dump = {}
    for key in sorted(cast("list[bytes]", client.keys("*"))):
        assert client.ttl(key) == -1, key
        result[key.decode()] = read[cast("bytes", client.type(key))](key)
    return result


def key_names(script: Script, *, wide: bool = True) -> tuple[str, ...]:
    """The names of a script's keys, all of its own queue's."""
    names = [name for name in script.keys if name not in {"every", "features", "others"}]
    if "every" in script.keys:
        names += [name for name in SUFFIXES if name not in names]
    if "features" in script.keys and wide:
        names += [name for name in FEATURES if name not in names]
    return tuple(names)
