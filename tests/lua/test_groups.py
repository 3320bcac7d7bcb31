"""Groups: the hash ``groups`` (their heads) and the zset ``grouped`` (those behind)."""

import random
from collections import defaultdict

import pytest

from tests.lua.harness import GROUPS, START, VirtualQueue
from tests.lua.scenes import asking, id_of, message, number_of


def push(queue: VirtualQueue, group: str, *numbers: int, delay: int = 0) -> None:
    queue.ask(*(asking(number, group=group) for number in numbers), delay=delay)


def numbers(queue: VirtualQueue, n: int = 100) -> list[int]:
    return [number_of(m) for m in queue.lease(n).messages if m is not None]


def behind(queue: VirtualQueue) -> list[tuple[bytes, int]]:
    return [(group, number_of(m)) for group, _, m in queue.grouped()]


def take_one(queue: VirtualQueue) -> tuple[int, int]:
    """Token and number."""
    answer = queue.lease()
    assert answer.messages[0] is not None, answer
    return answer.first, number_of(answer.messages[0])


def test_only_the_head_is_in_the_list(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2, 3)
    push(queue, "h", 4)
    push(queue, "g", 5)
    assert queue.waiting() == [asking(1, group="g"), asking(4, group="h")]
    assert behind(queue) == [(b"g", 2), (b"g", 3), (b"g", 5)]
    assert queue.holders("groups") == {b"g": id_of(1), b"h": id_of(4)}
    assert queue.state().flags & GROUPS
    assert queue.state().pushed == 5


def test_one_at_a_time_in_order_while_others_go_on(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2)
    push(queue, "h", 3, 4)
    queue.push(message(5))
    answer = queue.lease(100)
    assert [number_of(m) for m in answer.messages if m] == [1, 3, 5]
    g, h, plain = answer.tokens
    assert queue.bound() == {g: (id_of(1), b"", b"g"), h: (id_of(3), b"", b"h")}
    assert queue.lease().word == b"group"
    queue.complete(plain)
    queue.complete(h)
    assert numbers(queue) == [4]
    queue.complete(g)
    assert numbers(queue) == [2]
    queue.complete(*queue.leased())
    assert queue.lease().word == b"drained"
    assert (queue.holders("groups"), queue.grouped(), queue.bound()) == ({}, [], {})


def test_two_copies_of_a_head_let_the_next_go_once(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2, 3)
    queue.rpush(asking(1, group="g"))
    assert queue.complete(*queue.take(2)) == []
    assert queue.waiting() == [asking(2, group="g")]


@pytest.mark.parametrize("how", ["complete", "lease", "bury", "fail", "reclaim", "expire"])
def test_settled_or_dead_it_lets_the_next_go(queue: VirtualQueue, how: str) -> None:
    queue.ask(asking(1, group="g", max_attempts=1), asking(2, group="g"), asking(3, group="g"))
    token, _ = take_one(queue)
    if how == "complete":
        queue.complete(token)
    elif how == "bury":
        queue.bury(token)
    elif how == "fail":
        assert queue.fail(token) == [[], [0]]
    elif how != "lease":
        queue.sleep(60_000)
    if how == "reclaim":
        assert queue.reclaim()[:2] == [0, 1]
    # `lease` itself finds what its settling or reclaiming has let go.
    got = queue.lease(100, done=[token] if how == "lease" else [])
    assert [number_of(m) for m in got.messages if m] == [2]
    assert queue.holders("groups") == {b"g": id_of(2)}
    assert behind(queue) == [(b"g", 3)]


def test_a_thousand_in_one_call(queue: VirtualQueue) -> None:
    """Each with a key and a group of its own, and another behind it: ready, delayed or none."""
    first = [asking(at, group=f"g{at}", unique=f"u{at}") for at in range(1000)]
    assert queue.ask(*first, chosen=True) == [1000]
    ready = range(1000, 1334)
    queue.ask(*(asking(at, group=f"g{at - 1000}") for at in ready))
    queue.ask(*(asking(at, group=f"g{at - 1000}") for at in range(1334, 1667)), delay=5_000)
    assert len(queue.holders("groups")) == 1000
    assert len(queue.holders("unique")) == 2000
    tokens: list[int] = []
    while len(tokens) < 1000:
        # What asks for something is leased in smaller batches: each has to be looked at.
        taken = queue.lease(1000).tokens
        assert 0 < len(taken) < 250
        tokens += taken
    # Of a token that is given twice the group's next goes once.
    assert queue.complete(*tokens[:998], *tokens[:2]) == []
    assert [number for _ in range(3) for number in numbers(queue, 1000)] == [*ready]
    assert queue.grouped() == []
    assert queue.holders("groups") == {
        **{b"g%d" % (at - 1000): id_of(at) for at in range(1000, 1667)},
        **{b"g%d" % at: id_of(at) for at in (998, 999)},
    }
    assert {key for key in queue.holders("unique") if key[:1] == b"u"} == {b"u998", b"u999"}
    queue.sleep(5_000)
    got = [number for _ in range(5) for number in numbers(queue, 1000)]
    assert sorted(got) == [*range(1334, 1667)]


