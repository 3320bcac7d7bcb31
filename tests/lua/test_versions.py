"""Two versions of the scripts on one queue at once: ``frozen/`` keeps those that were released.

Scripts are addressed by their content, so that old and new clients can work side by side while a
fleet is replaced. What an old script does not know it must either carry along or refuse.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import redis

from pyqueue._scripts import Script
from tests.lua.harness import (
    MAGIC,
    SCRIPTS,
    TEST_FLAG,
    Answer,
    Arg,
    Reply,
    State,
    VirtualQueue,
    envelope,
)
from tests.lua.scenes import TYPICAL

FROZEN = Path(__file__).parent / "frozen"
OLD = sorted(path.name for path in FROZEN.iterdir())


class OldQueue(VirtualQueue):
    """The same queue, seen by a client of an old version."""

    def __init__(self, client: redis.Redis, version: str, new: VirtualQueue) -> None:
        self.folder = FROZEN / version
        super().__init__(client)
        self.put_state(new.state())
        self.me = new.caller()

    def source(self, verb: str) -> str:
        def included(line: re.Match[str]) -> str:
            return assemble(self.folder / "lib" / f"{line[1]}.lua")

        def assemble(path: Path) -> str:
            return re.sub(r"(?m)^ *-- @include (\w+)\n", included, path.read_text())

        return assemble(self.folder / f"{verb}.lua")

    def send(
        self, verb: str, *args: Arg, now: Arg | None = None, keys: Sequence[bytes] | None = None
    ) -> Reply:
        source = self.source(verb)
        names = tuple(re.findall(r"(?m)^-- KEYS\[\d+\](?:\.\.\.)? (\w+)", source))
        picked = self.keys.pick(names) if keys is None else keys
        return self.client.eval(
            source, len(picked), *picked, self.now if now is None else now, *args
        )

    def push(self, *messages: bytes, options: str = "", by: object = None) -> int:
        assert not options
        assert by is None
        return cast("int", self.call("push", *messages))


@pytest.fixture(params=OLD)
def both(request: pytest.FixtureRequest, queue: VirtualQueue) -> tuple[OldQueue, VirtualQueue]:
    return OldQueue(queue.client, request.param, queue), queue


def test_every_old_script_has_a_successor(both: tuple[OldQueue, VirtualQueue]) -> None:
    old, _ = both
    assert {path.stem for path in old.folder.glob("*.lua")} <= set(SCRIPTS)


@pytest.mark.parametrize("seed", range(20))
def test_both_work_on_one_queue(both: tuple[OldQueue, VirtualQueue], seed: int) -> None:
    """Whatever one does, the other goes on with."""
    dice = random.Random(seed)
    old, new = both
    held: list[int] = []
    pushed = completed = 0
    for step in range(150):
        me = dice.choice([old, new])
        old.now = new.now = new.now + dice.choice([1, 10, 500])
        match dice.choice(["push", "rpush", "lease", "loop", "release", "fail", "extend", "late"]):
            case "push":
                me.push(*(envelope(b"%d" % i, b"%010d%06d" % (step, i)) for i in range(3)))
                pushed += 3
            case "rpush":
                me.rpush("raw", "raw")
                pushed += 2
            case "lease":
                held += me.lease(2, 20_000).tokens
            case "loop":
                done, held = held[:2], held[2:]
                answer = me.lease(2, 20_000, done=done)
                completed += len(done) - len(answer.lost)
                held += answer.tokens
            case "late":
                me.sleep(25_000)
                old.now = new.now = me.now
                held.clear()  # all have run out
                me.reclaim()
            case verb if held:
                token = held.pop(dice.randrange(len(held)))
                if verb == "release":
                    assert me.release(token, delay=dice.choice([0, 3_000])) == []
                elif verb == "fail":
                    assert me.fail(token, retry_in=0 if dice.random() < 0.5 else "")[0] == []
                else:
                    assert me.extend(token, ttl=20_000)[1] == me.now + 20_000
                    held.append(token)
            case _:
                pass
    stats = new.stats()
    live = stats["waiting"] + stats["handoff"] + stats["delayed"] + stats["leased"]
    assert live + stats["dead"] + completed == pushed
    assert stats["total_completed"] == completed
    assert set(new.leased()) >= set(held)
    assert new.state().version == 1
    assert old.stats()["total_completed"] == completed


def test_after_an_outage_each_holds_leases_as_long_as_it_must(
    both: tuple[OldQueue, VirtualQueue],
) -> None:
    """Whoever asks first, and whatever the other has left as the time of the next event."""
    for first, second in (both, both[::-1]):
        second.now = first.now = first.now + 1
        first.rpush("apple")
        (token,) = first.take(ttl=9_000)
        second.now = first.now = first.now + 60_000
        assert Answer.of(first.call("lease", 1, 9_000, b"w")).rest == [3_000]
        second.now = first.now = first.now + 1_000
        wait = Answer.of(second.call("lease", 1, 9_000, b"w")).rest[0]
        assert wait in (2_000, 2_050)
        second.now = first.now = first.now + 2_000
        assert second.state().event <= second.now
        answer = Answer.of(second.call("lease", 1, 9_000, b"w"))
        assert answer.word == b"items"
        assert answer.first > token
        assert second.complete(answer.first) == []


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_an_old_script_leaves_a_queue_alone_that_uses_what_it_does_not_know(
    both: tuple[OldQueue, VirtualQueue], verb: str
) -> None:
    old, new = both
    if not (old.folder / f"{verb}.lua").exists():
        return
    headers = b"\x81\xa9:priority\x05"
    new.push(envelope(b"x", flags=2, headers=headers), options="0 0 0")
    assert new.state().version == 2
    call: list[Arg] = [] if verb in {"stats", "dead", "leases", "waiting"} else [b"slot", 1, 0]
    with old.refused("SCHEMA"):
        old.send(verb, *call, 1, 1, 1, 1)


def test_what_a_newer_version_has_put_behind_the_state_is_carried_along(
    both: tuple[OldQueue, VirtualQueue],
) -> None:
    old, new = both
    new.put_state(State(tail=b"of a later version"))
    for me in (old, new, old):
        me.rpush("a")
        (token,) = me.take()
        assert me.complete(token) == []
        assert new.state().tail == b"of a later version"
    assert new.state().completed == 3


def test_a_lease_of_one_is_settled_by_the_other(both: tuple[OldQueue, VirtualQueue]) -> None:
    for first, second in (both, both[::-1]):
        first.rpush("apple")
        (token,) = first.take()
        assert second.fail(token, retry_in=0) == [[], []]
        answer = Answer.of(first.call("lease", 1, 60_000, b"w"))
        assert answer.messages[0] is not None
        assert answer.messages[0].startswith(MAGIC)
        assert second.complete(answer.first) == []


@pytest.mark.parametrize("verb", sorted(SCRIPTS))
def test_a_version_that_is_not_known_is_refused(queue: VirtualQueue, verb: str) -> None:
    queue.put_state(State(version=3, flags=TEST_FLAG))
    script: Script = SCRIPTS[verb]
    call: list[Arg] = [b"slot", 1, 0] if script.takes_call else []
    with queue.refused("SCHEMA"):
        queue.send(verb, *call, *TYPICAL[verb](1, 2))
