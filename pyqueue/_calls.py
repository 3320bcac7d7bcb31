"""Call ids: what lets a script know a second copy of a call (lua/README.md, "Replays")."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

SLOT_BYTES = 8


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


class Slots:
    """The free slots of a client. A call takes one and gives it back when its reply is there.

    deque's append and pop are atomic, so threads need no lock.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._free: deque[Slot] = deque()
        self._unresolved: deque[Slot] = deque()
        self._set_aside: dict[str, tuple[Slot, Any]] = {}

    def _forked(self) -> bool:
        """After a fork parent and child must not number their calls in one slot."""
        if os.getpid() == self._pid:
            return False
        self._pid, self._free, self._unresolved = os.getpid(), deque(), deque()
        self._set_aside = {}
        return True

    @property
    def set_aside(self) -> dict[str, tuple[Slot, Any]]:
        """Slots of pushes whose outcome is unknown, with their operations, by the ids of the
        messages: a push of the same ids can be the same call once more.
        """
        self._forked()
        return self._set_aside

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
        return [slot for slots in (*taken, dict.fromkeys(aside)) for slot in slots]

    def __reduce__(self) -> str | tuple[object, ...]:
        return (Slots, ())
