"""What holds for every script: the call id, the schema, the time, bad arguments, foreign keys."""

import re
from collections.abc import Callable, Iterator

import pytest
import redis

from pyqueue import _scripts
from pyqueue._keys import FEATURES
from tests.lua.harness import (
    CHANGING,
    PAUSED,
    READING,
    SCRIPTS,
    SEALED,
    START,
    Answer,
    Arg,
    Caller,
    State,
    VirtualQueue,
    command,
    dump,
    envelope,
    key_names,
    raw_id,
    value_of,
)
from tests.lua.scenes import SCENES, TYPICAL, Scene, busy, message, number_of, rich, typical
from tests.servers import Server

#: With the time in the reply, which goes on.
TIMED = {"lease", "extend"}


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest, queue: VirtualQueue) -> Scene:
    return SCENES[request.param](queue)


@pytest.fixture
def plain(queue: VirtualQueue) -> Scene:
    return busy(queue)


def first_call(verb: str, *args: Arg) -> list[Arg]:
    """Arguments with the call id of a slot that was never used, where the script takes one."""
    call: list[Arg] = [b"new slot", 1, 0] if verb in CHANGING else []
    return [*call, *args]


def test_every_script_is_tried_here() -> None:
    assert set(TYPICAL) == set(SCRIPTS)
    assert set(CHANGING) | set(READING) | {"delete"} == set(SCRIPTS)


def test_the_scenes_have_every_key_of_the_scripts(client: redis.Redis) -> None:
    used = {name for script in SCRIPTS.values() for name in key_names(script)}
    scene = rich(VirtualQueue(client))
    assert set(scene.queue.dump()) == {scene.queue.key(name).decode() for name in used}
    client.flushdb()
    scene = busy(VirtualQueue(client))
    used -= set(FEATURES) - {"delayed"}
    assert set(scene.queue.dump()) == {scene.queue.key(name).decode() for name in used}


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_a_call_is_answered(scene: Scene, verb: str) -> None:
    scene.queue.call(verb, *typical(scene, verb))


@pytest.mark.parametrize("verb", READING)
def test_a_reader_writes_nothing(scene: Scene, verb: str) -> None:
    with scene.queue.unchanged():
        scene.queue.call(verb, *typical(scene, verb))


# Replays


@pytest.mark.parametrize("verb", CHANGING)
def test_a_second_copy_of_a_call_gets_the_same_answer_and_changes_nothing(
    scene: Scene, verb: str
) -> None:
    queue = scene.queue
    reply = queue.call(verb, *typical(scene, verb))
    with queue.unchanged():
        assert queue.again() == reply
        queue.now += 1_000
        later = queue.again()
    if verb in TIMED:
        reply[reply.index(queue.now - 1_000)] = queue.now
    assert later == reply


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("verb", CHANGING)
def test_a_second_copy_says_again_what_was_lost(scene: Scene, verb: str, lost: int) -> None:
    queue = scene.queue
    queue.complete(*scene.tokens[:lost])
    reply = queue.call(verb, *typical(scene, verb))
    with queue.unchanged():
        assert queue.again() == reply


@pytest.mark.parametrize("verb", CHANGING)
def test_a_copy_that_arrives_after_the_next_call_is_stale(scene: Scene, verb: str) -> None:
    queue = scene.queue
    queue.call(verb, *typical(scene, verb))
    late = queue.me.last
    queue.call("extend", 1_000, 7)
    queue.me.last = late
    with queue.refused("STALE"):
        queue.again()


@pytest.mark.parametrize("verb", CHANGING)
def test_a_copy_is_known_for_five_minutes_at_least(scene: Scene, verb: str) -> None:
    queue = scene.queue
    reply = queue.call(verb, *typical(scene, verb))
    mine = queue.me.last
    other = queue.caller()
    queue.sleep(300_000)
    queue.call("release", 0, by=other)
    queue.me.last = mine
    with queue.unchanged():
        later = queue.again()
    if verb not in TIMED:
        assert later == reply


