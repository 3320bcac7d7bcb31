"""One frozen operation per script: it names the script, builds ARGV and decodes the reply.

The client puts what every call has in common before ``args``: the time, and for a script that
changes something the call id. Seconds become milliseconds here and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    Self,
    TypeAlias,
    TypeVar,
    cast,
)

from . import _scripts
from ._keys import OTHERS
from ._message import id_bytes, id_text
from ._outgoing import FEW, MOST
from .models import DeadLetter, LeasedItem, Stats, WaitingItem

if TYPE_CHECKING:
    from ._keys import Keys
    from ._outgoing import Options
    from ._scripts import Script

T = TypeVar("T")
Arg: TypeAlias = bytes | str | int
#: What a script can answer with.
Reply: TypeAlias = "int | bytes | list[Reply] | None"


def milliseconds(seconds: float, name: str, least: int = 0) -> int:
    """Seconds for the wire, rounded to the nearest ms. Raises ValueError outside of the range."""
    if not least / 1000 <= seconds <= 1e10:
        raise ValueError(f"{name} is {seconds} s: it must be from {least / 1000:g} s to 1e10 s")
    return round(seconds * 1000)


def ttl_ms(seconds: float | None) -> Arg:
    """A ttl for the wire: empty for the queue's own."""
    return "" if seconds is None else milliseconds(seconds, "ttl", 1)


#: The longest reason and error text that a dead letter keeps, in bytes.
MOST_REASON = 255
MOST_ERROR = 2048


def cut(text: str, most: int) -> bytes:
    """Text as UTF-8, at most so many bytes, no character broken."""
    data = text.encode(errors="backslashreplace")
    return data if len(data) <= most else data[:most].decode(errors="ignore").encode()


class Operation(ABC, Generic[T]):
    """One call of a script."""

    script: ClassVar[Script]

    @abstractmethod
    def args(self) -> Sequence[Arg]:
        """ARGV after the time and the call id."""

    @property
    def wide(self) -> bool:
        """Whether the call needs the keys of the features in any case."""
        return False

    def other_keys(self) -> tuple[bytes, ...]:
        """Keys of other queues, after the queue's own."""
        return ()

    @abstractmethod
    def decode(self, reply: Reply) -> T:
        """The reply as Python."""

    def recorded(self, result: T) -> bool:  # noqa: ARG002 - for those that override it
        """Whether the server remembers the call (an answer that changed nothing is not)."""
        return True

    def ids(self) -> Sequence[str]:
        """What the call is about, for the error that says that its outcome is unknown."""
        return ()

    @property
    def lane(self) -> Hashable:
        """What operations have in common that can be joined into one call; None: this one cannot
        be joined.
        """
        return None

    @property
    def size(self) -> tuple[int, int]:
        """How many entries it has, and how many bytes, of what is limited in one call."""
        return 1, 0

    def most(self, *, wide: bool) -> int:
        """The most entries in one call, of a queue that uses features or not."""
        return FEW if wide else MOST

    def joined(self, others: Iterable[Self]) -> Self:  # noqa: ARG002
        """This operation and others of its lane as one."""
        return self

    def share(self, result: T, start: int, stop: int) -> T:  # noqa: ARG002
        """Of the result of joined operations that of the entries from ``start`` to ``stop``."""
        return result


def _within(positions: Sequence[int], start: int, stop: int) -> Sequence[int]:
    """Positions in a part of a call."""
    return [x - start for x in positions if start <= x < stop] if positions else positions


class LeaseReply(NamedTuple):
    """What ``lease`` answered: items, or why there are none."""

    #: "items", "empty", "group", "limit", "rate", "paused" or "drained".
    word: str
    #: Positions of the settled tokens that held no lease any more.
    lost: Sequence[int]
    #: The server's time, seconds since the epoch.
    now: float
    first_token: int = 0
    deadline: float = 0.0
    #: None where a repeated call's lease is gone since.
    messages: Sequence[bytes | None] = ()
    #: Seconds until something happens by itself; None when nothing will.
    retry_in: float | None = None
    sealed: bool = False
    #: True on a queue that has never had an item.
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Lease(Operation[LeaseReply]):
    """lua/lease.lua"""

    script: ClassVar[Script] = _scripts.load("lease")
    n: int
    #: None: the queue's own.
    ttl: float | None
    worker: bytes
    completed: Sequence[int] = ()

    def args(self) -> Sequence[Arg]:
        return (self.n, ttl_ms(self.ttl), self.worker, *self.completed)

    def decode(self, reply: Reply) -> LeaseReply:
        word, now, lost, *rest = cast("Any", reply)
        if word == b"items":
            first, deadline, *messages = rest
            if messages.count(None) == len(messages):
                # The answer to a second copy that came so late that none of them is held any more.
                return LeaseReply("empty", lost, now / 1000, retry_in=0)
            return LeaseReply("items", lost, now / 1000, first, deadline / 1000, messages)
        common = (word.decode(), lost, now / 1000)
        if word == b"drained":
            return LeaseReply(*common, sealed=bool(rest[0]), fresh=bool(rest[1]))
        wait = int(rest[0])
        return LeaseReply(*common, retry_in=None if wait < 0 else wait / 1000)

    def recorded(self, result: LeaseReply) -> bool:
        return result.word == "items" or bool(self.completed)

    def ids(self) -> Sequence[str]:
        return [str(token) for token in self.completed]


