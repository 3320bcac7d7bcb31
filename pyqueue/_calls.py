"""Call ids: what lets a script know a second copy of a call (lua/README.md, "Replays")."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import redis

from ._connection import nothing_happened, translated
from .errors import PyQueueError, ServerUnavailable

if TYPE_CHECKING:
    from . import _operations as op
    from ._keys import Keys

T = TypeVar("T")
SLOT_BYTES = 8
#: Messages of pushes with an unknown outcome whose slots wait for a repeat.
MOST_SET_ASIDE = 10_000


class Slot:
    """One caller at a time: 8 random bytes and a rising number. Never shared, never pickled."""

    __slots__ = ("ack", "connection", "id", "keep_until", "number", "unresolved")

    def __init__(self) -> None:
        self.id = os.urandom(SLOT_BYTES)
        self.number = 0
        #: The last number whose reply was seen and is remembered by the server.
        self.ack = 0
        #: True while a call was sent whose reply was not seen.
        self.unresolved = False
        #: The connection it uses, until the monotonic time ``keep_until`` (see ``_wire``).
        self.connection: Any = None
        self.keep_until = 0.0


def unknown(error: BaseException) -> bool:
    """Whether a call that ended so may have been carried out."""
    if isinstance(error, ServerUnavailable):
        return error.outcome_unknown
    # Refused by the server, or by the operation itself; else the thread was interrupted.
    return not isinstance(error, (PyQueueError, ValueError))


class Slots:
    """The free slots of a client. A call takes one and gives it back when its reply is there.

    deque's append and pop are atomic, so threads need no lock.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._free: deque[Slot] = deque()
        self._unresolved: deque[Slot] = deque()
        self._set_aside: dict[str, tuple[Slot, op.Push]] = {}
        #: What those pushes came to, by id, until somebody asks: None, or the id that has the key.
        self.known: dict[str, bytes | None] = {}
        #: Held by the thread that asks.
        self.asking = threading.Lock()

    def _forked(self) -> bool:
        """After a fork parent and child must not number their calls in one slot."""
        if os.getpid() == self._pid:
            return False
        self._pid, self._free, self._unresolved = os.getpid(), deque(), deque()
        self._set_aside, self.known, self.asking = {}, {}, threading.Lock()
        return True

    @property
    def set_aside(self) -> dict[str, tuple[Slot, op.Push]]:
        """Slots of pushes whose outcome is unknown, with their operations, by the ids of the
        messages: a push of the same ids can be the same call once more.
        """
        if self._set_aside:  # else asking for the process's number would take longer
            self._forked()
        return self._set_aside

    def put_aside(self, slot: Slot, operation: op.Push) -> bool:
        """Keeps the slot of a push whose outcome is unknown, unless there are too many."""
        self._forked()
        if len(self._set_aside) + len(self.known) >= MOST_SET_ASIDE:
            return False
        self._set_aside.update(dict.fromkeys(operation.ids(), (slot, operation)))
        return True

    def take(self) -> Slot:
        """A slot for one call at a time; first one whose last call was not answered, so that what
        it may have leased is given back soon.
        """
        self._forked()
        for slots in (self._unresolved, self._free):
            if slots:  # else the exception alone would take longer than all the rest
                try:
                    return slots.pop()
                except IndexError:  # another thread was quicker
                    continue
        return Slot()

    def give(self, slot: Slot) -> None:
        """Gives a slot back. One whose last call the server does not remember (a lease that found
        nothing) goes first as well: a late copy of that call may find an item, which the slot's
        next call gives back.
        """
        first = slot.unresolved or slot.number > slot.ack
        (self._unresolved if first else self._free).append(slot)

    def take_all(self) -> list[Slot]:
        """Takes every free slot out, as when the client is closed."""
        if self._forked():
            return []
        # First put aside: another thread may give one back at the same time.
        taken = (self._unresolved, self._free)
        aside = [slot for slot, _ in self._set_aside.values()]
        self._unresolved, self._free, self._set_aside = deque(), deque(), {}
        self.known = {}
        return [slot for slots in (*taken, dict.fromkeys(aside)) for slot in slots]

    def all(self) -> Iterator[Slot]:
        """Every slot that no call has, those set aside too; they stay."""
        yield from self._free
        yield from self._unresolved
        yield from (slot for slot, _ in self.set_aside.values())

    def __reduce__(self) -> str | tuple[object, ...]:
        return (Slots, ())


class Addressed:
    """What the calls of one queue have in common; the clients add how they are made."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        #: Whether calls name the keys of the features: from the first answer on that wants them.
        self._wide = False
        #: Milliseconds as text; only on a queue whose state carries the test flag.
        self._clock: Callable[[], str] | None = None

    def _explained(
        self, error: redis.RedisError, operation: op.Operation[Any], server: str
    ) -> PyQueueError:
        """The error of a call in pyqueue's words."""
        return translated(error, self._keys.name, server, operation.script.name, operation.ids())


class Sending(Generic[T]):
    """One call of an operation by a slot: what is sent, and what an answer means."""

    __slots__ = ("_operation", "_queue", "_slot", "_was_unresolved", "_wide", "args")

    def __init__(self, queue: Addressed, operation: op.Operation[T], slot: Slot) -> None:
        now = "" if queue._clock is None else queue._clock()
        self._queue, self._operation, self._slot = queue, operation, slot
        # A call that only reads, or is refused, resolves nothing of an earlier one.
        self._was_unresolved = slot.unresolved
        self._wide = queue._wide or operation.wide
        self.args: tuple[op.Arg, ...]
        if operation.script.takes_call:
            args = operation.args()  # may refuse: then the slot has not been used
            slot.number += 1
            slot.unresolved = True
            self.args = (now, slot.id, slot.number, slot.ack, *args)
        else:
            self.args = (now, *operation.args())

    def keys(self) -> tuple[bytes, ...]:
        """KEYS, for this try."""
        operation = self._operation
        own = self._queue._keys.pick(operation.script.keys, wide=self._wide)
        return own + operation.other_keys()

    def again(self, error: redis.RedisError) -> bool:
        """Whether the same call is to be tried once more, with all keys."""
        if not self._wide and str(error).startswith("WIDE "):
            self._queue._wide = self._wide = True
            return True
        if nothing_happened(error):
            self._slot.unresolved = self._was_unresolved
        return False

    def answered(self, reply: op.Reply) -> T:
        """The result of the reply."""
        operation, slot = self._operation, self._slot
        takes_call = operation.script.takes_call
        slot.unresolved = self._was_unresolved and not takes_call
        result = operation.decode(reply)
        if takes_call and operation.recorded(result):
            slot.ack = slot.number
        return result
