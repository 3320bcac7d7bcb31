"""Dedupe keys: ``unique``, ``unique_due``, what a lease holds of one, and ids that are chosen."""

import pytest
import redis

from tests.lua.harness import SCRIPTS, SPECIAL, START, VirtualQueue, envelope
from tests.lua.scenes import asking, id_of, message

HOUR = 3_600_000


def test_the_second_push_is_told_the_first_ones_id(queue: VirtualQueue) -> None:
    assert queue.ask(asking(1, unique="k")) == [1]
    assert queue.ask(message(9), asking(2, unique="k"), asking(3, unique="j")) == [2, 1, id_of(1)]
    assert queue.waiting() == [asking(1, unique="k"), message(9), asking(3, unique="j")]
    assert queue.holders("unique") == {b"k": id_of(1), b"j": id_of(3)}
    assert queue.state().pushed == 3
    assert queue.state().flags & SPECIAL
    assert not queue.client.exists(queue.key("unique_due"))
    with queue.unchanged():
        assert queue.again() == [2, 1, id_of(1)]


def test_twice_in_one_call(queue: VirtualQueue) -> None:
    many = (asking(number, unique="k") for number in range(4))
    assert queue.ask(*many) == [1, 1, id_of(0), 2, id_of(0), 3, id_of(0)]
    assert queue.waiting() == [asking(0, unique="k")]


