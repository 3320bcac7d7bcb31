"""Nine lessons on pyqueue, from the first push to a pipeline of queues. Read them in order.

Each is a test, so what it says is true. The server is a real one.
"""

import time

import pytest
import redis

from pyqueue import LeaseLost, Message, Queue


def test_1_a_queue_is_a_list_that_anybody_may_push_to(queue: Queue, client: redis.Redis) -> None:
    """``redis-cli rpush job2 apple`` is a complete producer; the library's push adds an id."""
    client.rpush("job2", "apple")
    id = queue.push("banana")

    assert queue.stats().waiting == 2

    lease = queue.lease()
    assert lease is not None
    assert lease.text == "apple"  # first in, first out
    lease.complete()  # done and gone

    lease = queue.lease()
    assert lease is not None
    assert (lease.text, lease.id) == ("banana", id)
    lease.complete()

    assert queue.stats().drained
    assert queue.lease() is None


def test_2_the_usual_worker_is_a_loop(queue: Queue) -> None:
    """drain() yields leases until nothing is left; ``with lease`` completes each."""
    queue.push_many(["apple", "banana", "cherry"])

    done = []
    for lease in queue.drain():
        with lease:
            done.append(lease.text)

    assert done == ["apple", "banana", "cherry"]
    assert queue.stats().totals["completed"] == 3


def test_3_an_item_that_fails_is_tried_again_and_dies_in_the_end(queue: Queue) -> None:
    """``fail`` is what ``with lease`` does when its body raises: the item waits a while, then it is
    leased again. After five attempts it is a dead letter, which is kept until somebody looks at it.
    """
    queue.push("poison")

    for attempt in range(5):
        lease = queue.lease()
        assert lease is not None
        assert lease.attempts == attempt
        lease.fail("no good", retry_in=0)

    assert queue.stats().drained
    (letter,) = queue.dead()
    assert (letter.text, letter.reason, letter.error) == ("poison", "failed", "no good")

    queue.redrive([letter])  # it waits again, its attempts start anew
    assert queue.stats().waiting == 1


def test_4_the_item_of_a_worker_that_died_comes_back(queue: Queue) -> None:
    """Nobody has to notice: the lease runs out, and the next one who asks gets the item. Other
    workers wait for it meanwhile, they do not go home.
    """
    queue.push("apple")

    dies = queue.lease(ttl=0.1)  # and its worker is never heard of again
    assert dies is not None

    for lease in queue.drain():
        with lease:
            assert lease.text == "apple"
            assert lease.suspect  # it may have killed its worker
            assert lease.attempts == 1

    assert queue.stats().drained


def test_5_who_is_too_late_is_told(queue: Queue) -> None:
    """A worker that was away for too long holds nothing any more: the token of its lease, which
    only ever rises, is out of date. Nothing that it says about the item counts.
    """
    queue.push("apple")
    slow = queue.lease(ttl=0.05)
    assert slow is not None
    other = queue.lease(wait=5)
    assert other is not None
    assert other.token > slow.token

    with pytest.raises(LeaseLost):
        slow.complete()
    other.complete()

    assert queue.stats().totals["completed"] == 1


def test_6_waiting_for_work_costs_nothing(queue: Queue, client: redis.Redis) -> None:
    """lease(wait=…) blocks in the server until there is something; nobody polls."""
    queue.push("apple")
    lease = queue.lease()
    assert lease is not None
    lease.release(delay=0.3)  # not now: in 0.3 s

    client.config_resetstat()
    began = time.monotonic()
    lease = queue.lease(wait=10)
    assert lease is not None
    assert 0.25 < time.monotonic() - began < 2
    assert lease.attempts == 0  # given back, not failed

    asked = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert asked <= 3


def test_7_later_sooner_and_once(queue: Queue) -> None:
    """What a push can ask for: a time, a priority, and not to be there twice."""
    queue.push("later", delay=0.2)
    queue.push("usual")
    queue.push("urgent", priority=10)
    first = queue.push("report", unique="report of today")
    second = queue.push("report", unique="report of today")

    assert first == second  # the second push changed nothing

    done = []
    for lease in queue.drain():  # waits for what is delayed
        with lease:
            done.append(lease.text)

    assert done == ["urgent", "usual", "report", "later"]
    assert queue.push("report", unique="report of today") != first  # the first one is done


def test_8_items_of_one_group_wait_for_one_another(queue: Queue) -> None:
    """One at a time, in order, however many workers there are; other groups go on meanwhile."""
    queue.push_many(["ann 1", "ann 2"], group="ann")
    queue.push("bob 1", group="bob")

    ann, bob = queue.lease_many(10)
    assert (ann.text, bob.text) == ("ann 1", "bob 1")
    bob.complete()
    assert queue.lease() is None  # "ann 2" waits for "ann 1"

    ann.fail("try again", retry_in=0)  # and goes on to wait until that is done, or dead
    ann = queue.lease_many(10)[0]
    assert ann.text == "ann 1"
    ann.complete()

    (last,) = queue.lease_many(10)
    assert last.text == "ann 2"


def test_9_a_pipeline_loses_nothing_between_its_stages(client: redis.Redis) -> None:
    """An item is completed and what follows from it is pushed in one step: after a crash at any
    instant either the item is still there, or what follows is.

    The names of queues in a pipeline share a tag in braces: so a Cluster keeps them together.
    """
    with Queue("{photos}new", client=client) as new, Queue("{photos}small", client=client) as small:
        new.push("cat.jpg")

        for lease in new.drain():
            with lease:
                thumbnail = lease.text.replace(".jpg", ".thumbnail.jpg")
                lease.complete(push=Message(payload=thumbnail, queue="{photos}small"))

        assert new.stats().drained
        assert [item.text for item in small.waiting()] == ["cat.thumbnail.jpg"]

        # Who comes too late pushes nothing: the item is somebody else's, and so is what follows.
        new.push("dog.jpg")
        slow = new.lease(ttl=0.05)
        assert slow is not None
        other = new.lease(wait=5)
        assert other is not None
        with pytest.raises(LeaseLost):
            slow.complete(push=Message(payload="dog.thumbnail.jpg", queue="{photos}small"))
        assert small.stats().waiting == 1
