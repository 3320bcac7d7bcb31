"""Every verb that changes something, as a row of a table, and an account that must come out.

A round is some calls of one verb through a network with faults, each on items of its own. After it
all keys are read: each item is exactly where one call without a fault would have put it, as often
delivered and failed as then, and nothing else is there; the totals have risen by as much.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import redis

from pyqueue import Lease, Queue, ServerUnavailable
from pyqueue._keys import Keys
from tests.model.snapshot import SUSPECT, Parts, Snapshot, read
from tests.servers import wait_until

#: Longer than any of these tests, seconds.
LONG = 3600.0


class Fate(NamedTuple):
    """Where an item is, and what was counted on it."""

    place: str
    deliveries: int = 0
    attempts: int = 0
    suspect: bool = False


#: Completed, purged: nowhere.
GONE = Fate("gone")


def fates(snapshot: Snapshot) -> Counter[tuple[bytes, Fate]]:
    """Every message under every key, with its fate. One that is there twice counts twice."""
    places: Mapping[str, Sequence[bytes]] = {
        "waiting": [*snapshot.waiting, *snapshot.handoff],
        "delayed": [entry.message for entry in snapshot.delayed],
        "leased": [held.message for held in snapshot.leased.values()],
        "dead": [letter.message for letter in snapshot.dead.values()],
    }
    found: Counter[tuple[bytes, Fate]] = Counter()
    for place, messages in places.items():
        for message in messages:
            parts = Parts.of(message)
            fate = Fate(place, parts.deliveries, parts.attempts, bool(parts.flags & SUSPECT))
            found[parts.payload, fate] += 1
    return found


@dataclass
class Items:
    """What a call is about."""

    texts: Sequence[str]
    #: As if the queue behind the faults had made them.
    leases: Sequence[Lease] = ()

    @property
    def text(self) -> str:
        return self.texts[0]

    @property
    def lease(self) -> Lease:
        return self.leases[0]


def _waiting(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    direct.push_many(texts)
    return ()


def _nothing(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    return ()


def _held(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    direct.push_many(texts)
    return direct.lease_many(len(texts), LONG)


def _expired(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    direct.push_many(texts)
    leases = direct.lease_many(len(texts), 0.001)
    wait_until(lambda: direct.stats().expired == len(texts), "the leases run out")
    return leases


def _dead(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    direct.bury_many(_held(direct, texts), "as told")
    return ()


class Loop:
    """A worker's loop: what the last call leased is completed by the next."""

    def __init__(self) -> None:
        self.last: Sequence[Lease] = ()

    def __call__(self, queue: Queue, items: Items) -> object:
        batch = queue.lease_many(len(items.texts), LONG, completed=self.last)
        assert not batch.lost
        self.last = batch
        return batch


Call = Callable[[Queue, Items], object]


@dataclass(frozen=True)
class Verb:
    """How to call it, and what one call does to its items."""

    name: str
    given: Callable[[Queue, Sequence[str]], Sequence[Lease]]
    make: Callable[[], Call]
    fate: Fate
    #: By how much the totals rise with each item.
    counts: Mapping[str, int] = field(default_factory=dict)
    #: Items of a call, and calls of a round: one if a call takes whatever there is.
    each: int = 1
    calls: int = 50
    #: What it answers; of what is None anything will do.
    answer: object = None
    #: Whether it leases, and whether the leases of a call are completed by the next.
    leases: bool = False
    completes: bool = False
    #: Fields of `meta` while it is tried.
    meta: Mapping[str, int] = field(default_factory=dict)


def _verb(name: str, given: object, call: Call, fate: Fate, **options: object) -> Verb:
    return Verb(name, given, lambda: call, fate, **options)  # type: ignore[arg-type]


