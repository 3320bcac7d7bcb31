"""`check` and `repair`: what is so is mended, what is not so is left alone, and bounds hold.

Every damage in its place is in tests/contract/test_check.py; here are the scripts alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from tests.lua.harness import START, WAKE, Arg, VirtualQueue, envelope
from tests.lua.scenes import Scene, asking, busy, id_of, message, rich

Fill: TypeAlias = Callable[[VirtualQueue], Scene]
GONE = b"an id of nobody!"


def repair(queue: VirtualQueue, kind: str, where: str, *rest: Arg, write: int = 1) -> bytes:
    """The word that it answers with."""
    filled = [*rest, *[b""] * (6 - len(rest))]
    word: bytes = queue.call("repair", write, kind, where, *filled)
    return word


def page(queue: VirtualQueue, part: str, cursor: Arg = 0, count: int = 200) -> Sequence[Any]:
    reply: Sequence[Any] = queue.call("check", part, cursor, count)
    return reply


def stamp(queue: VirtualQueue) -> Arg:
    found: Arg = page(queue, "keys")[2]
    return found


PARTS = (
    *("grouped", "delayed", "priority", "waiting", "handoff", "leased", "dead"),
    *("leases", "special", "died", "groups", "unique", "unique_due", "calls0", "calls1"),
)


@pytest.mark.parametrize("fill", [busy, rich])
def test_a_sound_queue_has_no_problem(queue: VirtualQueue, fill: Fill) -> None:
    fill(queue)
    with queue.unchanged():
        assert page(queue, "keys")[5] == []
        for part in PARTS:
            reply = page(queue, part)
            assert reply[1] == b""
            assert reply[8] == [], part


#: Each kind, at a place where there is nothing to mend.
NOTHING = [
    ("lease", "leases", "1"),
    ("leased", "leased", "1"),
    ("special", "special", "1"),
    ("damaged", "leased", "1"),
    ("damaged", "dead", GONE),
    ("damaged", "delayed", "x"),
    ("died", "dead", GONE),
    ("dead", "died", GONE),
    ("due", "unique", "x"),
    ("unheld", "waiting", 0, GONE, "x"),
    ("unled", "waiting", 0, GONE, "x"),
    ("headless", "grouped", "", "", "x"),
    ("head", "groups", "", GONE, "x"),
    ("key", "unique", "", GONE, "x"),
    ("surplus", "waiting", 0, GONE, "", "handoff", 0),
    ("tokens", "meta", 5),
    ("ttl", "leased"),
    ("field", "meta", "released"),
    ("call", "calls0", "slot-one"),
]


@pytest.mark.parametrize("found", NOTHING, ids=lambda found: " ".join(map(str, found[:2])))
@pytest.mark.parametrize("fill", [busy, rich])
def test_what_is_not_so_is_left_alone(
    queue: VirtualQueue, fill: Fill, found: tuple[Any, ...]
) -> None:
    fill(queue)
    before = queue.dump()
    with queue.unchanged():
        assert repair(queue, *found, write=0) == b"fine"
    assert repair(queue, *found) == b"fine"
    after = queue.dump()
    for name in before.keys() - {"{job2}:meta", "{job2}:calls0", "{job2}:calls1"}:
        assert after[name] == before[name]


def test_without_writing_nothing_is_written_and_nothing_remembered(queue: VirtualQueue) -> None:
    (token,) = busy(queue).tokens[:1]
    queue.client.hdel(queue.key("leased"), str(token))
    with queue.unchanged():
        assert repair(queue, "lease", "leases", token, write=0) == b"found"
    assert repair(queue, "lease", "leases", token) == b"done"
    assert queue.counters()["missing"] == 1
    assert token not in queue.leased()


def test_a_second_copy_of_the_call_mends_nothing_more(queue: VirtualQueue) -> None:
    (token,) = busy(queue).tokens[:1]
    queue.client.hdel(queue.key("leased"), str(token))
    assert repair(queue, "lease", "leases", token) == b"done"
    with queue.unchanged():
        assert queue.again() == b"done"
    assert repair(queue, "lease", "leases", token) == b"fine"
    with queue.unchanged():
        assert queue.again() == b"fine"


def test_what_was_given_back_meanwhile_leaves_it_open(queue: VirtualQueue) -> None:
    """The item may be among those that the walk has missed."""
    scene = rich(queue)
    queue.client.hset(queue.key("groups"), "of nobody", GONE)
    queue.client.hset(queue.key("unique"), "of nobody", GONE + bytes(6))
    before = stamp(queue)
    queue.release(scene.tokens[0])
    for kind, where in (("head", "groups"), ("key", "unique")):
        found = (kind, where, "", GONE, "of nobody", "", "")
        assert repair(queue, *found, before, write=0) == b"busy"
        assert repair(queue, *found, before) == b"busy"
        assert repair(queue, *found, stamp(queue)) == b"done"
    assert not queue.client.hexists(queue.key("groups"), "of nobody")
    assert not queue.client.hexists(queue.key("unique"), "of nobody")


def test_a_place_in_a_list_is_found_though_the_list_has_grown(queue: VirtualQueue) -> None:
    queue.rpush(message(1), message(2), message(3), message(1))
    queue.rpush(*(b"more" for _ in range(500)))
    # Positions as they were before: 0 and 3 from the tail.
    assert repair(queue, "surplus", "waiting", 0, id_of(1), "", "waiting", 1) == b"done"
    assert queue.waiting()[:5] == [message(1), message(2), message(3), WAKE, b"more"]
    assert repair(queue, "markers", "waiting") == b"done"
    assert queue.waiting()[:4] == [message(1), message(2), message(3), b"more"]


def test_a_place_that_was_left_is_not_searched_for_ever(queue: VirtualQueue) -> None:
    queue.rpush(message(1), message(1), *(b"more" for _ in range(2000)))
    assert repair(queue, "surplus", "waiting", 0, id_of(1), "", "waiting", 1) == b"fine"


def test_one_message_is_no_copy_of_itself(queue: VirtualQueue) -> None:
    queue.rpush(message(1), message(2))
    assert repair(queue, "surplus", "waiting", 1, id_of(1), "", "waiting", 0) == b"fine"


def test_another_payload_is_no_copy(queue: VirtualQueue) -> None:
    queue.rpush(envelope(b"one", id_of(1)), envelope(b"two", id_of(1)))
    assert repair(queue, "surplus", "waiting", 0, id_of(1), "", "waiting", 1) == b"differs"
    assert len(queue.waiting()) == 2


def test_what_is_right_by_now_is_left_alone(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k", group="g"), asking(2, group="g"), message(3))
    queue.ask(message(4), delay=1_000)
    ((member, _),) = queue.client.zscan_iter(queue.key("delayed"))
    for found in (
        ("unheld", "waiting", 1, id_of(1), "k"),
        ("unled", "waiting", 1, id_of(1), "g", "", "", stamp(queue)),
        ("surplus", "delayed", member, id_of(4), "", "delayed", member),
        ("books", "meta", 1, "", page(queue, "keys")[3] + b" and what came since"),
    ):
        before = queue.dump()
        assert repair(queue, *found) == b"fine", found
        after = queue.dump()
        for name in before.keys() - {"{job2}:meta", "{job2}:calls0", "{job2}:calls1"}:
            assert after[name] == before[name]


def test_the_last_marker_stays(queue: VirtualQueue) -> None:
    """It may be what wakes a worker for what is not in the list."""
    queue.rpush(WAKE, WAKE)
    assert repair(queue, "markers", "waiting") == b"done"
    assert queue.waiting() == [WAKE]


def test_the_next_of_a_group_is_released_when_its_head_is_gone(queue: VirtualQueue) -> None:
    queue.ask(asking(1, group="a"), asking(2, group="a"), asking(3, group="a"))
    queue.client.delete(queue.name)
    found = ("head", "groups", "", id_of(1), "a", "", "", stamp(queue))
    assert repair(queue, *found) == b"done"
    assert queue.waiting() == [asking(2, group="a")]
    assert queue.client.hget(queue.key("groups"), "a") == id_of(2)


def test_a_token_of_the_distant_future_does_not_become_the_last(queue: VirtualQueue) -> None:
    queue.rpush("a")
    last = queue.take()[0]
    assert repair(queue, "tokens", "meta", last + 86_400_000_000 + 1) == b"fine"
    assert repair(queue, "tokens", "meta", last + 5) == b"done"
    assert queue.state().last == last + 5


def test_a_state_is_made_of_what_there_is(queue: VirtualQueue) -> None:
    rich(queue)
    flags = queue.state().flags
    queue.change_state(flags=1 << 31, event=START + 10**9)
    assert {bytes(x) for x in page(queue, "keys")[5][::5]} == {b"flags", b"event"}
    assert repair(queue, "state", "meta") == b"done"
    assert queue.state().flags == flags
    assert queue.state().event == 0
    assert page(queue, "keys")[5] == []


def test_pages_end_after_a_count_and_after_4_mib(queue: VirtualQueue) -> None:
    queue.rpush(*(b"x" * 1000 for _ in range(1000)))
    reply = page(queue, "waiting", 0, 100)
    assert 100 <= reply[2] <= 116
    assert int(reply[1]) == reply[2]
    queue.client.delete(queue.name)
    for _ in range(10):
        queue.rpush(*(b"x" * 500_000 for _ in range(10)))
    assert page(queue, "waiting", 0, 1000)[2] <= 32
    queue.client.delete(queue.name)
    for number in range(2000):
        queue.client.hset(queue.key("dead"), b"id %013d" % number, b"\1\0\0\0\0" + message(1))
    cursor, seen = b"0", 0
    while cursor:
        reply = page(queue, "dead", cursor, 100)
        assert reply[2] < 400
        cursor, seen = reply[1], seen + reply[2]
    assert seen >= 2000


def test_bad_arguments_are_refused(queue: VirtualQueue) -> None:
    for args in (
        ("nonsense", "0", 100),
        ("waiting", "x", 100),
        ("waiting", "-1", 100),
        ("waiting", "0", 0),
        ("waiting", "0", 1001),
    ):
        with queue.refused("ARGUMENT"):
            queue.send("check", *args)
    for found in (("nonsense", "meta"), ("lease", "nonsense"), ("tokens", "meta", "x")):
        with queue.refused("ARGUMENT"):
            repair(queue, *found)
    with queue.refused("ARGUMENT write"):
        repair(queue, "lease", "leases", write=2)
