"""What all features share: the keys that are named only for a queue that uses one, the version of
the state, and headers that lie.
"""

import struct
from collections.abc import Callable

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lua.harness import (
    CAPS,
    CHANGING,
    GROUPS,
    PRIORITY,
    RATE,
    SCRIPTS,
    SETTINGS_FLAG,
    SPECIAL,
    START,
    TEST_FLAG,
    Answer,
    State,
    VirtualQueue,
    envelope,
)
from tests.lua.scenes import asking, busy, id_of, message, rich, typical

FEATURED = sorted(name for name, script in SCRIPTS.items() if "features" in script.keys)


class Narrow(VirtualQueue):
    """Never names the keys of the features."""

    @property
    def wide(self) -> bool:
        return False

    @wide.setter
    def wide(self, value: bool) -> None:
        assert not value, "no script was to answer WIDE"


# The keys


def test_those_that_take_the_keys_are_all_that_change_something_on_the_way() -> None:
    always = {"complete_push", "fail_push", "repair"}
    assert set(FEATURED) == set(CHANGING) - always


@pytest.mark.parametrize("verb", FEATURED)
def test_a_queue_that_uses_none_never_asks_for_the_keys(client: redis.Redis, verb: str) -> None:
    """Whatever its state: also with what is due, dead, and never seen."""
    for seconds in (0, 70, 700):
        client.flushdb()
        scene = busy(Narrow(client))
        scene.queue.sleep(seconds * 1000)
        scene.queue.call(verb, *typical(scene, verb))
        scene.queue.call(verb, *typical(scene, verb), by=scene.unlucky)
        assert scene.queue.state().version == 1


@pytest.mark.parametrize("verb", FEATURED)
@pytest.mark.parametrize("flag", [PRIORITY, SPECIAL, RATE, CAPS, GROUPS])
def test_a_queue_that_uses_one_asks_for_them_before_it_writes(
    queue: VirtualQueue, verb: str, flag: int
) -> None:
    scene = busy(queue)
    queue.change_state(flags=TEST_FLAG | flag, version=2)
    narrow = queue.keys.pick(SCRIPTS[verb].keys)
    args = (b"new slot", 1, 0, *typical(scene, verb))
    with queue.refused("WIDE"):
        queue.send(verb, *args, keys=narrow)
    queue.send(verb, *args, keys=queue.keys.pick(SCRIPTS[verb].keys, wide=True))


@pytest.mark.parametrize("verb", FEATURED)
def test_they_may_be_named_in_vain(client: redis.Redis, verb: str) -> None:
    """A client that knows of one queue's features calls another's so: the result is the same."""
    results = []
    for wide in (False, True):
        client.flushdb()
        scene = busy(VirtualQueue(client))
        scene.queue.wide = wide
        reply = scene.queue.call(verb, *typical(scene, verb))
        results.append((reply, scene.queue.dump()))
    assert results[0] == results[1]


def test_settings_alone_cost_no_keys(client: redis.Redis) -> None:
    queue = Narrow(client)
    queue.call("configure", "ttl", 5_000, "max_attempts", 2, "max_lease", 9_000)
    assert queue.state().flags == TEST_FLAG | SETTINGS_FLAG
    queue.push(message(1))
    assert queue.fail(*queue.take(), retry_in=0) == [[], []]


def test_options_want_the_keys(queue: VirtualQueue) -> None:
    with queue.refused("WIDE"):
        queue.send(
            "push", b"slot", 1, 0, "0 0 0", message(1), keys=queue.keys.pick(SCRIPTS["push"].keys)
        )


def test_a_lease_of_what_asks_for_something_wants_the_keys(queue: VirtualQueue) -> None:
    """It came by RPUSH, or by a call of a client that names no options."""
    queue.rpush("a", asking(1, group="g"))
    narrow = queue.keys.pick(SCRIPTS["lease"].keys)
    with queue.refused("WIDE"):
        queue.send("lease", b"slot", 1, 0, 5, 60_000, b"w", keys=narrow)
    assert len(Answer.of(queue.send("lease", b"slot", 1, 0, 1, 60_000, b"w", keys=narrow)).messages)
    assert queue.state().version == 1
    assert queue.lease().messages == [asking(1, group="g")]
    assert queue.state().version == 2