#: A new verb, or an option of one, is one more row.
VERBS: Sequence[Verb] = (
    _verb("push", _nothing, lambda q, x: q.push(x.text), Fate("waiting"), counts={"pushed": 1}),
    _verb(
        "push_many",
        _nothing,
        lambda q, x: q.push_many(x.texts),
        Fate("waiting"),
        counts={"pushed": 1},
        each=3,
    ),
    _verb("lease", _waiting, lambda q, _: q.lease(LONG), Fate("leased"), leases=True),
    _verb(
        "lease_many",
        _waiting,
        lambda q, x: q.lease_many(len(x.texts), LONG),
        Fate("leased"),
        leases=True,
        each=3,
    ),
    Verb(
        *("complete and lease", _waiting, Loop, Fate("leased"), {"completed": 1}),
        leases=True,
        completes=True,
        each=2,
    ),
    _verb("complete", _held, lambda _, x: x.lease.complete(), GONE, counts={"completed": 1}),
    _verb(
        "complete_many",
        _held,
        lambda q, x: q.complete_many(x.leases),
        GONE,
        counts={"completed": 1},
        each=3,
        answer=[True] * 3,
    ),
    _verb(
        "release",
        _held,
        lambda _, x: x.lease.release(),
        Fate("waiting", 1),
        counts={"released": 1},
    ),
    _verb(
        "release with a delay",
        _held,
        lambda _, x: x.lease.release(delay=LONG),
        Fate("delayed", 1),
        counts={"released": 1},
    ),
    _verb(
        "fail",
        _held,
        lambda _, x: x.lease.fail("as told", retry_in=0),
        Fate("waiting", 1, 1),
        counts={"failed": 1},
    ),
    _verb(
        "fail with a backoff",
        _held,
        lambda _, x: x.lease.fail("as told"),
        Fate("delayed", 1, 1),
        counts={"failed": 1},
        meta={"backoff_base": 3_600_000, "backoff_max": 3_600_000},
    ),
    _verb(
        "fail for the last time",
        _held,
        lambda _, x: x.lease.fail("as told"),
        Fate("dead", 1, 1),
        counts={"failed": 1, "dead": 1},
        meta={"max_attempts": 1},
    ),
    _verb("bury", _held, lambda _, x: x.lease.bury("why"), Fate("dead", 1, 1), counts={"dead": 1}),
    _verb(
        "extend",
        _held,
        lambda q, x: q.extend_many(x.leases, LONG + 1),
        Fate("leased"),
        each=2,
        answer=[True] * 2,
    ),
    _verb(
        "reclaim",
        _expired,
        lambda q, _: q.reclaim(),
        Fate("waiting", 1, 1, True),
        counts={"expired": 1},
        each=2,
        calls=1,
        answer=2,
    ),
    _verb(
        "redrive",
        _dead,
        lambda q, _: q.redrive(),
        Fate("waiting", 1),
        counts={"redriven": 1},
        each=2,
        calls=1,
        answer=2,
    ),
    _verb(
        "purge",
        _waiting,
        lambda q, _: q.purge(),
        GONE,
        counts={"purged": 1},
        each=2,
        calls=1,
        answer=2,
    ),
    _verb(
        "purge of the dead",
        _dead,
        lambda q, _: q.purge("dead"),
        GONE,
        counts={"purged": 1},
        each=2,
        calls=1,
        answer=2,
    ),
    Verb("seal", _nothing, lambda: _in_turn(Queue.seal, Queue.unseal), GONE, answer=True),
    Verb("pause", _nothing, lambda: _in_turn(Queue.pause, Queue.resume), GONE, answer=True),
)


def _in_turn(*verbs: Callable[[Queue], object]) -> Call:
    following = itertools.cycle(verbs)
    return lambda queue, _: next(following)(queue)


