"""lua/stats.lua"""

import pytest

from tests.lua.harness import PAUSED, SEALED, START, WAKE, VirtualQueue, envelope
from tests.lua.scenes import busy


def test_a_busy_queue(queue: VirtualQueue) -> None:
    busy(queue)
    queue.sleep(1)
    assert queue.stats() == {
        "now": START + 1,
        "waiting": 6,
        "handoff": 1,
        "priority": 0,
        "delayed": 1,
        "grouped": 0,
        "groups": 0,
        "unique": 0,
        "leased": 7,
        "expired": 0,
        "dead": 1,
        "oldest": queue.stats()["oldest"],
        "next_due": 49_999,
        "sealed": 0,
        "paused": 0,
        "last_token": queue.state().last,
        "total_pushed": 12,
        "total_raw": 0,
        "total_completed": 0,
        "total_released": 1,
        "total_failed": 0,
        "total_expired": 0,
        "total_unseen": 0,
        "total_dead": 1,
        "total_missing": 0,
        "total_redriven": 0,
        "total_purged": 0,
        "total_imported": 0,
    }


def test_an_empty_queue(queue: VirtualQueue) -> None:
    queue.client.delete(queue.key("meta"))
    reply = queue.send("stats", now="")
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    assert found.pop(b"now") > 0
    assert {name: value for name, value in found.items() if value} == {
        b"oldest": -1,
        b"next_due": -1,
    }


def test_leases_that_ran_out(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.take(1, ttl=1_000)
    queue.take(1, ttl=2_000)
    queue.sleep(1_000)
    stats = queue.stats()
    assert (stats["leased"], stats["expired"]) == (2, 1)


def test_flags(queue: VirtualQueue) -> None:
    for flags, sealed, paused in ((SEALED, 1, 0), (PAUSED, 0, 1), (SEALED | PAUSED, 1, 1)):
        queue.change_state(flags=1 << 31 | 1 << 20 | flags)
        stats = queue.stats()
        assert (stats["sealed"], stats["paused"]) == (sealed, paused)


def pushed_at(milliseconds: int, payload: bytes = b"") -> bytes:
    return envelope(payload, milliseconds.to_bytes(6, "big") + bytes(10))


def test_the_age_of_the_oldest_is_that_of_the_head(queue: VirtualQueue) -> None:
    queue.rpush(pushed_at(START - 5_000), pushed_at(START - 3_000))
    assert queue.stats()["oldest"] == 5_000
    queue.lease()
    assert queue.stats()["oldest"] == 3_000
    queue.release(*queue.leased())
    assert queue.stats()["oldest"] == 5_000


@pytest.mark.parametrize(
    ("head", "oldest"),
    [
        (b"raw", -1),
        (b"\0PQ\1 malformed", -1),
        (pushed_at(START + 60_000), 0),  # by a clock that is ahead of the server's
        (WAKE, -1),
    ],
)
def test_a_head_without_an_age(queue: VirtualQueue, head: bytes, oldest: int) -> None:
    queue.rpush(head)
    assert queue.stats()["oldest"] == oldest


def test_wake_markers_do_not_count(queue: VirtualQueue) -> None:
    """Neither in the list nor where a worker was woken by them."""
    queue.rpush(WAKE, pushed_at(START - 1_000))
    stats = queue.stats()
    assert (stats["waiting"], stats["oldest"]) == (1, 1_000)
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.rpush(WAKE)
    stats = queue.stats()
    assert (stats["waiting"], stats["handoff"]) == (0, 1)


def test_all_that_happened(queue: VirtualQueue) -> None:
    """I1 and I4, for raw messages: each is accounted for, each delivery has its cause."""
    queue.client.hset(queue.key("meta"), "max_attempts", 2)
    queue.rpush(*map(str, range(10)))
    tokens = queue.take(10, ttl=10_000)
    queue.complete(*tokens[:3])
    queue.release(tokens[3])
    queue.fail(tokens[4], retry_in=0)
    queue.bury(tokens[5])
    queue.sleep(10_000)
    queue.reclaim()
    queue.lease(1, seen=False)
    queue.lease(0)
    stats = queue.stats()
    totals = {name[6:]: value for name, value in stats.items() if name.startswith("total_")}
    assert totals == {
        "pushed": 0,
        "raw": 10,
        "completed": 3,
        "released": 1,
        "failed": 1,
        "expired": 4,
        "unseen": 1,
        "dead": 1,
        "missing": 0,
        "redriven": 0,
        "purged": 0,
        "imported": 0,
    }
    live = stats["waiting"] + stats["leased"] + stats["delayed"]
    assert live == 6
    assert totals["raw"] == totals["completed"] + stats["dead"] + live


def test_the_oldest_is_told_of_an_envelope_only(queue: VirtualQueue) -> None:
    """What comes next decides; a raw message has no time in it."""
    id = (START - 5_000).to_bytes(6, "big") + bytes(10)
    heads = {
        envelope(b"x", id): 5_000,
        envelope(b"x", id, headers=b"\x81\xa1a\x01"): 5_000,
        envelope(b"x", id, flags=1): 5_000,
        envelope(b"x", id, headers=b"\x01"): -1,
        envelope(b"x", id, headers=b"\x81\xa1a"): -1,
        envelope(b"x", id, flags=128): -1,
        envelope(b"x", id)[:-2]: -1,
        b"raw": -1,
    }
    for head, oldest in heads.items():
        queue.client.delete(queue.name)
        queue.rpush(WAKE, head, "next")
        assert queue.stats()["oldest"] == oldest, head
