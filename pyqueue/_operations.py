"""One frozen operation per script: it names the script, builds ARGV and decodes the reply.

The client puts what every call has in common before ``args``: the time, and for a script that
changes something the call id. Seconds become milliseconds here and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar, cast

from . import _scripts
from ._message import id_text
from .models import DeadLetter, LeasedItem, Stats, WaitingItem

if TYPE_CHECKING:
    from ._scripts import Script

T = TypeVar("T")
Arg: TypeAlias = bytes | str | int
#: What a script can answer with.
Reply: TypeAlias = "int | bytes | list[Reply] | None"

#: The most tokens or messages in one call, so that no call is long.
MOST = 1000


def milliseconds(seconds: float, name: str, least: int = 0) -> int:
    """Seconds for the wire, rounded to the nearest ms. Raises ValueError outside of the range."""
    if not least / 1000 <= seconds <= 1e10:
        raise ValueError(f"{name} is {seconds} s: it must be from {least / 1000:g} s to 1e10 s")
    return round(seconds * 1000)


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

    @abstractmethod
    def decode(self, reply: Reply) -> T:
        """The reply as Python."""

    def recorded(self, result: T) -> bool:  # noqa: ARG002 - for those that override it
        """Whether the server remembers the call (an answer that changed nothing is not)."""
        return True

    def ids(self) -> Sequence[str]:
        """What the call is about, for the error that says that its outcome is unknown."""
        return ()


class LeaseReply(NamedTuple):
    """What ``lease`` answered: items, or why there are none."""

    #: "items", "empty", "paused" or "drained".
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
    ttl: float
    worker: bytes
    completed: Sequence[int] = ()

    def args(self) -> Sequence[Arg]:
        return (self.n, milliseconds(self.ttl, "ttl", 1), self.worker, *self.completed)

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


@dataclass(frozen=True, slots=True)
class Push(Operation[int]):
    """lua/push.lua"""

    script: ClassVar[Script] = _scripts.load("push")
    messages: Sequence[bytes]

    def args(self) -> Sequence[Arg]:
        return self.messages

    def decode(self, reply: Reply) -> int:
        return cast("int", reply)

    def ids(self) -> Sequence[str]:
        return [id_text(message[4:20]) for message in self.messages]


@dataclass(frozen=True, slots=True)
class _OnTokens(Operation[T]):
    tokens: Sequence[int]

    def ids(self) -> Sequence[str]:
        return [str(token) for token in self.tokens]


@dataclass(frozen=True, slots=True)
class Complete(_OnTokens[Sequence[int]]):
    """lua/complete.lua; the answer is the positions of the lost."""

    script: ClassVar[Script] = _scripts.load("complete")

    def args(self) -> Sequence[Arg]:
        return self.tokens

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)


@dataclass(frozen=True, slots=True)
class Release(_OnTokens[Sequence[int]]):
    """lua/release.lua; the answer is the positions of the lost."""

    script: ClassVar[Script] = _scripts.load("release")
    delay: float = 0

    def args(self) -> Sequence[Arg]:
        return (milliseconds(self.delay, "delay"), *self.tokens)

    def decode(self, reply: Reply) -> Sequence[int]:
        return cast("list[int]", reply)


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


@dataclass(frozen=True, slots=True)
class Extend(_OnTokens[Sequence[float | None]]):
    """lua/extend.lua; the answer is each deadline, seconds since the epoch, None for a lost one."""

    script: ClassVar[Script] = _scripts.load("extend")
    ttl: float = 60.0

    def args(self) -> Sequence[Arg]:
        return (milliseconds(self.ttl, "ttl", 1), *self.tokens)

    def decode(self, reply: Reply) -> Sequence[float | None]:
        _now, *deadlines = cast("list[int]", reply)
        return [deadline / 1000 if deadline else None for deadline in deadlines]


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


@dataclass(frozen=True, slots=True)
class ReadStats(Operation[Stats]):
    """lua/stats.lua"""

    script: ClassVar[Script] = _scripts.load("stats")

    def args(self) -> Sequence[Arg]:
        return ()

    def decode(self, reply: Reply) -> Stats:
        pairs = cast("list[bytes | int]", reply)
        found = {
            cast("bytes", name).decode(): cast("int", value)
            for name, value in zip(pairs[::2], pairs[1::2], strict=True)
        }
        return Stats(
            waiting=found["waiting"] + found["handoff"],
            delayed=found["delayed"],
            leased=found["leased"],
            expired=found["expired"],
            dead=found["dead"],
            oldest=None if found["oldest"] < 0 else found["oldest"] / 1000,
            next_due=None if found["next_due"] < 0 else found["next_due"] / 1000,
            sealed=bool(found["sealed"]),
            paused=bool(found["paused"]),
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
class Purge(Operation[int]):
    """lua/purge.lua"""

    script: ClassVar[Script] = _scripts.load("purge")
    what: str

    def args(self) -> Sequence[Arg]:
        return (self.what,)

    def decode(self, reply: Reply) -> int:
        return cast("int", reply)


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
