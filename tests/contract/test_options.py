"""What a push can ask for: delay, priority, dedupe key, group, limits of its own, an id."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import (
    DeadLetter,
    Lease,
    LeaseLost,
    Message,
    MessageTooLarge,
    PyQueueError,
    Queue,
    QueueFull,
    ServerUnavailable,
)
from tests.contract.conftest import OpenQueue
from tests.contract.relay import Relay
from tests.lua.harness import VirtualQueue, dump

ID = "01a209c4-6d0b-76d6-8569-51ce914667aa"


def leased(queue: Queue) -> Lease:
    lease = queue.lease(ttl=600)
    assert lease is not None
    return lease


def work_off(queue: Queue) -> list[str]:
    """Complete everything; the payloads in the order of leasing."""
    done = []
    while lease := queue.lease(ttl=600):
        done.append(lease.text)
        lease.complete()
    return done


# --- delay and priority


def test_a_delayed_item_waits_for_its_time(queue: Queue, clock: VirtualQueue) -> None:
    queue.push("later", delay=1.5)
    queue.push("now")
    assert queue.stats().next_due == 1.5
    assert work_off(queue) == ["now"]
    clock.sleep(1_499)
    assert queue.lease() is None
    clock.sleep(1)
    assert work_off(queue) == ["later"]


def test_equal_times_keep_their_order(queue: Queue, clock: VirtualQueue) -> None:
    queue.push_many(["b", "a", "b", "c"], delay=1)
    clock.sleep(1_000)
    assert work_off(queue) == ["b", "a", "b", "c"]


def test_the_higher_the_priority_the_sooner_and_in_order_within_one(queue: Queue) -> None:
    for text, priority in (("z1", 0), ("n1", -1), ("p1", 1), ("p2", 1), ("n2", -1), ("h", 1 << 20)):
        queue.push(text, priority=priority)
    queue.push("z2")
    queue.push("l", priority=-(1 << 20))
    assert work_off(queue) == ["h", "p1", "p2", "z1", "z2", "n1", "n2", "l"]


def test_what_is_given_back_comes_before_its_equals(queue: Queue) -> None:
    queue.push_many(["a", "b"], priority=3)
    queue.push("first", priority=4)
    assert leased(queue).text == "first"
    lease = leased(queue)
    lease.release()
    assert work_off(queue) == ["a", "b"]


def test_the_options_are_shown_and_the_headers_of_ones_own_are_left_alone(queue: Queue) -> None:
    queue.push("apple", headers={"k": 1}, priority=-7, unique="key", group="user-42")
    (item,) = queue.waiting()
    lease = leased(queue)
    (held,) = queue.leases()
    lease.bury("why")
    (letter,) = queue.dead()
    for x in (item, lease, held, letter):
        assert (x.priority, x.unique, x.group, x.headers) == (-7, "key", "user-42", {"k": 1})
    queue.push("plain")
    plain = leased(queue)
    assert (plain.priority, plain.unique, plain.group, plain.headers) == (0, None, None, {})


# --- dedupe keys and ids


@pytest.mark.parametrize("end", ["complete", "bury", "fail"])
def test_a_key_holds_until_its_item_is_settled(queue: Queue, end: str) -> None:
    first = queue.push("apple", unique="key", max_attempts=2)
    assert queue.push("banana", unique="key") == first
    lease = leased(queue)
    assert queue.push("banana", unique="key") == first
    lease.fail(retry_in=0)
    assert queue.push("banana", unique="key") == first
    lease = leased(queue)
    lease.bury("why") if end == "bury" else getattr(lease, end)()
    second = queue.push("banana", unique="key")
    assert second != first
    assert queue.stats().unique == 1
    assert work_off(queue) == ["banana"]
    assert queue.stats().unique == 0


def test_a_key_that_holds_for_a_time(queue: Queue, clock: VirtualQueue) -> None:
    first = queue.push("apple", unique="key", unique_for=10)
    assert work_off(queue) == ["apple"]
    clock.sleep(9_999)
    assert queue.push("apple", unique="key", unique_for=10) == first
    clock.sleep(1)
    assert queue.push("apple", unique="key", unique_for=10) != first


def test_keys_of_many(queue: Queue) -> None:
    ids = queue.push_many(["a", "b", "a", "c", "b"], unique=str)
    assert ids[2] == ids[0]
    assert ids[4] == ids[1]
    assert len(set(ids)) == 3
    assert work_off(queue) == ["a", "b", "c"]


def test_purge_frees_keys(queue: Queue) -> None:
    queue.push("a", unique="key", group="g")
    queue.push("b", unique="other", group="g")
    queue.push("c", unique="third", delay=60, priority=3)
    queue.push("d", priority=3)
    assert queue.purge() == 4
    stats = queue.stats()
    assert (stats.unique, stats.groups, stats.live) == (0, 0, 0)
    queue.push("again", unique="key", group="g")
    assert work_off(queue) == ["again"]


def test_a_dead_letter_whose_key_is_taken_stays_dead(queue: Queue) -> None:
    first = queue.push("apple", unique="key")
    leased(queue).bury("why")
    queue.push("banana", unique="key")
    assert queue.redrive() == 0
    assert queue.redrive([first]) == 0
    assert work_off(queue) == ["banana"]
    assert queue.redrive() == 1
    assert queue.push("cherry", unique="key") == first
    assert work_off(queue) == ["apple"]


def test_an_id_is_taken_in_once_for_an_hour(queue: Queue, clock: VirtualQueue) -> None:
    assert queue.push("apple", id=ID) == ID
    assert queue.push("apple", id=ID) == ID
    assert work_off(queue) == ["apple"]
    clock.sleep(3_599_000)
    assert queue.push("apple", id=ID) == ID
    assert queue.stats().live == 0
    clock.sleep(1_000)
    assert queue.push("apple", id=ID) == ID
    assert work_off(queue) == ["apple"]


def test_producers_at_once_make_one_item_per_key(open_queue: OpenQueue) -> None:
    queues = [open_queue() for _ in range(8)]
    answers: list[dict[str, str]] = [{} for _ in queues]

    def produce(number: int) -> None:
        for key in map(str, range(100)):
            answers[number][key] = queues[number].push(key, unique=key)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0].values())) == queues[0].stats().waiting == 100


# --- limits and backoff of its own


def test_a_message_has_its_own_number_of_attempts_and_its_own_backoff(
    queue: Queue, clock: VirtualQueue
) -> None:
    queue.configure(max_attempts=1, backoff=100)
    queue.push("apple", max_attempts=3, backoff=2, backoff_max=3)
    for least, most in ((1_000, 2_000), (1_500, 3_000)):
        leased(queue).fail()
        due = queue.stats().next_due
        assert due is not None
        assert least <= due * 1000 <= most
        clock.sleep(most)
    lease = leased(queue)
    lease.fail("at last")
    assert lease.dead
    queue.push("plain")
    lease = leased(queue)
    lease.fail()
    assert lease.dead


# --- what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"delay": -1}, "delay is -1 s: it must be from 0 s"),
        ({"delay": float("nan")}, "delay is nan"),
        ({"delay": 2e10}, "delay is"),
        ({"priority": (1 << 20) + 1}, "priority is 1048577: it must be from -1048576 to 1048576"),
        ({"unique": ""}, "unique must be from 1 to 255 bytes"),
        ({"unique": "ü" * 128}, "unique must be from 1 to 255 bytes"),
        ({"unique": "a\0b"}, "without a NUL"),
        ({"group": "g" * 256}, "group must be from 1 to 255 bytes"),
        ({"unique_for": 5}, "give that too"),
        ({"unique": "k", "unique_for": -1}, "unique_for is -1 s"),
        # Rounded to 0 ms they would hold until the item is settled.
        ({"unique": "k", "unique_for": 0}, "unique_for is 0 s: a key holds for 1 ms"),
        ({"unique": "k", "unique_for": 0.0004}, "unique_for is 0.0004 s: a key holds for 1 ms"),
        # The scripts would take it for none.
        ({"priority": 1.5}, "priority is 1.5: it must be an integer"),
        ({"max_attempts": 2.5}, "max_attempts is 2.5: it must be an integer"),
        ({"max_attempts": 0}, "max_attempts is 0: it must be from 1 to 65535"),
        ({"max_attempts": 65536}, "max_attempts is 65536"),
        ({"backoff": -0.1}, "backoff is -0.1 s"),
        ({"backoff_max": 2e10}, "backoff_max is"),
        ({"headers": {":group": "g"}}, ":group"),
        ({"id": "mine"}, "UUID"),
    ],
    ids=repr,
)
def test_an_option_out_of_range(
    queue: Queue, client: redis.Redis, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        queue.push("apple", **options)
    assert not client.keys()


def test_a_queue_that_is_full(queue: Queue) -> None:
    """Whatever waits counts, and what is leased does not. A call is taken whole or not at all."""
    queue.configure(max_waiting=5)
    queue.push("a")
    lease = leased(queue)
    queue.push("b", delay=60)
    queue.push("c", priority=1)
    queue.push_many(["d", "e"], group="g")
    with pytest.raises(QueueFull, match="4 messages wait, and the queue takes at most 5"):
        queue.push_many(["f", "g"])
    queue.push("f")
    everything: list[dict[str, Any]] = [{}, {"priority": 1}, {"delay": 1}, {"group": "g"}]
    for options in everything:
        with pytest.raises(QueueFull, match="5 messages wait"):
            queue.push("g", **options)
    lease.complete(push="follow-ups are exempt")
    assert queue.stats().live == 6
    queue.configure(max_waiting=None)
    queue.push("g")


def test_a_payload_that_is_too_large_for_the_queue(queue: Queue) -> None:
    queue.configure(max_bytes=3)
    queue.push("abc", headers={"headers": "do not count"}, priority=2)
    for options in ({}, {"group": "g", "headers": {"a": 1}}):
        with pytest.raises(MessageTooLarge, match="4 bytes, the queue takes at most 3"):
            queue.push("abcd", **options)  # type: ignore[arg-type]
    assert work_off(queue) == ["abc"]


def test_numbers_out_of_range_are_not_configured(queue: Queue) -> None:
    queue.configure(ttl=5)
    out_of_range: list[dict[str, Any]] = [
        {"ttl": 0},
        {"max_attempts": 65536},
        {"rate": 0},
        {"rate": 2e6},
        {"burst": 0},
        {"max_leased": 1.5},
        {"max_bytes": -1},
    ]
    for wrong in out_of_range:
        (name,) = wrong
        with pytest.raises(PyQueueError, match=name):
            queue.configure(backoff_max=7, **wrong)
    with pytest.raises(ValueError, match="backoff_base is -1 s"):
        queue.configure(backoff=-1)
    assert queue.stats().configuration == queue.configure() == {"ttl": 5}


# --- the messages of push_many


def test_messages_bring_their_own_options(queue: Queue) -> None:
    ids = queue.push_many(
        [
            "plain",
            Message(payload="high", priority=2, id=ID),
            Message(payload="low", priority=-2, headers={"k": "v"}),
            b"common",
        ],
        priority=1,
    )
    assert ids[1] == ID
    items = {item.text: item for item in queue.waiting()}
    assert {text: item.priority for text, item in items.items()} == {
        "plain": 1,
        "high": 2,
        "low": -2,
        "common": 1,
    }
    assert items["low"].headers == {"k": "v"}
    assert work_off(queue) == ["high", "plain", "common", "low"]


def test_a_message_for_another_queue_is_not_pushed_to_this_one(queue: Queue) -> None:
    queue.push(Message(payload="here", queue="job2"))
    with pytest.raises(ValueError, match="for queue 'other' cannot be pushed to 'job2'"):
        queue.push(Message(payload="elsewhere", queue="other"))
    assert work_off(queue) == ["here"]


def test_a_function_says_which_group(queue: Queue) -> None:
    queue.push_many(["a1", "a2", "b1"], group=lambda payload: str(payload)[0])
    assert [lease.text for lease in queue.lease_many(9)] == ["a1", "b1"]


# --- a client that has not used features meets a queue that does


def test_a_client_learns_of_the_features_from_the_first_answer(
    queue: Queue, open_queue: OpenQueue, client: redis.Redis
) -> None:
    queue.push_many(["a1", "a2"], group="a", unique=str)
    queue.push("p", priority=1)
    verbs: list[Callable[[Queue], object]] = [
        lambda other: leased(other).complete(),
        lambda other: leased(other).release(),
        lambda other: leased(other).fail(retry_in=0),
        lambda other: leased(other).bury("why"),
        lambda other: other.push("plain"),
        lambda other: other.purge("dead"),
        lambda other: other.reclaim(),
    ]
    for verb in verbs:
        other = open_queue()
        assert not other._wide
        verb(other)
    assert queue.stats().totals["completed"] == 1


def test_a_queue_that_uses_nothing_is_never_asked_for_more(
    queue: Queue, client: redis.Redis
) -> None:
    queue.push("apple")
    leased(queue).fail(retry_in=0)
    leased(queue).complete()
    assert queue.purge() == 0
    assert queue.reclaim() == 0
    assert not queue._wide
    assert set(client.keys()) <= {b"{job2}:meta", b"{job2}:calls0", b"{job2}:calls1"}


def test_a_lease_of_before_the_features_can_be_settled(queue: Queue, open_queue: OpenQueue) -> None:
    """It was taken without their keys, and in between somebody else began to use them."""
    queue.push_many(["a", "b", "c", "d"])
    a, b, c, d = queue.lease_many(4)
    other = open_queue()
    other.push_many(["x", "y"], group="g", unique=str)
    a.complete()
    b.release(delay=1)
    c.fail(retry_in=60)
    d.extend(30)
    d.complete(push=Message(payload="z", group="g"))
    stats = queue.stats()
    assert (stats.leased, stats.waiting, stats.delayed, stats.grouped) == (0, 1, 2, 2)


# --- pushes whose outcome is unknown


@pytest.fixture
def fragile(relay: Relay, open_queue: OpenQueue) -> Queue:
    """A queue behind the relay, whose client never repeats a call by itself."""
    return open_queue(client=redis.Redis.from_url(relay.url, retry=Retry(NoBackoff(), 0)))


def unknown(push: Callable[[], object]) -> list[str]:
    """Push without an answer; the ids that the error carries."""
    with pytest.raises(ServerUnavailable) as caught:
        push()
    assert caught.value.outcome_unknown
    return list(caught.value.ids)


@pytest.mark.parametrize("arrives", [True, False], ids=["reply lost", "request lost"])
def test_a_push_can_be_repeated_under_the_id_of_the_error(
    fragile: Queue, relay: Relay, arrives: bool
) -> None:
    lose = relay.lose_replies if arrives else relay.lose_requests
    lose()
    (id,) = unknown(lambda: fragile.push("apple"))
    assert fragile.stats().waiting == arrives
    lose()
    assert unknown(lambda: fragile.push("apple", id=id)) == [id]
    assert fragile.push("apple", id=id) == id
    assert [item.id for item in fragile.waiting()] == [id]
    lose(2)
    ids = unknown(lambda: fragile.push_many(["b", "c"]))
    assert unknown(lambda: fragile.push_many(["b", "c", "d"], ids=[*ids, str(uuid.uuid4())])) == ids
    assert fragile.push_many(["b", "c"], ids=ids) == ids
    assert work_off(fragile) == ["apple", "b", "c"]
    assert fragile.stats().totals["pushed"] == 3


def test_a_repeat_that_is_refused_by_the_server_leaves_it_unknown(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    relay.lose_replies()
    (id,) = unknown(lambda: fragile.push("apple"))
    client.replicaof("127.0.0.1", 1)  # writes are refused: READONLY
    try:
        assert unknown(lambda: fragile.push("apple", id=id)) == [id]
    finally:
        client.replicaof("NO", "ONE")
    assert fragile.push("apple", id=id) == id
    assert work_off(fragile) == ["apple"]


@pytest.mark.parametrize("arrives", [True, False], ids=["reply lost", "request lost"])
def test_with_an_id_of_ones_own_anybody_can_repeat_it(
    fragile: Queue, relay: Relay, open_queue: OpenQueue, arrives: bool
) -> None:
    (relay.lose_replies if arrives else relay.lose_requests)()
    assert unknown(lambda: fragile.push("apple", id=ID, priority=3, delay=0)) == [ID]
    other = open_queue()
    assert other.push("apple", id=ID, priority=3) == ID
    assert fragile.push("apple", id=ID, priority=3) == ID
    assert other.stats().totals["pushed"] == 1
    assert work_off(other) == ["apple"]


@pytest.mark.parametrize("arrives", [True, False], ids=["reply lost", "request lost"])
def test_a_repeated_push_answers_with_the_item_that_has_the_key(
    fragile: Queue, relay: Relay, open_queue: OpenQueue, arrives: bool
) -> None:
    first = open_queue().push("apple", unique="key")
    (relay.lose_replies if arrives else relay.lose_requests)()
    (id,) = unknown(lambda: fragile.push("banana", unique="key"))
    assert id != first
    assert fragile.push("banana", unique="key", id=id) == first
    assert work_off(fragile) == ["apple"]


def test_closing_forgets_what_was_unknown(fragile: Queue, relay: Relay) -> None:
    relay.lose_requests()
    unknown(lambda: fragile.push("apple"))
    fragile.close()
    assert fragile.stats().live == 0
    assert not fragile._slots.set_aside


# --- follow-ups


def test_follow_ups_exist_exactly_when_their_item_is_gone(
    queue: Queue, open_queue: OpenQueue
) -> None:
    queue.push("apple")
    lease = leased(queue)
    lease.complete(push=["one", Message(payload="two", priority=1), b"three"])
    assert work_off(queue) == ["two", "one", "three"]
    queue.push("banana")
    lease = leased(queue)
    open_queue().release_many([lease])
    lost = Lease(queue, lease.message, lease.token, lease.deadline, lease._until)
    with pytest.raises(LeaseLost):
        lost.complete(push="never")
    with pytest.raises(LeaseLost):
        lost.fail("x", push="never")
    assert [item.text for item in queue.waiting()] == ["banana"]


def test_follow_ups_of_a_failure_come_with_the_death_alone(queue: Queue) -> None:
    queue.push("apple", max_attempts=2)
    lease = leased(queue)
    lease.fail("once", retry_in=0, push="alarm")
    assert not lease.dead
    assert [item.text for item in queue.waiting()] == ["apple"]
    lease = leased(queue)
    lease.fail("twice", push="alarm")
    assert lease.dead
    assert work_off(queue) == ["alarm"]


def test_follow_ups_go_to_queues_of_the_same_tag(open_queue: OpenQueue) -> None:
    first, second, third = map(open_queue, ("{t}a", "{t}b", "{t}c"))
    second.seal()
    third.configure(max_waiting=0)
    first.push("apple", group="g")
    first.push("next", group="g")
    leased(first).complete(
        push=[
            Message(payload="b1", queue="{t}b", delay=60),
            Message(payload="c1", queue="{t}c", unique="key"),
            Message(payload="c2", queue="{t}c", unique="key"),
            Message(payload="a1", queue="{t}a", group="g"),
        ]
    )
    assert [item.text for item in second.waiting()] == ["b1"]
    assert [item.text for item in third.waiting()] == ["c1"]
    assert work_off(first) == ["next", "a1"]
    assert third.stats().totals["pushed"] == 1


def test_nothing_may_follow(queue: Queue) -> None:
    """A stage that has nothing for the next one is done all the same."""
    queue.push_many(["apple", "banana"], max_attempts=1)
    leased(queue).complete(push=[])
    lease = leased(queue)
    lease.fail("no good", push=iter([]))
    assert lease.dead
    assert queue.stats().live == 0
    with pytest.raises(LeaseLost):
        lease.complete(push=())


def test_follow_ups_that_cannot_be_are_refused_before_anything_is_done(
    queue: Queue, client: redis.Redis
) -> None:
    queue.push("apple")
    lease = leased(queue)
    before = dump(client)
    with pytest.raises(ValueError, match="another tag"):
        lease.complete(push=Message(payload="x", queue="other"))
    with pytest.raises(ValueError, match="101 messages follow"):
        lease.complete(push=["x"] * 101)
    with pytest.raises(ValueError, match="priority is"):
        lease.complete(push=[Message(payload="x", priority=1 << 21)])
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull):
            lease.complete(push="x")
    finally:
        client.config_set("maxmemory", 0)
    assert dump(client) == before
    lease.complete()


def test_a_lost_reply_of_a_completion_with_follow_ups_does_not_double_them(
    relay: Relay, open_queue: OpenQueue
) -> None:
    queue = open_queue(url=relay.url)
    queue.push_many(["a", "b"], max_attempts=1)
    first, second = queue.lease_many(2)
    relay.lose_replies()
    first.complete(push=["x", "y"])
    relay.lose_replies()
    second.fail("dead", push="z")
    assert second.dead
    assert work_off(queue) == ["x", "y", "z"]
    stats = queue.stats()
    assert (stats.totals["pushed"], stats.totals["completed"], stats.dead) == (5, 4, 1)


# --- letters out and in


def test_a_letter_as_a_dict_and_back(queue: Queue, open_queue: OpenQueue) -> None:
    queue.push(b"\xff", priority=2, unique="key", group="g")
    leased(queue).bury("why", "error\udcff")
    (letter,) = queue.dead()
    copy = DeadLetter.from_dict(letter.as_dict())
    assert copy.as_dict() == letter.as_dict()
    assert (copy.message, copy.id, copy.payload) == (letter.message, letter.id, b"\xff")
    elsewhere = open_queue("elsewhere")
    assert elsewhere.import_dead([copy, copy]) == 1
    assert [x.as_dict() for x in elsewhere.dead()] == [letter.as_dict()]
    assert elsewhere.stats().totals["imported"] == 1
    assert elsewhere.redrive() == 1
    assert queue.redrive(reason="other") == 0
    assert queue.redrive(reason="why", limit=0) == 0
    assert queue.redrive(reason="why", limit=1) == 1
    with pytest.raises(ValueError, match="either letters, or reason and limit"):
        queue.redrive([letter], reason="why")


def test_large_letters_come_in_calls_of_a_bounded_size(queue: Queue, client: redis.Redis) -> None:
    queue.push_many([b"x" * (1 << 20)] * 10)
    while leases := queue.lease_many(10):
        queue.bury_many(leases, "why")
    letters = list(queue.dead())
    assert len(letters) == 10
    queue.purge("dead")
    client.config_resetstat()
    assert queue.import_dead(iter(letters)) == 10
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 3
    assert queue.import_dead([]) == 0
    assert queue.redrive() == 10


def test_letters_of_one_reason_among_many(queue: Queue) -> None:
    queue.push_many(str(number) for number in range(450))
    for number, lease in enumerate(queue.lease_many(450)):
        lease.bury("third" if number % 3 == 0 else "other")
    assert queue.redrive(reason="third", limit=120) == 120
    assert queue.redrive(reason="third") == 30
    assert {x.reason for x in queue.dead()} == {"other"}
    assert [item.text for item in queue.waiting()] == [str(n) for n in range(0, 450, 3)]
