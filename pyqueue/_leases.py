"""What both clients have in common: leases as they are held, batches of them, and small parts."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TypeAlias, TypeVar, overload

from . import _operations as op
from ._keys import Keys
from ._message import Payload
from ._outgoing import MOST_BYTES, Message, encode
from .models import HeldItem

T = TypeVar("T")
L = TypeVar("L", bound="HeldLease")

#: What the options of a push are when none is given.
ASKS_NOTHING = (None,) * 8
#: The most messages that one item can be followed by, in one step.
MOST_FOLLOW_UPS = 100

#: A page of ``waiting`` and ``leases``.
PAGE = 100
#: How long after an outage workers have to extend before others reclaim, seconds (DESIGN 4).
HOLD = 5.0


def heartbeat_period(ttl: float) -> float:
    """How often a lease of ``ttl`` seconds is extended while its item is worked on: often enough
    that two heartbeats may fail, and that the guard after an outage (5 s) sees somebody alive.
    """
    return min(ttl / 3, 4.0)


def worker_name() -> str:
    """What leases show as their holder unless told otherwise: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


#: What follows from an item: one message or several.
FollowUps: TypeAlias = "Payload | Message | Iterable[Payload | Message]"


class Unset(Enum):
    """What an option is that was not given, where None has a meaning of its own."""

    UNSET = "unset"


UNSET = Unset.UNSET


class HeldLease(HeldItem):
    """What a lease knows by itself; the clients add the verbs."""

    __slots__ = ("_dead", "_deadline", "_ending", "_settled", "_until")

    def __init__(self, message: bytes, token: int, deadline: float, until: float) -> None:
        # That of the base classes, whose calls would take as long as all the rest.
        self._message, self._parsed, self.token = message, None, token
        self._deadline = deadline
        self._until = until
        self._settled = False
        self._dead = False
        #: A call that settles it is under way: a heartbeat that finds it gone has no news.
        self._ending = False

    @property
    def deadline(self) -> float:
        """When the lease runs out: seconds since the epoch by the server's clock."""
        return self._deadline

    @property
    def remaining(self) -> float:
        """Seconds until the lease runs out, by this machine's monotonic clock."""
        return self._until - time.monotonic()

    @property
    def settled(self) -> bool:
        """Whether a verb has ended this lease, or found it lost."""
        return self._settled

    @property
    def dead(self) -> bool:
        """Whether this lease ended with a dead letter: its item was buried, or failed for the last
        time.
        """
        return self._dead

    def _mark(self, deadline: float | None = None, until: float = 0.0) -> None:
        """Settled or lost; or, with a deadline, extended."""
        if deadline is None:
            self._settled = True
        else:
            self._deadline, self._until = deadline, until


class Batch(Sequence[L]):
    """The leases of one call, and why there are none."""

    def __init__(self, leases: Sequence[L], reply: op.LeaseReply, lost: Sequence[int]) -> None:
        self._leases = leases
        #: "items", "empty", "group", "limit", "rate", "paused" or "drained".
        self.reason = reply.word
        #: True when nothing is left to do: nothing waiting, delayed or leased.
        self.drained = reply.word == "drained"
        #: Seconds until something happens by itself (an item is due, a lease runs out), if known.
        self.retry_in = reply.retry_in
        #: Whether the queue is drained and takes no more messages.
        self.sealed = reply.sealed
        #: Whether the queue is drained since it has never had an item.
        self.fresh = reply.fresh
        #: The tokens given as ``completed`` that no longer held a lease.
        self.lost = tuple(lost)

    @overload
    def __getitem__(self, index: int) -> L: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[L]: ...
    def __getitem__(self, index: int | slice) -> L | Sequence[L]:
        return self._leases[index]

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[L]:
        return iter(self._leases)

    def __repr__(self) -> str:
        return f"<Batch {self.reason} {list(self._leases)!r}>"


def follow_ups(push: FollowUps, keys: Keys, max_bytes: int) -> list[op.FollowUp]:
    """What follows from an item of the queue with these keys. Raises ValueError for a queue of
    another tag, or too many; and what ``encode`` raises.
    """
    if isinstance(push, (str, bytes, bytearray, memoryview, Message)):
        push = [push]
    found: list[op.FollowUp] = []
    for x in push:
        message = x if isinstance(x, Message) else Message(payload=x)
        queue = None
        if message.queue is not None and message.queue != keys.name:
            queue = Keys(message.queue)
            if queue.tag != keys.tag:
                raise ValueError(
                    f"queue {message.queue!r} has another tag than {keys.name!r}: name them"
                    f" {{{keys.tag}}}… both, so that one step can write to both"
                )
        options, data = encode(message, max_bytes)
        delay, window, _ = options or (0.0, 0.0, False)
        found.append(op.FollowUp(queue, delay, window, data))
    if len(found) > MOST_FOLLOW_UPS:
        raise ValueError(f"{len(found)} messages follow: at most {MOST_FOLLOW_UPS} can")
    return found


@contextmanager
def ending(leases: Sequence[HeldLease]) -> Iterator[None]:
    """Around a call that settles leases. It goes on when its caller is cancelled."""
    for lease in leases:
        lease._ending = True
    try:
        yield
    except Exception:  # not a cancellation: see above
        for lease in leases:
            lease._ending = False
        raise


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def by_size(leases: Iterable[L], most: int) -> Iterator[Sequence[L]]:
    """Leases in order, at most so many at a time, and 1 MiB of messages: for the verbs that give
    them back, which move each message.
    """
    some: list[L] = []
    size = 0
    for lease in leases:
        size += len(lease.message)
        if some and (len(some) == most or size > MOST_BYTES):
            yield some
            some, size = [], len(lease.message)
        some.append(lease)
    if some:
        yield some


def mark_settled(
    leases: Sequence[HeldLease], lost: Sequence[int], dead: Sequence[int] = ()
) -> list[bool]:
    """Marks leases by the positions in a reply; returns for each whether it was still held."""
    outcomes = [True] * len(leases)
    for position in lost:
        outcomes[position] = False
    for position in dead:
        leases[position]._dead = True
    for lease in leases:
        lease._mark()
    return outcomes


def error_text(error: str | BaseException) -> str:
    """An error for the dead letter. Of a traceback the last lines say most, so those are kept."""
    if isinstance(error, str):
        return error
    lines = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    return lines[-op.MOST_ERROR :].decode(errors="ignore")
