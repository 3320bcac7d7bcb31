"""Calls of every verb through a network that loses, doubles and delays them.

The clients repeat what is not answered, as redis-py does unless told otherwise. No fault may show:
no second message, no orphaned lease, no attempt too many, no ``LeaseLost`` that is not true.
"""

import itertools
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
import redis
from hypothesis import settings

from pyqueue import Lease, Message, Queue
from tests.faults.proxy import INVISIBLE, Fault, Proxy
from tests.servers import Server, wait_until

#: How many calls of each verb, of which nearly all meet a fault.
CALLS = {"soak": 10_000}.get(settings.get_current_profile_name(), 100)


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Clients do not pause between their tries here: there are thousands."""
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture(params=["own client", "given client"])
def queue(request: pytest.FixtureRequest, proxy: Proxy) -> Iterator[Queue]:
    """With a connection of its own, and with a client as redis-py makes it (not by ``from_url``,
    which sets no retries).
    """
    if request.param == "own client":
        queue = Queue("job2", url=proxy.url)
        yield queue
        queue.close()
    else:
        path = proxy.url.removeprefix("unix://")
        with redis.Redis(unix_socket_path=path) as client, Queue("job2", client=client) as queue:
            yield queue


@pytest.fixture
def direct(client: redis.Redis) -> Iterator[Queue]:
    """The same queue by a way that works."""
    with Queue("job2", client=client) as queue:
        yield queue


def faults(proxy: Proxy) -> Iterator[Fault]:
    """A fault for each call, in an order of chance. At the end all of them have happened."""
    chosen = [fault for _, fault in zip(range(CALLS), itertools.cycle(INVISIBLE), strict=False)]
    random.shuffle(chosen)
    for fault in chosen:
        proxy.next(fault)
        yield fault
    for fault in INVISIBLE:
        assert proxy.hit[fault] >= CALLS // len(INVISIBLE)


def held(direct: Queue, ttl: float = 600) -> Lease:
    lease = direct.lease(ttl)
    assert lease is not None
    return lease


def through(queue: Queue, lease: Lease) -> Lease:
    """A lease as if this queue had made it: its verbs go through the proxy."""
    return Lease(queue, lease._message, lease.token, lease.deadline, lease._until)


def test_push(queue: Queue, proxy: Proxy, client: redis.Redis) -> None:
    ids = [queue.push(fault.name) for fault in faults(proxy)]
    assert len(set(ids)) == CALLS
    assert [item.id for item in queue.waiting()] == ids
    assert queue.stats().totals["pushed"] == CALLS


def test_lease(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for fault in faults(proxy):
        direct.push(fault.name)
        lease = queue.lease(ttl=600)
        assert lease is not None
        assert (lease.text, lease.attempts, lease.deliveries) == (fault.name, 0, 0)
        assert [item.token for item in direct.leases()] == [lease.token]
        direct.complete_many([lease])
    assert direct.stats().totals["unseen"] == 0


def test_lease_and_complete_in_one_call(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    direct.push_many(str(number) for number in range(2 * CALLS))
    done: list[Lease] = []
    for number, _ in enumerate(faults(proxy)):
        batch = queue.lease_many(2, ttl=600, completed=done)
        assert not batch.lost
        done = list(batch)
        assert [lease.text for lease in done] == [f"{2 * number}", f"{2 * number + 1}"]
        assert [item.token for item in direct.leases()] == [lease.token for lease in done]
        assert direct.stats().totals["completed"] == 2 * number


def test_an_answer_without_items(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    """It is not remembered: a late copy may lease, and then the slot's next call gives it back."""
    for fault in faults(proxy):
        assert queue.lease() is None
        direct.push(fault.name)
        proxy.next(Fault.NONE)
        lease = queue.lease(ttl=600)
        assert lease is not None
        assert (lease.text, lease.attempts) == (fault.name, 0)
        lease.complete()
    stats = direct.stats()
    assert stats.drained
    assert stats.totals["completed"] == CALLS