def test_nothing_appended_is_an_answer_too(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"))
    before = queue.waiting(), queue.state().pushed
    assert queue.ask(asking(2, unique="k")) == [0, 0, id_of(1)]
    assert (queue.waiting(), queue.state().pushed) == before
    with queue.unchanged():
        assert queue.again() == [0, 0, id_of(1)]


def test_a_lease_holds_id_and_key(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"), message(2), asking(3, unique="j", group="g"))
    a, _, c = queue.take(3)
    assert queue.bound() == {a: (id_of(1), b"k", b""), c: (id_of(3), b"j", b"g")}


@pytest.mark.parametrize(
    "how", ["complete", "lease", "bury", "fail", "expire", "lease expired", "purge"]
)
def test_the_key_is_free_when_the_item_is_settled(queue: VirtualQueue, how: str) -> None:
    queue.ask(asking(1, unique="k", max_attempts=1))
    if how == "purge":
        assert queue.call("purge", "waiting") == [1, 0]
    else:
        (token,) = queue.take()
        if how == "complete":
            assert queue.complete(token) == []
        elif how == "lease":
            assert queue.lease(done=[token]).word == b"drained"
        elif how == "bury":
            assert queue.bury(token) == []
        elif how == "fail":
            assert queue.fail(token) == [[], [0]]
        else:
            queue.sleep(60_000)
            if how == "expire":
                assert queue.reclaim()[:2] == [0, 1]
            else:
                assert queue.lease().word == b"drained"
    assert queue.holders("unique") == {}
    assert queue.bound() == {}
    assert queue.ask(asking(2, unique="k")) == [1]


@pytest.mark.parametrize("how", ["release", "delay", "fail", "expire", "unseen"])
def test_the_key_is_not_free_while_the_item_lives(queue: VirtualQueue, how: str) -> None:
    queue.ask(asking(1, unique="k"))
    other = queue.caller()
    (token,) = queue.lease(by=other, seen=False).tokens
    assert queue.ask(asking(2, unique="k")) == [0, 0, id_of(1)]
    if how == "release":
        queue.release(token)
    elif how == "delay":
        queue.release(token, delay=5_000)
    elif how == "fail":
        queue.fail(token)
    elif how == "expire":
        queue.sleep(60_000)
        queue.reclaim()
    else:
        queue.call("release", 0, by=other)
    assert queue.bound() == {}
    assert queue.ask(asking(2, unique="k")) == [0, 0, id_of(1)]
    queue.sleep(10_000)
    queue.complete(*queue.take())
    assert queue.ask(asking(2, unique="k")) == [1]


def test_a_lost_lease_frees_nothing(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"))
    (old,) = queue.take()
    queue.sleep(60_000)
    (new,) = queue.lease().tokens
    for lost in (queue.complete(old), queue.bury(old), queue.fail(old)[0], queue.release(old)):
        assert lost == [0]
    assert queue.lease(0, done=[old]).lost == [0]
    assert queue.ask(asking(2, unique="k")) == [0, 0, id_of(1)]
    queue.complete(new, new)
    assert queue.holders("unique") == {}


def test_another_items_key_is_not_freed(queue: VirtualQueue) -> None:
    """One that came by RPUSH says that it has the key; it has not."""
    queue.ask(asking(1, unique="k"))
    queue.rpush(asking(2, unique="k"))
    _, foreign = queue.take(2)
    queue.complete(foreign)
    assert queue.holders("unique") == {b"k": id_of(1)}


# For a time


def test_a_window_holds_whatever_becomes_of_the_item(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"), window=10_000)
    assert queue.client.zrange(queue.key("unique_due"), 0, -1, withscores=True) == [
        (b"k", START + 10_000)
    ]
    queue.complete(*queue.take())
    queue.sleep(9_999)
    assert queue.ask(asking(2, unique="k"), window=10_000) == [0, 0, id_of(1)]
    queue.sleep(1)
    assert queue.ask(asking(2, unique="k"), window=10_000) == [1]
    assert queue.holders("unique") == {b"k": id_of(2)}


def test_a_window_ends_while_the_item_lives(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"), window=10_000)
    (token,) = queue.take()
    queue.sleep(10_000)
    assert queue.ask(asking(2, unique="k")) == [1]
    queue.complete(token)
    assert queue.holders("unique") == {b"k": id_of(2)}  # not the first one's any more
    assert not queue.client.exists(queue.key("unique_due"))
    queue.sleep(10**9)
    assert queue.ask(asking(3, unique="k")) == [0, 0, id_of(2)]


def test_keys_whose_time_is_over_are_swept_in_bounded_steps(queue: VirtualQueue) -> None:
    queue.ask(*(asking(number % 1000, unique=f"a{number}") for number in range(1000)), window=1_000)
    queue.ask(*(asking(number % 1000, unique=f"b{number}") for number in range(1000)), window=1_000)
    queue.sleep(1_000)
    queue.ask(asking(1, unique="new"))
    assert queue.client.hlen(queue.key("unique")) == 1001
    assert queue.client.zcard(queue.key("unique_due")) == 1000
    queue.ask(asking(2, unique="newer"))
    assert set(queue.holders("unique")) == {b"new", b"newer"}


def test_a_key_whose_time_is_over_is_free_before_it_is_swept(queue: VirtualQueue) -> None:
    queue.ask(*(asking(number, unique=f"a{number}") for number in range(1000)), window=1_000)
    queue.ask(asking(1000, unique="z"), window=1_000)
    queue.sleep(1_000)
    assert queue.ask(asking(1001, unique="z")) == [1]
    assert queue.holders("unique") == {b"z": id_of(1001)}
    assert not queue.client.exists(queue.key("unique_due"))  # it would be swept at the next call


def test_a_push_that_stops_at_its_message_takes_no_key(queue: VirtualQueue) -> None:
    """Else the key of an item that never was would refuse all others."""
    push = SCRIPTS["push"]
    stop = "redis.call('RPUSH', waiting, unpack(plain"
    assert push.source.count(stop) == 1
    queue.wide = True
    names = queue.named(push)
    args = (queue.now, b"slot-one", 1, 0, "0 0 0", asking(1, unique="k", group="g"))
    with pytest.raises(redis.ResponseError, match="stopped"):
        queue.client.eval(
            push.source.replace(stop, "error('stopped') " + stop), len(names), *names, *args
        )
    assert queue.ask(asking(2, unique="k", group="g")) == [1]
    assert len(queue.waiting()) == 1


@pytest.mark.parametrize("behind", [False, True])
def test_what_is_purged_frees_its_key_behind_its_group_too(
    queue: VirtualQueue, behind: bool
) -> None:
    queue.ask(asking(1, group="g"), asking(2, unique="k", group="g" if behind else "h"))
    assert queue.call("purge", "waiting") == [2, 0]
    assert queue.holders("unique") == {}


def test_keys_for_a_time_do_not_grow_without_bound(queue: VirtualQueue) -> None:
    """Even when each call adds as many as it can: an id and a key of each message."""
    for turn in range(5):
        messages = []
        for number in range(1000):
            id = b"%08d%08d" % (turn, number)
            base = asking(number, unique=f"{turn} {number}")
            messages.append(base[:4] + id + base[20:])
        assert queue.ask(*messages, window=1_000, chosen=True) == [1000]
        queue.sleep(HOUR)
    assert queue.client.hlen(queue.key("unique")) == 2000


def test_a_lease_sweeps_a_little_when_something_is_due(queue: VirtualQueue) -> None:
    queue.ask(*(asking(number, unique=f"{number}") for number in range(150)), window=1_000)
    queue.ask(message(1), delay=2_000)
    queue.lease(0)
    queue.sleep(2_000)
    queue.lease(0)
    assert queue.client.hlen(queue.key("unique")) == 50


def test_an_hour_of_it_in_the_middle_of_a_call(queue: VirtualQueue) -> None:
    """A copy of the call that comes after the window is still a copy."""
    queue.ask(asking(1, unique="k"), window=1_000)
    queue.sleep(2_000)
    with queue.unchanged():
        assert queue.again() == [1]


# By id


def test_a_chosen_id_is_taken_once(queue: VirtualQueue) -> None:
    assert queue.ask(message(1), chosen=True) == [1]
    assert queue.ask(message(1), chosen=True, by=queue.caller()) == [0, 0, id_of(1)]
    assert queue.ask(message(2), message(2), chosen=True) == [1, 1, id_of(2)]
    assert queue.waiting() == [message(1), message(2)]
    queue.complete(*queue.take(2))
    queue.sleep(HOUR - 1)
    assert queue.ask(message(1), chosen=True) == [0, 0, id_of(1)]
    queue.sleep(1)
    assert queue.ask(message(1), chosen=True) == [1]


def test_an_id_that_was_not_chosen_is_not_looked_at(queue: VirtualQueue) -> None:
    assert queue.ask(message(1), message(1)) == [2]
    assert queue.holders("unique") == {}


def test_an_id_is_no_key(queue: VirtualQueue) -> None:
    """A key may read like anything: none can be taken for an id."""
    queue.ask(message(1), chosen=True)
    assert set(queue.holders("unique")) == {b"\0id" + id_of(1)}
    as_id = "\0id" + id_of(1).decode()
    assert queue.ask(asking(2, unique=as_id)) == [1]
    assert set(queue.holders("unique")) == {b"\0id" + id_of(1)}


def test_id_and_key_together(queue: VirtualQueue) -> None:
    both = asking(1, unique="k")
    assert queue.ask(both, chosen=True) == [1]
    queue.complete(*queue.take())
    assert queue.ask(both, chosen=True) == [0, 0, id_of(1)]
    assert queue.holders("unique") == {b"\0id" + id_of(1): id_of(1)}
    assert queue.ask(asking(2, unique="k"), chosen=True) == [1]
    assert queue.ask(asking(3, unique="k"), chosen=True) == [0, 0, id_of(2)]
    assert b"\0id" + id_of(3) not in queue.holders("unique")


# Dead letters


def test_a_dead_one_whose_key_is_taken_stays_dead(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"), asking(2, unique="j"), message(3))
    queue.bury(*queue.take(3))
    queue.ask(asking(4, unique="k"))
    with_key = [id_of(1), id_of(2), id_of(3), b"no such letter.."]
    assert queue.call("redrive", *with_key) == [0, 3]
    assert list(queue.dead()) == [id_of(1)]
    assert queue.holders("unique") == {b"k": id_of(4), b"j": id_of(2)}
    assert queue.counters()["redriven"] == 2
    with queue.unchanged():
        assert queue.again() == [0, 3]
    queue.complete(*queue.take())
    assert queue.call("redrive", id_of(1)) == []
    assert queue.holders("unique")[b"k"] == id_of(1)


def test_two_dead_ones_of_one_key(queue: VirtualQueue) -> None:
    for number in (1, 2):
        queue.ask(asking(number, unique="k"))
        queue.bury(*queue.take())
    assert queue.call("redrive", id_of(2), id_of(1)) == [1]
    assert list(queue.dead()) == [id_of(1)]


def test_a_dead_one_whose_own_window_goes_on_is_redriven(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"), window=HOUR)
    queue.bury(*queue.take())
    assert queue.call("redrive", id_of(1)) == []
    assert queue.ask(asking(2, unique="k")) == [0, 0, id_of(1)]
    queue.complete(*queue.take())
    assert queue.ask(asking(2, unique="k")) == [1]


def test_purging_the_dead_leaves_the_keys_of_the_living(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"))
    queue.bury(*queue.take())
    queue.ask(asking(2, unique="k"))
    queue.call("purge", "dead")
    assert queue.holders("unique") == {b"k": id_of(2)}


def test_purging_leaves_what_is_leased_its_key(queue: VirtualQueue) -> None:
    queue.ask(*(asking(number, unique=f"{number}") for number in range(5)))
    (token,) = queue.take()
    queue.ask(asking(5, unique="late"), delay=1_000)
    queue.ask(asking(6, unique="high", priority=1))
    assert queue.call("purge", "waiting") == [6, 0]
    assert queue.holders("unique") == {b"0": id_of(0)}
    queue.complete(token)
    assert queue.holders("unique") == {}


# Bad arguments


def test_bad_options(queue: VirtualQueue) -> None:
    queue.wide = True
    for options in (" ", "0", "0 0", "0 0 2", "0 0 0 0", " 0 0 0", "0 0 0 ", "a b c"):
        with queue.refused("ARGUMENT delay is not an integer"):
            queue.call("push", options, message(1))
    for bad in ("-1", "0.5", "nan", "inf", "1e14", "x"):
        with queue.refused("ARGUMENT delay is not an integer from 0"):
            queue.call("push", f"{bad} 0 0", message(1))
        with queue.refused("ARGUMENT window is not an integer from 0"):
            queue.call("push", f"0 {bad} 0", message(1))


def test_any_text_up_to_255_bytes_is_a_key(queue: VirtualQueue) -> None:
    keys = ["x", "x" * 255, "ключ", "\r\n", "1e300", "-inf", "{}"]
    queue.ask(*(asking(number, unique=key) for number, key in enumerate(keys)))
    assert set(queue.holders("unique")) == {key.encode() for key in keys}
    again = queue.ask(*(asking(50 + number, unique=key) for number, key in enumerate(keys)))
    assert again[0] == 0
    queue.complete(*queue.take(len(keys)))
    assert queue.holders("unique") == {}


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0b", 7, None, True, 1.5, ["k"], {"k": 1}])
def test_what_is_no_key_asks_for_nothing(queue: VirtualQueue, key: object) -> None:
    assert queue.ask(asking(1, unique=key), asking(2, unique=key)) == [2]
    assert queue.holders("unique") == {}


def test_options_are_for_envelopes(queue: VirtualQueue) -> None:
    queue.wide = True
    for given in (b"raw", b"", envelope(b"x")[:26]):
        with queue.refused("ARGUMENT a message is no"):
            queue.ask(envelope(b"x"), given, chosen=True)
