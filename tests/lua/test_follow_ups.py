"""lua/complete_push.lua and lua/fail_push.lua: an item ends, and what follows from it begins."""

from collections.abc import Sequence

import pytest
import redis

from pyqueue._keys import OTHERS
from tests.lua.harness import (
    GROUPS,
    PRIORITY,
    SCRIPTS,
    SEALED,
    START,
    Arg,
    Caller,
    State,
    VirtualQueue,
    envelope,
)
from tests.lua.scenes import asking, id_of, message, number_of, rich

VERBS = ("complete_push", "fail_push")


@pytest.fixture
def first(client: redis.Redis) -> VirtualQueue:
    """A stage of a pipeline; ``others`` are two more, of the same tag."""
    queue = VirtualQueue(client, "{shop}first")
    queue.others = [VirtualQueue(client, "{shop}second"), VirtualQueue(client, "{shop}third")]
    return queue


def end(
    queue: VirtualQueue,
    verb: str,
    token: Arg,
    *ups: tuple[int, bytes] | tuple[int, int, int, bytes],
    by: Caller | None = None,
) -> int:
    """Ends an item for good, with these follow-ups: (queue, message) or (queue, delay, window,
    message). Whether it did: an item has one attempt here.
    """
    args: list[Arg] = []
    for up in ups:
        args += up if len(up) == 4 else (up[0], 0, 0, up[1])
    if verb == "complete_push":
        return int(queue.call(verb, token, *args, by=by) == 1)
    return int(queue.call(verb, "", b"boom", token, *args, by=by) == 2)


def item(queue: VirtualQueue, number: int = 1, **asks: object) -> int:
    """The token of a new item that has one attempt."""
    queue.ask(asking(number, max_attempts=1, **asks))
    return queue.take()[0]


def ended(queue: VirtualQueue, verb: str, number: int = 1) -> None:
    """Asserts that nothing is left of it but a dead letter."""
    assert queue.leased() == {}
    assert queue.bound() == {}
    assert queue.state().completed == (verb == "complete_push")
    assert list(queue.dead()) == ([] if verb == "complete_push" else [id_of(number)])


# Where they go


@pytest.mark.parametrize("verb", VERBS)
def test_to_this_queue(queue: VirtualQueue, verb: str) -> None:
    token = item(queue)
    queue.push(message(5))
    assert end(queue, verb, token, (0, message(2)), (0, message(3))) == 1
    assert queue.waiting() == [message(5), message(2), message(3)]
    ended(queue, verb)
    assert queue.state().pushed == 4
    assert queue.lease(100).messages == [message(5), message(2), message(3)]


@pytest.mark.parametrize("verb", VERBS)
def test_to_others_of_the_tag(first: VirtualQueue, verb: str) -> None:
    second, third = first.others
    third.push(message(9))
    token = item(first)
    ups = [(2, message(2)), (0, message(3)), (1, message(4)), (2, message(5))]
    assert end(first, verb, token, *ups) == 1
    assert first.waiting() == [message(3)]
    assert second.waiting() == [message(4)]
    assert third.waiting() == [message(9), message(2), message(5)]
    assert [q.state().pushed for q in (first, second, third)] == [2, 1, 3]
    ended(first, verb)
    for stage in (first, second, third):
        stage.complete(*stage.take(len(stage.waiting())))
        assert stage.lease().word == b"drained"


@pytest.mark.parametrize("verb", VERBS)
def test_to_a_queue_that_is_not_yet_there(client: redis.Redis, verb: str) -> None:
    first = VirtualQueue(client, "{shop}first")
    first.others = [VirtualQueue(client, "{shop}second")]
    (second,) = first.others
    client.delete(second.key("meta"), first.key("meta"))
    client.rpush(first.name, "raw")
    reply = first.send("lease", b"slot", 1, 0, 1, 60_000, b"w", now="")
    first.wide = True
    call: tuple[Arg, ...] = (reply[3], 1, 0, 0, message(2))
    if verb == "fail_push":
        client.hset(first.key("meta"), "max_attempts", 1)
        call = ("", b"boom", *call)
    assert first.send(verb, b"slot", 2, 1, *call, now="") in {1, 2}
    assert second.waiting() == [message(2)]
    state = second.state()
    assert (state.version, state.flags, state.pushed) == (1, 0, 1)
    assert client.hget(second.key("meta"), "schema") == b"1"


