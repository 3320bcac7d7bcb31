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

#: The keys of what a queue may never use: sent only when it does, or is about to.
FEATURES = ("priority", "special", "unique", "unique_due", "groups", "grouped", "delayed")
#: What ``complete_push`` and ``fail_push`` want of each other queue.
OTHERS = (
    "waiting",
    "meta",
    "delayed",
    "priority",
    "unique",
    "unique_due",
    "groups",
    "grouped",
)

#: In a script's header, these stand for several keys.
_SEVERAL = ("every", "features", "others")

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
        self._picked: dict[tuple[tuple[str, ...], bool], tuple[bytes, ...]] = {}

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

    @property
    def tag(self) -> str:
        """What queues have in common that one script can write to: ``{tag}rest``, or ``tag``."""
        return self.name[1:].partition("}")[0] if self.name.startswith("{") else self.name

    def pick(self, names: tuple[str, ...], *, wide: bool = False) -> tuple[bytes, ...]:
        """The keys that a script's header names, in order. "every" stands for all the others,
        "features" for those of the features when ``wide``, "others" for none of this queue.
        """
        picked = self._picked.get((names, wide))
        if picked is None:
            chosen = [self._names[name] for name in names if name not in _SEVERAL]
            more = self._names if "every" in names else FEATURES if wide else ()
            if "every" in names or "features" in names:
                chosen += [key for key in map(self._names.__getitem__, more) if key not in chosen]
            picked = self._picked[names, wide] = tuple(chosen)
        return picked