@pytest.mark.parametrize("verb", CHANGING)
def test_leases_whose_reply_was_never_seen_go_back_with_the_next_call(
    plain: Scene, verb: str
) -> None:
    scene, queue = plain, plain.queue
    given = [queue.leased()[token][2] for token in scene.unseen]
    waiting, handed = queue.waiting(), queue.listed("handoff")
    queue.call(verb, *typical(scene, verb), by=scene.unlucky)
    assert queue.counters()["unseen"] == 3
    assert not set(scene.unseen) & set(queue.leased())
    # At the head and in order; a delivery is counted, no attempt.
    back = [m[:20] + b"\0\0\1\0\0\0\0" + m[27:] for m in given]
    if verb == "lease":
        # It leases two at once: what was handed off, and the first of those.
        assert [m for _, _, m in queue.leased().values()][-2:] == [*handed, back.pop(0)]
    elif verb == "push":
        waiting += [message(100), message(101)]
    elif verb == "complete_push":
        waiting += [message(100)]
    elif verb == "redrive":
        waiting += queue.waiting()[-1:]
    elif verb == "purge":
        back = waiting = []  # with all the others
    elif verb == "release":
        assert [m[27:] for m in queue.waiting()[:2]] == [b"pushed 2", b"pushed 3"]
        back = queue.waiting()[:2] + back
    assert queue.waiting() == back + waiting
    with queue.unchanged():
        queue.again(by=scene.unlucky)


@pytest.mark.parametrize("verb", sorted(set(CHANGING) - {"lease", "purge"}))
def test_they_go_back_to_where_they_came_from(queue: VirtualQueue, verb: str) -> None:
    """By priority, and the head of a group is its head again."""
    scene = rich(queue)
    queue.call(verb, *typical(scene, verb), by=scene.unlucky)
    assert queue.counters()["unseen"] == 3
    assert not set(scene.unseen) & set(queue.leased())
    assert queue.holders("groups")[b"u"] == message(9)[4:20]
    assert (-1.5, 8) in [(score, number_of(m)) for score, m in queue.ranked()]
    listed = [m for m in queue.waiting() if b"pushed" in m]
    heads = [number_of(m) for m in listed]
    assert heads[heads.index(9) :][:2] == [9, 10]
    with queue.unchanged():
        queue.again(by=scene.unlucky)


@pytest.mark.parametrize("verb", CHANGING)
def test_leases_whose_reply_was_seen_stay(scene: Scene, verb: str) -> None:
    queue = scene.queue
    scene.unlucky.ack = scene.unlucky.number
    queue.call(verb, *typical(scene, verb), by=scene.unlucky)
    assert set(scene.unseen) <= set(queue.leased())
    assert "unseen" not in queue.counters()


def test_a_raw_message_that_goes_back_unseen_keeps_the_id_of_its_first_token(
    queue: VirtualQueue,
) -> None:
    queue.rpush("apple")
    (token,) = queue.lease(seen=False).tokens
    queue.call("release", 0)
    assert queue.waiting() == [envelope(b"apple", raw_id(token), deliveries=1)]


@pytest.mark.parametrize("verb", CHANGING)
@pytest.mark.parametrize("gone", [1, 3])
def test_raw_messages_go_back_unseen_as_far_as_they_are_still_held(
    queue: VirtualQueue, verb: str, gone: int
) -> None:
    scene = busy(queue)
    queue.lease(100)  # so that the raw ones come next
    queue.rpush(b"one", b"two", b"three")
    unlucky = queue.caller()
    tokens = queue.lease(3, by=unlucky, seen=False).tokens
    queue.complete(*tokens[:gone])
    queue.call(verb, *typical(scene, verb), by=unlucky)
    assert queue.counters().get("unseen", 0) == 3 - gone
    left = [
        envelope(payload, raw_id(token), deliveries=1)
        for token, payload in zip(tokens[gone:], (b"two", b"three"), strict=False)
    ]
    if verb == "lease":
        assert [m for _, _, m in queue.leased().values() if m in left] == left
    elif verb != "purge":
        assert [m for m in queue.waiting() if m in left] == left
    assert set(tokens).isdisjoint(queue.leased())


