"""Messages on their way to a queue: the payload, and what is asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ._message import (
    SPECIAL,
    Headers,
    HeaderValue,
    Payload,
    as_bytes,
    envelope,
    id_bytes,
    new_id,
    pack_headers,
)
from .errors import MessageTooLarge

#: The range of priorities.
MOST_PRIORITY = 1 << 20
#: The longest dedupe key and group, in bytes.
MOST_NAME = 255
#: The most messages or tokens in one call, and where the script has to look at each message, or at
#: what it asked for; and bytes of messages: no call blocks the server for 5 ms.
MOST, FEW = 1000, 200
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to push, with options of its own; times in seconds. For ``push_many``, and for
    follow-ups (``Lease.complete(push=…)``), where ``queue`` names another queue of the same tag.

    Raises ValueError for an option that is out of range.
    """

    payload: Payload = field(kw_only=False)
    #: Its id, a UUID as text. An id is taken in once: for an hour, a second push of it changes
    #: nothing. By default a new UUIDv7, without that guard; a follow-up has none either, since it
    #: is pushed once with its item.
    id: str | None = None
    #: The queue's name, for follow-ups only; by default the one that the lease is of.
    queue: str | None = None
    #: For programs that read the message: str, int, float, bool or None by name.
    headers: Headers | None = None
    #: How long the message waits before it can be leased.
    delay: float = 0
    #: From -2^20 to 2^20, the higher the sooner; first in, first out within one. 0 is the list
    #: that a plain RPUSH goes to, and costs nothing.
    priority: int = 0
    #: Dedupe key, at most 255 bytes: while an item with this key is not settled (or, with
    #: ``unique_for``, for so long after the push) a second push changes nothing and answers with
    #: the first one's id.
    unique: str | None = None
    unique_for: float | None = None
    #: Items of one group are leased one at a time, in the order of their push; at most 255 bytes.
    group: str | None = None
    #: This message's own numbers, instead of the queue's; see ``Queue.configure``.
    max_attempts: int | None = None
    backoff: float | None = None
    backoff_max: float | None = None

    def __post_init__(self) -> None:
        for name, value, most in (
            ("delay", self.delay, 1e10),
            ("unique_for", self.unique_for, 1e10),
            ("backoff", self.backoff, 1e10),
            ("backoff_max", self.backoff_max, 1e10),
        ):
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"{name} is {value} s: it must be from 0 s to {most:g} s")
        if not -MOST_PRIORITY <= self.priority <= MOST_PRIORITY:
            raise ValueError(
                f"priority is {self.priority}: it must be from -{MOST_PRIORITY} to {MOST_PRIORITY}"
            )
        if self.max_attempts is not None and not 1 <= self.max_attempts <= 65535:
            raise ValueError(f"max_attempts is {self.max_attempts}: it must be from 1 to 65535")
        for name, number in (("priority", self.priority), ("max_attempts", self.max_attempts)):
            if number is not None and number != int(number):
                raise ValueError(f"{name} is {number}: it must be an integer")
        if self.unique_for is not None and self.unique_for < 0.001:
            raise ValueError(
                f"unique_for is {self.unique_for} s: a key holds for 1 ms at the least;"
                " leave it out for one that holds until its item is settled"
            )
        for name, text in (("unique", self.unique), ("group", self.group)):
            if text is not None and (not 1 <= len(text.encode()) <= MOST_NAME or "\0" in text):
                raise ValueError(
                    f"{name} must be from 1 to {MOST_NAME} bytes long, without a NUL character"
                )
        if self.unique_for is not None and self.unique is None:
            raise ValueError("unique_for is how long the key `unique` holds: give that too")

    def packed(self) -> tuple[int, bytes]:
        """The flags and the headers of the envelope."""
        own: dict[str, HeaderValue] = {
            name: value
            for name, value in (
                (":group", self.group),
                (":unique", self.unique),
                # For `check`: a key that holds until its item is settled cannot be free before.
                (":unique_for", self.unique_for),
                (":max_attempts", self.max_attempts and int(self.max_attempts)),
                (":backoff", self.backoff),
                (":backoff_max", self.backoff_max),
            )
            if value is not None
        }
        if self.priority:
            own[":priority"] = int(self.priority)  # True is no number in the headers
        headers = dict(self.headers or {})
        pack_headers(headers)  # refuses names of ours
        return (SPECIAL if own else 0), pack_headers(headers | own, own=True)


#: What messages in one call have in common: delay, for how long their keys are taken (0: until they
#: are settled), whether their ids were given.
Options: TypeAlias = tuple[float, float, bool]


class Group(NamedTuple):
    """Messages that go in one call, and what they have in common."""

    #: None when nothing is asked.
    options: Options | None
    messages: Sequence[bytes]


Encoded: TypeAlias = tuple[Options | None, bytes]


def encode(message: Message, max_bytes: int) -> Encoded:
    """A message as the options of its call and its bytes. Raises MessageTooLarge, TypeError,
    ValueError.
    """
    flags, headers = message.packed()
    id = new_id() if message.id is None else id_bytes(message.id)
    asked = message.delay or flags or message.id is not None
    data = checked(message.payload, max_bytes)
    options = (message.delay, message.unique_for or 0.0, message.id is not None)
    return options if asked else None, envelope(id, data, headers, flags)


def checked(payload: Payload, max_bytes: int) -> bytes:
    """A payload as bytes. Raises MessageTooLarge, TypeError."""
    data = as_bytes(payload)
    if len(data) > max_bytes:
        raise MessageTooLarge(
            f"payload is {len(data)} bytes, at most {max_bytes} are allowed: store it"
            " elsewhere and push its address, or raise max_bytes"
        )
    return data


def grouped(messages: Iterable[Encoded]) -> Iterator[Group]:
    """Messages in calls: those that follow one another and ask for the same, as many as fit."""
    options: Options | None = None
    some: list[bytes] = []
    size = 0
    for asked, message in messages:
        full = len(some) == (FEW if options else MOST) or size + len(message) > MOST_BYTES
        if some and (full or asked != options):
            yield Group(options, some)
            some, size = [], 0
        options = asked
        some.append(message)
        size += len(message)
    if some:
        yield Group(options, some)
