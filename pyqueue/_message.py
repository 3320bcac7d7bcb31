"""Messages as bytes. The layout is in lua/README.md, "Message"."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias
from uuid import UUID

import msgpack
import uuid_utils

from .errors import MalformedMessage, MessageTooLarge

Payload: TypeAlias = str | bytes | bytearray | memoryview
HeaderValue: TypeAlias = str | int | float | bool | None
Headers: TypeAlias = Mapping[str, HeaderValue]

MAGIC = b"\0PQ\1"
FIXED = 27
SUSPECT = 1
#: The headers hold names of ours, which begin with a colon.
SPECIAL = 2
#: flags, deliveries, attempts, length of the headers: after the magic and the id.
_COUNTS = struct.Struct(">BHHH")
_FRESH = bytes(_COUNTS.size)
MAX_HEADER_BYTES = 65535
DEFAULT_MAX_BYTES = 1 << 20


def as_bytes(payload: Payload) -> bytes:
    """A payload as the bytes that are sent: text as UTF-8. Raises TypeError for anything else."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(
        f"a payload is str or bytes, not {type(payload).__name__}:"
        " encode it first, as JSON for example"
    )


def new_id() -> bytes:
    """A UUIDv7 (RFC 9562), 16 bytes, with the time of enqueue in its first 48 bits."""
    return uuid_utils.uuid7().bytes


def id_of_raw(token: int) -> bytes:
    """The id of a raw message that is leased for the first time, as the scripts make it."""
    milliseconds, micros = divmod(token, 1000)
    return (
        milliseconds.to_bytes(6, "big") + (0x7000 + micros).to_bytes(2, "big") + b"\x80raw\0\0\0\0"
    )


def pack_headers(headers: Headers | None, *, own: bool = False) -> bytes:
    """Headers as a msgpack map, nothing when there are none. ``own``: some of the names are ours.

    Raises MessageTooLarge above 65,535 bytes, TypeError for a key or a value of another kind,
    ValueError for a name that begins with a colon.
    """
    if not headers:
        return b""
    for key, value in headers.items():
        if not isinstance(key, str):
            raise TypeError(f"a header's name is str, not {type(key).__name__}")
        if key.startswith(":") and not own:
            raise ValueError(f"header {key!r}: names that begin with a colon are pyqueue's")
        # No bytes: the msgpack of the server's Lua has none, and would take it for broken.
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise TypeError(
                f"header {key!r} is {type(value).__name__};"
                " str, int, float, bool and None can be sent"
            )
    packed = msgpack.packb(dict(headers), use_bin_type=True)
    if len(packed) > MAX_HEADER_BYTES:
        raise MessageTooLarge(f"headers are {len(packed)} bytes, at most {MAX_HEADER_BYTES} fit")
    return bytes(packed)


def envelope(id: bytes, payload: bytes, headers: bytes = b"", flags: int = 0) -> bytes:
    """A new message: never delivered, no attempt charged."""
    if headers:
        return b"".join((MAGIC, id, _COUNTS.pack(flags, 0, 0, len(headers)), headers, payload))
    return b"".join((MAGIC, id, _FRESH, payload))


def id_text(id: bytes) -> str:
    """An id as people read it; of another length, which somebody else has written, in hex."""
    return str(uuid_utils.UUID(bytes=id)) if len(id) == 16 else id.hex()


def id_bytes(id: str) -> bytes:
    """The inverse of id_text. Raises ValueError."""
    return UUID(str(id)).bytes  # of a UUID too


def payload_of(message: bytes) -> bytes:
    """The payload of a message: most are taken apart for nothing else."""
    if message[:4] == MAGIC and len(message) >= FIXED:
        return message[FIXED + 256 * message[25] + message[26] :]
    return message


class Parsed:
    """A message taken apart. ``id`` is None for a raw message, whose id is its first token's."""

    __slots__ = ("attempts", "deliveries", "flags", "id", "packed_headers", "payload")

    def __init__(self, message: bytes) -> None:
        self.id: bytes | None
        self.flags: int
        self.deliveries: int
        self.attempts: int
        if message[:4] == MAGIC and len(message) >= FIXED:
            self.id = message[4:20]
            self.flags, self.deliveries, self.attempts, size = _COUNTS.unpack_from(message, 20)
            self.packed_headers = message[FIXED : FIXED + size]
            self.payload = message[FIXED + size :]
        else:
            self.id = None
            self.flags = self.deliveries = self.attempts = 0
            self.packed_headers = b""
            self.payload = message

    @property
    def headers(self) -> dict[str, HeaderValue]:
        """The headers. Raises MalformedMessage when another program wrote something else there."""
        if not self.packed_headers:
            return {}
        try:
            headers = msgpack.unpackb(
                self.packed_headers, unicode_errors="surrogateescape", strict_map_key=False
            )
        except (ValueError, TypeError, msgpack.UnpackException) as error:  # a key may be a list
            raise MalformedMessage(f"the headers cannot be read: {error}") from error
        if not isinstance(headers, dict):
            raise MalformedMessage("the headers are not a map")
        return headers