class PushReply(NamedTuple):
    """How many were appended; for each position that was not, the id that has its key already."""

    appended: int
    taken: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Push(Operation[PushReply]):
    """lua/push.lua"""

    script: ClassVar[Script] = _scripts.load("push")
    messages: Sequence[bytes]
    #: None when nothing is asked.
    options: Options | None = None

    @property
    def wide(self) -> bool:
        return self.options is not None

    def args(self) -> Sequence[Arg]:
        if self.options is None:
            return ("", *self.messages)
        delay, window, chosen = self.options
        asked = f"{milliseconds(delay, 'delay')} {milliseconds(window, 'unique_for')} {chosen:d}"
        return (asked, *self.messages)

    def decode(self, reply: Reply) -> PushReply:
        appended, *rest = cast("list[Any]", reply)
        return PushReply(appended, dict(zip(rest[::2], rest[1::2], strict=True)))

    def ids(self) -> Sequence[str]:
        return [id_text(message[4:20]) for message in self.messages]

    @property
    def lane(self) -> Hashable:
        return Push, self.options

    @property
    def size(self) -> tuple[int, int]:
        return len(self.messages), sum(map(len, self.messages))

    def most(self, *, wide: bool) -> int:  # noqa: ARG002 - a plain message is not looked at
        return MOST if self.options is None else FEW

    def joined(self, others: Iterable[Push]) -> Push:
        return replace(self, messages=[*self.messages, *(m for x in others for m in x.messages)])

    def share(self, result: PushReply, start: int, stop: int) -> PushReply:
        if not result.taken:
            return PushReply(stop - start, result.taken)
        taken = {x - start: id for x, id in result.taken.items() if start <= x < stop}
        return PushReply(stop - start - len(taken), taken)


@dataclass(frozen=True, slots=True)
class _OnTokens(Operation[T]):
    tokens: Sequence[int]

    def ids(self) -> Sequence[str]:
        return [str(token) for token in self.tokens]

    @property
    def size(self) -> tuple[int, int]:
        return len(self.tokens), 0

    def most(self, *, wide: bool) -> int:  # noqa: ARG002
        return FEW

    def joined(self, others: Iterable[Self]) -> Self:
        return replace(self, tokens=[*self.tokens, *(t for x in others for t in x.tokens)])


@dataclass(frozen=True, slots=True)
class Complete(_OnTokens[Sequence[int]]):
    """lua/complete.lua; the answer is the positions of the lost."""

    script: ClassVar[Script] = _scripts.load("complete")

    def args(self) -> Sequence[Arg]:
        return self.tokens

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)

    @property
    def lane(self) -> Hashable:
        return Complete

    def most(self, *, wide: bool) -> int:
        return FEW if wide else MOST

    def share(self, result: Sequence[int], start: int, stop: int) -> Sequence[int]:
        return _within(result, start, stop)


@dataclass(frozen=True, slots=True)
class Release(_OnTokens[Sequence[int]]):
    """lua/release.lua; the answer is the positions of the lost."""

    script: ClassVar[Script] = _scripts.load("release")
    delay: float = 0

    def args(self) -> Sequence[Arg]:
        return (milliseconds(self.delay, "delay"), *self.tokens)

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)

    @property
    def lane(self) -> Hashable:
        return Release, self.delay

    def share(self, result: Sequence[int], start: int, stop: int) -> Sequence[int]:
        return _within(result, start, stop)


@dataclass(frozen=True, slots=True)
class FailReply:
    """Positions of the tokens that were lost, and of those whose item is dead now."""

    lost: Sequence[int]
    dead: Sequence[int]


