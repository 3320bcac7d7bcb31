"""Scripts that are stopped half-way: nothing is ever lost, and what is there twice is found.

Redis rolls nothing back. No command of a script is known to fail after the first write: types and
rights are checked before (tests/lua/test_protocol.py puts a foreign type under every key, and fills
the server's memory). Should one fail all the same, what it leaves must be the state before, the
state after, or something between the two of which ``Queue.check`` makes a sound queue again: each
item is there, once. Even when nobody checks, each is given to somebody. Here each command of each
script fails in turn, on a queue that uses every feature.

``pytest -s`` prints what every single failure leaves behind. A usual run stops each script at every
eighth command, from a random one on; `make soak` at every one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgpack
import pytest
import redis
from hypothesis import settings

from pyqueue import Queue
from pyqueue._keys import OTHERS, Keys
from tests.lua.harness import (
    SCRIPTS,
    WAKE,
    Arg,
    Caller,
    Dump,
    Letter,
    VirtualQueue,
    dump,
    envelope,
)
from tests.model.snapshot import Parts

pytestmark = pytest.mark.slow

EVERY = 1 if settings.get_current_profile_name() == "soak" else 8

COUNTING = """
local redis_calls_made = 0
local function redis_call(...)
  redis_calls_made = redis_calls_made + 1
  if redis_calls_made == FAIL_AT then
    error({ err = 'INJECTED ' .. (...) })
  end
  return redis.call(...)
