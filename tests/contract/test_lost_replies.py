"""Calls whose reply gets lost, that are sent twice, or that arrive late."""

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import Queue, QueueFull, QueueSealed, ServerUnavailable
from tests.contract.conftest import OpenQueue
from tests.contract.relay import Relay


@pytest.fixture
def fragile(relay: Relay, open_queue: OpenQueue) -> Queue:
    """A queue behind the relay, whose client never repeats a call by itself."""
    return open_queue(client=redis.Redis.from_url(relay.url, retry=Retry(NoBackoff(), 0)))


@pytest.fixture
def retrying(relay: Relay, open_queue: OpenQueue) -> Queue:
    """A queue behind the relay, with pyqueue's own connection."""
    return open_queue(url=relay.url)


def test_a_lost_reply_is_repaired_behind_the_callers_back(
    retrying: Queue, relay: Relay, client: redis.Redis
) -> None:
    relay.lose_replies()
    retrying.push("apple")
    assert client.llen("job2") == 1
    relay.lose_replies()
    lease = retrying.lease()
    assert lease is not None
    assert lease.payload == b"apple"
    relay.lose_replies()
    lease.extend(30)
    relay.lose_replies()
    lease.release()
    relay.lose_replies()
    again = retrying.lease()
    assert again is not None
    assert (again.deliveries, again.attempts) == (1, 0)
    relay.lose_replies()
    again.complete()
    totals = retrying.stats().totals
    assert totals == {
        **dict.fromkeys(totals, 0),
        "pushed": 1,
        "released": 1,
        "completed": 1,
    }
    assert len(relay.calls) == 6 * 2 + 1


