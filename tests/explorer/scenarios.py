"""What can happen: scenarios, and the verbs that they are made of.

A verb is a function that says which calls a worker may make in a state; a new one is a few lines
here, and what it may do to an item in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from tests.explorer.states import LIVE, UNBORN, Call, Kind, Message, State, Worker
from tests.lua.harness import PAUSED, SEALED, START

#: All times are multiples of a second, so that few of them differ. `HOLD` is a third of `TTL`.
TTL, DELAY, HOLD = 3_000, 1_000, 1_000
#: Two attempts; a backoff of 1 ms whatever the jitter.
CONFIG = ((b"backoff_base", b"2"), (b"backoff_max", b"2"), (b"max_attempts", b"2"))
MAX_ATTEMPTS = 2

Verb: TypeAlias = Callable[[State, Worker], Iterator[Call]]


def _held(worker: Worker) -> Iterator[tuple[int, ...]]:
    """Each that it believes to hold, and all at once."""
    for token in worker.held:
        yield (token,)
    if len(worker.held) > 1:
        yield worker.held


def unborn(state: State) -> tuple[int, ...]:
    """The items that can be pushed."""
    return tuple(item for item, fate in enumerate(state.items) if fate == UNBORN)


def push(state: State, _: Worker) -> Iterator[Call]:
    for item in unborn(state):
        yield Call("push", (), (), (item,))


#: Verbs whose items are new.
PUSHING = frozenset({"push", "complete_push", "fail_push"})


def complete_push(state: State, worker: Worker) -> Iterator[Call]:
    for token in worker.held:
        for item in unborn(state):
            yield Call("complete_push", (), (token,), (item,))


def fail_push(state: State, worker: Worker) -> Iterator[Call]:
    for token in worker.held:
        for item in unborn(state):
            yield Call("fail_push", (0, b"e"), (token,), (item,))


def lease(_: State, __: Worker) -> Iterator[Call]:
    yield Call("lease", (1, TTL, b"w"))


def lease_many(_: State, __: Worker) -> Iterator[Call]:
    yield Call("lease", (9, TTL, b"w"))


def complete(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("complete", (), tokens)


def complete_and_lease(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("lease", (1, TTL, b"w"), tokens)


def release(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("release", (0,), tokens)


def release_later(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("release", (DELAY,), tokens)


def fail(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("fail", (b"", b"e"), tokens)


def fail_now(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("fail", (0, b"e"), tokens)


def bury(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("bury", (b"why", b"e"), tokens)


def extend(_: State, worker: Worker) -> Iterator[Call]:
    for tokens in _held(worker):
        yield Call("extend", (TTL,), tokens)


def close(_: State, worker: Worker) -> Iterator[Call]:
    """The last call of a slot whose last call was not answered."""
    if worker.doubt:
        yield Call("release", (0,))


def reclaim(state: State, _: Worker) -> Iterator[Call]:
    if state.leased:
        yield Call("reclaim", (100, HOLD))


def redrive(state: State, _: Worker) -> Iterator[Call]:
    for _reason, message in state.dead:
        yield Call("redrive", (), (), (message.item,))


def seal(state: State, _: Worker) -> Iterator[Call]:
    yield Call("seal", (0 if state.flags & SEALED else 1,))


def pause(state: State, _: Worker) -> Iterator[Call]:
    yield Call("pause", (0 if state.flags & PAUSED else 1,))


@dataclass(frozen=True)
class Scenario:
    """What is explored. Items of equal kind are alike."""

    about: str
    verbs: tuple[Verb, ...]
    #: What may go wrong, and what others do; see `search`.
    events: tuple[str, ...]
    config: tuple[tuple[bytes, bytes], ...] = CONFIG
    #: Items take turns in them.
    kinds: tuple[Kind, ...] = (Kind(),)
    #: How many ms may pass at once, besides to the next event.
    silences: tuple[int, ...] = ()

    def begin(self, workers: int, items: int, pushed: int) -> State:
        """An empty queue, or, of items that ask for nothing, with some waiting."""
        pushed = pushed if self.kinds == (Kind(),) else 0
        waiting = tuple(Message(item, item == 0, 0, 0) for item in range(pushed))
        return State(
            config=self.config,
            rotated=START,
            called=START,
            waiting=waiting,
            items=(LIVE,) * pushed + (UNBORN,) * (items - pushed),
            workers=(Worker(),) * workers,
        )


EVENTS = ("rpush", "unseen", "lost", "copy", "late", "death", "handoff", "time")
SETTLING = (complete, complete_and_lease, release, release_later, fail, fail_now, bury, extend)

SCENARIOS = {
    "plain": Scenario(
        "every verb, every fault",
        (push, lease, lease_many, *SETTLING, close, reclaim, redrive, seal, pause),
        EVENTS,
    ),
    "work": Scenario(
        "the loop of a worker, every fault: fewer verbs, so deeper",
        (lease, complete, complete_and_lease, fail_now, extend, close),
        EVENTS,
    ),
    "retries": Scenario(
        "attempts, delays and dead letters, on a network without faults",
        (lease, lease_many, fail, fail_now, bury, release_later, reclaim, redrive),
        ("rpush", "death", "time"),
    ),
    "silence": Scenario(
        "the outage guard, and a memory of calls that is rotated",
        (push, lease, complete, extend, fail_now, reclaim),
        ("unseen", "copy", "death", "time"),
        silences=(6_000, 301_000),
    ),
    "priority": Scenario(
        "priorities above and below the list, and items that are pushed for later",
        (push, lease, lease_many, complete, release, fail, fail_now, bury, redrive),
        ("unseen", "copy", "death", "time", "handoff"),
        kinds=(Kind(priority=1), Kind(), Kind(priority=-1), Kind(priority=1, delay=DELAY)),
    ),
    "groups": Scenario(
        "groups, whose items are leased one at a time, in their order",
        (push, lease, lease_many, *SETTLING, reclaim, redrive),
        ("unseen", "copy", "death", "time", "handoff"),
        kinds=(Kind(group="g"), Kind(group="g", delay=DELAY), Kind(group="g", priority=1), Kind()),
    ),
    "pipeline": Scenario(
        "follow-ups, which are there exactly when what they follow is gone",
        (lease, complete_push, fail_push, complete_and_lease, extend, seal),
        ("unseen", "lost", "copy", "late", "death", "time"),
        kinds=(Kind(), Kind(group="g"), Kind(group="g"), Kind(priority=1)),
    ),
    "unique": Scenario(
        "dedupe keys, until an item is settled and for a time",
        (push, lease, lease_many, complete, release, fail_now, bury, reclaim, redrive),
        ("unseen", "copy", "death", "time"),
        kinds=(Kind(unique="k"), Kind(unique="k"), Kind(unique="k", window=TTL), Kind()),
    ),
}
