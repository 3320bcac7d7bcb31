"""Call ids: what lets a script know a second copy of a call (lua/README.md, "Replays")."""

from __future__ import annotations

import os
from collections import deque

SLOT_BYTES = 8


class Slot:
    """One caller at a time: 8 random bytes and a rising number. Never shared, never pickled."""

    __slots__ = ("ack", "id", "number", "unresolved")

    def __init__(self) -> None:
        self.id = os.urandom(SLOT_BYTES)
        self.number = 0
        #: The last number whose reply was seen and is remembered by the server.
        self.ack = 0
        #: True while a call was sent whose reply was not seen.
        self.unresolved = False


class Slots:
    """The free slots of a client. A call takes one and gives it back when its reply is there.

    deque's append and pop are atomic, so threads need no lock.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._free: deque[Slot] = deque()

    def take(self) -> Slot:
        """A slot for one call; an unresolved one first, so that its call is resolved soon."""
        if os.getpid() != self._pid:
            # After a fork parent and child must not number their calls in one slot.
            self._pid, self._free = os.getpid(), deque()
        try:
            slot = self._free.pop()
        except IndexError:
            slot = Slot()
        slot.number += 1
        return slot

    def give(self, slot: Slot) -> None:
        """Gives a slot back."""
        self._free.append(slot)

    def take_unresolved(self) -> list[Slot]:
        """Takes the slots out that need one last call."""
        free, self._free = self._free, deque()
        unresolved = [slot for slot in free if slot.unresolved]
        if os.getpid() != self._pid:
            return []
        for slot in unresolved:
            slot.number += 1
        return unresolved

    def __reduce__(self) -> str | tuple[object, ...]:
        return (Slots, ())