def test_a_push_without_an_answer_says_that_nobody_knows(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    id = "01a209c4-6d0b-76d6-8569-51ce914667aa"
    for lose, length in ((relay.lose_requests, 0), (relay.lose_replies, 1)):
        lose()
        with pytest.raises(ServerUnavailable, match="unknown") as caught:
            fragile.push("apple", id=id)
        assert caught.value.outcome_unknown
        assert caught.value.ids == (id,)
        assert client.llen("job2") == length


def leave_unresolved(queue: Queue, relay: Relay, client: redis.Redis) -> None:
    """The queue leases an item and never hears of it."""
    client.rpush("job2", "apple")
    relay.lose_replies()
    with pytest.raises(ServerUnavailable) as caught:
        queue.lease()
    assert caught.value.outcome_unknown
    assert client.hlen("{job2}:leased") == 1


def test_the_next_call_gives_back_what_was_leased_without_an_answer(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    leave_unresolved(fragile, relay, client)
    lease = fragile.lease()
    assert lease is not None
    assert (lease.payload, lease.deliveries, lease.attempts) == (b"apple", 1, 0)
    assert fragile.stats().totals["unseen"] == 1


def test_close_gives_back_what_was_leased_without_an_answer(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    leave_unresolved(fragile, relay, client)
    fragile.close()
    assert client.hlen("{job2}:leased") == 0
    assert client.llen("job2") == 1


def test_a_call_that_only_reads_resolves_nothing(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    leave_unresolved(fragile, relay, client)
    assert fragile.stats().leased == 1
    fragile.close()
    assert client.hlen("{job2}:leased") == 0


def test_a_call_that_is_refused_resolves_nothing(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    leave_unresolved(fragile, relay, client)
    with Queue("job2", client=client) as other:
        other.seal()
    with pytest.raises(QueueSealed):
        fragile.push("banana")
    fragile.close()
    assert client.hlen("{job2}:leased") == 0


def test_a_late_copy_changes_nothing(fragile: Queue, relay: Relay, client: redis.Redis) -> None:
    fragile.push("apple")
    fragile.push("banana")
    pushes = relay.calls[-2:]
    assert relay.repeat(pushes[1]) == b"*1\r\n:1\r\n"
    assert relay.repeat(pushes[0]).startswith(b"-STALE ")
    lease = fragile.lease()
    assert lease is not None
    leasing = relay.calls[-1]
    lease.complete()
    assert relay.repeat(leasing).startswith(b"-STALE ")
    assert client.llen("job2") == 1
    assert client.hlen("{job2}:leased") == 0


def test_a_late_copy_of_an_answer_without_items_leases_nothing_for_good(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    """Such an answer is not remembered, so the copy leases; the next call gives that back."""
    assert fragile.lease() is None
    leasing = relay.calls[-1]
    fragile.push("apple")
    assert relay.repeat(leasing).startswith(b"-STALE ")

    assert fragile.lease() is not None
    assert fragile.lease() is None
    leasing = relay.calls[-1]
    client.rpush("job2", "banana")
    assert b"banana" in relay.repeat(leasing)
    lease = fragile.lease()
    assert lease is not None
    assert (lease.payload, lease.attempts) == (b"banana", 0)


def test_a_refusal_of_the_second_copy_says_nothing_of_the_first(
    retrying: Queue, relay: Relay, client: redis.Redis
) -> None:
    """The server refuses it unseen: here a full one, as well a replica or one that is loading."""
    relay.lose_replies()
    relay.meanwhile = lambda: client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServerUnavailable, match="unknown") as caught:
            retrying.push("apple")
    finally:
        client.config_set("maxmemory", 0)
    assert caught.value.outcome_unknown
    assert len(caught.value.ids) == 1
    assert client.llen("job2") == 1


def test_a_refusal_after_a_flush_says_nothing_of_the_first_copy_either(
    retrying: Queue, relay: Relay, client: redis.Redis
) -> None:
    """A replica that took over knows no script: the second copy is EVALSHA, then EVAL."""

    def flush_and_fill() -> None:
        client.script_flush()
        client.config_set("maxmemory", 1)

    relay.lose_replies()
    relay.meanwhile = flush_and_fill
    try:
        with pytest.raises(ServerUnavailable, match="unknown") as caught:
            retrying.push("apple")
    finally:
        client.config_set("maxmemory", 0)
    assert caught.value.outcome_unknown
    assert client.llen("job2") == 1


def test_a_script_that_refuses_the_second_copy_knows_of_the_first(
    retrying: Queue, relay: Relay, client: redis.Redis
) -> None:
    with Queue("job2", client=client) as other:
        relay.meanwhile = other.seal
        relay.lose_replies()
        retrying.push("apple")  # was taken before
        other.unseal()
        relay.lose_requests()
        with pytest.raises(QueueSealed):
            retrying.push("banana")  # and this was not
    assert client.llen("job2") == 1


def test_a_flush_between_two_copies_is_invisible(
    retrying: Queue, relay: Relay, client: redis.Redis
) -> None:
    relay.meanwhile = client.script_flush
    relay.lose_replies()
    retrying.push("apple")
    relay.lose_requests()
    retrying.push("banana")
    assert client.llen("job2") == 2


def test_closing_calls_only_for_what_the_server_does_not_remember(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    """A refusal and an empty answer leave no record: a copy of the call could yet do something."""
    fragile.push("apple")
    calls = len(relay.calls)
    fragile.close()
    assert len(relay.calls) == calls
    with pytest.raises(QueueSealed):
        fragile.seal() and fragile.push("banana")
    refused = relay.calls[-1]
    fragile.close()
    assert len(relay.calls) == calls + 3
    fragile.unseal()
    assert relay.repeat(refused).startswith(b"-STALE ")
    assert client.llen("job2") == 1


def test_a_push_without_an_answer_keeps_no_connection(
    relay: Relay, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is remembered for a repeat: a hundred of them would use up the pool for good."""
    monkeypatch.setattr("pyqueue._connection.RETRIES", 0)
    queue = open_queue(url=relay.url)
    for payload in ("apple", "banana"):
        relay.lose_replies()
        with pytest.raises(ServerUnavailable, match="unknown"):
            queue.push(payload)
    slots = [slot for slot, _ in queue._slots.set_aside.values()]
    assert [slot.connection for slot in slots] == [None, None]


def test_a_repeat_that_a_full_server_refuses_can_be_repeated(
    fragile: Queue, relay: Relay, client: redis.Redis
) -> None:
    """It is refused unseen: the first copy may have been carried out, and was here."""
    relay.lose_replies()
    with pytest.raises(ServerUnavailable) as caught:
        fragile.push("apple")
    (id,) = caught.value.ids
    client.config_set("maxmemory", "1mb")
    with pytest.raises(QueueFull):
        fragile.push("apple", id=id)
    client.config_set("maxmemory", "0")
    assert fragile.push("apple", id=id) == id
    assert client.llen("job2") == 1
