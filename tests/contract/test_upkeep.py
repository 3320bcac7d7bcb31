"""Looking at a queue and looking after it."""

import dataclasses
import time

import pytest
import redis

from pyqueue import Queue, QueueNotEmpty, Stats
from tests.contract.conftest import OpenQueue
from tests.lua.harness import VirtualQueue, dump, envelope


def test_stats(queue: Queue, clock: VirtualQueue) -> None:
    assert queue.stats().drained
    queue.push_many(list("abcdef"))
    a, b, c, _ = queue.lease_many(4, ttl=10)
    a.complete()
    b.release(delay=5)
    c.bury("why")
    stats = queue.stats()
    assert isinstance(stats, Stats)
    assert (stats.waiting, stats.delayed, stats.leased, stats.dead) == (2, 1, 1, 1)
    assert (stats.live, stats.drained, stats.expired) == (4, False, 0)
    assert (stats.sealed, stats.paused, stats.next_due) == (False, False, 5.0)
    assert stats.totals["pushed"] == 6
    assert stats.totals["completed"] + stats.dead + stats.live == 6
    clock.sleep(10_000)
    queue.seal()
    queue.pause()
    stats = queue.stats()
    assert (stats.expired, stats.sealed, stats.paused, stats.next_due) == (1, True, True, 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.waiting = 5  # type: ignore[misc]


def test_stats_as_a_dict(queue: Queue) -> None:
    queue.push("apple")
    found = queue.stats().as_dict()
    assert (found["waiting"], found["live"], found["drained"]) == (1, 1, False)
    assert isinstance(found["totals"], dict)
    assert found["totals"]["pushed"] == 1
    assert isinstance(found["oldest"], float)


def test_the_age_of_the_oldest(queue: Queue, client: redis.Redis) -> None:
    assert queue.stats().oldest is None
    queue.push("apple")
    oldest = queue.stats().oldest
    assert oldest is not None
    assert 0 <= oldest < 5
    client.lpush("job2", "raw")
    assert queue.stats().oldest is None


def test_waiting_is_read_and_not_changed(queue: Queue, client: redis.Redis) -> None:
    ids = queue.push_many(["a", "b", "c"], headers={"k": 1})
    lease = queue.lease()
    assert lease is not None
    lease.release(delay=60)
    client.rpush("job2", "raw")
    before = dump(client)
    items = list(queue.waiting())
    assert dump(client) == before
    assert [(item.id, item.text, item.state) for item in items] == [
        (ids[1], "b", "waiting"),
        (ids[2], "c", "waiting"),
        (None, "raw", "waiting"),
        (ids[0], "a", "delayed"),
    ]
    assert [item.due_in for item in items[:3]] == [0, 0, 0]
    assert 59 < items[3].due_in <= 60
    assert (items[3].deliveries, items[3].attempts, items[3].suspect) == (1, 0, False)
    assert items[0].headers == {"k": 1}


def test_pages(queue: Queue) -> None:
    queue.push_many(str(number) for number in range(350))
    everything = [item.text for item in queue.waiting()]
    assert everything == [str(number) for number in range(350)]
    assert [item.text for item in queue.waiting(offset=120)] == everything[120:]
    assert [item.text for item in queue.waiting(count=120)] == everything[:120]
    assert [item.text for item in queue.waiting(offset=300, count=120)] == everything[300:]
    assert list(queue.waiting(count=0)) == list(queue.waiting(offset=350)) == []
    queue.lease_many(350)
    assert [item.text for item in queue.leases(offset=120, count=220)] == everything[120:340]


def test_leases(queue: Queue, clock: VirtualQueue, open_queue: OpenQueue) -> None:
    other = open_queue(worker="somebody")
    other._clock = queue._clock
    queue.push_many(list("ab"))
    late = other.lease(ttl=20)
    soon = queue.lease(ttl=10)
    assert late is not None
    assert soon is not None
    clock.sleep(12_000)
    first, second = queue.leases()
    assert (first.id, first.token, first.text) == (soon.id, soon.token, "b")
    assert (second.id, second.token, second.text) == (late.id, late.token, "a")
    assert (first.expires_in, second.expires_in) == (-2.0, 8.0)
    assert (first.deadline, second.deadline) == (soon.deadline, late.deadline)
    assert second.worker == "somebody"
    assert "somebody" in repr(second)


def test_the_default_worker_is_host_and_process(queue: Queue) -> None:
    import os
    import socket

    queue.push("apple")
    queue.lease()
    assert [item.worker for item in queue.leases()] == [f"{socket.gethostname()}:{os.getpid()}"]


def test_reclaim(queue: Queue, clock: VirtualQueue) -> None:
    assert queue.reclaim() == 0
    queue.push_many(list("abc"))
    queue.lease_many(2, ttl=10)
    queue.lease_many(1, ttl=60)
    clock.sleep(10_000)
    assert queue.reclaim() == 2
    assert [(item.text, item.attempts) for item in queue.waiting()] == [("a", 1), ("b", 1)]
    assert queue.reclaim() == 0


def test_reclaim_takes_all_of_them(queue: Queue, clock: VirtualQueue) -> None:
    queue.push_many(str(number) for number in range(2_100))
    while queue.lease_many(1000, ttl=10):
        pass
    clock.sleep(10_000)
    assert queue.reclaim() == 2_100
    assert queue.stats().waiting == 2_100


def test_reclaim_waits_for_workers_that_live_after_an_outage(
    queue: Queue, clock: VirtualQueue
) -> None:
    queue.push("apple")
    queue.lease(ttl=1)
    clock.now += 60_000
    # The time of the queue goes on with that of the test.
    start, began = clock.now, time.monotonic()
    queue._clock = lambda: str(start + int((time.monotonic() - began) * 1000))
    assert queue.reclaim(hold=0.2) == 1
    assert time.monotonic() - began >= 0.19


def test_delete(queue: Queue, client: redis.Redis) -> None:
    queue.push("apple")
    with pytest.raises(QueueNotEmpty, match="1 items and 0 dead letters"):
        queue.delete()
    lease = queue.lease()
    assert lease is not None
    with pytest.raises(QueueNotEmpty, match="1 items and 0 dead letters"):
        queue.delete()
    lease.bury("why")
    with pytest.raises(QueueNotEmpty, match="0 items and 1 dead letters"):
        queue.delete()
    assert queue.purge("dead") == 1
    queue.delete()
    assert not client.keys()
    queue.delete()
    queue.push("banana")
    queue.delete(force=True)
    assert not client.keys()


def test_a_deleted_queue_can_be_used_again(queue: Queue) -> None:
    queue.push("apple")
    old = queue.lease()
    assert old is not None
    queue.delete(force=True)
    queue.push("banana")
    new = queue.lease()
    assert new is not None
    assert new.token > old.token
    assert queue.complete_many([old]) == [False]
    assert queue.complete_many([new]) == [True]


def test_purge(queue: Queue) -> None:
    queue.push_many(list("abc"))
    lease = queue.lease()
    assert lease is not None
    assert queue.purge() == 2
    lease.complete()
    assert queue.stats().drained
    with pytest.raises(ValueError, match="not 'everything'"):
        queue.purge("everything")  # type: ignore[arg-type]


def test_dead_letters_come_back(queue: Queue, client: redis.Redis) -> None:
    client.rpush("job2", envelope(b"x", b"m" * 16, headers=b"\x01"))  # malformed
    queue.push_many(list("abc"))
    leases = queue.lease_many(3)
    queue.bury_many(leases, "why")
    letters = list(queue.dead())
    assert sorted(letter.reason for letter in letters) == ["malformed", "why", "why", "why"]
    assert queue.redrive([leases[0].id, leases[0].id]) == 1
    assert queue.redrive([letter for letter in letters if letter.id == leases[1].id]) == 1
    assert queue.redrive() == 1
    assert [letter.reason for letter in queue.dead()] == ["malformed"]
    assert queue.redrive() == 0
    assert sorted(item.text for item in queue.waiting()) == ["a", "b", "c"]
    assert [item.attempts for item in queue.waiting()] == [0, 0, 0]
    with pytest.raises(ValueError, match="UUID"):
        queue.redrive(["no id"])


def test_many_dead_letters_come_back(queue: Queue) -> None:
    queue.push_many(str(number) for number in range(250))
    queue.bury_many(queue.lease_many(250), "why")
    assert len(list(queue.dead())) == 250
    assert queue.redrive() == 250
    assert queue.stats().dead == 0


def test_those_that_stay_dead_are_not_in_the_way_of_the_others(
    queue: Queue, client: redis.Redis
) -> None:
    client.rpush("job2", *[b"\0PQ\1 malformed"] * 150)
    queue.push_many(["a", "b"])
    queue.bury_many(queue.lease_many(2), "why")
    assert queue.stats().dead == 152
    assert queue.redrive() == 2
    assert queue.stats().dead == 150


def test_pause_and_resume(queue: Queue) -> None:
    queue.push("apple")
    assert queue.pause() is True
    assert queue.pause() is False
    assert queue.lease() is None
    assert queue.lease_many(1).reason == "paused"
    assert queue.resume() is True
    assert queue.resume() is False
    assert queue.lease() is not None


def test_two_queues_do_not_touch(open_queue: OpenQueue) -> None:
    plain, tagged = open_queue("a"), open_queue("{a}x")
    plain.push("plain")
    tagged.push("tagged")
    for queue, text in ((plain, "plain"), (tagged, "tagged")):
        lease = queue.lease()
        assert lease is not None
        assert lease.text == text
    plain.delete(force=True)
    assert tagged.stats().leased == 1
