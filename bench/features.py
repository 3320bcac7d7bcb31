"""What a feature costs when it is used, each row beside the one without it; and what today's
scripts cost beside those of 0.1 where none is used.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

from pyqueue import Message, Queue
from pyqueue import _operations as op
from pyqueue._keys import Keys
from pyqueue._message import envelope, new_id
from pyqueue._scripts import Script

from .cost import (
    BOTH,
    BOTH_100,
    OTHER,
    PAYLOAD,
    TTL,
    VERBS,
    WORKER,
    Bench,
    Make,
    Verb,
    both,
    lease_with,
    none_lost,
    on_tokens,
    plain_message,
    purge,
    push,
    reclaim,
    redrive,
    waits_again,
)

#: The released scripts that the tests keep.
FROZEN = Path(__file__).parent.parent / "tests" / "lua" / "frozen" / "0.1"

_numbers = itertools.count()


def _key() -> str:
    """A dedupe key of a usual length, never the same again."""
    return f"user-{next(_numbers):012}"


def ranked(_: int) -> Message:
    """With a priority."""
    return Message(payload=PAYLOAD, priority=5)


def later(_: int) -> Message:
    """Delayed."""
    return Message(payload=PAYLOAD, delay=60)


def unique(_: int) -> Message:
    """With a dedupe key of its own, until it is settled."""
    return Message(payload=PAYLOAD, unique=_key())


def unique_for(_: int) -> Message:
    """With a dedupe key of its own, for a minute."""
    return Message(payload=PAYLOAD, unique=_key(), unique_for=60)


def taken(_: int) -> Message:
    """With a dedupe key that another item has."""
    return Message(payload=PAYLOAD, unique="taken")


def group_of(groups: int) -> Make:
    """The groups' messages in turn."""
    return lambda i: Message(payload=PAYLOAD, group=f"user-{i % groups:06}")


def key_and_group(i: int) -> Message:
    """One of a thousand groups, with a key."""
    return Message(payload=PAYLOAD, group=f"user-{i % 1000:06}", unique=_key())


def everything(i: int) -> Message:
    """One of a thousand groups, with a key and a priority."""
    return Message(payload=PAYLOAD, group=f"user-{i % 1000:06}", unique=_key(), priority=5)


def caps(queue: Queue) -> None:
    """Limits what can be pushed."""
    queue.configure(max_waiting=1_000_000, max_bytes=1 << 20)


def once(queue: Queue) -> None:
    """Uses what leaves a mark in the state for good: priority, group and dedupe key."""
    queue.push(PAYLOAD, priority=1, group="g", unique="u")
    queue.complete_many(queue.lease_many(1))


def _due(bench: Bench, verb: Verb) -> Callable[[], object]:
    """Leases what was delayed and is due: promoted in the same call."""
    bench.queue.push_many([PAYLOAD] * verb.items * verb.calls, delay=0.05)
    time.sleep(0.06)

    def run() -> None:
        for reply in bench.run(verb, [op.Lease(verb.items, TTL, WORKER)] * verb.calls):
            assert len(reply.messages) == verb.items

    return run


def follow_up(queue: str | None) -> op.FollowUp:
    """A plain one."""
    return op.FollowUp(Keys(queue) if queue else None, 0, 0, envelope(new_id(), PAYLOAD))


def _one_attempt(queue: Queue) -> None:
    queue.configure(max_attempts=1)


def _followed(queue: str | None) -> Callable[[Bench, Verb], Callable[[], object]]:
    return on_tokens(
        lambda tokens: op.CompletePush(tokens[0], [follow_up(queue)]), lambda done: done
    )


def _page(part: str, leased: bool) -> Callable[[Bench, Verb], Callable[[], object]]:
    """The first page of a part again and again."""

    def prepare(bench: Bench, verb: Verb) -> Callable[[], object]:
        if leased:
            bench.tokens(verb.items)
        else:
            bench.fill(verb.items)

        def run() -> None:
            for page in bench.run(verb, [op.Check(part, b"0", verb.items)] * verb.calls):
                assert isinstance(page, op.Survey) or page.items >= min(verb.items, 16)

        return run

    return prepare


def _repair(bench: Bench, verb: Verb) -> Callable[[], object]:
    """Mends leases whose messages are gone."""
    tokens = [b"%d" % token for token in bench.tokens(verb.calls)]
    bench.client.hdel(bench.keys.pick(("leased",))[0], *cast("list[Any]", tokens))
    calls = [op.Repair(True, "lease", "leases", token, b"", b"") for token in tokens]

    def run() -> None:
        assert set(bench.run(verb, calls)) == {"done"}

    return run


def _row(
    name: str,
    like: str,
    prepare: Callable[[Bench, Verb], Callable[[], object]],
    workers: int = 0,
    rounds: int = 0,
) -> Verb:
    """A row with as many items and calls as the plain one that it is compared with."""
    (plain,) = [verb for verb in VERBS if verb.name == like]
    return replace(
        plain,
        name=name,
        prepare=prepare,
        workers=workers or plain.workers,
        rounds=rounds or plain.rounds,
        group="features",
        plain=like,
    )


def _each(
    name: str, make: Make = plain_message, configure: Callable[[Queue], object] = lambda _: None
) -> list[Verb]:
    """The rows of a feature that matter most: push and complete + lease, one and a hundred."""
    first = push(make, before=lambda bench: configure(bench.queue))
    return [
        _row(f"push, {name}", "push", first),
        _row(f"push_many 100, {name}", "push_many 100", first),
        _row(f"{BOTH}, {name}", BOTH, both(make, configure)),
        _row(f"{BOTH_100}, {name}", BOTH_100, both(make, configure)),
    ]