@pytest.mark.parametrize("verb", VERBS)
def test_with_every_option(first: VirtualQueue, verb: str) -> None:
    second, third = first.others
    token = item(first)
    end(
        first,
        verb,
        token,
        (1, 0, 0, asking(2, priority=5)),
        (1, 5_000, 0, message(3)),
        (1, 0, 9_000, asking(4, unique="k")),
        (1, 0, 0, asking(5, unique="k")),
        (1, 0, 0, asking(6, group="g")),
        (1, 4_000, 0, asking(7, group="g")),
        (0, 0, 0, asking(8, group="g", priority=-1)),
        (2, 0, 0, asking(9, group="g")),
    )
    assert [number_of(m) for _, m in second.ranked()] == [2]
    assert second.delayed() == [(START + 5_000, message(3))]
    assert second.holders("unique") == {b"k": id_of(4)}
    assert second.client.zscore(second.key("unique_due"), "k") == START + 9_000
    assert [(due, number_of(m)) for _, due, m in second.grouped()] == [(START + 4_000, 7)]
    assert second.holders("groups") == {b"g": id_of(6)}
    assert second.state().pushed == 5
    assert second.state().version == 2
    assert second.state().flags & (PRIORITY | GROUPS) == PRIORITY | GROUPS
    assert second.state().event <= START + 5_000
    assert [number_of(m) for m in second.lease(100).messages if m] == [2, 4, 6]
    assert first.holders("groups") == {b"g": id_of(8)}
    assert third.holders("groups") == {b"g": id_of(9)}


@pytest.mark.parametrize("verb", VERBS)
def test_neither_seal_nor_cap_refuses_them(first: VirtualQueue, verb: str) -> None:
    """What is begun is brought to its end."""
    token = item(first)
    for stage in (first, *first.others):
        stage.call("configure", "max_waiting", 0, "max_bytes", 1)
        stage.call("seal", 1)
        stage.call("pause", 1)
        with stage.refused("SEALED"):
            stage.push(message(9), by=stage.caller())
    assert end(first, verb, token, (0, message(2)), (1, message(3)), (2, message(4))) == 1
    assert [len(stage.waiting()) for stage in (first, *first.others)] == [1, 1, 1]
    assert all(stage.state().flags & SEALED for stage in (first, *first.others))


@pytest.mark.parametrize("verb", VERBS)
def test_of_the_own_key_and_group(queue: VirtualQueue, verb: str) -> None:
    """The key is free for what follows from the item, which is the last of its group."""
    token = item(queue, 1, unique="k", group="g")
    queue.ask(asking(2, group="g"))
    assert end(queue, verb, token, (0, asking(3, unique="k", group="g"))) == 1
    assert queue.holders("unique") == {b"k": id_of(3)}
    assert queue.holders("groups") == {b"g": id_of(2)}
    assert [number_of(m) for _, _, m in queue.grouped()] == [3]
    for expected in (2, 3):
        answer = queue.lease()
        assert [number_of(m) for m in answer.messages if m] == [expected]
        queue.complete(answer.first)
    assert queue.lease().word == b"drained"
    assert (queue.holders("unique"), queue.holders("groups")) == ({}, {})


@pytest.mark.parametrize("verb", VERBS)
def test_a_follow_up_whose_key_is_taken_is_left_out(first: VirtualQueue, verb: str) -> None:
    second = first.others[0]
    second.ask(asking(5, unique="k"))
    token = item(first)
    assert end(first, verb, token, (1, asking(2, unique="k")), (1, message(3))) == 1
    assert [number_of(m) for m in second.waiting()] == [5, 3]
    assert second.state().pushed == 2


@pytest.mark.parametrize("verb", VERBS)
def test_a_hundred_to_eight(client: redis.Redis, verb: str) -> None:
    first = VirtualQueue(client, "{shop}first")
    first.others = [VirtualQueue(client, f"{{shop}}{number}") for number in range(8)]
    token = item(first)
    assert end(first, verb, token, *((n % 9, message(n)) for n in range(100))) == 1
    for number, stage in enumerate((first, *first.others)):
        assert [number_of(m) for m in stage.waiting()] == list(range(number, 100, 9))