def test_what_was_settled_meanwhile_does_not_go_back(plain: Scene) -> None:
    """By a caller who guessed a token, or after the lease had run out."""
    scene, queue = plain, plain.queue
    before = queue.waiting()
    queue.complete(scene.unseen[1])
    queue.call("release", 0, by=scene.unlucky)
    assert queue.counters()["unseen"] == 2
    assert len(queue.waiting()) == len(before) + 2


def test_the_memory_of_calls_is_two_keys_and_forgets(queue: VirtualQueue) -> None:
    """A slot that calls no more is forgotten between 5 and 10 minutes later."""
    queue.rpush("apple")
    queue.push(message(1))
    sleeper = queue.caller()
    queue.call("extend", 1, 1, by=sleeper)

    def remembered() -> list[int]:
        halves = (queue.key("calls0"), queue.key("calls1"))
        return [int(queue.client.hexists(half, sleeper.slot.decode())) for half in halves]

    seen = []
    for _ in range(12):
        queue.sleep(100_000)
        for caller in (queue.me, queue.caller()):
            queue.call("extend", 1, 1, by=caller)
        seen.append(remembered())
    # It is 100 s in the first half, turns over after more than 300 s, and is dropped 400 s later.
    assert seen == [[1, 0]] * 3 + [[0, 1]] * 4 + [[0, 0]] * 5
    assert queue.client.hlen(queue.key("calls0")) <= 5


def test_a_slot_whose_record_is_in_the_older_half_goes_on(queue: VirtualQueue) -> None:
    queue.push(message(1))
    queue.sleep(301_000)
    queue.call("extend", 1, 1, by=queue.caller())
    assert not queue.client.hexists(queue.key("calls0"), "slot-one")
    with queue.unchanged():
        assert queue.again() == [1]
    queue.push(message(2))
    assert queue.waiting() == [message(1), message(2)]


@pytest.mark.parametrize("verb", CHANGING)
def test_the_memory_turns_over_with_any_call(scene: Scene, verb: str) -> None:
    queue = scene.queue
    younger = queue.client.hgetall(queue.key("calls0"))
    queue.sleep(301_000)
    queue.call(verb, *typical(scene, verb))
    assert queue.client.hgetall(queue.key("calls1")) == younger
    assert queue.client.hkeys(queue.key("calls0")) == [queue.me.slot]
    assert queue.state().rotated == queue.now


@pytest.mark.parametrize("verb", CHANGING)
def test_a_younger_half_that_is_empty_is_not_turned_over(scene: Scene, verb: str) -> None:
    queue = scene.queue
    queue.client.delete(queue.key("calls0"))
    older = queue.client.hgetall(queue.key("calls1"))
    queue.sleep(301_000)
    queue.call(verb, *typical(scene, verb), by=queue.caller())
    assert queue.client.hgetall(queue.key("calls1")) == older
    assert queue.state().rotated == queue.now


@pytest.mark.parametrize("verb", CHANGING)
def test_the_memory_turns_over_again_when_the_clock_went_back(scene: Scene, verb: str) -> None:
    """Else it would grow until the clock has caught up."""
    queue = scene.queue
    queue.change_state(rotated=START + 10**9)
    queue.call(verb, *typical(scene, verb))
    assert queue.state().rotated == START
    queue.sleep(301_000)
    queue.call("extend", 1, 1)
    assert queue.state().rotated == queue.now