@pytest.mark.parametrize("how", ["release", "later", "fail", "backoff", "expire", "unseen"])
def test_a_head_that_comes_back_blocks_its_group(queue: VirtualQueue, how: str) -> None:
    push(queue, "g", 1, 2)
    push(queue, "h", 3)
    other = queue.caller()
    (token,) = queue.lease(by=other, seen=False).tokens
    if how == "release":
        queue.release(token)
    elif how == "later":
        queue.release(token, delay=5_000)
    elif how == "fail":
        queue.fail(token, retry_in=0)
    elif how == "backoff":
        queue.fail(token)
    elif how == "expire":
        queue.sleep(60_000)
        assert queue.reclaim()[:2] == [1, 0]
    else:
        queue.call("release", 0, by=other)
    assert queue.holders("groups")[b"g"] == id_of(1)
    assert behind(queue) == [(b"g", 2)]
    queue.sleep(10_000)
    got: list[int] = []
    while (answer := queue.lease(100)).word == b"items":
        got += [number_of(m) for m in answer.messages if m]
    assert sorted(got) == [1, 3]
    queue.complete(*queue.leased())
    assert numbers(queue) == [2]


def test_a_lost_lease_lets_nobody_go(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2, 3)
    old, _ = take_one(queue)
    queue.sleep(60_000)
    new, number = take_one(queue)
    assert number == 1
    queue.complete(old)
    queue.bury(old)
    queue.fail(old)
    assert queue.lease(0, done=[old]).word == b"group"
    assert behind(queue) == [(b"g", 2), (b"g", 3)]
    queue.complete(new, new)
    assert behind(queue) == [(b"g", 3)]


def test_thousands_of_groups(queue: VirtualQueue) -> None:
    """Each in its order, however they are settled, and nothing stays behind."""
    rng = random.Random(4)
    groups = 2000
    pushed = list(range(groups * 2))
    for at in range(0, len(pushed), 1000):
        part = pushed[at : at + 1000]
        queue.ask(*(asking(number, group=f"user-{number % groups}") for number in part))
    assert queue.client.hlen(queue.key("groups")) == groups
    assert queue.client.zcard(queue.key("grouped")) == groups
    seen: dict[int, list[int]] = defaultdict(list)
    while (answer := queue.lease(1000)).word == b"items":
        got = [number_of(m) for m in answer.messages if m]
        held = [number % groups for number in got]
        assert len(set(held)) == len(held)
        done, back = [], []
        for token, number in zip(answer.tokens, got, strict=True):
            if rng.random() < 0.1:
                back.append(token)
            else:
                done.append(token)
                seen[number % groups].append(number)
        if done:
            queue.complete(*done)
        if back:
            queue.release(*back)
    assert answer.word == b"drained"
    assert seen == {group: [group, group + groups] for group in range(groups)}
    assert not queue.client.exists(*(queue.key(x) for x in ("groups", "grouped", "special")))


def test_names_do_not_run_into_each_other(queue: VirtualQueue) -> None:
    names = ["a", "a\1", "ab", "", "x" * 255, "\xff", "ключ", "{a}", "[a", "(a", "+", "-"]
    for number, name in enumerate(names):
        push(queue, name, number, number + 50)
    first = queue.lease(100)
    # The empty one is none: its members are like any other.
    heads = [number_of(m) for m in first.messages if m]
    assert sorted(heads) == sorted([*range(len(names)), 53])
    for token, number in zip(first.tokens, heads, strict=True):
        queue.complete(token)
        expected = [] if number in {3, 53} else [number + 50]
        assert numbers(queue) == expected


@pytest.mark.parametrize("group", ["", "x" * 256, "a\0b", 7, None, True, ["g"]])
def test_what_is_no_group_asks_for_nothing(queue: VirtualQueue, group: object) -> None:
    queue.ask(asking(1, group=group), asking(2, group=group))
    assert numbers(queue) == [1, 2]
    assert queue.holders("groups") == {}


# Delays


def test_a_delayed_head_blocks_its_group(queue: VirtualQueue) -> None:
    push(queue, "g", 1, delay=5_000)
    push(queue, "g", 2)
    push(queue, "h", 3)
    assert numbers(queue) == [3]
    assert queue.lease().word == b"group"
    assert queue.lease().rest == [5_000]
    queue.sleep(5_000)
    token, number = take_one(queue)
    assert number == 1
    queue.complete(token)
    assert numbers(queue) == [2]


