"""Messages as bytes."""

import struct
import time
from array import array
from typing import cast
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqueue import MalformedMessage, MessageTooLarge
from pyqueue._message import (
    FIXED,
    MAGIC,
    Parsed,
    as_bytes,
    envelope,
    id_bytes,
    id_of_raw,
    id_text,
    new_id,
    pack_headers,
)
from pyqueue.models import HeldItem, WaitingItem
from tests.lua.harness import envelope as layout
from tests.lua.harness import raw_id

ids = st.binary(min_size=16, max_size=16)
#: Those that begin with a colon are pyqueue's.
names = st.text().filter(lambda name: not name.startswith(":"))
values = st.one_of(
    st.text(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(), st.none()
)


@given(ids, st.binary(), st.dictionaries(names, values, max_size=5))
def test_what_is_packed_comes_out_again(id: bytes, payload: bytes, headers: object) -> None:
    assert isinstance(headers, dict)
    message = Parsed(envelope(id, payload, pack_headers(headers)))
    assert (message.id, message.payload) == (id, payload)
    assert (message.flags, message.deliveries, message.attempts) == (0, 0, 0)
    assert repr(message.headers) == repr(headers)  # nan differs from itself


@given(ids, st.binary(), st.binary(max_size=100))
def test_the_layout_is_that_of_the_protocol(id: bytes, payload: bytes, headers: bytes) -> None:
    assert envelope(id, payload, headers) == layout(payload, id, headers=headers)


@given(st.binary())
def test_any_bytes_can_be_taken_apart(data: bytes) -> None:
    for message in (data, MAGIC + data):
        found = Parsed(message)
        if found.id is None:
            assert found.payload == message
        else:
            assert message.startswith(MAGIC)
            assert len(message) >= FIXED
        try:
            headers = found.headers
        except MalformedMessage:
            continue
        assert isinstance(headers, dict)


@given(ids, st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535))
def test_counts_and_flags(id: bytes, flags: int, deliveries: int, attempts: int) -> None:
    data = layout(b"x", id, flags=flags, deliveries=deliveries, attempts=attempts)
    item = HeldItem(data, 7)
    assert (item.deliveries, item.attempts, item.suspect) == (deliveries, attempts, flags % 2 == 1)
    assert item.id == id_text(id)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("", b""),
        ("größe", "größe".encode()),
        (b"\xff\0", b"\xff\0"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[1:3], b"bc"),
        (memoryview(b"abcd")[::2], b"ac"),
        (memoryview(array("H", [1])), struct.pack("=H", 1)),
    ],
)
def test_payloads(payload: str | bytes | bytearray | memoryview, expected: bytes) -> None:
    assert as_bytes(payload) == expected
    assert type(as_bytes(payload)) is bytes


@pytest.mark.parametrize("payload", [None, 1, 1.5, True, ["a"], {"a": 1}, object()])
def test_other_payloads_are_refused_with_advice(payload: object) -> None:
    with pytest.raises(TypeError, match="encode it first, as JSON for example"):
        as_bytes(payload)  # type: ignore[arg-type]


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        as_bytes("\ud800")


# Headers


def test_no_headers_are_no_bytes() -> None:
    assert pack_headers(None) == pack_headers({}) == b""
    assert Parsed(envelope(b"i" * 16, b"x")).headers == {}


def test_headers_have_a_limit() -> None:
    largest = {"a": "x" * (65535 - 6)}
    assert len(pack_headers(largest)) == 65535
    message = Parsed(envelope(b"i" * 16, b"payload", pack_headers(largest)))
    assert (message.headers, message.payload) == (largest, b"payload")
    with pytest.raises(MessageTooLarge, match="headers are 65536 bytes, at most 65535 fit"):
        pack_headers({"a": "x" * (65535 - 5)})


@pytest.mark.parametrize("headers", [{1: "a"}, {b"a": 1}, {None: 1}])
def test_a_headers_name_is_text(headers: object) -> None:
    with pytest.raises(TypeError, match="a header's name is str"):
        pack_headers(headers)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"b", bytearray(b"b"), [1], {"b": 1}, (1,), {1}, object(), 1j])
def test_a_headers_value_is_plain(value: object) -> None:
    """What is more would be no msgpack for the Lua of the server, and the message malformed."""
    with pytest.raises(TypeError, match="header 'a' is"):
        pack_headers({"a": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_a_number_that_no_msgpack_holds(value: int) -> None:
    with pytest.raises((OverflowError, ValueError)):
        pack_headers({"a": value})


@pytest.mark.parametrize(
    "headers",
    [
        b"\x81",
        b"\x01",
        b"\x91\x01",
        b"\xc1",
        b"\x80\x80",
        b"\x81\xa1a\xd4\x01",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\x81\xa1a" * 20_000,
        b"\xdf\xff\xff\xff\xff",
    ],
)
def test_headers_of_another_program_that_cannot_be_read(headers: bytes) -> None:
    """The scripts let some of them pass: what Lua takes for a map Python need not."""
    message = Parsed(layout(b"x", headers=headers))
    with pytest.raises(MalformedMessage, match="the headers"):
        _ = message.headers
    assert message.payload == b"x"


def test_headers_of_another_program_that_can_be_read() -> None:
    packed = msgpack.packb({1: [2, {"a": None}], b"k": b"v"})
    assert Parsed(layout(b"", headers=packed)).headers == {1: [2, {"a": None}], b"k": b"v"}
    not_utf8 = b"\x81\xa1\xff\xa1\xfe"
    assert Parsed(layout(b"", headers=not_utf8)).headers == {"\udcff": "\udcfe"}


# Ids


def test_a_new_id_is_a_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    new = [new_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert new == sorted(new)
    assert len(set(new)) == 1000
    for id in new:
        uuid = UUID(bytes=id)
        assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
        assert before <= int.from_bytes(id[:6], "big") <= after


@given(st.integers(0, 2**53))
def test_the_id_of_a_raw_message_is_a_uuid_made_of_its_token(token: int) -> None:
    id = id_of_raw(token)
    assert id == raw_id(token)
    uuid = UUID(bytes=id)
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert int.from_bytes(id[:6], "big") == token // 1000
    assert HeldItem(b"raw", token).id == id_text(id)


@given(ids)
def test_an_id_as_text(id: bytes) -> None:
    assert id_text(id) == str(UUID(bytes=id))
    assert id_bytes(id_text(id)) == id
    assert id_bytes(cast("str", UUID(bytes=id))) == id  # as a caller without types may give it


@pytest.mark.parametrize("id", ["", "abc", "0" * 31, "0" * 33, "g" * 32])
def test_text_that_is_no_id(id: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|base 16"):
        id_bytes(id)


def test_a_raw_message_that_waits_has_no_id_yet() -> None:
    assert WaitingItem(b"apple", "waiting", 0).id is None
    assert repr(WaitingItem(b"apple", "waiting", 0)) == "<WaitingItem raw waiting b'apple'>"
