"""Producing: push and push_many."""

from collections.abc import Iterator
from uuid import UUID

import pytest
import redis

from pyqueue import MessageTooLarge, Queue, QueueFull, QueueSealed
from pyqueue._message import HeaderValue
from tests.contract.conftest import OpenQueue


def test_push_returns_the_id_under_which_the_item_is_known_ever_after(queue: Queue) -> None:
    id = queue.push("apple")
    assert UUID(id).version == 7
    (waiting,) = queue.waiting()
    assert waiting.id == id
    lease = queue.lease()
    assert lease is not None
    assert lease.id == id
    lease.release()
    assert [item.id for item in queue.waiting()] == [id]


@pytest.mark.parametrize(
    "payload", ["größe", "", b"", b"\0\xff", bytearray(b"ab"), b"\0PQ\1"], ids=repr
)
def test_any_payload(queue: Queue, payload: str | bytes) -> None:
    queue.push(payload)
    lease = queue.lease()
    assert lease is not None
    assert lease.payload == (payload.encode() if isinstance(payload, str) else payload)
    if isinstance(payload, str):
        assert lease.text == payload


def test_equal_payloads_are_items_of_their_own(queue: Queue) -> None:
    assert queue.push("apple") != queue.push("apple")
    assert queue.stats().waiting == 2


def test_headers(queue: Queue) -> None:
    headers: dict[str, HeaderValue] = {
        "text": "ü",
        "int": -5,
        "float": 0.5,
        "bool": True,
        "none": None,
    }
    queue.push("apple", headers=headers)
    lease = queue.lease()
    assert lease is not None
    assert lease.headers == headers
    assert queue.push_many(["banana"], headers={}) != []


def test_an_id_of_ones_own(queue: Queue) -> None:
    id = "01a209c4-6d0b-76d6-8569-51ce914667aa"
    assert queue.push("apple", id=id) == id
    with pytest.raises(ValueError, match="UUID"):
        queue.push("apple", id="mine")
    assert queue.stats().waiting == 1


def test_what_is_no_payload_is_refused(queue: Queue, client: redis.Redis) -> None:
    for payload in (None, 1, {"a": 1}, ["a"]):
        with pytest.raises(TypeError, match="a payload is str or bytes, not"):
            queue.push(payload)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="header 'a' is bytes"):
        queue.push("apple", headers={"a": b"1"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="a header's name is str"):
        queue.push("apple", headers={1: 2})  # type: ignore[dict-item]
    assert not client.keys()


def test_a_payload_has_a_limit(open_queue: OpenQueue) -> None:
    queue = open_queue()
    queue.push(b"x" * (1 << 20))
    with pytest.raises(MessageTooLarge, match="1048577 bytes, at most 1048576 are allowed"):
        queue.push(b"x" * ((1 << 20) + 1))
    with pytest.raises(MessageTooLarge):
        queue.push("ü" * (1 << 19) + "x")
    small = open_queue("small", max_bytes=3)
    small.push("abc")
    with pytest.raises(MessageTooLarge, match="raise max_bytes"):
        small.push("abcd")
    with pytest.raises(MessageTooLarge, match="headers are"):
        small.push("a", headers={"a": "x" * 70_000})
    open_queue("large", max_bytes=8 << 20).push(b"x" * (8 << 20))


def test_many_keep_their_order(queue: Queue, client: redis.Redis) -> None:
    ids = queue.push_many(str(number) for number in range(2_500))
    assert [item.id for item in queue.waiting()] == ids
    assert [item.text for item in queue.waiting()] == [str(number) for number in range(2_500)]
    assert client.info("commandstats")["cmdstat_rpush"]["calls"] >= 3


def test_none_at_all(queue: Queue, client: redis.Redis) -> None:
    assert queue.push_many([]) == []
    assert queue.push_many(iter(())) == []
    assert not client.keys()


def test_one_string_is_not_many(queue: Queue) -> None:
    for payloads in ("apple", b"apple", bytearray(b"apple")):
        with pytest.raises(TypeError, match="use push for one"):
            queue.push_many(payloads)  # type: ignore[arg-type]


def test_large_ones_go_in_several_calls(queue: Queue, client: redis.Redis) -> None:
    client.config_resetstat()
    queue.push_many([b"x" * (300 << 10)] * 10)
    assert client.info("commandstats")["cmdstat_rpush"]["calls"] == 4
    assert queue.stats().waiting == 10


def test_a_chunk_is_pushed_whole_or_not_at_all(queue: Queue) -> None:
    with pytest.raises(TypeError) as caught:
        queue.push_many(["apple", None])  # type: ignore[list-item]
    assert not hasattr(caught.value, "__notes__")
    assert queue.stats().waiting == 0


def test_an_error_half_way_says_how_many_were_pushed(queue: Queue) -> None:
    def payloads() -> Iterator[str]:
        for number in range(1_500):
            yield str(number)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="the file ends here") as caught:
        queue.push_many(payloads())
    assert caught.value.__notes__ == ["1000 messages before it were pushed"]
    assert queue.stats().waiting == 1_000


def test_ids_for_many(queue: Queue) -> None:
    ids = [f"01a209c4-6d0b-76d6-8569-51ce914667{number:02x}" for number in range(3)]
    assert queue.push_many(["a", "b", "c"], ids=ids) == ids
    for wrong in (ids[:2], []):
        with pytest.raises(ValueError, match="as many ids as payloads"):
            queue.push_many(["a", "b", "c"], ids=wrong)
    assert queue.stats().waiting == 3


def test_a_sealed_queue_refuses(queue: Queue) -> None:
    assert queue.seal() is True
    with pytest.raises(QueueSealed, match="push: the queue is sealed and takes no more messages"):
        queue.push("apple")
    assert queue.seal() is False
    assert queue.unseal() is True
    assert queue.unseal() is False
    queue.push("apple")


def test_a_full_server_refuses(queue: Queue, client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull):
            queue.push("apple")
    finally:
        client.config_set("maxmemory", 0)
    queue.push("apple")
    assert queue.stats().waiting == 1