def test_complete(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for number, fault in enumerate(faults(proxy), 1):
        direct.push(fault.name)
        through(queue, held(direct)).complete()
        stats = direct.stats()
        assert (stats.live, stats.totals["completed"]) == (0, number)


def test_extend(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    direct.push("apple")
    lease = through(queue, held(direct))
    before = lease.deadline
    for number, _ in enumerate(faults(proxy), 1):
        lease.extend(600 + number)
        assert lease.deadline > before
        before = lease.deadline
        assert [item.deadline for item in direct.leases()] == [before]


@pytest.mark.parametrize("delay", [0, 600])
def test_release(queue: Queue, proxy: Proxy, direct: Queue, delay: float) -> None:
    for number, fault in enumerate(faults(proxy), 1):
        id = direct.push(fault.name)
        through(queue, held(direct)).release(delay)
        items = {item.id: item for item in direct.waiting()}
        assert len(items) == (number if delay else 1)
        assert (items[id].deliveries, items[id].attempts) == (1, 0)
        assert direct.stats().totals["released"] == number
        if not delay:
            held(direct).complete()


def test_fail(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for number, fault in enumerate(faults(proxy), 1):
        direct.push(fault.name)
        through(queue, held(direct)).fail("as told", retry_in=0)
        (item,) = direct.waiting()
        assert (item.deliveries, item.attempts) == (1, 1)
        assert direct.stats().totals["failed"] == number
        held(direct).complete()


def test_fail_for_the_last_time(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    direct._client.hset("{job2}:meta", "max_attempts", 1)
    for number, fault in enumerate(faults(proxy), 1):
        direct.push(fault.name)
        through(queue, held(direct)).fail("as told")
        stats = direct.stats()
        assert (stats.live, stats.dead) == (0, number)


def test_bury(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for number, fault in enumerate(faults(proxy), 1):
        direct.push(fault.name)
        through(queue, held(direct)).bury("as told")
        stats = direct.stats()
        assert (stats.live, stats.dead) == (0, number)


def test_reclaim(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for fault in faults(proxy):
        direct.push(fault.name)
        held(direct, ttl=0.001)
        wait_until(lambda: direct.stats().expired, "the lease runs out")
        assert queue.reclaim() == 1
        lease = held(direct)
        assert (lease.text, lease.attempts, lease.deliveries) == (fault.name, 1, 1)
        direct.complete_many([lease])


def test_operators(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    verbs: list[Callable[[], object]] = [queue.seal, queue.unseal, queue.pause, queue.resume]
    for verb, _ in zip(itertools.cycle(verbs), faults(proxy), strict=False):
        assert verb() is True, "it had no effect, or a second one"
    for number, _ in enumerate(faults(proxy), 1):
        direct.push_many(["a", "b"])
        assert queue.purge() == 2
        assert direct.stats().totals["purged"] == 2 * number
    for _ in faults(proxy):
        direct.push("apple")
        held(direct).bury("as told")
        assert queue.redrive() == 1
        assert direct.stats().totals["dead"] >= 1
        held(direct).complete()
    assert direct.stats().drained


def test_push_with_every_option(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    """A dedupe key, a place in a group or an id is taken once, by the message that is there."""
    ids = [
        queue.push(
            str(number),
            unique=f"key {number}",
            group=f"group {number // 3}",
            priority=number % 2,
            delay=number % 5 and 600,
            id=str(UUID(int=number)) if number % 7 == 0 else None,
        )
        for number, _ in enumerate(faults(proxy))
    ]
    stats = direct.stats()
    assert (stats.totals["pushed"], stats.live) == (CALLS, CALLS)
    assert stats.groups == math.ceil(CALLS / 3)
    for number, _ in enumerate(faults(proxy)):
        assert queue.push("again", unique=f"key {number}") == ids[number]
    assert {item.id for item in direct.waiting()} == set(ids)


def test_complete_with_what_follows(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for number, fault in enumerate(faults(proxy), 1):
        direct.push(fault.name, group="g", max_attempts=1)
        lease = through(queue, held(direct))
        after = Message("after", unique="key", group="g")
        if number % 2:
            lease.complete(push=after)
        else:
            lease.fail("as told", push=[after])
            assert lease.dead
        assert [item.text for item in direct.waiting()] == ["after"]
        held(direct).complete()
        stats = direct.stats()
        assert (stats.live, stats.groups, stats.unique) == (0, 0, 0)
        assert (stats.totals["pushed"], stats.dead) == (2 * number, number // 2)


def test_configure_and_import(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    for number, _ in enumerate(faults(proxy), 1):
        assert queue.configure(max_leased=number)["max_leased"] == number
        assert direct.stats().configuration == {"max_leased": number}
    direct.push("apple")
    held(direct).bury("why")
    letters = list(direct.dead())
    for number, _ in enumerate(faults(proxy), 1):
        direct.purge("dead")
        assert queue.import_dead(letters) == 1
        assert direct.stats().totals["imported"] == number


def test_threads_on_one_queue(queue: Queue, proxy: Proxy, direct: Queue) -> None:
    """Many slots at once; one call of three meets a fault."""
    total = 10 * CALLS
    direct.push_many(str(number) for number in range(total))
    proxy.plan = lambda _: random.choice(INVISIBLE) if random.random() < 0.3 else Fault.NONE
    done: list[Counter[str]] = []

    def work() -> None:
        mine: Counter[str] = Counter()
        done.append(mine)
        for lease in queue.drain(ttl=600):
            assert (lease.attempts, lease.deliveries) == (0, 0)
            with lease:
                mine[lease.text] += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done, Counter()) == Counter(map(str, range(total)))
    stats = direct.stats()
    assert stats.drained
    assert stats.totals["completed"] == total


def test_a_copy_that_arrives_when_its_client_is_gone(
    queue: Queue, proxy: Proxy, direct: Queue
) -> None:
    proxy.next(Fault.COPY_VERY_LATE)
    assert queue.lease() is None
    queue.close()
    direct.push("apple")
    proxy.deliver_late_copies()
    assert direct.stats().leased == 0


@pytest.mark.parametrize("fault", [Fault.REPLY_INTERRUPTED, Fault.REQUEST_INTERRUPTED])
def test_ctrl_c_in_the_middle_of_a_call(
    queue: Queue, proxy: Proxy, direct: Queue, fault: Fault
) -> None:
    """What was leased for nobody comes back with the next call, no attempt charged."""
    for number in range(1, CALLS // 3):
        direct.push(str(number))
        proxy.next(fault)
        with pytest.raises(KeyboardInterrupt):
            queue.lease(ttl=600)
        lease = queue.lease(ttl=600)
        assert lease is not None
        assert (lease.text, lease.attempts) == (str(number), 0)
        assert direct.stats().leased == 1
        proxy.next(fault)
        with pytest.raises(KeyboardInterrupt):
            lease.complete()
        direct.complete_many([lease])  # whether it was, or not
        assert direct.stats().totals["completed"] == number
        queue.stats()
