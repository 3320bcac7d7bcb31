"""Scripts that are stopped half-way: nothing is ever lost.

Redis rolls nothing back. No command of a script is known to fail after the first write: types and
rights are checked before. Should one fail all the same, what it leaves must be the state before,
the state after, or something between the two in which each item still is where a lease call, or the
dead letters, will find it; at worst twice. Here each command of each script fails in turn.

``pytest -s`` prints what every single failure leaves behind.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import pytest
import redis

from tests.lua.harness import SCRIPTS, WAKE, Arg, Caller, VirtualQueue, envelope
from tests.model.snapshot import Parts, Snapshot, read

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


def stopped_at(verb: str, number: int) -> str:
    """The script, whose so-many-th command fails."""
    first, rest = SCRIPTS[verb].source.split("\n", 1)
    counting = COUNTING.replace("FAIL_AT", str(number))
    return first + counting + rest.replace("redis.call(", "redis_call(")


def named(name: str, flags: int = 0, attempts: int = 0) -> bytes:
    """A message whose payload is its name."""
    id = f"{name:>16.16}".encode()
    return envelope(name.encode(), id, flags=flags, attempts=attempts)


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


def scene(client: redis.Redis, *, calm: bool = False) -> Scene:
    """With ``calm`` nothing is due, and much waits."""
    client.flushdb()
    queue = VirtualQueue(client)
    names = ["held 1", "held 2", "held 3", "expired 1", "expired 2", "due 1", "due 2", "later"]
    queue.push(*map(named, names), named("last chance", attempts=4), named("held 4", attempts=4))
    queue.rpush("raw held", "raw expired")
    short = 60_000 if calm else 1_000
    answer = queue.lease(12, 60_000)
    messages = [message for message in answer.messages if message is not None]
    tokens = dict(zip(map(payload, messages), answer.tokens, strict=True))
    queue.extend(
        *(tokens[name] for name in (b"expired 1", b"expired 2", b"last chance", b"raw expired")),
        ttl=short,
    )
    queue.release(tokens.pop(b"due 1"), tokens.pop(b"due 2"), delay=short + 500)
    queue.release(tokens.pop(b"later"), delay=90_000)
    queue.push(named("letter 1"), named("letter 2"))
    queue.bury(*queue.take(2))
    unlucky = queue.caller()
    queue.push(named("unseen 1"), named("unseen 2"))
    queue.lease(2, by=unlucky, seen=False)
    queue.sleep(3_000)
    # The younger half of the memory becomes the older with this call.
    client.rename(queue.key("calls0"), queue.key("calls1"))
    queue.extend(tokens[b"held 1"])
    queue.change_state(rotated=queue.now - 400_000)
    queue.rpush("handed 1", named("handed 2"))
    for _ in range(2):
        client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    many = [named(f"many {number}") for number in range(15 * calm)]
    queue.rpush(WAKE, "raw 1", envelope(b"malformed", headers=b"\xc1"), named("wait 1"), *many)
    queue.rpush(named("suspect", flags=1), "raw 2", named("wait 2"))
    return Scene(queue, tokens, unlucky)


@dataclass(frozen=True)
class Case:
    """A call, with what it takes away."""

    verb: str
    args: Callable[[Scene], Sequence[Arg]]
    gone: Collection[bytes] = ()
    calm: bool = False


def _of(*names: bytes) -> Callable[[Scene], list[int]]:
    return lambda scene: [scene.tokens[name] for name in names]


HELD = (b"held 1", b"raw held", b"held 4")
LOST = 1
CASES = {
    "push": Case("push", lambda _: [named("new 1"), named("new 2")]),
    "lease when much is due": Case("lease", lambda _: [20, 60_000, b"me"]),
    "lease a batch": Case("lease", lambda _: [20, 60_000, b"me"], calm=True),
    "lease and complete": Case(
        "lease", lambda s: [20, 60_000, b"me", *_of(*HELD)(s), LOST], HELD, calm=True
    ),
    "complete": Case("complete", lambda s: [*_of(*HELD)(s), LOST], HELD),
    "release": Case("release", lambda s: [0, *_of(*HELD)(s), LOST]),
    "release with a delay": Case("release", lambda s: [500, *_of(*HELD)(s), LOST]),
    "last call of a slot": Case("release", lambda _: [0]),
    "fail": Case("fail", lambda s: ["", b"boom", *_of(*HELD)(s), LOST]),
    "fail and retry at once": Case("fail", lambda s: [0, b"boom", *_of(*HELD)(s), LOST]),
    "bury": Case("bury", lambda s: [b"why", b"boom", *_of(*HELD)(s), LOST]),
    "extend": Case("extend", lambda s: [60_000, *_of(*HELD)(s), LOST]),
    "reclaim": Case("reclaim", lambda _: [1000, 0]),
    "seal": Case("seal", lambda _: [1]),
    "pause": Case("pause", lambda _: [1]),
    "redrive": Case("redrive", lambda _: [named("letter 1")[4:20], named("letter 2")[4:20]]),
    "purge": Case(
        "purge",
        lambda _: [b"waiting"],
        (
            *(b"handed 1", b"handed 2", b"raw 1", b"malformed", b"wait 1", b"suspect", b"raw 2"),
            *(b"wait 2", b"due 1", b"due 2", b"later", b"unseen 1", b"unseen 2"),
        ),
    ),
    "purge the dead": Case("purge", lambda _: [b"dead"], (b"letter 1", b"letter 2")),
}


def payloads(messages: Iterable[bytes]) -> Counter[bytes]:
    return Counter(map(payload, messages))


def reachable(real: Snapshot) -> Counter[bytes]:
    """What a lease call or the dead letters will find, by name: not what is leased without a
    deadline, which never ends.
    """
    stranded = (x.message for token, x in real.leased.items() if token not in real.leases)
    return payloads(real.messages()) - payloads(stranded)


def work_off(queue: VirtualQueue) -> Counter[bytes]:
    """Hours later another worker has done everything; what it was given."""
    given: Counter[bytes] = Counter()
    queue.change_state(flags=1 << 31)
    worker = queue.caller()
    done: list[int] = []
    for _ in range(100):
        queue.sleep(100_000)
        answer = queue.lease(1000, 60_000, done=done, by=worker)
        if answer.word == b"drained":
            return given
        done = answer.tokens
        given += payloads(message for message in answer.messages if message is not None)
    raise AssertionError("it is never drained")


@pytest.mark.parametrize("name", CASES)
def test_a_script_that_is_stopped_loses_nothing(client: redis.Redis, name: str) -> None:
    stop_everywhere(client, name, repeated_after=1)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.verb == "lease"])
def test_nor_does_the_next_call_in_the_same_instant(client: redis.Redis, name: str) -> None:
    """Tokens that the stopped call may have used are not issued again."""
    stop_everywhere(client, name, repeated_after=0)


def stop_everywhere(client: redis.Redis, name: str, repeated_after: int) -> None:
    """Stops a call at each of its commands, and repeats it after so many ms."""
    case = CASES[name]

    def call(source: str, scene: Scene) -> object:
        queue, by = scene.queue, scene.unlucky
        keys = queue.keys.pick(SCRIPTS[case.verb].keys)
        arguments = (queue.now, by.slot, by.number + 1, by.ack, *case.args(scene))
        return client.eval(source, len(keys), *keys, *arguments)

    was = scene(client, calm=case.calm)
    before, items = was.queue.dump(), read(client, was.queue.keys)
    answer = call(SCRIPTS[case.verb].source, was)
    after = was.queue.dump()
    kept = set(reachable(items)) - set(case.gone)
    for number in range(1, 200):
        now = scene(client, calm=case.calm)
        queue = now.queue
        assert queue.dump() == before
        try:
            assert call(stopped_at(case.verb, number), now) == answer
        except redis.ResponseError as error:
            word, command, *_ = str(error).split()
            assert word == "INJECTED", command
        else:
            assert queue.dump() == after
            return
        dump, real = queue.dump(), read(client, queue.keys)
        found = reachable(real)
        assert kept <= set(found), f"{command}, command {number}: lost {kept - set(found)}"
        if dump == before:
            left = "as before"
        elif dump == after:
            left = "as after"
        else:
            left = "between"
        twice = sorted(name.decode() for name, count in found.items() if count > 1)
        stranded = sorted(
            x.message[-8:].decode() for t, x in real.leased.items() if t not in real.leases
        )
        queue.now += repeated_after
        again = call(SCRIPTS[case.verb].source, now)
        given = set(work_off(queue))
        real = read(client, queue.keys)
        dead = set(payloads(letter.message for letter in real.dead.values()))
        assert kept <= given | dead, f"{command}: not given: {kept - given - dead}"
        assert not real.leases
        print(
            f"{name}: {number} {command} fails: {left}"
            + (f"; twice: {', '.join(twice)}" if twice else "")
            + (f"; without deadline: {', '.join(stranded)}" if stranded else "")
            + ("" if again == answer else f"; the repeated call says {again!r}")
            + ("" if not real.leased else f"; left for ever: {len(real.leased)}")
        )
    raise AssertionError("it does not come to its end")