@dataclass(frozen=True, slots=True)
class Fail(_OnTokens[FailReply]):
    """lua/fail.lua"""

    script: ClassVar[Script] = _scripts.load("fail")
    error: str = ""
    retry_in: float | None = None

    def args(self) -> Sequence[Arg]:
        retry: Arg = "" if self.retry_in is None else milliseconds(self.retry_in, "retry_in")
        return (retry, cut(self.error, MOST_ERROR), *self.tokens)

    def decode(self, reply: Reply) -> FailReply:
        lost, dead = cast("list[list[int]]", reply)
        return FailReply(lost, dead)

    @property
    def lane(self) -> Hashable:
        return Fail, self.error, self.retry_in

    def share(self, result: FailReply, start: int, stop: int) -> FailReply:
        return FailReply(_within(result.lost, start, stop), _within(result.dead, start, stop))


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A message that follows from an item: for a queue (None: the item's own), with its options."""

    queue: Keys | None
    delay: float
    window: float
    message: bytes


@dataclass(frozen=True, slots=True)
class _Following(Operation[T]):
    token: int
    follow_ups: Sequence[FollowUp]

    @property
    def wide(self) -> bool:
        return True

    def _queues(self) -> list[Keys]:
        names = {x.queue.name: x.queue for x in self.follow_ups if x.queue is not None}
        return list(names.values())

    def other_keys(self) -> tuple[bytes, ...]:
        return tuple(key for queue in self._queues() for key in queue.pick(OTHERS))

    def follow_up_args(self) -> list[Arg]:
        """Four for each: queue, delay, window, message."""
        numbers = {queue.name: i for i, queue in enumerate(self._queues(), 1)}
        args: list[Arg] = []
        for x in self.follow_ups:
            number = 0 if x.queue is None else numbers[x.queue.name]
            delay, window = milliseconds(x.delay, "delay"), milliseconds(x.window, "unique_for")
            args += (number, delay, window, x.message)
        return args

    def ids(self) -> Sequence[str]:
        return [str(self.token)]


@dataclass(frozen=True, slots=True)
class CompletePush(_Following[bool]):
    """lua/complete_push.lua; the answer is whether the lease was still held."""

    script: ClassVar[Script] = _scripts.load("complete_push")

    def args(self) -> Sequence[Arg]:
        return (self.token, *self.follow_up_args())

    def decode(self, reply: Reply) -> bool:
        return reply == 1


@dataclass(frozen=True, slots=True)
class FailPush(_Following[FailReply]):
    """lua/fail_push.lua"""

    script: ClassVar[Script] = _scripts.load("fail_push")
    error: str = ""
    retry_in: float | None = None

    def args(self) -> Sequence[Arg]:
        retry: Arg = "" if self.retry_in is None else milliseconds(self.retry_in, "retry_in")
        return (retry, cut(self.error, MOST_ERROR), self.token, *self.follow_up_args())

    def decode(self, reply: Reply) -> FailReply:
        return FailReply([0] if reply == 0 else [], [0] if reply == 2 else [])


@dataclass(frozen=True, slots=True)
class Bury(_OnTokens[Sequence[int]]):
    """lua/bury.lua; the answer is the positions of the lost."""

    script: ClassVar[Script] = _scripts.load("bury")
    reason: str = ""
    error: str = ""

    def args(self) -> Sequence[Arg]:
        return (
            cut(self.reason, MOST_REASON),
            cut(self.error, MOST_ERROR),
            *self.tokens,
        )

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)

    @property
    def lane(self) -> Hashable:
        return Bury, self.reason, self.error

    def share(self, result: Sequence[int], start: int, stop: int) -> Sequence[int]:
        return _within(result, start, stop)


@dataclass(frozen=True, slots=True)
class ExtendReply:
    """The server's time, and each deadline, None for a lost lease: seconds since the epoch."""

    now: float
    deadlines: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Extend(_OnTokens[ExtendReply]):
    """lua/extend.lua"""

    script: ClassVar[Script] = _scripts.load("extend")
    #: None: the queue's own.
    ttl: float | None = None

    def args(self) -> Sequence[Arg]:
        return (ttl_ms(self.ttl), *self.tokens)

    def decode(self, reply: Reply) -> ExtendReply:
        now, *deadlines = cast("list[int]", reply)
        return ExtendReply(now / 1000, [x / 1000 if x else None for x in deadlines])

    @property
    def lane(self) -> Hashable:
        return Extend, self.ttl

    def share(self, result: ExtendReply, start: int, stop: int) -> ExtendReply:
        return ExtendReply(result.now, result.deadlines[start:stop])