def _limited(name: str, **settings: float) -> list[Verb]:
    def configure(queue: Queue) -> None:
        queue.configure(**settings)  # type: ignore[arg-type]  # some want an int

    return _each(name, configure=configure)[2:]


FEATURES: tuple[Verb, ...] = (
    *_each("features used once", configure=once),
    *_each("priority", ranked),
    _row("push, delayed", "push", push(later)),
    _row("push_many 100, delayed", "push_many 100", push(later)),
    _row("lease 100, delayed and due", "lease 100", _due, 1, 5),
    *_each("dedupe key", unique),
    *_each("dedupe key for a time", unique_for),
    _row(
        "push, dedupe key taken",
        "push",
        push(taken, before=lambda b: b.queue.push("", unique="taken")),
    ),
    *_each("1,000 groups", group_of(1000)),
    _row("push, one group", "push", push(group_of(1))),
    _row(f"{BOTH}, one group", BOTH, both(group_of(1)), 1, 100),
    *_each("1,000 groups, dedupe key", key_and_group),
    _row("complete, a follow-up", "complete", _followed(None)),
    _row("complete, a follow-up elsewhere", "complete", _followed(OTHER)),
    _row(
        "fail, a follow-up if dead: not yet",
        "fail, at once",
        on_tokens(
            lambda tokens: op.FailPush(tokens[0], [follow_up(None)], "error", 0), waits_again
        ),
    ),
    _row(
        "fail, a follow-up if dead: dead",
        "bury",
        on_tokens(
            lambda tokens: op.FailPush(tokens[0], [follow_up(None)], "error", 0),
            lambda reply: bool(reply.dead),
            configure=_one_attempt,
        ),
    ),
    *_limited("max_leased", max_leased=1_000_000),
    *_limited("rate", rate=1e6, burst=1_000_000),
    *_limited("ttl and max_lease", ttl=600.0, max_lease=3600.0),
    *_each("max_waiting and max_bytes", configure=caps)[:2],
    _row("reclaim 100, dedupe key", "reclaim 100", reclaim(unique)),
    _row("reclaim 100, groups", "reclaim 100", reclaim(group_of(1_000_000))),
    _row("redrive 100, dedupe key and group", "redrive 100", redrive(everything)),
    _row("purge, dedupe key", "purge", purge(unique)),
    _row("purge, group, key and priority", "purge", purge(everything)),
    Verb("check, the whole", 1, 20, 5, _page("keys", False), "features"),
    Verb("check, 200 waiting", 200, 1, 10, _page("waiting", False), "features"),
    Verb("check, 200 leased", 200, 1, 10, _page("leased", True), "features"),
    Verb("repair", 1, 20, 5, _repair, "features"),
)


# Today's scripts and those of 0.1


@cache
def _assemble(path: Path) -> str:
    def included(line: re.Match[str]) -> str:
        return _assemble(FROZEN / "lib" / f"{line[1]}.lua")

    return re.sub(r"(?m)^ *-- @include (\w+)\n", included, path.read_text(encoding="utf-8"))


def _old(script: Script) -> Script:
    """The same verb's script of 0.1."""
    source = _assemble(FROZEN / f"{script.name}.lua")
    keys = tuple(re.findall(r"(?m)^-- KEYS\[\d+\] (\w+)", source))
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return replace(script, source=source, sha=sha, keys=keys)


class OldLease(op.Lease):
    """lua/lease.lua of 0.1"""

    script: ClassVar[Script] = _old(op.Lease.script)


class OldComplete(op.Complete):
    """lua/complete.lua of 0.1"""

    script: ClassVar[Script] = _old(op.Complete.script)


class OldPush(op.Push):
    """lua/push.lua of 0.1, which had no options and answered with a number"""

    script: ClassVar[Script] = _old(op.Push.script)

    def args(self) -> Sequence[op.Arg]:
        return self.messages

    def decode(self, reply: op.Reply) -> op.PushReply:
        return op.PushReply(cast("int", reply), {})


def _was(like: str, prepare: Callable[[Bench, Verb], Callable[[], object]]) -> Verb:
    return replace(_row(f"0.1: {like}", like, _loaded(prepare)), group="unused")


def _loaded(
    prepare: Callable[[Bench, Verb], Callable[[], object]],
) -> Callable[[Bench, Verb], Callable[[], object]]:
    def loaded(bench: Bench, verb: Verb) -> Callable[[], object]:
        for operation in (OldLease, OldComplete, OldPush):
            bench.client.script_load(operation.script.source)
        return prepare(bench, verb)

    return loaded


UNUSED: tuple[Verb, ...] = (
    _was(BOTH, both(lease=OldLease)),
    _was(BOTH_100, both(lease=OldLease)),
    _was("lease", lease_with(OldLease)),
    _was("lease 100", lease_with(OldLease)),
    _was("complete", on_tokens(OldComplete, none_lost)),
    _was("complete 100", on_tokens(OldComplete, none_lost)),
    _was("push", push(operation=OldPush)),
    _was("push_many 100", push(operation=OldPush)),
)

ALL = (*VERBS, *FEATURES, *UNUSED)
GROUPS = ("verbs", "features", "unused")


def select(only: Sequence[str]) -> list[Verb]:
    """The rows of the groups named, or whose names contain one of the words; all without any. The
    raw loop and the rows that others are compared with are always among them.
    """
    chosen = {verb.name for verb in ALL if not only or verb.group in only}
    chosen |= {verb.name for verb in ALL for word in only if word in verb.name}
    wanted = {VERBS[0].name, *(verb.plain for verb in ALL if verb.name in chosen)}
    return [verb for verb in ALL if verb.name in chosen | wanted]