def test_slots_do_not_see_each_other(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    one, two = queue.caller(), queue.caller()
    first, second = queue.lease(by=one, seen=False), queue.lease(by=two, seen=False)
    queue.call("release", 0, by=two)
    assert set(queue.leased()) == set(first.tokens)
    assert queue.again(by=one)[-1] == b"a"
    assert second.messages == [b"b"]


def test_any_bytes_are_a_slot(queue: VirtualQueue) -> None:
    for slot in (b"\0" * 8, b"\xff" * 8, b"\r\n\r\n\r\n\r\n"):
        caller = Caller(slot)
        queue.push(message(1), by=caller)
        with queue.unchanged():
            assert queue.again(by=caller) == [1]


# Bad calls

NO_NUMBERS = ("", "-1", "0.5", "abc", "nan", "inf", "1e400", str(2**53 + 2))


@pytest.mark.parametrize("verb", CHANGING)
def test_a_bad_number_or_ack_is_refused(scene: Scene, verb: str) -> None:
    queue, args = scene.queue, typical(scene, verb)
    for bad in ("0", *NO_NUMBERS):
        with queue.refused("ARGUMENT number is not an integer"):
            queue.send(verb, b"new slot", bad, 0, *args)
    for bad in NO_NUMBERS:
        with queue.refused("ARGUMENT ack is not an integer"):
            queue.send(verb, b"new slot", 1, bad, *args)


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_too_few_arguments_change_nothing(scene: Scene, verb: str) -> None:
    queue = scene.queue
    whole = first_call(verb, *typical(scene, verb))
    least = len(SCRIPTS[verb].args) - 1
    if verb in {"check", "lease", "release", "delete", "configure"}:
        least -= 1  # no id, no token, no force, no name
    for length in range(least):
        with queue.unchanged(), pytest.raises(redis.ResponseError):
            queue.send(verb, *whole[:length])


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_the_time_is_no_argument_but_on_a_queue_made_for_tests(scene: Scene, verb: str) -> None:
    queue = scene.queue
    queue.change_state(flags=0)
    with queue.refused("CLOCK"):
        queue.send(verb, *first_call(verb, *typical(scene, verb)))
    queue.send(verb, *first_call(verb, *typical(scene, verb)), now="")


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_a_new_queue_takes_no_time_either(queue: VirtualQueue, verb: str) -> None:
    queue.client.delete(queue.key("meta"))
    with queue.refused("CLOCK"):
        queue.send(verb, *first_call(verb, *TYPICAL[verb](1, 2)))


@pytest.mark.parametrize("verb", CHANGING)
def test_the_first_call_makes_the_state(queue: VirtualQueue, verb: str) -> None:
    queue.client.delete(queue.key("meta"))
    queue.send(verb, *first_call(verb, *TYPICAL[verb](1, 2)), now="")
    assert queue.client.hget(queue.key("meta"), "schema") == b"1"
    state = queue.state()
    assert (state.version, len(state.pack())) == (1, 63)
    assert START / 2 < state.called < START * 2
    assert state.rotated == state.called
    assert state.pushed == (2 if verb == "push" else 0)
    assert state.flags == (SEALED if verb == "seal" else PAUSED if verb == "pause" else 0)


UNKNOWN_STATES = (
    State(version=3).pack(),
    State(version=0).pack(),
    State(version=255, tail=b"more").pack(),
    State().pack()[:-1],
    b"",
    b"\1",
)


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_an_unknown_schema_is_refused(scene: Scene, verb: str) -> None:
    queue = scene.queue
    for state in UNKNOWN_STATES:
        queue.client.hset(queue.key("meta"), "state", state)
        with queue.refused("SCHEMA"):
            queue.send(verb, *first_call(verb, *typical(scene, verb)))


@pytest.mark.parametrize("verb", CHANGING)
def test_what_a_newer_version_keeps_in_the_state_is_carried_through(
    scene: Scene, verb: str
) -> None:
    queue = scene.queue
    tail = b"\0newer\xff" * 5
    queue.change_state(tail=tail, flags=queue.state().flags | 1 << 20)
    queue.call(verb, *typical(scene, verb))
    assert queue.state().tail == tail
    assert queue.state().flags & 1 << 20


# Other people's keys

FOREIGN = b"somebody else's"


def put_into(scene: Scene, state: str) -> Caller:
    """Puts the queue into a state; returns who is to call."""
    queue = scene.queue
    if "due" in state:
        queue.sleep(70_000)
    if state == "malformed":
        queue.client.lpush(queue.name, b"\0PQ\1 is how I begin")
    elif state == "empty":
        queue.client.delete(queue.name, queue.key("handoff"))
    elif state == "paused":
        queue.change_state(flags=queue.state().flags | 2)
    elif "one used up" in state:
        _, worker, message = queue.leased()[scene.tokens[1]]
        last = value_of(worker, message[:23] + b"\0\4" + message[25:])
        queue.client.hset(queue.key("leased"), str(scene.tokens[1]), last)
    elif "used up" in state:
        queue.client.hset(queue.key("meta"), "max_attempts", 1)
    return scene.unlucky if "unseen" in state else queue.me


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
@pytest.mark.parametrize(
    "state",
    [
        *("busy", "due", "unseen", "malformed", "empty", "paused", "used up", "one used up"),
        *("due and one used up", "unseen and used up", "unseen and due and used up"),
    ],
)
@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_a_foreign_type_under_any_key_stops_a_script_before_it_writes(
    client: redis.Redis, verb: str, state: str, make: Callable[[VirtualQueue], Scene]
) -> None:
    """Or it is a key that this call has no need of: then that is left alone."""
    for name in key_names(SCRIPTS[verb], wide=make is rich):
        client.flushdb()
        scene = make(VirtualQueue(client))
        caller = put_into(scene, state)
        client.set(scene.queue.key(name), FOREIGN)
        before = scene.queue.dump()
        refused = ""
        try:
            scene.queue.call(verb, *typical(scene, verb), by=caller)
        except redis.ResponseError as error:
            refused = str(error)
        if refused:
            assert refused.startswith("WRONGTYPE "), name
            assert scene.queue.dump() == before, name
        else:
            assert verb == "delete" or client.get(scene.queue.key(name)) == FOREIGN, name


@pytest.mark.parametrize("verb", CHANGING)
def test_a_foreign_type_in_the_memory_of_calls_is_not_dropped_when_it_turns_over(
    scene: Scene, verb: str
) -> None:
    queue = scene.queue
    queue.client.set(queue.key("calls1"), FOREIGN)
    queue.call(verb, *typical(scene, verb))
    queue.sleep(301_000)
    with queue.refused("WRONGTYPE"):
        queue.call(verb, *typical(scene, verb))


def test_a_foreign_list_stops_a_lease_that_has_enough_in_the_handoff(queue: VirtualQueue) -> None:
    """What is due goes into the list, after the tokens were settled."""
    queue.push(*(message(number) for number in range(3)))
    (done,) = queue.take()
    queue.take(ttl=1_000)
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.client.set(queue.name, FOREIGN)
    queue.sleep(1_000)
    with queue.refused("WRONGTYPE"):
        queue.lease(1, done=[done])


@pytest.mark.parametrize("name", ["waiting", "leases", "leased", "meta", "calls0", "handoff"])
def test_a_lease_needs_these_keys_always(scene: Scene, name: str) -> None:
    queue = scene.queue
    queue.client.set(queue.key(name), FOREIGN)
    with queue.refused("WRONGTYPE"):
        queue.lease(2)


# A user who may not do everything


@pytest.mark.parametrize(
    ("verb", "state"),
    [*((verb, "busy") for verb in CHANGING), ("lease", "empty"), ("lease", "due")],
)
def test_a_user_without_one_of_the_commands_changes_nothing(
    scene: Scene, server: Server, verb: str, state: str
) -> None:
    """Or a script would stop half-way, and leave an item in two places."""
    queue = scene.queue
    put_into(scene, state)
    admin = queue.client
    source = (_scripts.folder() / "lib" / "allowed.lua").read_text()
    commands = re.findall(r"\b[A-Z]{4,}\b", source.partition("gmatch(")[2].partition("%u+")[0])
    assert len(commands) > 20
    user = ("ACL", "SETUSER", "limited")
    command(admin, *user, "reset", "on", "nopass", "~*", "+@all")
    options = {"username": "limited", "password": "any"}
    try:
        with redis.Redis.from_url(server.url, **options) as limited:
            before = queue.dump()
            queue.client = limited
            for name in commands:
                command(admin, *user, f"-{name.lower()}")
                with pytest.raises(redis.ResponseError) as refused:
                    queue.send(verb, *first_call(verb, *typical(scene, verb)))
                # Those that every script begins with are refused by the server itself.
                said = r"may not run|No permissions|ACL failure|can't run"
                assert re.search(said, str(refused.value)), name
                command(admin, *user, f"+{name.lower()}")
            assert dump(admin) == before
            queue.call(verb, *typical(scene, verb))
    finally:
        admin.acl_deluser("limited")


# A full server


@pytest.fixture
def full(scene: Scene) -> Iterator[Scene]:
    """The scene, on a server that is out of memory."""
    scene.queue.client.config_set("maxmemory", 1)
    yield scene
    scene.queue.client.config_set("maxmemory", 0)


NEEDS_ROOM = ["complete_push", "fail_push", "import", "push"]


@pytest.mark.parametrize("verb", sorted(set(SCRIPTS) - set(NEEDS_ROOM)))
def test_a_full_server_can_be_worked_off(full: Scene, verb: str) -> None:
    full.queue.call(verb, *typical(full, verb))


@pytest.mark.parametrize("verb", NEEDS_ROOM)
def test_a_full_server_refuses_more(full: Scene, verb: str) -> None:
    queue = full.queue
    with queue.unchanged(), pytest.raises(redis.exceptions.OutOfMemoryError):
        queue.call(verb, *typical(full, verb))


# Tokens and time


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_any_call_after_an_outage_sets_the_guard(scene: Scene, verb: str) -> None:
    """And readers leave that to others."""
    queue = scene.queue
    before = queue.state()
    queue.now += 5_001
    queue.call(verb, *typical(scene, verb))
    if verb in CHANGING:
        after = queue.state()
        assert (after.guard_from, after.guard_at) == (before.called, queue.now)
    elif verb in READING:
        assert queue.state() == before


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_any_call_draws_the_guard_near_when_the_clock_went_back(scene: Scene, verb: str) -> None:
    queue = scene.queue
    queue.change_state(guard_from=START, guard_at=START + 3_600_000)
    before = queue.state()
    queue.now -= 1_000
    queue.call(verb, *typical(scene, verb))
    if verb in CHANGING:
        assert queue.state().guard_at == queue.now
    elif verb in READING:
        assert queue.state() == before


def test_tokens_rise_when_the_clock_goes_back(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    (first,) = queue.take()
    queue.now -= 3_600_000
    (second,) = queue.take()
    assert second == first + 1


def test_tokens_rise_when_the_keys_were_deleted(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (first,) = queue.take()
    queue.client.flushdb()
    queue.put_state(State())
    queue.now += 1
    queue.rpush("a")
    (second,) = queue.take()
    assert second > first


def test_tokens_are_the_clock_in_microseconds(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    assert queue.take(3) == [START * 1000, START * 1000 + 1, START * 1000 + 2]


def test_no_number_is_written_in_scientific_notation(scene: Scene) -> None:
    """tostring() of Lua makes 1.8e+15 of a token."""
    queue = scene.queue
    queue.release(scene.tokens[0], delay=10)
    queue.bury(scene.tokens[1])
    queue.extend(scene.tokens[2])
    queue.lease(2, done=[scene.tokens[3]])
    written = repr(queue.dump())
    assert not re.search(r"\de\+\d", written)


def test_the_servers_own_clock_is_used_when_no_time_is_given(client: redis.Redis) -> None:
    queue = VirtualQueue(client)
    client.delete(queue.key("meta"))
    client.rpush(queue.name, "a")
    seconds, micros = client.time()
    answer = Answer.of(queue.send("lease", b"new slot", 1, 0, 1, 60_000, b"w", now=""))
    assert 0 <= answer.first - (seconds * 1_000_000 + micros) < 10_000_000
    assert answer.deadline == answer.first // 1000 + 60_000
    assert queue.state().flags == 0