# When nothing follows


@pytest.mark.parametrize("verb", VERBS)
def test_a_lost_lease_pushes_nothing(first: VirtualQueue, verb: str) -> None:
    token = item(first)
    first.complete(token)
    before = [stage.waiting() for stage in (first, *first.others)]
    for lost in (token, 7, "", "x", "nan", b"\0"):
        assert end(first, verb, lost, (1, message(2)), (0, message(3))) == 0
        with first.unchanged():
            assert first.again() == 0
    assert [stage.waiting() for stage in (first, *first.others)] == before
    assert first.dead() == {}


def test_while_there_are_attempts_a_failure_pushes_nothing(first: VirtualQueue) -> None:
    first.call("configure", "max_attempts", 3)
    first.push(message(1))
    up: tuple[Arg, ...] = (1, 0, 0, message(2))
    assert first.call("fail_push", 0, b"boom", *first.take(), *up) == 1
    assert first.waiting() == [
        envelope(b"pushed 1", id_of(1), deliveries=1, attempts=1),
    ]
    with first.unchanged():
        assert first.again() == 1
    assert first.call("fail_push", "", b"boom", *first.take(), *up) == 1
    ((due, _),) = first.delayed()
    assert START + 1_000 <= due <= START + 2_000
    first.sleep(2_000)
    assert first.others[0].waiting() == []
    assert first.call("fail_push", 5_000, b"x" * 3000, *first.take(), *up) == 2
    assert first.others[0].waiting() == [message(2)]
    ((_, letter),) = first.dead().values()
    assert (letter.reason, letter.worker, letter.error) == (b"failed", b"w", b"x" * 2048)
    assert first.counters()["failed"] == 3
    with first.unchanged():
        assert first.again() == 2


def test_a_failure_with_priority_goes_back_by_it(queue: VirtualQueue) -> None:
    queue.ask(asking(1, priority=4))
    queue.call("fail_push", 0, b"", *queue.take(), 0, 0, 0, message(2))
    assert [number_of(m) for _, m in queue.ranked()] == [1]


@pytest.mark.parametrize("verb", VERBS)
def test_the_lease_that_was_never_seen_is_not_ended(queue: VirtualQueue, verb: str) -> None:
    """It goes back with the call: nobody can know its token."""
    queue.ask(asking(1, max_attempts=1))
    other = queue.caller()
    (token,) = queue.lease(by=other, seen=False).tokens
    assert end(queue, verb, token, (0, message(2)), by=other) == 0
    assert [number_of(m) for m in queue.waiting()] == [1]
    assert (queue.leased(), queue.dead()) == ({}, {})
    assert queue.counters()["unseen"] == 1


@pytest.mark.parametrize("verb", VERBS)
def test_others_that_were_never_seen_go_back(queue: VirtualQueue, verb: str) -> None:
    token = item(queue)
    queue.rpush("a", "b")
    other = queue.caller()
    queue.lease(2, by=other, seen=False)
    assert end(queue, verb, token, (0, message(2)), by=other) == 1
    assert len(queue.waiting()) == 3
    assert queue.waiting()[2] == message(2)
    ended(queue, verb)


# Replays


@pytest.mark.parametrize("verb", VERBS)
def test_a_copy_pushes_nothing_more(first: VirtualQueue, verb: str) -> None:
    token = item(first)
    ups = [(1, message(2)), (0, message(3))]
    end(first, verb, token, *ups)
    with first.unchanged():
        assert first.again() == (1 if verb == "complete_push" else 2)
    first.others[0].complete(*first.others[0].take())
    with first.unchanged():
        first.again()
    late = first.me.last
    first.extend(7)
    first.me.last = late
    with first.refused("STALE"):
        first.again()


# Refused before anything is written


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("which", [0, 1])
def test_the_schema_of_each_queue_is_looked_at(first: VirtualQueue, verb: str, which: int) -> None:
    token = item(first)
    first.others[which].client.hset(
        first.others[which].key("meta"), "state", State(version=3).pack()
    )
    with first.refused("SCHEMA"):
        end(first, verb, token, (0, message(2)), (1, message(2)), (2, message(2)))