def test_a_dead_letter_that_asks_for_something_wants_the_keys(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("dead"), id_of(1), b"\1\0\0\0\0" + asking(1, group="g"))
    queue.client.zadd(queue.key("died"), {id_of(1): START})
    with queue.refused("WIDE"):
        queue.send(
            "redrive", b"slot", 1, 0, id_of(1), keys=queue.keys.pick(SCRIPTS["redrive"].keys)
        )


def test_a_copy_of_a_call_from_before_the_first_feature_is_answered(queue: VirtualQueue) -> None:
    queue.push(message(1))
    last = queue.me.last
    other = queue.caller()
    queue.call("push", "0 0 0", asking(2, priority=1), by=other)
    queue.me.last = last
    with queue.unchanged():
        assert queue.again() == [1]


# The version


def test_the_version_is_2_from_the_first_feature_on(client: redis.Redis) -> None:
    uses: dict[int, Callable[[VirtualQueue], object]] = {
        PRIORITY: lambda queue: queue.ask(asking(1, priority=1)),
        SPECIAL: lambda queue: queue.ask(asking(1, unique="k")),
        SPECIAL | GROUPS: lambda queue: queue.ask(asking(1, group="g")),
        RATE: lambda queue: queue.call("configure", "rate", 5),
        CAPS: lambda queue: queue.call("configure", "max_leased", 5),
        SETTINGS_FLAG: lambda queue: queue.call("configure", "ttl", 5_000),
    }
    for flags, use in uses.items():
        client.flushdb()
        queue = VirtualQueue(client)
        queue.push(message(0))
        queue.ask(message(3))
        queue.ask(message(4), delay=1)
        queue.ask(asking(5, max_attempts=3, backoff=1))
        queue.call("configure", "max_attempts", 3, "backoff_base", 5)
        queue.complete(*queue.take(2))
        assert (queue.state().version, queue.state().flags) == (1, TEST_FLAG)
        use(queue)
        assert (queue.state().version, queue.state().flags) == (2, TEST_FLAG | flags)
        queue.lease(100)
        assert queue.state().version == 2


def test_a_chosen_id_is_a_feature(queue: VirtualQueue) -> None:
    queue.ask(message(1), chosen=True)
    assert (queue.state().version, queue.state().flags) == (2, TEST_FLAG | SPECIAL)


def test_a_refused_push_uses_nothing(queue: VirtualQueue) -> None:
    queue.call("seal", 1)
    with queue.refused("SEALED"):
        queue.ask(asking(1, unique="k", group="g", priority=1))
    assert queue.state().version == 1


@pytest.mark.parametrize("version", [0, 3, 4, 255])
def test_other_versions_are_refused_by_all(queue: VirtualQueue, version: int) -> None:
    scene = rich(queue)
    queue.change_state(version=version)
    for verb, script in SCRIPTS.items():
        args = typical(scene, verb)
        with queue.refused("SCHEMA"):
            queue.send(verb, *((b"new slot", 1, 0, *args) if script.takes_call else args))


# Headers that lie

NAMES = ("unique", "group", "priority", "max_attempts", "backoff", "backoff_max", "unique_for")
VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, -(2**63), 2**64 - 1, 1.5, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "x" * 256, "a\0b", "nan", "1e308"),
    *([], [1], {}, {"a": 1}, [[[[]]]], b"bytes", b"", msgpack.ExtType(5, b"ext")),
)


def live_through(queue: VirtualQueue, *messages: bytes) -> None:
    """Everything that can happen to such messages, until nothing is left."""
    queue.ask(*messages)
    queue.rpush(*messages)
    queue.ask(*messages, delay=10, window=1_000)
    other = queue.caller()
    queue.lease(1000, by=other, seen=False)
    queue.call("release", 0, by=other)
    queue.sleep(100)
    for _ in range(100):
        answer = queue.lease(1000)
        if answer.word != b"items":
            break
        for number, token in enumerate(answer.tokens):
            if number % 4 == 0:
                queue.release(token)
                queue.complete(*queue.lease(1).tokens)
            elif number % 4 == 1:
                queue.fail(token, retry_in=5)
            elif number % 4 == 2:
                queue.call("fail_push", 5, b"", token, 0, 0, 0, messages[0])
            else:
                queue.bury(token)
        queue.sleep(70_000)
    if queue.dead():
        queue.call("redrive", *queue.dead())
    for verb in ("stats", "waiting", "leases", "dead"):
        queue.call(verb, *(() if verb == "stats" else (0, 1000)))
    queue.lease(2)
    queue.sleep(70_000)
    queue.reclaim()
    for what in ("waiting", "dead"):
        while queue.call("purge", what)[1]:
            pass
    queue.complete(*queue.leased() or [7])
    assert queue.lease().word == b"drained"
    assert queue.grouped() == []
    assert queue.bound() == {}
    assert queue.holders("groups") == {}


