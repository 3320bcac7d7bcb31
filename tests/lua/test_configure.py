"""lua/configure.lua, and what each setting does."""

import pytest

from tests.lua.harness import (
    CAPS,
    RATE,
    SETTINGS_FLAG,
    START,
    TEST_FLAG,
    Answer,
    VirtualQueue,
    envelope,
    raw_id,
)
from tests.lua.scenes import asking, message

NAMES = (
    *("max_attempts", "backoff_base", "backoff_max", "ttl", "max_lease"),
    *("max_leased", "max_waiting", "max_bytes", "rate", "burst"),
)
FLAGS = {
    "ttl": SETTINGS_FLAG,
    "max_lease": SETTINGS_FLAG,
    "max_leased": CAPS,
    "max_waiting": CAPS,
    "max_bytes": CAPS,
    "rate": RATE,
}


def configure(queue: VirtualQueue, **settings: float | str) -> dict[str, str]:
    """All that is configured then."""
    reply = queue.call("configure", *(x for pair in settings.items() for x in pair))
    texts = [x.decode() for x in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_set_and_unset_with_its_flag(queue: VirtualQueue, name: str) -> None:
    assert configure(queue, **{name: 7}) == {name: "7"}
    flag = FLAGS.get(name, 0)
    state = queue.state()
    assert (state.flags, state.version) == (TEST_FLAG | flag, 2 if flag else 1)
    assert queue.client.hget(queue.key("meta"), name) == b"7"
    assert configure(queue, **{name: 9}) == {name: "9"}
    assert configure(queue, **{name: ""}) == {}
    assert queue.state().flags == TEST_FLAG
    assert not queue.client.hexists(queue.key("meta"), name)


def test_all_at_once_and_one_after_the_other(queue: VirtualQueue) -> None:
    everything = {name: str(number) for number, name in enumerate(NAMES, 1)}
    assert configure(queue, **everything) == everything
    assert list(configure(queue)) == list(NAMES)
    assert queue.state().flags == TEST_FLAG | CAPS | RATE | SETTINGS_FLAG
    del everything["max_leased"]
    assert configure(queue, max_leased="", rate=0.25) == everything | {"rate": "0.25"}


def test_a_cap_stays_while_another_one_does(queue: VirtualQueue) -> None:
    configure(queue, max_leased=1, max_waiting=2, ttl=5, max_lease=6)
    configure(queue, max_leased="", ttl="")
    assert queue.state().flags == TEST_FLAG | CAPS | SETTINGS_FLAG
    configure(queue, max_waiting="", max_lease="")
    assert queue.state().flags == TEST_FLAG


def test_nothing_is_set_by_asking(queue: VirtualQueue) -> None:
    assert configure(queue) == {}
    assert queue.counters() == {}
    configure(queue, ttl=5)
    assert configure(queue) == {"ttl": "5"}


def test_a_copy_changes_nothing_and_says_what_holds_now(queue: VirtualQueue) -> None:
    configure(queue, max_attempts=3)
    last = queue.me.last
    queue.call("configure", "max_attempts", 4, by=queue.caller())
    queue.me.last = last
    with queue.unchanged():
        assert queue.again() == [b"max_attempts", b"4"]


BAD = ("-1", "0.5", "nan", "inf", "-inf", "1e14", "x", "5 attempts")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rate"])
def test_bad_numbers(queue: VirtualQueue, name: str) -> None:
    positive = name in {"max_attempts", "ttl", "max_lease", "burst"}
    for bad in BAD + (("0",) if positive else ()):
        with queue.refused(f"ARGUMENT {name} is not an integer from {positive:d}"):
            configure(queue, rate=1, **{name: bad})
    if name == "max_attempts":
        with queue.refused("ARGUMENT max_attempts is not an integer from 1 to 65535"):
            configure(queue, max_attempts=65536)
    assert configure(queue, **{name: int(positive)})[name] == str(int(positive))


def test_bad_rates(queue: VirtualQueue) -> None:
    for bad in ("0", "-1", "nan", "-nan", "inf", "1e-7", "1000001", "x", "1 per second"):
        with queue.refused("ARGUMENT rate is not a number"):
            configure(queue, max_leased=1, rate=bad)
    assert configure(queue, rate="1e-6")["rate"] in {"1e-06", "9.9999999999999995e-07"}
    assert float(configure(queue, rate=0.1)["rate"]) == 0.1
    assert configure(queue, rate=1_000_000) == {"rate": "1000000"}


@pytest.mark.parametrize("name", ["", "state", "schema", "dead", "bucket", "TTL", "ttl ", "max"])
def test_nothing_else_can_be_set(queue: VirtualQueue, name: str) -> None:
    with queue.refused("ARGUMENT there is nothing to configure by the name of"):
        queue.call("configure", "ttl", 5, name, 5)


def test_names_without_values_and_too_many(queue: VirtualQueue) -> None:
    with queue.refused("ARGUMENT"):
        queue.call("configure", "ttl")
    with queue.refused("ARGUMENT"):
        queue.call("configure", "ttl", 5, "rate")
    with queue.refused("ARGUMENT arguments is not"):
        queue.call("configure", *("ttl", "5") * 30)


def test_it_is_refused_by_nothing_that_the_queue_is(queue: VirtualQueue) -> None:
    queue.call("seal", 1)
    queue.call("pause", 1)
    configure(queue, ttl=5)
    state = queue.state()
    assert state.flags == TEST_FLAG | 3 | SETTINGS_FLAG
    reply = queue.call("stats")
    assert reply[reply.index(b"config_ttl") + 1] == b"5"


# max_attempts and backoff


def test_attempts_of_the_queue_and_of_a_message(queue: VirtualQueue) -> None:
    configure(queue, max_attempts=2)
    queue.ask(message(1), asking(2, max_attempts=1), asking(3, max_attempts=3))
    tokens = queue.take(3)
    assert queue.fail(*tokens, retry_in=0) == [[], [1]]
    tokens = queue.take(2)
    assert queue.fail(*tokens, retry_in=0) == [[], [0]]
    assert queue.fail(*queue.take()) == [[], [0]]


def test_attempts_of_a_message_when_its_lease_runs_out(queue: VirtualQueue) -> None:
    queue.ask(asking(1, max_attempts=1), asking(2, max_attempts=2))
    queue.take(2)
    queue.sleep(60_000)
    assert queue.reclaim()[:2] == [1, 1]
    queue.take()
    queue.sleep(60_000)
    assert queue.reclaim()[:2] == [0, 1]


@pytest.mark.parametrize("value", [0, -1, 65536, 0.5, "3", None, float("nan"), float("inf"), [3]])
def test_what_is_no_number_of_attempts_is_not_one(queue: VirtualQueue, value: object) -> None:
    configure(queue, max_attempts=2)
    queue.ask(asking(1, max_attempts=value))
    assert queue.fail(*queue.take(), retry_in=0) == [[], []]
    assert queue.fail(*queue.take(), retry_in=0) == [[], [0]]


def backoffs(queue: VirtualQueue, **asks: object) -> list[int]:
    """The times that a message waits after each failure."""
    queue.client.delete(queue.name)
    configure(queue, max_attempts=100)
    queue.ask(asking(1, **asks))
    waits = []
    for _ in range(6):
        queue.fail(*queue.take())
        due = queue.delayed()[0][0] if queue.delayed() else queue.now
        waits.append(due - queue.now)
        queue.sleep(due - queue.now)
    return waits


def test_backoff_of_a_message(queue: VirtualQueue) -> None:
    for wait, whole in zip(backoffs(queue, backoff=10), (10, 20, 40, 80, 160, 300), strict=True):
        assert whole * 500 <= wait <= whole * 1000


def test_the_most_of_a_message(queue: VirtualQueue) -> None:
    waits = backoffs(queue, backoff_max=3)
    for wait, whole in zip(waits, (1, 2, 3, 3, 3, 3), strict=True):
        assert whole * 500 <= wait <= whole * 1000


def test_none_of_either(queue: VirtualQueue) -> None:
    assert backoffs(queue, backoff=0) == [0] * 6


def test_a_fraction_of_a_second(queue: VirtualQueue) -> None:
    for wait, whole in zip(
        backoffs(queue, backoff=0.1, backoff_max=0.2), (1, 2, 2, 2, 2, 2), strict=True
    ):
        assert whole * 50 <= wait <= whole * 100


@pytest.mark.parametrize("value", [-1, 1e11, "3", None, float("nan"), float("inf"), [3]])
def test_what_is_no_backoff_is_the_queues(queue: VirtualQueue, value: object) -> None:
    waits = backoffs(queue, backoff=value, backoff_max=value)
    for wait, whole in zip(waits, (1, 2, 4, 8, 16, 32), strict=True):
        assert whole * 500 <= wait <= whole * 1000


# ttl and max_lease


def deadline(queue: VirtualQueue, ttl: int | str) -> int:
    """Of a lease of one with this ttl."""
    return Answer.of(queue.call("lease", 1, ttl, b"w")).deadline


def test_the_ttl_of_the_queue(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    assert deadline(queue, "") == START + 60_000
    configure(queue, ttl=5_000)
    assert deadline(queue, "") == START + 5_000
    assert deadline(queue, 7_000) == START + 7_000
    (token, *_) = queue.leased()
    assert queue.call("extend", "", token) == [START, START + 5_000]
    assert queue.call("extend", 9_000, token) == [START, START + 9_000]
    configure(queue, ttl="")
    assert queue.call("extend", "", token) == [START, START + 60_000]


def test_no_lease_is_longer_than_max_lease(queue: VirtualQueue) -> None:
    configure(queue, max_lease=10_000)
    queue.rpush("a", "b")
    assert queue.lease(1, ttl=10**13).deadline == START + 10_000
    assert queue.lease(1, ttl=3_000).deadline == START + 3_000


def test_a_heartbeat_cannot_hold_for_ever(queue: VirtualQueue) -> None:
    configure(queue, max_lease=10_000)
    queue.rpush("a")
    (token,) = queue.take(ttl=3_000)
    deadlines = []
    for _ in range(12):
        queue.sleep(1_000)
        deadlines.append(queue.extend(token, ttl=3_000)[1] - START)
    assert deadlines == [4_000, 5_000, 6_000, 7_000, 8_000, 9_000, *[10_000] * 6]
    answer = queue.lease()
    assert answer.messages == [envelope(b"a", raw_id(token), flags=1, deliveries=1, attempts=1)]
    assert queue.extend(token) == [queue.now, 0]


def test_max_lease_of_a_lease_that_was_there_before(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take(ttl=3_600_000)
    configure(queue, max_lease=10_000)
    assert queue.leased()[token][0] == START + 3_600_000
    queue.sleep(5_000)
    assert queue.extend(token) == [queue.now, START + 10_000]
    assert queue.state().event == START + 10_000


# max_leased


def test_no_more_than_so_many_are_leased(queue: VirtualQueue) -> None:
    configure(queue, max_leased=3)
    queue.rpush(*map(str, range(10)))
    a, _ = queue.take(2)
    assert len(queue.lease(100).messages) == 1
    answer = queue.lease(100)
    assert (answer.word, answer.rest) == (b"limit", [60_000])
    assert len(queue.lease(100, done=[a]).messages) == 1  # what it settles makes room
    queue.sleep(60_000)
    suspects = [queue.lease(100) for _ in range(4)]
    assert [answer.word for answer in suspects] == [b"items"] * 3 + [b"limit"]


def test_none_may_be_leased(queue: VirtualQueue) -> None:
    configure(queue, max_leased=0)
    queue.rpush("a")
    assert queue.lease().word == b"limit"
    queue.client.delete(queue.name)
    assert queue.lease().word == b"drained"


def test_fewer_than_are_leased(queue: VirtualQueue) -> None:
    queue.rpush(*map(str, range(10)))
    tokens = queue.take(5)
    configure(queue, max_leased=2)
    assert queue.lease().word == b"limit"
    queue.complete(*tokens[:3])
    assert queue.lease().word == b"limit"
    assert len(queue.lease(100, done=tokens[3:4]).messages) == 1


def test_nothing_waits_behind_the_limit(queue: VirtualQueue) -> None:
    configure(queue, max_leased=1)
    queue.ask(asking(1, group="g"), asking(2, group="g"))
    (token,) = queue.take()
    assert queue.lease().word == b"group"
    queue.rpush("a")
    assert queue.lease().word == b"limit"
    assert len(queue.lease(100, done=[token]).messages) == 1


def test_the_limit_and_the_rate_at_once(queue: VirtualQueue) -> None:
    configure(queue, max_leased=2, rate=1, burst=3)
    queue.rpush(*map(str, range(10)))
    a, b = queue.lease(100).tokens
    assert queue.lease(100).word == b"limit"
    assert len(queue.lease(100, done=[a, b]).messages) == 1
    answer = queue.lease(100)
    assert (answer.word, answer.rest) == (b"rate", [1_000])


# max_waiting


def test_full(queue: VirtualQueue) -> None:
    configure(queue, max_waiting=5)
    assert queue.push(message(1), message(2)) == 2
    queue.ask(asking(3, priority=1))
    queue.ask(asking(4, group="g"), delay=5_000)
    with queue.refused("FULL 4 messages wait, and the queue takes at most 5"):
        queue.push(message(5), message(6))
    queue.ask(asking(5, group="g"))
    with queue.refused("FULL 5 messages wait"):
        queue.push(message(6))
    queue.take()  # what is leased does not count
    assert queue.push(message(6)) == 1
    with queue.refused("FULL"):
        queue.ask(message(7))
    configure(queue, max_waiting="")
    assert queue.push(message(7)) == 1


def test_markers_take_no_room(queue: VirtualQueue) -> None:
    configure(queue, max_waiting=2)
    queue.ask(asking(1, priority=1))
    assert queue.push(message(2)) == 1


def test_none_may_wait(queue: VirtualQueue) -> None:
    configure(queue, max_waiting=0)
    with queue.refused("FULL 0 messages wait, and the queue takes at most 0"):
        queue.push(message(1))


def test_what_comes_back_is_not_refused(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(4)))
    a, b, c, d = queue.take(4)
    configure(queue, max_waiting=1)
    queue.release(a)
    queue.fail(b, retry_in=0)
    queue.bury(c)
    queue.call("redrive", message(2)[4:20])
    queue.sleep(60_000)
    queue.reclaim()
    assert len(queue.waiting()) == 4
    assert queue.complete(d) == [0]
    queue.rpush("raw")  # cannot be refused
    with queue.refused("FULL 5"):
        queue.push(message(9))


def test_a_copy_of_a_push_that_was_taken_is_answered_when_it_is_full(queue: VirtualQueue) -> None:
    configure(queue, max_waiting=1)
    queue.push(message(1))
    with queue.unchanged():
        assert queue.again() == [1]


# max_bytes


def test_too_large(queue: VirtualQueue) -> None:
    configure(queue, max_bytes=10)
    headers = b"\x81\xa1a\xa9" + b"h" * 9
    assert queue.push(envelope(b"x" * 10), envelope(b"x" * 10, headers=headers), envelope(b"")) == 3
    for large in (envelope(b"x" * 11), envelope(b"x" * 11, headers=headers)):
        with queue.refused("TOOLARGE a payload is 11 bytes, the queue takes at most 10"):
            queue.push(envelope(b"x"), large)
        with queue.refused("TOOLARGE"):
            queue.ask(large, delay=5)
    configure(queue, max_bytes="")
    assert queue.push(envelope(b"x" * 11)) == 1


def test_no_payload_at_all(queue: VirtualQueue) -> None:
    configure(queue, max_bytes=0)
    assert queue.push(envelope(b"")) == 1
    with queue.refused("TOOLARGE a payload is 1 bytes"):
        queue.push(envelope(b"x"))
