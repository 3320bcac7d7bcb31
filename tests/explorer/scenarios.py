"""What can happen: scenarios, and the verbs that they are made of.

A verb is a function that says which calls a worker may make in a state; a new one is a few lines
here, and what it may do to an item in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from tests.explorer.states import LIVE, UNBORN, Call, Kind, Message, State, Worker
from tests.lua.harness import PAUSED, SEALED, START, TEST_FLAG

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
PUSHING = frozenset({"push", "complete_push", "fail_push", "import"})


def complete_push(state: State, worker: Worker) -> Iterator[Call]:
    for token in worker.held:
        for item in unborn(state):
            yield Call("complete_push", (), (token,), (item,))


def fail_push(state: State, worker: Worker) -> Iterator[Call]:
    for token in worker.held:
        for item in unborn(state):
            yield Call("fail_push", (0, b"e"), (token,), (item,))


def complete_push_on(state: State, worker: Worker) -> Iterator[Call]:
    """To the other queue; two at once to both."""
    born = unborn(state)
    for token in worker.held:
        for item in born:
            yield Call("complete_push", (), (token,), (item,), targets=(1,))
        if len(born) > 1:
            yield Call("complete_push", (), (token,), born[:2], targets=(0, 1))


def fail_push_on(state: State, worker: Worker) -> Iterator[Call]:
    for token in worker.held:
        for item in unborn(state):
            yield Call("fail_push", (0, b"e"), (token,), (item,), targets=(1,))


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


def import_letter(state: State, _: Worker) -> Iterator[Call]:
    """The dead letter of an item of another queue."""
    for item in unborn(state):
        yield Call("import", (), (), (item,))


#: Why an imported letter is dead.
IMPORTED = b"out"


def imported(item: int, kind: Kind) -> Message:
    """The message of a letter that comes from elsewhere."""
    return kind.new(item)._replace(attempts=MAX_ATTEMPTS)


def import_again(state: State, _: Worker) -> Iterator[Call]:
    """A dead letter that is there."""
    for _reason, message in state.dead:
        yield Call("import", (), (), (message.item,))


def purge_waiting(_: State, __: Worker) -> Iterator[Call]:
    yield Call("purge", (b"waiting",))


def purge_dead(state: State, _: Worker) -> Iterator[Call]:
    if state.dead:
        yield Call("purge", (b"dead",))


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
    #: There is a second queue, which follow-ups may go to.
    two: bool = False
    #: Clients leave out the keys of the features until they are told.
    narrow: bool = False
    #: What `check` and `repair` must find to be in order in each state.
    repair: bool = False

    @property
    def worker(self) -> Worker:
        """One that has just begun."""
        return Worker(wide=not self.narrow)

    def empty(self) -> State:
        """A queue that was just made and configured."""
        made = State(config=self.config, rotated=START, called=START)
        if made.features:
            made = made._replace(version=2, flags=TEST_FLAG | made.features)
        return made

    def begin(self, workers: int, items: int, pushed: int) -> State:
        """An empty queue, or, of items that ask for nothing, with some waiting."""
        pushed = pushed if self.kinds == (Kind(),) else 0
        waiting = tuple(Message(item, item == 0, 0, 0) for item in range(pushed))
        return self.empty()._replace(
            waiting=waiting,
            items=(LIVE,) * pushed + (UNBORN,) * (items - pushed),
            workers=(self.worker,) * workers,
            other=Scenario("", (), ()).empty() if self.two else None,
        )


EVENTS = ("rpush", "unseen", "lost", "copy", "late", "death", "handoff", "time")
DROPPING = (purge_waiting, purge_dead)
#: One a second, two at once; none for longer than 4 s.
LIMITS = (
    (b"max_leased", b"2"),
    (b"rate", b"1"),
    (b"burst", b"2"),
    (b"max_lease", b"4000"),
    (b"max_waiting", b"2"),
)
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
        (lease, lease_many, fail, fail_now, bury, release_later, reclaim, redrive, import_again),
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
    "pipelines": Scenario(
        "follow-ups into two queues, with the dedupe key of what they follow too",
        (lease, complete_push, complete_push_on, fail_push, fail_push_on, extend, reclaim),
        ("unseen", "lost", "copy", "death", "time"),
        kinds=(Kind(unique="k"), Kind(unique="k"), Kind(group="g"), Kind(group="g", delay=DELAY)),
        two=True,
    ),
    "limits": Scenario(
        "as many in flight, as fast and for as long as a queue allows, and not more than wait",
        (push, lease, lease_many, complete, complete_and_lease, release, fail_now, extend, reclaim),
        ("unseen", "copy", "death", "time"),
        config=(*CONFIG, *LIMITS),
    ),
    "purge": Scenario(
        "what waits or is dead is dropped, dead letters come from elsewhere, queues are deleted",
        (push, lease, complete, release_later, bury, *DROPPING, import_letter, redrive),
        ("rpush", "unseen", "copy", "death", "time", "handoff", "delete", "wipe"),
        kinds=(Kind(), Kind(group="g"), Kind(group="g", priority=1), Kind(unique="k")),
        repair=True,
    ),
    "ghosts": Scenario(
        "copies of what a dead worker has called arrive after its death",
        (push, lease, complete, complete_and_lease, release, fail_now, extend, reclaim),
        ("unseen", "lost", "copy", "late", "death", "ghost", "time"),
    ),
    "narrow": Scenario(
        "clients that leave out the keys of the features until they are told",
        (push, lease, complete, release, fail_now, bury, redrive),
        ("rpush", "unseen", "lost", "copy", "death", "time"),
        kinds=(Kind(), Kind(priority=1), Kind(group="g"), Kind(group="g")),
        narrow=True,
    ),
    "everything": Scenario(
        "a few of each verb, of each kind of item, of each fault",
        (
            *(push, lease, lease_many, complete_push_on, fail_push_on, *SETTLING, close),
            *(reclaim, redrive, *DROPPING, import_letter, seal, pause),
        ),
        ("rpush", "unseen", "copy", "death", "ghost", "handoff", "time", "delete", "wipe"),
        config=(*CONFIG, *LIMITS),
        kinds=(
            *(Kind(), Kind(group="g"), Kind(group="g", priority=1, delay=DELAY)),
            *(Kind(unique="k"), Kind(unique="k", window=TTL)),
        ),
        two=True,
        narrow=True,
        repair=True,
    ),
    "unique": Scenario(
        "dedupe keys, until an item is settled and for a time",
        (push, lease, lease_many, complete, release, fail_now, bury, reclaim, redrive),
        ("unseen", "copy", "death", "time"),
        kinds=(Kind(unique="k"), Kind(unique="k"), Kind(unique="k", window=TTL), Kind()),
    ),
}
