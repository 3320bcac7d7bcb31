"""What the verbs answer with."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from ._message import (
    SPECIAL,
    SUSPECT,
    HeaderValue,
    Parsed,
    id_bytes,
    id_of_raw,
    id_text,
    payload_of,
)


class Item:
    """A message as the queue holds it. Decoded when it is looked at."""

    __slots__ = ("_message", "_parsed")

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._parsed: Parsed | None = None

    def _parts(self) -> Parsed:
        if self._parsed is None:
            self._parsed = Parsed(self._message)
        return self._parsed

    @property
    def message(self) -> bytes:
        """The whole message, as the server holds it: lua/README.md, "Message"."""
        return self._message

    @property
    def payload(self) -> bytes:
        """What was pushed."""
        return payload_of(self._message)

    @property
    def text(self) -> str:
        """The payload as text. Raises UnicodeDecodeError when it is not UTF-8."""
        return self.payload.decode()

    @property
    def headers(self) -> dict[str, HeaderValue]:
        """The headers it was pushed with. Raises MalformedMessage when they cannot be read."""
        headers = self._parts().headers
        if self._parts().flags & SPECIAL:
            headers = {k: v for k, v in headers.items() if not _is_ours(k)}
        return headers

    def _asked(self, name: str) -> HeaderValue:
        parts = self._parts()
        return parts.headers.get(name) if parts.flags & SPECIAL else None

    @property
    def priority(self) -> int:
        """The priority it was pushed with."""
        found = self._asked(":priority")
        return int(found) if isinstance(found, (int, float)) else 0

    @property
    def group(self) -> str | None:
        """The group it was pushed to."""
        found = self._asked(":group")
        return found if isinstance(found, str) else None

    @property
    def unique(self) -> str | None:
        """The dedupe key it was pushed with."""
        found = self._asked(":unique")
        return found if isinstance(found, str) else None

    @property
    def deliveries(self) -> int:
        """How many leases of it have ended without completing it."""
        return self._parts().deliveries

    @property
    def attempts(self) -> int:
        """How many attempts were charged so far: leases that failed or ran out."""
        return self._parts().attempts

    @property
    def suspect(self) -> bool:
        """Whether an earlier lease of it ran out, so that it may have killed its worker."""
        return bool(self._parts().flags & SUSPECT)


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name.startswith(":")


class HeldItem(Item):
    """A message that somebody holds a lease of."""

    __slots__ = ("token",)

    def __init__(self, message: bytes, token: int) -> None:
        super().__init__(message)
        #: The proof of holding it: unique per lease and rising over the life of the queue, so that
        #: it fences outside stores too (``UPDATE … WHERE token < :token``).
        self.token = token

    @property
    def id(self) -> str:
        """Its id, a UUIDv7 as text; the same in every delivery."""
        return id_text(self._parts().id or id_of_raw(self.token))


class WaitingItem(Item):
    """A message that waits, as ``Queue.waiting`` shows it."""

    __slots__ = ("due_in", "state")

    def __init__(self, message: bytes, state: str, due_in: float) -> None:
        super().__init__(message)
        #: "handoff" (a worker was woken for it), "priority" (other than 0), "waiting", "delayed",
        #: or "grouped" (others of its group come first).
        self.state = state
        #: Seconds until it can be leased at the earliest; 0 unless it was delayed.
        self.due_in = due_in

    @property
    def id(self) -> str | None:
        """Its id; None for a raw message, which gets one when it is first leased."""
        id = self._parts().id
        return None if id is None else id_text(id)

    def __repr__(self) -> str:
        return f"<WaitingItem {self.id or 'raw'} {self.state} {self.payload[:40]!r}>"


class LeasedItem(HeldItem):
    """A message in flight, as ``Queue.leases`` shows it."""

    __slots__ = ("deadline", "expires_in", "worker")

    def __init__(
        self, message: bytes, token: int, deadline: float, expires_in: float, worker: str
    ) -> None:
        super().__init__(message, token)
        #: When its lease runs out, in seconds since the epoch by the server's clock.
        self.deadline = deadline
        #: Seconds until then; negative when it has run out and was not reclaimed yet.
        self.expires_in = expires_in
        #: The name of the worker that holds it.
        self.worker = worker

    def __repr__(self) -> str:
        return f"<LeasedItem {self.id} token={self.token} worker={self.worker!r}>"


class DeadLetter(Item):
    """An item that is dead: why, and what was left of it."""

    __slots__ = ("died_at", "error", "id", "reason", "worker")

    def __init__(
        self, message: bytes, id: str, died_at: float, reason: str, worker: str, error: str
    ) -> None:
        super().__init__(message)
        #: Its id, a UUIDv7 as text.
        self.id = id
        #: When it died, in seconds since the epoch by the server's clock.
        self.died_at = died_at
        #: "failed" or "expired" when its attempts were used up, "malformed", or what ``bury`` said.
        self.reason = reason
        #: The worker that held it last; empty for what was never leased.
        self.worker = worker
        #: What that worker said, at most 2 KiB.
        self.error = error

    def as_dict(self) -> dict[str, object]:
        """All of it, for JSON: ``message`` is the whole message in base64; ``payload`` is there for
        readers, when it is UTF-8.
        """
        found: dict[str, object] = {
            "id": self.id,
            "died_at": self.died_at,
            "reason": self.reason,
            "worker": self.worker,
            "error": self.error,
            "message": base64.b64encode(self.message).decode(),
        }
        with contextlib.suppress(UnicodeDecodeError):
            found["payload"] = self.text
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, object]) -> Self:
        """The letter that ``as_dict`` gave. Raises ValueError when it is none."""

        def text(name: str) -> str:
            value = found.get(name)
            if isinstance(value, str):
                return value
            raise ValueError(f"{name!r} of a dead letter is text, not {value!r:.40}")

        died_at = found.get("died_at")
        number = died_at if isinstance(died_at, (int, float)) else -1
        if not 0 <= number <= 1e10:
            raise ValueError(
                f"'died_at' of a dead letter is seconds since the epoch, not {died_at!r:.40}"
            )
        try:
            message = base64.b64decode(text("message"), validate=True)
        except binascii.Error as error:
            raise ValueError(f"'message' of a dead letter is not base64: {error}") from error
        id = id_text(id_bytes(text("id")))
        return cls(message, id, float(number), text("reason"), text("worker"), text("error"))

    def __repr__(self) -> str:
        return f"<DeadLetter {self.id} {self.reason!r} {self.payload[:40]!r}>"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that ``Queue.check`` found, and that no script leaves behind."""

    #: One word: see lua/README.md, "Check".
    kind: str
    #: The name of the key it is in, as in that page.
    where: str
    #: What it is about there: an id, a token, a dedupe key, a group, a field; empty for the key.
    what: str
    #: Whether it is mended.
    repaired: bool
    #: What it means, in plain words.
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What ``Queue.check`` found."""

    findings: Sequence[Finding]
    #: Items that were counted, by state: waiting (handed off and those with a priority too),
    #: delayed, grouped, leased, dead.
    items: Mapping[str, int]
    #: Raw messages among those waiting, whose id is made only when they are leased.
    raw: int
    #: Whether all items that came in are done, dead, purged, or still there. None when that could
    #: not be judged: the queue was being worked on, or nobody can tell.
    accounted: bool | None
    #: How many items are missing; negative: how many there are too many. 0 unless ``accounted`` is
    #: False.
    missing: int
    #: Why that could not be judged, and what else there is to know.
    notes: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong any more."""
        return all(finding.repaired for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {
            "items": dict(self.items),
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True)
class Stats:
    """What a queue holds and has done; all times in seconds."""

    #: Messages that can be leased now, those handed to a woken worker and those with a priority
    #: among them.
    waiting: int
    #: Messages that wait for their time.
    delayed: int
    #: Messages that wait for others of their group to be settled.
    grouped: int
    #: Messages in flight, with ``expired`` among them.
    leased: int
    #: Leases that have run out and were not reclaimed yet.
    expired: int
    #: Dead letters.
    dead: int
    #: Age of the message at the head; None when it is raw or nothing waits.
    oldest: float | None
    #: Until the next delayed message is due; None without one.
    next_due: float | None
    sealed: bool
    paused: bool
    #: Groups that have an item, and dedupe keys that are taken.
    groups: int
    unique: int
    #: What ``Queue.configure`` has set, times in seconds.
    configuration: Mapping[str, float] = field(default_factory=dict)
    #: What happened over the life of the queue: pushed (through the library), raw (raw messages
    #: leased for the first time), completed, released, failed, expired, unseen (given back since
    #: the reply was lost), dead, redriven, imported, purged, missing (leases whose message somebody
    #: else took away).
    totals: Mapping[str, int] = field(default_factory=dict)

    @property
    def live(self) -> int:
        """Items that are not done: waiting, delayed, grouped and leased."""
        return self.waiting + self.delayed + self.grouped + self.leased

    @property
    def drained(self) -> bool:
        """Whether nothing is left to do. Dead letters do not count."""
        return self.live == 0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {
            "configuration": dict(self.configuration),
            "totals": dict(self.totals),
            "live": self.live,
            "drained": self.drained,
        }