@dataclass(frozen=True, slots=True)
class ReclaimReply:
    """How many items wait again, and how many are dead."""

    reclaimed: int
    dead: int
    #: Leases that have run out and are left.
    left: int
    #: Seconds until the next lease can be reclaimed; 0 when nothing is leased.
    wait: float


@dataclass(frozen=True, slots=True)
class Reclaim(Operation[ReclaimReply]):
    """lua/reclaim.lua"""

    script: ClassVar[Script] = _scripts.load("reclaim")
    limit: int
    hold: float

    def args(self) -> Sequence[Arg]:
        return (self.limit, milliseconds(self.hold, "hold"))

    def decode(self, reply: Reply) -> ReclaimReply:
        reclaimed, dead, left, wait = cast("list[int]", reply)
        return ReclaimReply(reclaimed, dead, left, wait / 1000)


@dataclass(frozen=True, slots=True)
class Seal(Operation[bool]):
    """lua/seal.lua; the answer is whether that changed it."""

    script: ClassVar[Script] = _scripts.load("seal")
    sealed: bool

    def args(self) -> Sequence[Arg]:
        return (int(self.sealed),)

    def decode(self, reply: Reply) -> bool:
        return reply == 1


@dataclass(frozen=True, slots=True)
class Pause(Operation[bool]):
    """lua/pause.lua; the answer is whether that changed it."""

    script: ClassVar[Script] = _scripts.load("pause")
    paused: bool

    def args(self) -> Sequence[Arg]:
        return (int(self.paused),)

    def decode(self, reply: Reply) -> bool:
        return reply == 1


#: What can be configured: names and whether they are times.
SETTINGS = {
    "max_attempts": False,
    "backoff_base": True,
    "backoff_max": True,
    "ttl": True,
    "max_lease": True,
    "max_leased": False,
    "max_waiting": False,
    "max_bytes": False,
    "rate": False,
    "burst": False,
}


def _setting(name: str, value: bytes) -> float:
    number = float(value) / 1000 if SETTINGS[name] else float(value)
    return int(number) if number.is_integer() else number


def _settings(pairs: Sequence[bytes]) -> dict[str, float]:
    """What is configured, in seconds and by the names of the API."""
    found = {
        name.decode(): _setting(name.decode(), value)
        for name, value in zip(pairs[::2], pairs[1::2], strict=True)
    }
    return {("backoff" if name == "backoff_base" else name): x for name, x in found.items()}


@dataclass(frozen=True, slots=True)
class Configure(Operation[Mapping[str, float]]):
    """lua/configure.lua; the answer is all that is configured now."""

    script: ClassVar[Script] = _scripts.load("configure")
    #: None: not configured any more.
    settings: Mapping[str, float | None]

    def args(self) -> Sequence[Arg]:
        args: list[Arg] = []
        for name, value in self.settings.items():
            if value is None:
                args += (name, "")
            elif SETTINGS[name]:
                args += (name, milliseconds(value, name))
            else:
                args += (name, repr(value))
        return args

    def decode(self, reply: Reply) -> Mapping[str, float]:
        return _settings(cast("list[bytes]", reply))