class Trial:
    """One verb, round after round, on a queue of its own."""

    def __init__(self, verb: Verb, queue: Queue, client: redis.Redis) -> None:
        self.verb = verb
        self.queue = queue
        self.calls = 0
        #: Calls that ended without an answer.
        self.unheard = 0
        self._client = client
        self._keys = Keys(queue.name)
        self._direct = Queue(queue.name, client=client)
        self._numbers = itertools.count()
        if verb.meta:
            (meta,) = self._keys.pick(("meta",))
            client.hset(meta, items=list(itertools.chain(*verb.meta.items())))

    def prepared(self) -> Sequence[Items]:
        """The items of each call of a round."""
        verb = self.verb
        texts = [str(next(self._numbers)) for _ in range(verb.calls * verb.each)]
        leases = [
            Lease(self.queue, lease._message, lease.token, lease.deadline, lease._until)
            for lease in verb.given(self._direct, texts)
        ]
        calls = [slice(start, start + verb.each) for start in range(0, len(texts), verb.each)]
        return [Items(texts[of_call], leases[of_call]) for of_call in calls]

    def round(self) -> None:
        """Calls, the account, and an empty queue again."""
        verb, call = self.verb, self.verb.make()
        all_items = self.prepared()
        before = self._direct.stats().totals
        ids: list[str] = []
        leases: list[Lease] = []
        for items in all_items:
            self.calls += 1
            try:
                answer = call(self.queue, items)
            except ServerUnavailable as error:
                # Carried out once all the same. (A verb that leases is never left without.)
                if verb.leases or not error.outcome_unknown:
                    raise
                self.unheard += 1
                ids += error.ids if verb.given is _nothing else ()
                continue
            if verb.leases:
                got = [answer] if isinstance(answer, Lease) else answer
                assert isinstance(got, Sequence)
                assert [lease.text for lease in got] == items.texts
                assert {(lease.deliveries, lease.attempts) for lease in got} == {(0, 0)}
                leases = [*got] if verb.completes else [*leases, *got]
            elif verb.answer is not None:
                assert answer == verb.answer
            elif isinstance(answer, str):
                ids.append(answer)
            elif isinstance(answer, list):
                ids += answer
        self._account(all_items, before, ids, leases)
        self.clear()

    def broken_off(self, break_off: Callable[[Callable[[], object]], None]) -> None:
        """One call that nobody hears the end of: it has happened, or it has not, and the last call
        of its slot gives back what it leased.
        """
        verb, call = self.verb, self.verb.make()
        items, *_ = self.prepared()
        before = self._fates()
        self.queue.stats()  # connects: redis-py does not recover from an interrupt amid that
        break_off(lambda: call(self.queue, items))
        self.queue.close()
        after = self._fates()
        concerned = {text.encode() for text in items.texts}
        changed = (before | after) - (before & after)
        assert {payload for payload, _ in changed} in (set(), concerned)
        if changed:
            done = Fate("waiting", 1) if verb.leases else verb.fate
            assert {fate for payload, fate in after if payload in concerned} <= {done}
        assert max(Counter(payload for payload, _ in after.elements()).values(), default=1) == 1
        self.clear()

    def _fates(self) -> Counter[tuple[bytes, Fate]]:
        return fates(read(self._client, self._keys))

    def _account(
        self,
        all_items: Sequence[Items],
        before: Mapping[str, int],
        ids: Sequence[str],
        leases: Sequence[Lease],
    ) -> None:
        verb = self.verb
        snapshot = read(self._client, self._keys)
        stats = self._direct.stats()
        settled = all_items[:-1] if verb.completes else all_items
        moved = [text.encode() for items in settled for text in items.texts]
        there = all_items[-1:] if verb.completes else all_items
        expected = Counter(
            {
                (text.encode(), verb.fate): 1
                for items in there
                for text in items.texts
                if verb.fate != GONE
            }
        )
        if verb.given is _nothing and verb.answer is not None:
            expected.clear()  # seal and pause have no items
        assert fates(snapshot) == expected
        assert {name: stats.totals[name] - before[name] for name in before} == {
            **dict.fromkeys(before, 0),
            **{name: count * len(moved) for name, count in verb.counts.items()},
        }
        assert snapshot.leases.keys() == snapshot.leased.keys()
        assert snapshot.dead.keys() == snapshot.died.keys()
        counts = Counter(fate.place for _, fate in expected.elements())
        assert counts == Counter(
            waiting=stats.waiting, delayed=stats.delayed, leased=stats.leased, dead=stats.dead
        )
        if verb.leases:
            assert list(snapshot.leases) == [lease.token for lease in leases]
        if ids:
            pushed = [Parts.of(message).id for message in snapshot.waiting]
            assert pushed == [bytes.fromhex(id.replace("-", "")) for id in ids]

    def clear(self) -> None:
        """Empties the queue by verbs: to delete it would forget the calls."""
        direct = self._direct
        direct.unseal()
        direct.resume()
        held = [Lease(direct, x._message, x.token, x.deadline, 0) for x in direct.leases()]
        assert all(direct.complete_many(held))
        direct.purge("waiting")
        direct.purge("dead")

    def end(self) -> None:
        """The account over the whole life of the queue."""
        assert not self._fates()
        stats = self._direct.stats()
        assert (stats.live, stats.dead, stats.sealed, stats.paused) == (0, 0, False, False)
        totals = stats.totals
        assert totals["pushed"] == totals["completed"] + totals["purged"]
        assert totals["unseen"] == totals["missing"] == 0
        self._direct.close()