@pytest.mark.parametrize("name", NAMES)
def test_no_value_of_a_header_raises(queue: VirtualQueue, name: str) -> None:
    live_through(queue, *(asking(number, **{name: value}) for number, value in enumerate(VALUES)))


def packed(first: bytes, *rest: bytes) -> bytes:
    return envelope(b"x", b"i" * 16, flags=2, headers=first + b"".join(rest))


ODD = (
    packed(b""),  # nothing at all, though the flag says so
    packed(b"\x80"),
    packed(b"\x80", b"rest"),
    packed(b"\xde\0\0"),
    packed(b"\xdf\0\0\0\0"),
    packed(b"\x82\xa7:unique\xa1a\xa7:unique\xa1b"),  # twice
    packed(b"\x81\xc4\x07:unique\xc4\x01a"),  # as bytes
    packed(b"\x81\x01\xa1a"),
    packed(b"\x81\xcb", struct.pack(">d", float("nan")), b"\xa1a"),  # NaN for a key
    packed(b"\x81\xc0\xa1a"),
    packed(b"\x81\x90\xa1a"),
    packed(b"\x81\xa7:unique" + b"\x91" * 60 + b"\x90"),
    packed(b"\x90"),  # no map
    packed(b"\x93\x01\x02\x03"),
    packed(b"\x81\xa7:unique"),  # cut
    packed(b"\xdf\xff\xff\xff\xff\xa1a\xa1b"),
    packed(b"\xc1"),
    envelope(b"", flags=2),
    envelope(b"x", flags=130),
    envelope(b"x", flags=3),
    envelope(b"x", flags=127, headers=b"\x81\xa6:group\xa1g"),
    envelope(b"x", headers=b"\x81\xa6:group\xa1g"),  # not flagged: nobody looks
    envelope(b"x", flags=2)[:25] + b"\xff\xff",
    envelope(b"x", flags=2, headers=b"\x81\xa6:group\xa1g")[:-5],
)


def test_no_bytes_of_headers_raise(queue: VirtualQueue) -> None:
    live_through(queue, *ODD)


def test_deep_headers_are_malformed_or_ask_for_nothing(queue: VirtualQueue) -> None:
    for depth in (10, 100, 1_000, 30_000):
        bomb = packed(b"\x81\xa7:unique" + b"\x91" * depth + b"\xc0")
        queue.ask(bomb)
        queue.rpush(bomb)
        queue.lease(10)
    assert queue.holders("unique") == {}


VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.sampled_from([f":{name}" for name in NAMES]) | st.text(), VALUE)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(HEADERS, st.integers(0, 127), st.binary(max_size=4)), min_size=1, max_size=6)
)
def test_any_headers_at_all(
    client: redis.Redis, headers: list[tuple[dict[str, object], int, bytes]]
) -> None:
    client.flushdb()
    messages = []
    for number, (asked, flags, cut) in enumerate(headers):
        data = msgpack.packb(asked)[:60_000]
        messages.append(
            envelope(cut, id_of(number), flags=flags, headers=data[: len(data) - len(cut)])
        )
    live_through(VirtualQueue(client), *messages)


@pytest.mark.parametrize("where", ["unique", "groups", "special", "grouped", "priority"])
def test_what_somebody_wrote_into_a_key_of_features(queue: VirtualQueue, where: str) -> None:
    """A foreign entry under a name that no message asks for is in nobody's way."""
    key = queue.key(where)
    if where in {"unique", "groups"}:
        queue.client.hset(key, "nobody's", b"x" * 22)
    elif where == "special":
        queue.client.hset(key, "7", b"x" * 16 + b"\0\0")
    elif where == "grouped":
        queue.client.zadd(key, {b"nobody's\0" + bytes(14) + message(7): 0})
    else:
        queue.client.zadd(key, {bytes(8) + message(7): 5})
    queue.ask(asking(1, unique="k", group="g", priority=1), asking(2, group="g"))
    for _ in range(2):
        queue.complete(*queue.take())
    assert queue.holders("groups").keys() <= {b"nobody's"}
    assert queue.state().pushed == 2
    assert State.unpack(queue.state().pack()) == queue.state()