@dataclass(frozen=True, slots=True)
class ReadStats(Operation[Stats]):
    """lua/stats.lua"""

    script: ClassVar[Script] = _scripts.load("stats")

    def args(self) -> Sequence[Arg]:
        return ()

    def decode(self, reply: Reply) -> Stats:
        pairs = cast("list[Any]", reply)
        found: dict[str, int] = {}
        configured: list[bytes] = []
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            if name.startswith(b"config_"):
                configured += (name.removeprefix(b"config_"), value)
            else:
                found[name.decode()] = value
        return Stats(
            waiting=found["waiting"] + found["handoff"],
            delayed=found["delayed"],
            grouped=found["grouped"],
            leased=found["leased"],
            expired=found["expired"],
            dead=found["dead"],
            oldest=None if found["oldest"] < 0 else found["oldest"] / 1000,
            next_due=None if found["next_due"] < 0 else found["next_due"] / 1000,
            sealed=bool(found["sealed"]),
            paused=bool(found["paused"]),
            groups=found["groups"],
            unique=found["unique"],
            configuration=_settings(configured),
            totals={
                name.removeprefix("total_"): value
                for name, value in found.items()
                if name.startswith("total_")
            },
        )


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing."""

    entries: Sequence[T]
    #: The offset of the next page; None at the end.
    next: int | None


@dataclass(frozen=True, slots=True)
class ReadWaiting(Operation[Page[WaitingItem]]):
    """lua/waiting.lua"""

    script: ClassVar[Script] = _scripts.load("waiting")
    offset: int
    count: int

    def args(self) -> Sequence[Arg]:
        return (self.offset, self.count)

    def decode(self, reply: Reply) -> Page[WaitingItem]:
        _now, following, *rest = cast("list[bytes]", reply)
        entries = [
            WaitingItem(message, state.decode(), int(due) / 1000)
            for state, due, message in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        ]
        return Page(entries, None if int(following) < 0 else int(following))


@dataclass(frozen=True, slots=True)
class ReadLeases(Operation[Page[LeasedItem]]):
    """lua/leases.lua"""

    script: ClassVar[Script] = _scripts.load("leases")
    offset: int
    count: int

    def args(self) -> Sequence[Arg]:
        return (self.offset, self.count)

    def decode(self, reply: Reply) -> Page[LeasedItem]:
        now, following, *rest = cast("list[bytes]", reply)
        entries = [
            LeasedItem(
                message,
                int(token),
                int(deadline) / 1000,
                (int(deadline) - int(now)) / 1000,
                worker.decode(errors="backslashreplace"),
            )
            for token, deadline, worker, message in zip(
                rest[::4], rest[1::4], rest[2::4], rest[3::4], strict=True
            )
        ]
        return Page(entries, None if int(following) < 0 else int(following))


def _dead_letter(id: bytes, died: int, record: bytes) -> DeadLetter:
    """A dead letter from its record: version, then reason, worker, error, each after its length."""
    at = 2 + record[1]
    reason = record[2:at]
    worker = record[at + 1 : at + 1 + record[at]]
    at += 1 + record[at]
    end = at + 2 + int.from_bytes(record[at : at + 2], "big")
    return DeadLetter(
        record[end:],
        id_text(id),
        died / 1000,
        reason.decode(errors="backslashreplace"),
        worker.decode(errors="backslashreplace"),
        record[at + 2 : end].decode(errors="backslashreplace"),
    )


def dead_record(letter: DeadLetter) -> bytes:
    """The inverse: the record of a dead letter."""
    reason, worker = cut(letter.reason, MOST_REASON), cut(letter.worker, MOST_REASON)
    error = cut(letter.error, MOST_ERROR)
    return b"".join(
        (
            bytes((1, len(reason))),
            reason,
            bytes((len(worker),)),
            worker,
            len(error).to_bytes(2, "big"),
            error,
            letter.message,
        )
    )


@dataclass(frozen=True, slots=True)
class ReadDead(Operation[Page[DeadLetter]]):
    """lua/dead.lua"""

    script: ClassVar[Script] = _scripts.load("dead")
    offset: int
    count: int

    def args(self) -> Sequence[Arg]:
        return (self.offset, self.count)

    def decode(self, reply: Reply) -> Page[DeadLetter]:
        _now, following, *rest = cast("list[bytes]", reply)
        entries = [
            _dead_letter(id, int(died), record)
            for id, died, record in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        ]
        return Page(entries, None if int(following) < 0 else int(following))


@dataclass(frozen=True, slots=True)
class Redrive(Operation[Sequence[int]]):
    """lua/redrive.lua; the answer is the positions of the ids that stay as they are."""

    script: ClassVar[Script] = _scripts.load("redrive")
    dead: Sequence[bytes]

    def args(self) -> Sequence[Arg]:
        return self.dead

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)

    def ids(self) -> Sequence[str]:
        return [id_text(id) for id in self.dead]


@dataclass(frozen=True, slots=True)
class Import(Operation[Sequence[int]]):
    """lua/import.lua; the answer is the positions of those that are there already."""

    script: ClassVar[Script] = _scripts.load("import")
    letters: Sequence[DeadLetter]

    def args(self) -> Sequence[Arg]:
        args: list[Arg] = []
        for x in self.letters:
            args += (id_bytes(x.id), milliseconds(x.died_at, "died_at"), dead_record(x))
        return args

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)

    def ids(self) -> Sequence[str]:
        return [x.id for x in self.letters]


@dataclass(frozen=True, slots=True)
class PurgeReply:
    """How many were dropped, and whether there may be more to drop."""

    dropped: int
    more: bool


@dataclass(frozen=True, slots=True)
class Purge(Operation[PurgeReply]):
    """lua/purge.lua"""

    script: ClassVar[Script] = _scripts.load("purge")
    what: str

    def args(self) -> Sequence[Arg]:
        return (self.what,)

    def decode(self, reply: Reply) -> PurgeReply:
        dropped, more = cast("list[int]", reply)
        return PurgeReply(dropped, bool(more))


class Problem(NamedTuple):
    """Something that cannot be, as it was at one instant: lua/check.lua."""

    kind: str
    #: The name of a key.
    where: str
    #: A position from the tail of a list, a member, token or id.
    ref: bytes
    #: Of the message, 16 bytes; or nothing.
    id: bytes = b""
    #: A group, a dedupe key, a value.
    detail: bytes = b""


class Place(NamedTuple):
    """Where an item is."""

    where: str
    ref: bytes
    id: bytes


class Survey(NamedTuple):
    """What ``Check("keys")`` says of the queue as a whole."""

    #: Of what was given back, and of everything; empty when nothing more can be looked at.
    stamp: bytes
    everything: bytes
    last_token: int
    problems: Sequence[Problem]
    #: The counters, and how many markers are at the head.
    facts: Mapping[str, int]


class PartPage(NamedTuple):
    """What ``Check`` of one part says."""

    #: Of the next page; empty at the end.
    cursor: bytes
    items: int
    raw: int
    malformed: int
    markers: int
    highest_token: int
    #: 16 bytes each, one after the other.
    ids: bytes
    problems: Sequence[Problem]
    #: Of the ids that were asked for.
    found: Sequence[Place]
    #: Groups or dedupe keys, each with the id that it says.
    couples: Sequence[tuple[bytes, bytes]]


def _problems(flat: Sequence[bytes]) -> list[Problem]:
    fields = (flat[i::5] for i in range(5))
    return [
        Problem(kind.decode(), where.decode(), *rest)
        for kind, where, *rest in zip(*fields, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Check(Operation["Survey | PartPage"]):
    """lua/check.lua"""

    script: ClassVar[Script] = _scripts.load("check")
    part: str
    cursor: bytes = b"0"
    count: int = 200
    wanted: Sequence[bytes] = ()

    def args(self) -> Sequence[Arg]:
        return (self.part, self.cursor, self.count, *self.wanted)

    def decode(self, reply: Reply) -> Survey | PartPage:
        _now, cursor, *rest = cast("list[Any]", reply)
        if self.part == "keys":
            stamp, everything, last, problems, facts = rest
            return Survey(
                str(stamp).encode() if isinstance(stamp, int) else stamp,
                everything,
                last,
                _problems(problems),
                {name.decode(): x for name, x in zip(facts[::2], facts[1::2], strict=True)},
            )
        items, raw, malformed, markers, highest, ids, problems, found, couples = rest
        return PartPage(
            cursor,
            items,
            raw,
            malformed,
            markers,
            highest,
            ids,
            _problems(problems),
            [
                Place(where.decode(), ref, id)
                for where, ref, id in zip(found[::3], found[1::3], found[2::3], strict=True)
            ],
            list(zip(couples[::2], couples[1::2], strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Repair(Operation[str]):
    """lua/repair.lua; the answer is its word."""

    script: ClassVar[Script] = _scripts.load("repair")
    write: bool
    kind: str
    where: str
    ref: bytes
    id: bytes
    detail: bytes
    #: Of ``surplus`` what is kept; of ``unled`` the id that the group says.
    other_where: str = ""
    other_ref: bytes = b""
    stamp: bytes = b""

    def args(self) -> Sequence[Arg]:
        found = (self.kind, self.where, self.ref, self.id, self.detail)
        return (int(self.write), *found, self.other_where, self.other_ref, self.stamp)

    def decode(self, reply: Reply) -> str:
        return cast("bytes", reply).decode()

    def recorded(self, result: str) -> bool:  # noqa: ARG002 - without writing it is not remembered
        return self.write


@dataclass(frozen=True, slots=True)
class DeleteReply:
    """Whether the queue was deleted, and what it held."""

    deleted: bool
    live: int
    dead: int


@dataclass(frozen=True, slots=True)
class Delete(Operation[DeleteReply]):
    """lua/delete.lua"""

    script: ClassVar[Script] = _scripts.load("delete")
    force: bool

    def args(self) -> Sequence[Arg]:
        return (int(self.force),)

    def decode(self, reply: Reply) -> DeleteReply:
        deleted, live, dead = cast("list[int]", reply)
        return DeleteReply(bool(deleted), live, dead)