def test_a_delayed_member_waits_for_its_turn_and_its_time(queue: VirtualQueue) -> None:
    push(queue, "g", 1)
    push(queue, "g", 2, delay=5_000)
    push(queue, "g", 3)
    assert [(due, number_of(m)) for _, due, m in queue.grouped()] == [(START + 5_000, 2), (0, 3)]
    token, _ = take_one(queue)
    queue.complete(token)
    assert queue.delayed() == [(START + 5_000, asking(2, group="g"))]
    assert queue.lease().word == b"group"
    queue.sleep(5_000)
    token, number = take_one(queue)
    assert number == 2
    queue.complete(token)
    assert numbers(queue) == [3]


def test_a_delayed_member_whose_time_came_before_its_turn(queue: VirtualQueue) -> None:
    push(queue, "g", 1)
    push(queue, "g", 2, delay=5_000)
    token, _ = take_one(queue)
    queue.sleep(6_000)
    queue.complete(token)
    assert numbers(queue) == [2]


# Malformed messages


def test_a_malformed_one_holds_nothing(queue: VirtualQueue) -> None:
    """It dies when it is to be leased: a group that it led, or a key, would never be free."""
    whole = asking(1, group="g", unique="k")
    queue.ask(whole[:25] + b"\xff\xff" + whole[27:])
    assert (queue.holders("groups"), queue.holders("unique")) == ({}, {})
    push(queue, "g", 2)
    assert queue.ask(asking(3, unique="k")) == [1]
    assert numbers(queue) == [2, 3]
    assert [letter.reason for _, letter in queue.dead().values()] == [b"malformed"]


# With other features


def test_a_member_goes_by_its_priority_when_its_turn_comes(queue: VirtualQueue) -> None:
    queue.push(message(0))
    push(queue, "g", 1)
    queue.ask(asking(2, group="g", priority=9))
    assert queue.ranked() == []
    queue.push(message(3), message(4))
    answer = queue.lease(2)
    assert [number_of(m) for m in answer.messages if m] == [0, 1]
    queue.complete(answer.tokens[1])
    assert numbers(queue, 2) == [2, 3]


def test_the_only_priority_of_a_queue_is_behind(queue: VirtualQueue) -> None:
    """The call that settles the head leases it, and does not take the queue for drained."""
    push(queue, "g", 1)
    queue.ask(asking(2, group="g", priority=-3))
    token, _ = take_one(queue)
    answer = queue.lease(done=[token])
    assert [number_of(m) for m in answer.messages if m] == [2]


