"""The keys of a queue: every name in one place."""

from __future__ import annotations

import re
from functools import cached_property

from .errors import InvalidName

MAX_NAME_BYTES = 200

#: What follows ``{N}:``, in the order of DESIGN section 2. The list ``N`` itself is "waiting".
SUFFIXES = (
    "handoff",
    "priority",
    "delayed",
    "leases",
    "leased",
    "special",
    "dead",
    "died",
    "unique",
    "unique_due",
    "groups",
    "grouped",
    "calls0",
    "calls1",
    "meta",
)

_PLAIN = re.compile(r"[^{}]+")
_TAGGED = re.compile(r"\{[^{}]+\}(?!:)[^{}]+")


def _prefix(name: str) -> str:
    """The internal prefix of a queue, after checking its name. Raises InvalidName."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidName(f"queue name {name!r} cannot be written as UTF-8") from error
    if size > MAX_NAME_BYTES:
        raise InvalidName(f"queue name is {size} bytes long, at most {MAX_NAME_BYTES} are allowed")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise InvalidName(f"queue name {name!r} has a control character")
    if _PLAIN.fullmatch(name):
        return "{" + name + "}"
    if not _TAGGED.fullmatch(name):
        raise InvalidName(
            f"queue name {name!r} is not valid: a name has no brace at all, or is {{tag}}rest,"
            " where tag and rest are not empty, have no brace, and rest does not begin with a colon"
        )
    # {a}x:meta would be the key of a queue and an internal key of the queue {a}x at once.
    if name.rpartition(":")[2] in SUFFIXES and ":" in name.partition("}")[2]:
        raise InvalidName(
            f"queue name {name!r} ends like an internal key of another queue; choose another ending"
        )
    return name


class Keys:
    """The keys of the queue ``name``, all in one Cluster slot. Raises InvalidName."""

    def __init__(self, name: str) -> None:
        self.name = name
        prefix = _prefix(name)
        self._names = {"waiting": name.encode()}
        self._names.update({suffix: f"{prefix}:{suffix}".encode() for suffix in SUFFIXES})
        self._picked: dict[tuple[str, ...], tuple[bytes, ...]] = {}

    @cached_property
    def waiting(self) -> bytes:
        """The list that a plain producer pushes to."""
        return self._names["waiting"]

    @cached_property
    def handoff(self) -> bytes:
        """The list that a blocked worker's BLMOVE moves a message into."""
        return self._names["handoff"]

    @property
    def all(self) -> tuple[bytes, ...]:
        """Every key that the queue can have."""
        return tuple(self._names.values())

    def pick(self, names: tuple[str, ...]) -> tuple[bytes, ...]:
        """The keys that a script's header names, in order; "every" stands for all the others."""
        picked = self._picked.get(names)
        if picked is None:
            chosen = [self._names[name] for name in names if name != "every"]
            if "every" in names:
                chosen += [key for key in self._names.values() if key not in chosen]
            picked = self._picked[names] = tuple(chosen)
        return picked