@pytest.mark.parametrize("verb", VERBS)
def test_the_time_is_an_argument_only_where_all_are_made_for_tests(
    first: VirtualQueue, verb: str
) -> None:
    token = item(first)
    first.others[1].put_state(State(flags=0))
    with first.refused("CLOCK"):
        end(first, verb, token, (0, message(2)), (1, message(2)), (2, message(2)))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", OTHERS)
def test_a_foreign_type_under_a_key_of_another_queue(
    client: redis.Redis, verb: str, name: str
) -> None:
    first = VirtualQueue(client, "{shop}first")
    first.others = [VirtualQueue(client, "{shop}a"), VirtualQueue(client, "{shop}b")]
    rich(first.others[1])
    token = item(first)
    client.set(first.others[1].key(name), "somebody else's")
    ups = [(number, asking(number, group="g", unique="k", priority=1)) for number in range(3)]
    with first.refused("WRONGTYPE"):
        end(first, verb, token, *ups)


@pytest.mark.parametrize("verb", VERBS)
def test_bad_arguments(first: VirtualQueue, verb: str) -> None:
    token = item(first)

    def call(*args: Arg) -> None:
        before: Sequence[Arg] = (token,) if verb == "complete_push" else ("", b"", token)
        first.call(verb, *before, *args)

    with first.refused("ARGUMENT follow-ups is not an integer from 1 to 100"):
        call()
    with first.refused("ARGUMENT follow-ups is not an integer from 1 to 100"):
        call(*(0, 0, 0, message(1)) * 101)
    with first.refused("ARGUMENT follow-ups is not"):
        call(0, 0, 0, message(1), 1)
    for bad in ("3", "-1", "0.5", "nan", "", "x"):
        with first.refused("ARGUMENT queue is not an integer from 0 to 2"):
            call(0, 0, 0, message(1), bad, 0, 0, message(1))
    for bad in ("-1", "0.5", "nan", "", "x", "1e14"):
        with first.refused("ARGUMENT delay is not an integer"):
            call(0, 0, 0, message(1), 1, bad, 0, message(1))
        with first.refused("ARGUMENT window is not an integer"):
            call(0, 0, 0, message(1), 1, 0, bad, message(1))
    for raw in (b"", b"raw", envelope(b"")[:26]):
        with first.refused("ARGUMENT"):
            call(0, 0, 0, message(1), 1, 0, 0, raw)
    if verb == "fail_push":
        for bad in ("-1", "0.5", "nan", "x", "1e14"):
            with first.refused("ARGUMENT retry_in is not an integer"):
                first.call(verb, bad, b"", token, 0, 0, 0, message(1))
    first.others *= 5
    with first.refused("ARGUMENT other queues is not an integer from 0 to 8"):
        call(0, 0, 0, message(1))


@pytest.mark.parametrize("verb", VERBS)
def test_keys_of_half_a_queue(first: VirtualQueue, verb: str) -> None:
    token = item(first)
    keys = first.keys.pick(SCRIPTS[verb].keys) + first.others[0].keys.pick(OTHERS)[:5]
    fails: tuple[Arg, ...] = ("", b"") if verb == "fail_push" else ()
    with first.refused("ARGUMENT other queues is not"):
        first.send(verb, b"slot", 1, 0, *fails, token, 1, 0, 0, message(1), keys=keys)


# Full servers


@pytest.mark.parametrize("verb", VERBS)
def test_on_a_full_server_nothing_happens(first: VirtualQueue, verb: str) -> None:
    token = item(first)
    first.client.config_set("maxmemory", 1)
    try:
        with first.unchanged(), pytest.raises(redis.exceptions.OutOfMemoryError):
            end(first, verb, token, (1, message(2)))
    finally:
        first.client.config_set("maxmemory", 0)
    assert end(first, verb, token, (1, message(2))) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_follow_up_wakes_a_worker_of_its_queue(first: VirtualQueue, verb: str) -> None:
    """By a marker where it is not in the list itself."""
    second = first.others[0]
    end(first, verb, item(first), (1, asking(2, priority=1)))
    assert len(second.waiting()) == 1
    assert second.lease().messages == [asking(2, priority=1)]
    end(first, verb, item(first, 3), (1, 1_000, 0, message(4)))
    assert len(second.waiting()) == 1
    assert second.lease().rest == [1_000]
