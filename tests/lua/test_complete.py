"""lua/complete.lua"""

import pytest

from tests.lua.harness import VirtualQueue, envelope

#: Other ways to write the token 1800000000000000, none of which Lua may take for it.
SPELLINGS = (
    "1800000000000000.0",
    "1.8e15",
    "1.8e+15",
    " 1800000000000000",
    "1800000000000000 ",
    "01800000000000000",
    "+1800000000000000",
    "0x6651728988000",
    "1800000000000000\0",
    "",
    "abc",
    "-1",
    "nan",
)


def test_done_is_gone(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    first, second = queue.take(2)
    assert queue.complete(first) == []
    assert list(queue.leased()) == [second]
    assert queue.complete(second) == []
    assert set(queue.dump()) == {"{job2}:calls0", "{job2}:meta"}
    state = queue.state()
    assert (state.raw, state.completed, state.pushed) == (2, 2, 0)


def test_a_lost_lease_is_said_by_its_position(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    a, b, c = queue.take(3)
    queue.complete(b)
    assert queue.complete(a, b, 7, c) == [1, 2]
    assert queue.complete(a, b, c) == [0, 1, 2]
    assert queue.state().completed == 3


def test_all_lost(queue: VirtualQueue) -> None:
    assert queue.complete(1, 2, 3) == [0, 1, 2]
    assert queue.state().completed == 0


def test_a_token_given_twice_counts_once(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    assert queue.complete(a, a) == []
    assert queue.state().completed == 1
    assert list(queue.leased()) == [b]


def test_a_reclaimed_lease_is_lost_and_its_item_untouched(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (old,) = queue.take()
    queue.sleep(60_000)
    new = queue.lease()
    assert queue.complete(old) == [0]
    assert list(queue.leased()) == new.tokens
    assert queue.complete(*new.tokens) == []


def test_a_lease_that_ran_out_and_was_not_reclaimed_is_completed(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    queue.sleep(3_600_000)
    assert queue.complete(token) == []
    assert queue.lease().word == b"drained"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_of_a_token_is_no_token(queue: VirtualQueue, spelling: str) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    assert token == 1_800_000_000_000_000
    for verb, args in (
        ("complete", ()),
        ("release", (0,)),
        ("fail", ("", b"")),
        ("bury", (b"", b"")),
        ("extend", (60_000,)),
        ("lease", (0, 60_000, b"w")),
    ):
        queue.call(verb, *args, spelling)
        assert list(queue.leased()) == [token], verb
    assert queue.state().completed == 0


def test_one_to_a_thousand(queue: VirtualQueue) -> None:
    for count in (0, 1001):
        with queue.refused("ARGUMENT tokens is not an integer from 1 to 1000"):
            queue.complete(*range(count))
    queue.rpush(*map(str, range(1000)))
    tokens = queue.take(1000)
    assert queue.complete(*tokens) == []
    assert queue.leased() == {}
    assert queue.complete(*tokens) == list(range(1000))
    with queue.unchanged():
        assert queue.again() == list(range(1000))


def test_it_never_reads_the_message(queue: VirtualQueue) -> None:
    """So that it costs the same whatever the size of the payload."""
    queue.rpush(envelope(b"x" * (8 << 20)))
    (token,) = queue.take()
    queue.client.config_resetstat()
    queue.complete(token)
    stats = queue.client.info("commandstats")
    called = {name.removeprefix("cmdstat_"): stats[name]["calls"] for name in stats}
    assert called.pop("hget") == 2  # the state, and what is remembered of the slot
    assert not {"hmget", "hgetall", "hvals"} & set(called)