end
"""

#: A queue of the same tag, for follow-ups.
OTHER = "{job2}other"


def stopped_at(verb: str, number: int) -> str:
    """The script, whose so-many-th command fails."""
    first, rest = SCRIPTS[verb].source.split("\n", 1)
    counting = COUNTING.replace("FAIL_AT", str(number))
    return first + counting + rest.replace("redis.call(", "redis_call(")


def named(name: str, flags: int = 0, attempts: int = 0, **asks: object) -> bytes:
    """A message whose payload is its name."""
    id = f"{name:>16.16}".encode()
    headers = msgpack.packb({f":{key}": value for key, value in asks.items()}) if asks else b""
    flags += 2 if asks else 0
    return envelope(name.encode(), id, flags=flags, attempts=attempts, headers=headers)


def payload(message: bytes) -> bytes:
    return Parts.of(message).payload


@dataclass
class Scene:
    """A queue with something of everything, most of which is due, and the calls of two workers."""

    queue: VirtualQueue
    #: By the names of their items.
    tokens: dict[bytes, int]
    #: A caller who does not know that he holds what his last call leased.
    unlucky: Caller
    client: redis.Redis
    saved: dict[bytes, bytes] = field(default_factory=dict)

    def save(self) -> None:
        """Remembers how it is now."""
        keys = cast("list[bytes]", self.client.keys("*"))
        self.saved = {key: cast("bytes", self.client.dump(key)) for key in keys}

    def again(self) -> Scene:
        """The same once more."""
        pipeline = self.client.pipeline()
        pipeline.flushdb()
        for key, value in self.saved.items():
            pipeline.restore(key, 0, value)
        pipeline.execute()
        queue = VirtualQueue.__new__(VirtualQueue)
        queue.__dict__.update(self.queue.__dict__)
        return replace(self, queue=queue)


def scene(client: redis.Redis, *, calm: bool = False) -> Scene:
    """With ``calm`` nothing is due, and much waits."""
    client.flushdb()
    queue = VirtualQueue(client)
    queue.wide = True
    limits = ("max_leased", 1000, "max_waiting", 9000, "max_bytes", 9000, "ttl", 60_000)
    queue.call("configure", *limits, "max_lease", 3_600_000, "rate", 1000, "burst", 900)
    queue.ask(
        named("held 1"),
        named("held 2", group="h", unique="h"),
        named("held 3", priority=2),
        named("held 4", attempts=4, group="k", unique="k"),
        named("held 5", attempts=4),
        named("expired 1"),
        named("expired 2", group="e", unique="e"),
        named("expired 3", priority=3),
        named("last chance", attempts=4, group="x", unique="x"),
        named("due 1"),
        named("due 2", group="d"),
        named("due 3", priority=-2),
        named("later"),
        *(named(f"{group} {n}", group=group) for group in "hkexd" for n in (1, 2)),
    )
    queue.ask(named("k later", group="k"), delay=200_000)
    queue.rpush("raw held", "raw expired")
    short = 60_000 if calm else 1_000
    answer = queue.lease(100, 60_000)
    messages = [message for message in answer.messages if message is not None]
    tokens = dict(zip(map(payload, messages), answer.tokens, strict=True))
    expiring = (b"expired 1", b"expired 2", b"expired 3", b"last chance", b"raw expired")
    queue.extend(*(tokens[name] for name in expiring), ttl=short)
    queue.release(*(tokens.pop(b"due %d" % n) for n in (1, 2, 3)), delay=short + 500)
    queue.release(tokens.pop(b"later"), delay=90_000)
    queue.ask(named("letter 1"), named("letter 2", group="l", unique="l"))
    queue.bury(*queue.take(2))
    unlucky = queue.caller()
    queue.ask(
        named("unseen 1"), named("unseen 2", group="u", unique="u"), named("unseen 3", priority=1)
    )
    queue.ask(named("u 1", group="u"))
    assert len(queue.lease(9, by=unlucky, seen=False).messages) == 3
    queue.sleep(3_000)
    # The younger half of the memory becomes the older with this call.
    client.rename(queue.key("calls0"), queue.key("calls1"))
    queue.extend(tokens[b"held 1"])
    queue.change_state(rotated=queue.now - 400_000)
    queue.ask(named("over", unique="over"), window=5)
    client.delete(queue.name)
    client.rpush(queue.key("handoff"), "handed 1", named("handed 2"))
    many = [named(f"many {number}") for number in range(15 * calm)]
    queue.rpush(WAKE, "raw 1", envelope(b"malformed", headers=b"\xc1"), named("wait 1"), *many)
    queue.rpush(named("suspect", flags=1), "raw 2")
    queue.ask(named("wait 2", group="w", unique="w"), named("w 1", group="w"))
    queue.ask(named("high", priority=1), named("low", priority=-1, unique="low"))
    queue.sleep(10)
    made = Scene(queue, tokens, unlucky, client)
    made.save()
    return made


Args = Callable[[Scene], Sequence[Arg]]


@dataclass(frozen=True)
class Case:
    """A call, with what it takes away and what it brings."""

    verb: str
    args: Args
    gone: Collection[bytes] = ()
    new: Collection[bytes] = ()
    calm: bool = False
    #: What was done to the queue before.
    damage: Callable[[Scene], object] = lambda _: None
    #: Whether a call that is repeated without a check gives everything to somebody.
    goes_on: bool = True


def _of(*names: bytes) -> Callable[[Scene], list[int]]:
    return lambda scene: [scene.tokens[name] for name in names]


def repairing(kind: str, where: str, *rest: Callable[[Scene], Arg] | Arg) -> Args:
    def args(scene: Scene) -> Sequence[Arg]:
        found: list[Arg] = [x(scene) if callable(x) else x for x in rest]
        return (1, kind, where, *found, *[b""] * (6 - len(found)))

    return args


def stamp(scene: Scene) -> Arg:
    return cast("Arg", scene.queue.call("check", "keys", 0, 1)[2])


def _name(scene: Scene, item: bytes) -> Arg:
    return str(scene.tokens[item])


HELD = (b"held 1", b"held 2", b"held 3", b"raw held", b"held 4")
LOST = 1
LEFT = (*(b"handed 1", b"handed 2", b"raw 1", b"malformed", b"wait 1", b"suspect"),)
ALL_WAITING = (
    *(*LEFT, b"raw 2", b"wait 2", b"w 1", b"high", b"low", b"due 1", b"due 2", b"due 3", b"later"),
    *(b"%s %d" % (group, n) for group in (b"h", b"k", b"e", b"x", b"d") for n in (1, 2)),
    *(b"u 1", b"k later", b"unseen 1", b"unseen 2", b"unseen 3"),
)
#: Without an id until they are leased: of these nobody can know that one is a copy.
RAW = (b"handed 1", b"raw 1", b"raw 2", b"malformed")
FOLLOW = (
    *(0, 0, 0, named("follow 1")),
    *(0, 500, 0, named("follow 2", unique="f")),
    *(0, 0, 0, named("follow 3", group="f")),
    *(0, 0, 0, named("follow 4", group="h")),
    *(1, 0, 0, named("follow 5", priority=2)),
    *(1, 0, 900, named("follow 6", unique="o", group="o")),
)
FOLLOWED = tuple(b"follow %d" % n for n in range(1, 7))
IMPORTED = (
    *(named("imported 1")[4:20], 5, b"\1\3why\1w\0\4boom" + named("imported 1")),
    *(named("imported 2")[4:20], 6, b"\1\3why\1w\0\4boom" + named("imported 2")),
)
CASES = {
    "push": Case("push", lambda _: ["", named("new 1"), named("new 2")], new=(b"new 1", b"new 2")),
    "push with options": Case(
        "push",
        lambda _: [
            *("0 0 0", named("new 1", priority=1), named("new 2", group="h"), named("new 5")),
            *(named("new 3", unique="n", group="n"), named("new 4", group="n")),
        ],
        new=[b"new %d" % n for n in range(1, 6)],
    ),
    "push with delay, window and id": Case(
        "push",
        lambda _: [
            *("500 9000 1", named("new 1", unique="n"), named("new 2", group="h", priority=2)),
            *(named("new 3", group="n"), named("new 4", unique="h")),
        ],
        new=(b"new 1", b"new 2", b"new 3"),
    ),
    "lease when much is due": Case("lease", lambda _: [20, 60_000, b"me"]),
    "lease a batch": Case("lease", lambda _: [20, 60_000, b"me"], calm=True),
    "lease few": Case("lease", lambda _: [1, 60_000, b"me"], calm=True),
    "lease and complete": Case(
        "lease", lambda s: [20, 60_000, b"me", *_of(*HELD)(s), LOST], HELD, calm=True
    ),
    "lease, complete, and much is due": Case(
        "lease", lambda s: [20, "", b"me", *_of(*HELD)(s), LOST], HELD
    ),
    "complete": Case("complete", lambda s: [*_of(*HELD)(s), LOST], HELD),
    "complete and push": Case(
        "complete_push", lambda s: [*_of(b"held 2")(s), *FOLLOW], [b"held 2"], FOLLOWED
    ),
    "release": Case("release", lambda s: [0, *_of(*HELD)(s), LOST]),
    "release with a delay": Case("release", lambda s: [500, *_of(*HELD)(s), LOST]),
    "last call of a slot": Case("release", lambda _: [0]),
    "fail": Case("fail", lambda s: ["", b"boom", *_of(*HELD)(s), LOST]),
    "fail and retry at once": Case("fail", lambda s: [0, b"boom", *_of(*HELD)(s), LOST]),
    "fail and push": Case(
        "fail_push", lambda s: ["", b"boom", *_of(b"held 4")(s), *FOLLOW], new=FOLLOWED
    ),
    "fail, but not for the last time": Case(
        "fail_push", lambda s: [0, b"boom", *_of(b"held 3")(s), *FOLLOW], new=FOLLOWED
    ),
    "bury": Case("bury", lambda s: [b"why", b"boom", *_of(*HELD)(s), LOST]),
    "extend": Case("extend", lambda s: ["", *_of(*HELD)(s), LOST]),
    "reclaim": Case("reclaim", lambda _: [1000, 0]),
    "seal": Case("seal", lambda _: [1]),
    "pause": Case("pause", lambda _: [1]),
    "configure": Case("configure", lambda _: ["max_attempts", 4, "rate", "", "ttl", ""]),
    "redrive": Case("redrive", lambda _: [named("letter 1")[4:20], named("letter 2")[4:20]]),
    "import": Case("import", lambda _: IMPORTED, new=(b"imported 1", b"imported 2")),
    "purge": Case("purge", lambda _: [b"waiting"], ALL_WAITING),
    "purge the dead": Case("purge", lambda _: [b"dead"], (b"letter 1", b"letter 2")),
    "repair a lease": Case(
        "repair",
        repairing("lease", "leases", lambda s: _name(s, b"held 2")),
        damage=lambda s: s.client.hdel(s.queue.key("leased"), cast("str", _name(s, b"held 2"))),
    ),
    "repair a message": Case(
        "repair",
        repairing("leased", "leased", lambda s: _name(s, b"held 2")),
        damage=lambda s: s.client.zrem(s.queue.key("leases"), cast("str", _name(s, b"held 2"))),
        goes_on=False,
    ),
    "repair a bond": Case(
        "repair",
        repairing("special", "special", lambda s: _name(s, b"held 2")),
        damage=lambda s: s.client.hdel(s.queue.key("special"), cast("str", _name(s, b"held 2"))),
        goes_on=False,
    ),
    "repair a second copy in the list": Case(
        "repair",
        repairing("surplus", "waiting", 0, named("wait 1")[4:20], "", "waiting", 3),
        damage=lambda s: s.queue.rpush(named("wait 1")),
        goes_on=False,
    ),
    "repair a second copy in flight": Case(
        "repair",
        repairing(
            "surplus",
            "leased",
            "7",
            named("held 2")[4:20],
            "",
            "leased",
            lambda s: _name(s, b"held 2"),
        ),
        damage=lambda s: (
            s.client.hset(
                s.queue.key("leased"), "7", b"\0" + named("held 2", group="h", unique="h")
            ),
            s.client.zadd(s.queue.key("leases"), {"7": s.queue.now}),
        ),
        goes_on=False,
    ),
    "repair a second copy that is dead": Case(
        "repair",
        repairing(
            "surplus",
            "dead",
            named("held 1")[4:20],
            named("held 1")[4:20],
            "",
            "leased",
            lambda s: _name(s, b"held 1"),
        ),
        damage=lambda s: s.client.hset(
            s.queue.key("dead"), named("held 1")[4:20], b"\1\0\0\0\0" + named("held 1")
        ),
        goes_on=False,
    ),
    "repair a group": Case(
        "repair",
        lambda s: (1, "head", "groups", "", b"an id of nobody!", "h", "", "", stamp(s)),
        damage=lambda s: s.client.hset(s.queue.key("groups"), "h", b"an id of nobody!"),
        goes_on=False,
    ),
    "repair a group that nobody leads": Case(
        "repair",
        lambda s: (1, "headless", "grouped", "", "", "w", "", "", stamp(s)),
        damage=lambda s: s.client.hdel(s.queue.key("groups"), "w"),
        goes_on=False,
    ),
    "repair a key": Case(
        "repair",
        lambda s: (1, "key", "unique", "", b"an id of nobody!", "zz", "", "", stamp(s)),
        damage=lambda s: s.client.hset(s.queue.key("unique"), "zz", b"an id of nobody!" + bytes(6)),
    ),
    "repair what cannot be read": Case(
        "repair",
        repairing("damaged", "delayed", "xyz"),
        damage=lambda s: s.client.zadd(s.queue.key("delayed"), {"xyz": 5}),
        gone=(b"",),  # which is what is behind its first eight bytes
        new=(b"xyz",),
        goes_on=False,
    ),
    "repair the state": Case(
        "repair",
        repairing("state", "meta"),
        damage=lambda s: s.queue.change_state(flags=1 << 31),
        goes_on=False,
    ),
}


def items(scene: Scene) -> Counter[bytes]:
    """Everything that the keys of both queues hold, dead letters too, by name."""
    found: Counter[bytes] = Counter()
    for keys in (scene.queue.keys, Keys(OTHER)):
        lists: Any = [scene.client.lrange(key, 0, -1) for key in keys.pick(("waiting", "handoff"))]
        messages = [x for members in lists for x in members if x != WAKE]
        for key in keys.pick(("delayed", "priority")):
            members = cast("list[bytes]", scene.client.zrange(key, 0, -1))
            messages += [member[8:] for member in members]
        (grouped, leased, dead) = keys.pick(("grouped", "leased", "dead"))
        for member in cast("list[bytes]", scene.client.zrange(grouped, 0, -1)):
            messages.append(member[member.index(b"\0") + 15 :])
        held = cast("dict[bytes, bytes]", scene.client.hgetall(leased))
        messages += [value[1 + value[0] :] for value in held.values()]
        letters = cast("dict[bytes, bytes]", scene.client.hgetall(dead))
        messages += [Letter.unpack(record).message for record in letters.values()]
        found += Counter(map(payload, messages))
    return found


def work_off(queue: VirtualQueue) -> Counter[bytes]:
    """Hours later another worker has done everything; what it was given."""
    given: Counter[bytes] = Counter()
    state = queue.state()
    queue.change_state(flags=state.flags & ~3)
    worker = queue.caller()
    done: list[int] = []
    for _ in range(100):
        queue.sleep(100_000)
        answer = queue.lease(1000, 60_000, done=done, by=worker)
        if answer.word == b"drained":
            return given
        done = answer.tokens
        given += Counter(payload(message) for message in answer.messages if message is not None)
    raise AssertionError("it is never drained")


def mend(scene: Scene) -> list[str]:
    """Checks and repairs both queues; what was found, by kind."""
    found: list[str] = []
    for name in (scene.queue.name, OTHER):
        if not any(scene.client.exists(key) for key in Keys(name).all):
            continue
        queue = Queue(name, client=scene.client)
        if name != OTHER:
            queue._clock = lambda: str(scene.queue.now)
        found += [x.kind for x in queue.check(repair=True).findings]
        report = queue.check()
        # An item that was settled half-way may still be leased when the next of its group is.
        assert {x.kind for x in report.findings} <= {"rival"}, report.findings
        assert report.accounted is not False
    return found


def call(source: str, case: Case, scene: Scene) -> object:
    queue, by = scene.queue, scene.unlucky
    keys = queue.keys.pick(SCRIPTS[case.verb].keys, wide=True)
    if case.verb.endswith("_push"):
        keys += Keys(OTHER).pick(OTHERS)
    arguments = (queue.now, by.slot, by.number + 1, by.ack, *case.args(scene))
    return scene.client.eval(source, len(keys), *keys, *arguments)


@dataclass
class Stop:
    """A call that was stopped at one command."""

    number: int
    command: str
    scene: Scene
    left: str
    before: Dump
    #: What must still be there, once.
    kept: set[bytes]
    known: set[bytes]


def stops(client: redis.Redis, case: Case) -> list[Callable[[], Stop | None]]:
    """One after the other; each is made when it is asked for, and None when the call succeeds."""
    first = scene(client, calm=case.calm)
    # The other queue's time is the test's too.
    VirtualQueue(client, OTHER)
    case.damage(first)
    first.save()
    before, was = dump(client), items(first)
    answer = call(SCRIPTS[case.verb].source, case, first)
    after = dump(client)
    kept, known = set(was) - set(case.gone), {*was, *case.new}

    def stop(number: int) -> Stop | None:
        now = first.again()
        try:
            assert call(stopped_at(case.verb, number), case, now) == answer
        except redis.ResponseError as error:
            word, command, *_ = str(error).split()
            if word != "INJECTED":
                raise
        else:
            assert dump(client) == after
            return None
        left = dump(client)
        what = "as before" if left == before else "as after" if left == after else "between"
        return Stop(number, command, now, what, before, kept, known)

    numbers = range(random.randint(1, EVERY), 600, EVERY)
    return [lambda number=number: stop(number) for number in numbers]  # type: ignore[misc]


@pytest.mark.parametrize("name", CASES)
def test_what_a_stopped_script_leaves_is_mended(client: redis.Redis, name: str) -> None:
    """Nothing is lost, nothing is there twice, and everything is given once."""
    case = CASES[name]
    for stop in stops(client, case):
        stopped = stop()
        if stopped is None:
            return
        where = f"{name}: {stopped.number} {stopped.command} fails: {stopped.left}"
        there = items(stopped.scene)
        assert stopped.kept <= set(there), f"{where}: lost {stopped.kept - set(there)}"
        damaged = case.verb == "repair" and stopped.left == "as before"
        found = mend(stopped.scene) if stopped.left == "between" or damaged else []
        print(where, found or "")
        there = items(stopped.scene)
        assert stopped.kept <= set(there), f"{where}: lost {stopped.kept - set(there)}"
        assert set(there) <= stopped.known, where
        twice = there - Counter(set(there))
        assert set(twice) <= set(RAW), f"{where}: twice {twice}"
        dead = {x.message for _, x in stopped.scene.queue.dead().values()}
        letters = Counter(map(payload, dead))
        given = work_off(stopped.scene.queue)
        others = Counter(b"follow %d" % n for n in (5, 6)) & there
        assert not given & letters, where
        died = Counter(payload(x.message) for _, x in stopped.scene.queue.dead().values()) - letters
        assert given + others + letters + died >= there, where
        assert not given - there, where
        assert set(given - Counter(set(given))) <= set(RAW), where
        if found:
            assert not mend(stopped.scene), where
    raise AssertionError("it does not come to its end")


@pytest.mark.parametrize("repeated_after", [0, 1])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.goes_on])
def test_without_a_check_it_goes_on_and_loses_nothing(
    client: redis.Redis, name: str, repeated_after: int
) -> None:
    """Also when the call is repeated in the same instant: tokens that the stopped one may have used
    are not issued again.
    """
    case = CASES[name]
    for stop in stops(client, case):
        stopped = stop()
        if stopped is None:
            return
        queue = stopped.scene.queue
        queue.now += repeated_after
        call(SCRIPTS[case.verb].source, case, stopped.scene)
        given = set(work_off(queue))
        letters = cast("dict[bytes, bytes]", client.hgetall(queue.key("dead")))
        dead = {payload(Letter.unpack(record).message) for record in letters.values()}
        lost = stopped.kept - given - dead
        assert not lost, f"{stopped.command}, command {stopped.number}: not given: {lost}"
        assert not queue.client.exists(queue.key("leases"))
    raise AssertionError("it does not come to its end")


def test_every_script_is_stopped() -> None:
    changing = {name for name, script in SCRIPTS.items() if script.takes_call}
    assert {case.verb for case in CASES.values()} == changing