def test_a_member_wakes_a_worker(queue: VirtualQueue) -> None:
    push(queue, "g", 1)
    queue.ask(asking(2, group="g", priority=3), asking(3, group="g"))
    for expected in (1, 2, 3):
        move = (queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
        assert queue.client.lmove(*move)
        token, number = take_one(queue)
        assert number == expected
        assert not queue.client.lmove(*move)
        queue.complete(token)


def test_keys_of_members(queue: VirtualQueue) -> None:
    queue.ask(asking(1, group="g", unique="k"), asking(2, group="g", unique="j"))
    assert queue.ask(asking(3, group="g", unique="j")) == [0, 0, id_of(2)]
    token, _ = take_one(queue)
    queue.complete(token)
    assert queue.ask(asking(4, group="g", unique="k")) == [1]
    token, number = take_one(queue)
    assert number == 2
    queue.complete(token)
    assert numbers(queue) == [4]


def test_a_refused_duplicate_is_no_head(queue: VirtualQueue) -> None:
    queue.ask(asking(1, unique="k"))
    assert queue.ask(asking(2, unique="k", group="g"), asking(3, group="g")) == [1, 0, id_of(1)]
    assert queue.holders("groups") == {b"g": id_of(3)}
    assert numbers(queue) == [1, 3]


# Messages that came by RPUSH


def test_a_foreign_member_goes_like_any_other_and_lets_nobody_go(queue: VirtualQueue) -> None:
    """Whoever pushes it past the scripts has no group of it."""
    push(queue, "g", 1, 2)
    queue.rpush(asking(3, group="g"), asking(4, group="new"))
    answer = queue.lease(100)
    assert [number_of(m) for m in answer.messages if m] == [1, 3, 4]
    head, foreign, new = answer.tokens
    queue.complete(foreign)
    assert behind(queue) == [(b"g", 2)]
    queue.complete(new)
    queue.complete(head)
    assert numbers(queue) == [2]
    queue.complete(*queue.leased())
    assert queue.lease().word == b"drained"
    assert queue.holders("groups") == {}


def test_a_copy_of_the_head_lets_the_next_go_once(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2, 3)
    queue.rpush(asking(1, group="g"))
    one, copy = queue.take(2)
    queue.complete(one)
    queue.complete(copy)
    assert behind(queue) == [(b"g", 3)]
    assert numbers(queue) == [2]


# Dead letters and purge


def test_redriven_it_goes_to_the_end_of_its_group(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2, 3)
    token, _ = take_one(queue)
    queue.bury(token)
    assert queue.call("redrive", id_of(1)) == []
    assert behind(queue) == [(b"g", 3), (b"g", 1)]
    got = []
    for _ in range(3):
        token, number = take_one(queue)
        got.append(number)
        queue.complete(token)
    assert got == [2, 3, 1]
    assert queue.lease().word == b"drained"


def test_redriven_into_a_group_that_is_empty_it_is_its_head(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2)
    for _ in range(2):
        queue.bury(take_one(queue)[0])
    assert queue.holders("groups") == {}
    queue.call("redrive", id_of(2), id_of(1))
    assert queue.holders("groups") == {b"g": id_of(2)}
    assert numbers(queue) == [2]
    assert behind(queue) == [(b"g", 1)]


def test_purge_drops_members_and_frees_groups(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2, 3)
    push(queue, "h", 4, 5)
    push(queue, "late", 6, 7, delay=5_000)
    queue.ask(asking(8, group="high", priority=3), asking(9, group="high"))
    queue.push(message(10))
    token, number = take_one(queue)
    assert number == 8
    assert queue.call("purge", "waiting") == [9, 0]
    assert queue.holders("groups") == {b"high": id_of(8)}
    assert (queue.grouped(), queue.waiting(), queue.delayed()) == ([], [], [])
    assert queue.counters()["purged"] == 9
    queue.complete(token)
    assert queue.lease().word == b"drained"
    push(queue, "g", 11)
    assert numbers(queue) == [11]


def test_purge_of_many_takes_several_calls(queue: VirtualQueue) -> None:
    """Those behind go first: no head that is dropped may let one of them go."""
    for at in range(0, 1500, 500):
        push(queue, "g", *range(at, at + 500))
    queue.push(*(message(number) for number in range(900)))
    replies = [queue.call("purge", "waiting") for _ in range(13)]
    assert [more for _, more in replies] == [*[1] * 11, 0, 0]
    assert sum(dropped for dropped, _ in replies) == 2400
    assert max(dropped for dropped, _ in replies) <= 200 + 15
    assert queue.lease().word == b"drained"
    assert queue.holders("groups") == {}


def test_purge_of_large_ones_takes_several_calls(queue: VirtualQueue) -> None:
    large = b"x" * (1 << 20)
    queue.ask(asking(0, group="g"))
    for number in range(40):
        queue.ask(asking(number, group="g") + large)
    dropped = []
    while True:
        count, more = queue.call("purge", "waiting")
        dropped.append(count)
        if not more:
            break
    assert sum(dropped) == 41
    assert max(dropped) <= 2
    assert queue.lease().word == b"drained"


# Reading


def test_stats_and_pages_show_them(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2)
    push(queue, "g", 3, delay=5_000)
    stats = queue.stats()
    assert (stats["waiting"], stats["grouped"], stats["groups"]) == (1, 2, 1)
    _, following, *rest = queue.call("waiting", 0, 100)
    assert following == -1
    assert list(zip(rest[::3], rest[1::3], map(number_of, rest[2::3]), strict=True)) == [
        (b"waiting", 0, 1),
        (b"grouped", 0, 2),
        (b"grouped", 5_000, 3),
    ]
    queue.sleep(60_000)
    assert queue.call("waiting", 2, 1)[3:4] == [0]


def test_drained_and_delete_know_them(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 2)
    token, _ = take_one(queue)
    queue.client.zrem(queue.key("leases"), token)  # somebody else's doing
    queue.client.hdel(queue.key("leased"), str(token))
    assert queue.lease().word == b"group"
    assert queue.call("delete", 0) == [0, 1, 0]


def test_any_payload_and_header_is_kept(queue: VirtualQueue) -> None:
    given = [asking(number, group="g", **{"": b"\0\xff".decode("latin1")}) for number in range(3)]
    given[1] += bytes(range(256))
    given[2] = given[2][:27] + given[2][27:-8]
    queue.ask(*given)
    got = []
    for _ in given:
        answer = queue.lease()
        got += answer.messages
        queue.complete(*answer.tokens)
    assert got == given


def test_equal_members_are_separate(queue: VirtualQueue) -> None:
    push(queue, "g", 1, 1, 1)
    assert behind(queue) == [(b"g", 1), (b"g", 1)]
    for _ in range(3):
        token, number = take_one(queue)
        assert number == 1
        queue.complete(token)
    assert queue.lease().word == b"drained"
