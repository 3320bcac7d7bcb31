"""Every verb that changes something, as a row of a table, and an account that must come out.

A round is some calls of one verb through a network with faults, each on items of its own. After it
all keys are read: each item is exactly where one call without a fault would have put it, as often
delivered and failed as then, and nothing else is there; the totals have risen by as much.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import redis

from pyqueue import DeadLetter, Lease, Queue, ServerUnavailable
from pyqueue._keys import Keys
from pyqueue._message import id_text, new_id
from tests.lua.harness import WAKE, envelope
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


#: What is kept beside the messages: nothing may be left in these, or be there twice.
BESIDE = ("special", "unique", "unique_due", "groups")
Account = Counter[tuple[bytes, Fate]]


def everything(client: redis.Redis, keys: Keys) -> tuple[Snapshot, Account, Mapping[str, int]]:
    """Every message under every key, with its fate (one that is there twice counts twice), and how
    much is kept beside them.
    """
    snapshot = read(client, keys)
    assert not snapshot.handoff
    priority, grouped = (
        cast("list[bytes]", client.zrange(key, 0, -1)) for key in keys.pick(("priority", "grouped"))
    )
    places: Mapping[str, Sequence[bytes]] = {
        "waiting": [message for message in snapshot.waiting if message != WAKE],
        "delayed": [entry.message for entry in snapshot.delayed],
        "leased": [held.message for held in snapshot.leased.values()],
        "dead": [letter.message for letter in snapshot.dead.values()],
        "priority": [member[8:] for member in priority],
        # The group, NUL, 8 bytes of sequence, 6 of the due time, the message.
        "grouped": [member.partition(b"\0")[2][14:] for member in grouped],
    }
    found: Account = Counter()
    for place, messages in places.items():
        for message in messages:
            parts = Parts.of(message)
            fate = Fate(place, parts.deliveries, parts.attempts, bool(parts.flags & SUSPECT))
            found[parts.payload, fate] += 1
    sizes = {
        name: client.zcard(key) if name == "unique_due" else client.hlen(key)
        for name, key in zip(BESIDE, keys.pick(BESIDE), strict=True)
    }
    return snapshot, found, sizes


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


def _unique(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    for text in texts:
        direct.push(text, unique=text)
    return direct.lease_many(len(texts), LONG)


def _group(direct: Queue, texts: Sequence[str]) -> Sequence[Lease]:
    """The head of a group is held, the other waits for it."""
    for head, other in zip(texts[::2], texts[1::2], strict=True):
        direct.push_many((head, other), group=head)
    heads = direct.lease_many(len(texts), LONG)
    return [lease for head in heads for lease in (head, head)]


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
    counts: Mapping[str, float] = field(default_factory=dict)
    #: Of an item of a call by its place in it, if it is another.
    but: Mapping[int, Fate] = field(default_factory=dict)
    #: Of what follows from each item: its payload and a plus.
    follows: Fate | None = None
    #: How much there is beside the messages, for each call.
    beside: Mapping[str, int] = field(default_factory=dict)
    #: Whether that stays when the items are gone.
    lasts: bool = False
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

    def after(self, items: Items) -> Account:
        """Where the items of a call are after it."""
        account: Account = Counter()
        for number, text in enumerate(items.texts):
            account[text.encode(), self.but.get(number, self.fate)] += 1
            if self.follows is not None:
                account[f"{text}+".encode(), self.follows] += 1
        return Counter({found: count for found, count in account.items() if found[1] != GONE})


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
    _verb(
        "push with a delay",
        _nothing,
        lambda q, x: q.push(x.text, delay=LONG),
        Fate("delayed"),
        counts={"pushed": 1},
    ),
    _verb(
        "push with a priority",
        _nothing,
        lambda q, x: q.push(x.text, priority=3),
        Fate("priority"),
        counts={"pushed": 1},
    ),
    _verb(
        "push with a dedupe key",
        _nothing,
        lambda q, x: q.push(x.text, unique=x.text),
        Fate("waiting"),
        counts={"pushed": 1},
        beside={"unique": 1},
    ),
    _verb(
        "push with a dedupe key for a time",
        _nothing,
        lambda q, x: q.push(x.text, unique=x.text, unique_for=LONG),
        Fate("waiting"),
        counts={"pushed": 1},
        beside={"unique": 1, "unique_due": 1},
        lasts=True,
    ),
    _verb(
        "push with an id",
        _nothing,
        lambda q, x: q.push(x.text, id=id_text(new_id())),
        Fate("waiting"),
        counts={"pushed": 1},
        beside={"unique": 1, "unique_due": 1},
        lasts=True,
    ),
    _verb(
        "push into a group",
        _nothing,
        lambda q, x: q.push_many(x.texts, group=x.text),
        Fate("grouped"),
        counts={"pushed": 1},
        each=3,
        but={0: Fate("waiting")},
        beside={"groups": 1},
    ),
    _verb(
        "complete with a dedupe key",
        _unique,
        lambda _, x: x.lease.complete(),
        GONE,
        counts={"completed": 1},
    ),
    _verb(
        "bury the head of a group",
        _group,
        lambda _, x: x.lease.bury("why"),
        Fate("waiting"),
        counts={"dead": 0.5},
        each=2,
        but={0: Fate("dead", 1, 1)},
        beside={"groups": 1},
    ),
    _verb(
        "complete with a push",
        _held,
        lambda _, x: x.lease.complete(push=[f"{x.text}+"]),
        GONE,
        counts={"completed": 1, "pushed": 1},
        follows=Fate("waiting"),
    ),
    _verb(
        "fail with a push",
        _held,
        lambda _, x: x.lease.fail("as told", push=[f"{x.text}+"]),
        Fate("dead", 1, 1),
        counts={"failed": 1, "dead": 1, "pushed": 1},
        follows=Fate("waiting"),
        meta={"max_attempts": 1},
    ),
    _verb(
        "import",
        _nothing,
        lambda q, x: q.import_dead([_letter(x.text)]),
        Fate("dead"),
        counts={"imported": 1},
        answer=1,
    ),
    Verb(
        "configure",
        _nothing,
        lambda: _in_turn(
            lambda q: q.configure(max_leased=7) == {"max_leased": 7},
            lambda q: q.configure(max_leased=None) == {},
        ),
        GONE,
        answer=True,
    ),
    Verb("seal", _nothing, lambda: _in_turn(Queue.seal, Queue.unseal), GONE, answer=True),
    Verb("pause", _nothing, lambda: _in_turn(Queue.pause, Queue.resume), GONE, answer=True),
)


def _letter(text: str) -> DeadLetter:
    id = new_id()
    return DeadLetter(envelope(text.encode(), id), id_text(id), time.time(), "why", "me", "")


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
                ids += error.ids if "pushed" in verb.counts else ()
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

    def _account(
        self,
        all_items: Sequence[Items],
        before: Mapping[str, int],
        ids: Sequence[str],
        leases: Sequence[Lease],
    ) -> None:
        verb = self.verb
        snapshot, account, sizes = everything(self._client, self._keys)
        # A loop has completed all but what it leased last.
        there = all_items[-1:] if verb.completes else all_items
        assert account == sum((verb.after(items) for items in there), Account())
        calls = self.calls if verb.lasts else verb.calls
        assert sizes == {name: verb.beside.get(name, 0) * calls for name in BESIDE}
        stats = self._direct.stats()
        moved = sum(len(items.texts) for items in all_items[: -1 if verb.completes else None])
        assert {name: stats.totals[name] - before[name] for name in before} == {
            **dict.fromkeys(before, 0),
            **{name: count * moved for name, count in verb.counts.items()},
        }
        counts = Counter(fate.place for _, fate in account.elements())
        assert stats.waiting == counts["waiting"] + counts["priority"]
        assert (stats.delayed, stats.grouped) == (counts["delayed"], counts["grouped"])
        assert (stats.leased, stats.dead) == (counts["leased"], counts["dead"])
        assert snapshot.leases.keys() == snapshot.leased.keys()
        assert snapshot.dead.keys() == snapshot.died.keys()
        if verb.leases:
            assert list(snapshot.leases) == [lease.token for lease in leases]
        if ids and verb.fate.place == "waiting":
            pushed = [Parts.of(message).id for message in snapshot.waiting]
            assert pushed == [bytes.fromhex(id.replace("-", "")) for id in ids]

    def broken_off(self, break_off: Callable[[Callable[[], object]], None]) -> None:
        """One call that nobody hears the end of: it has happened, or it has not, and the last call
        of its slot gives back what it leased.
        """
        verb, call = self.verb, self.verb.make()
        items, *_ = self.prepared()
        _, before, _ = everything(self._client, self._keys)
        self.queue.stats()  # connects: redis-py does not recover from an interrupt amid that
        break_off(lambda: call(self.queue, items))
        self.queue.close()
        _, after, _ = everything(self._client, self._keys)
        texts = {text.encode() for text in items.texts}
        others = Counter({found: count for found, count in before.items() if found[0] not in texts})
        given_back = Counter({(text, Fate("waiting", 1)): 1 for text in texts})
        assert after in (before, others + (given_back if verb.leases else verb.after(items)))
        self.clear()

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
        _, left, sizes = everything(self._client, self._keys)
        assert not left
        assert self.verb.lasts or not any(sizes.values())
        stats = self._direct.stats()
        assert (stats.live, stats.dead, stats.sealed, stats.paused) == (0, 0, False, False)
        totals = stats.totals
        assert totals["pushed"] + totals["imported"] == totals["completed"] + totals["purged"]
        assert totals["unseen"] == totals["missing"] == 0
        self._direct.close()
