"""The queue as a plain program: what the protocol says, with lists and dicts.

It knows nothing of caches, bounds of events or packed fields. Where the protocol leaves something
open it takes what the server did, after checking that it is allowed: the jitter of a backoff,
where the wake markers are, the sequence numbers, the ids made of tokens, which dedupe keys whose
time is over were swept, which idle poll was written down.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgpack

from pyqueue import _operations as op
from pyqueue._message import id_bytes
from tests.lua.harness import MAGIC, NEVER, PAUSED, SEALED, TEST_FLAG, WAKE, Letter, raw_id
from tests.model.snapshot import SPECIAL, SUSPECT, Bond, Claim, Parts, Remembered, Snapshot

MAX_ATTEMPTS = 5
BACKOFF_BASE, BACKOFF_MAX = 1_000, 300_000
TTL = 60_000
#: How long an id that its maker has chosen is taken in once only.
ID_HOLDS = 3_600_000
#: Without a call for longer than this there was an outage.
OUTAGE = 5_000
#: How many leases, and how many due messages, one lease call moves.
MOVED = 100
#: Calls are remembered for at least this long.
REMEMBERED = 300_000
#: Longest time between two idle polls that are written down.
POLLS = 1_000
#: What is due later than this wakes nobody: every worker asks again by then.
ASKED_AGAIN = 2_000
#: Flags of the state: what a queue has ever used, and what it has configured.
PRIORITY, KEYED, RATE, CAPS, GROUPS, LEASING = 4, 16, 32, 64, 128, 256
CONFIGURED = {
    RATE: ("rate",),
    CAPS: ("max_leased", "max_waiting", "max_bytes"),
    LEASING: ("ttl", "max_lease"),
}


class Refused(Exception):
    """A call that changes nothing; the error word is the argument."""


class Asks(NamedTuple):
    """What a message asks for in its headers."""

    group: bytes | None = None
    unique: bytes | None = None
    priority: int = 0
    max_attempts: float | None = None
    #: Seconds.
    backoff: float | None = None
    backoff_max: float | None = None


@lru_cache(4096)
def asks(message: bytes) -> Asks:
    """What is of a wrong type or out of range counts as absent."""
    parts = Parts.of(message)
    if parts.id is None or not parts.flags & SPECIAL or not parts.headers:
        return Asks()
    headers = msgpack.unpackb(parts.headers, raw=True, strict_map_key=False)

    def name(header: bytes) -> bytes | None:
        value = headers.get(header)
        fits = isinstance(value, bytes) and 1 <= len(value) <= 255 and b"\0" not in value
        return value if fits else None

    def number(header: bytes, least: float, most: float) -> float | None:
        value = headers.get(header)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if fits and least <= value <= most else None

    priority = number(b":priority", -(2**20), 2**20) or 0
    return Asks(
        name(b":group"),
        name(b":unique"),
        int(priority) if priority == int(priority) else 0,
        number(b":max_attempts", 1, 65535),
        number(b":backoff", 0, 1e10),
        number(b":backoff_max", 0, 1e10),
    )


@dataclass(frozen=True)
class Call:
    """A call's id."""

    slot: bytes
    number: int
    ack: int


@dataclass
class Lease:
    message: bytes
    worker: bytes
    deadline: int


@dataclass
class Delayed:
    #: None until ``agree`` has read what the server chose: at most ``most`` ms from now.
    due: int | None
    message: bytes
    most: float = 0


@dataclass(frozen=True)
class LeaseAnswer:
    """What ``lease`` has to answer; how long to wait is left to ``Reference.check_wait``."""

    word: str
    lost: Sequence[int]
    first: int = 0
    deadline: int = 0
    messages: Sequence[bytes | None] = ()
    sealed: bool = False
    fresh: bool = False


Answer: TypeAlias = (
    LeaseAnswer
    | op.PushReply
    | op.FailReply
    | op.ExtendReply
    | op.ReclaimReply
    | op.PurgeReply
    | Mapping[str, float]
    | Sequence[object]
    | bool
)


@dataclass(frozen=True)
class Record:
    """What is remembered of a slot's last call."""

    number: int
    tokens: Sequence[int]
    answer: Answer
    #: In terms of ``Reference.elapsed``.
    time: int


@dataclass
class Reference:
    """One queue."""

    #: By the server's clock, which can go back.
    now: int
    #: Really gone by, as far as a server can know.
    elapsed: int
    #: What begins with the magic and is no message. Whoever pushes such bytes adds them.
    malformed: Collection[bytes]
    #: Where follow-ups can go.
    downstream: Reference | None = None
    waiting: list[bytes] = field(default_factory=list)
    handoff: list[bytes] = field(default_factory=list)
    #: Score and message, in the order of being put here. The lowest score goes first: it is the
    #: priority less than 0, and half a step before its equals for what was given back.
    priority: list[tuple[float, bytes]] = field(default_factory=list)
    #: In the order of being put here.
    delayed: list[Delayed] = field(default_factory=list)
    #: Group → due time (0: none) and message of those behind its head.
    grouped: dict[bytes, list[tuple[int, bytes]]] = field(default_factory=dict)
    #: Group → id of its head.
    groups: dict[bytes, bytes] = field(default_factory=dict)
    unique: dict[bytes, Claim] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    dead: dict[bytes, Letter] = field(default_factory=dict)
    died: dict[bytes, int] = field(default_factory=dict)
    #: New dead letters whose own id was taken, or that have none.
    nameless: list[Letter] = field(default_factory=list)
    memory: dict[bytes, Record] = field(default_factory=dict)
    sealed: bool = False
    paused: bool = False
    #: What is configured: ms, but for numbers.
    settings: dict[str, float] = field(default_factory=dict)
    #: Flags of what was used once.
    used: int = 0
    version: int = 1
    pushed: int = 0
    completed: int = 0
    raw: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    #: The last token, or sequence number, that the server is known to have issued.
    last: int = 0
    #: The first token that the server answered with.
    issued: int = 0
    #: When the last call was written down; 0 before the first.
    called: int = 0
    #: When the last idle poll was made, which need not be written down.
    polled: int = 0
    guard: tuple[int, int] = (0, 0)
    #: When the bucket of the rate will be full again, µs, and how many were told to wait for it.
    full_at: Fraction = Fraction(0)
    told: int = 0
    #: The messages that the last follow-ups brought in here.
    followed: list[bytes] = field(default_factory=list)
    #: What the last call delayed, and how many got a priority.
    newly_delayed: list[Delayed] = field(default_factory=list)
    newly_ranked: int = 0

    # What a script does, and in which order

    def apply(self, call: Call, operation: op.Operation[Any]) -> tuple[Answer, bool]:
        """Carries a call out. Returns its answer, and whether it was a copy of an earlier one.

        Raises Refused: then nothing has changed.
        """
        self.newly_delayed, self.newly_ranked = [], 0
        self.followed = []
        record = self.memory.get(call.slot)
        if record is not None:
            if call.number < record.number:
                raise Refused("STALE")
            if call.number == record.number:
                return self._again(record, operation), True
        if isinstance(operation, op.Push):
            self._refuse(operation.messages)
        self.open()
        unseen = record is not None and record.number > call.ack and bool(record.tokens)
        if record is not None and unseen:
            held = [token for token in record.tokens if token in self.leases]
            self._put_back(returned(self.leases.pop(token).message, token) for token in held)
            self.counters["unseen"] += len(held)
        answer = self._carry_out(operation)
        tokens: Sequence[int] = ()
        if isinstance(answer, LeaseAnswer) and isinstance(operation, op.Lease):
            tokens = range(answer.first, answer.first + len(answer.messages))
            if not (tokens or operation.completed or unseen):
                self.polled = self.now
                return answer, False
        self.memory[call.slot] = Record(call.number, tokens, answer, self.elapsed)
        self.called, self.polled = self.now, 0
        return answer, False

    def open(self) -> None:
        """What comes before everything: was there an outage?"""
        since, until = self.guard
        # When the clock went back to before the guard, that holds from now on.
        self.guard = (since, min(until, self.now))
        if self.called and self.now - self.called > OUTAGE:
            self.guard = (self.called, self.now)

    def _refuse(self, messages: Sequence[bytes]) -> None:
        if self.sealed:
            raise Refused("SEALED")
        most = self.settings.get("max_bytes", math.inf)
        if any(len(Parts.of(message).payload) > most for message in messages):
            raise Refused("TOOLARGE")
        # What was handed off is as good as leased.
        there = len(self.priority) + len(self.delayed) + sum(x != WAKE for x in self.waiting)
        there += sum(map(len, self.grouped.values()))
        if there + len(messages) > self.settings.get("max_waiting", math.inf):
            raise Refused("FULL")

    def _again(self, record: Record, operation: op.Operation[Any]) -> Answer:
        answer = record.answer
        if isinstance(answer, LeaseAnswer):
            if not record.tokens:
                return LeaseAnswer("empty", answer.lost)
            held = [self.leases.get(token) for token in record.tokens]
            deadlines = [lease.deadline for lease in held if lease is not None]
            messages = [None if lease is None else lease.message for lease in held]
            deadline = deadlines[-1] if deadlines else 0
            return LeaseAnswer("items", answer.lost, answer.first, deadline, messages)
        if isinstance(operation, op.Extend):
            return self._deadlines(operation.tokens)
        if isinstance(operation, op.Configure):
            return self._configured()
        return answer

    def _carry_out(self, operation: op.Operation[Any]) -> Answer:  # noqa: PLR0911, PLR0912 - the verbs
        match operation:
            case op.Push():
                return self._push(operation)
            case op.Lease():
                return self._lease(operation)
            case op.Complete(tokens):
                return self._complete(tokens)
            case op.CompletePush(token, follow_ups):
                if token not in self.leases:
                    return False
                self._follow(follow_ups, self.leases[token].message)
                self._complete([token])
                return True
            case op.Release(tokens, delay):
                return self._release(tokens, round(delay * 1000))
            case op.Fail(tokens, error, retry_in):
                return self._fail(tokens, error, retry_in)
            case op.FailPush(token, follow_ups, error, retry_in):
                if token in self.leases and self._is_last(token):
                    self._follow(follow_ups, self.leases[token].message)
                return self._fail([token], error, retry_in)
            case op.Bury(tokens, reason, error):
                return self._bury(tokens, reason.encode(), error.encode())
            case op.Extend(tokens, ttl):
                self._extend(tokens, ttl)
                return self._deadlines(tokens)
            case op.Reclaim(limit, hold):
                back, dead = self._reclaim(limit, hold * 1000)
                left = sum(lease.deadline <= self.now for lease in self.leases.values())
                first = min((lease.deadline for lease in self.leases.values()), default=None)
                wait = 0 if first is None else self._reclaimable(first, hold * 1000) - self.now
                return op.ReclaimReply(back, dead, left, max(wait, 0) / 1000)
            case op.Seal(sealed):
                changed, self.sealed = sealed != self.sealed, sealed
                return changed
            case op.Pause(paused):
                changed, self.paused = paused != self.paused, paused
                return changed
            case op.Configure(settings):
                return self._configure(settings)
            case op.Purge(what):
                return self._purge(what)
            case op.Redrive(ids):
                return self._redrive(ids)
            case op.Import():
                return self._import(operation)
        raise NotImplementedError(operation)

    def delete(self, force: bool) -> op.DeleteReply:
        """What ``delete`` has to answer. When it deletes, this reference is done with."""
        live, dead = len(self.leases) + len(self.dormant()), len(self.dead)
        return op.DeleteReply(force or live + dead == 0, live, dead)

    def dormant(self) -> list[bytes]:
        """The messages of everything that waits, in the order of ``waiting``."""
        return [message for _, message in self.listing()]

    def listing(self) -> list[tuple[str, bytes]]:
        """State and message of everything that waits, in the order of ``waiting``."""
        ranked = sorted(self.priority, key=lambda entry: entry[0])
        delayed = sorted(self.delayed, key=lambda entry: entry.due or 0)
        return [
            *(("handoff", message) for message in self.handoff if message != WAKE),
            *(("priority", message) for score, message in ranked if score < 0),
            *(("waiting", message) for message in self.waiting if message != WAKE),
            *(("priority", message) for score, message in ranked if score > 0),
            *(("delayed", entry.message) for entry in delayed),
            *(("grouped", x) for group in sorted(self.grouped) for _, x in self.grouped[group]),
        ]

    # Taking in

    def _push(self, operation: op.Push) -> op.PushReply:
        if operation.options is None:
            self.waiting += operation.messages
            self.pushed += len(operation.messages)
            return op.PushReply(len(operation.messages), {})
        delay, window, chosen = operation.options
        taken = {}
        for position, message in enumerate(operation.messages):
            holder = self._take_in(message, delay, window, chosen)
            if holder is not None:
                taken[position] = holder
        self.pushed += len(operation.messages) - len(taken)
        return op.PushReply(len(operation.messages) - len(taken), taken)

    def _follow(self, follow_ups: Sequence[op.FollowUp], ended: bytes) -> None:
        """Takes in what follows from an item that ends, whose dedupe key is free for it."""
        for follow_up in follow_ups:
            if follow_up.queue is None:
                queue, free = self, (ended[4:20], False)
            else:
                assert self.downstream is not None
                queue, free = self.downstream, None
                if not queue.followed:
                    queue.open()
                queue.called, queue.polled = queue.now, 0
            message, delay, window = follow_up.message, follow_up.delay, follow_up.window
            holder = queue._take_in(message, delay, window, free=free)
            if holder is None:
                queue.pushed += 1
                queue.followed.append(message)

    def _take_in(
        self,
        message: bytes,
        delay: float = 0,
        window: float = 0,
        chosen: bool = False,
        free: tuple[bytes, bool] | None = None,
    ) -> bytes | None:
        """Returns the id of who has its dedupe key, or its id, already: then it is not taken in.
        The claim of the item ``free`` does not count: one for a time if that is True, else one
        that holds until it is settled.
        """
        id, asked = message[4:20], asks(message)
        guard = self.unique.get(b"\0id" + id) if chosen else None
        if guard and guard.expiry > self.now:
            return guard.id
        claim = self.unique.get(asked.unique) if asked.unique else None
        if (
            claim
            and (not claim.expiry or claim.expiry > self.now)
            and (claim.id, claim.expiry > 0) != free
        ):
            return claim.id
        if chosen:
            self.unique[b"\0id" + id] = Claim(id, self.now + ID_HOLDS)
        if asked.unique:
            expiry = self.now + round(window * 1000) if round(window * 1000) else 0
            self.unique[asked.unique] = Claim(id, expiry)
        due = self.now + round(delay * 1000)
        if asked.group in self.groups:
            assert asked.group is not None
            behind = (due if due > self.now else 0, message)
            self.grouped.setdefault(asked.group, []).append(behind)
        else:
            if asked.group:
                self.groups[asked.group] = id
            self._arrive(message, due)
        used = PRIORITY * bool(asked.priority) | KEYED * bool(chosen or asked.unique or asked.group)
        self._use(used | GROUPS * bool(asked.group))
        return None

    def _use(self, used: int) -> None:
        self.used |= used
        if used:
            self.version = 2

    def _arrive(self, message: bytes, due: int = 0) -> None:
        """To where it can be leased, or can be later."""
        priority = asks(message).priority
        if due > self.now:
            self._delay(Delayed(due, message))
        elif priority:
            self.priority.append((-priority, message))
            self.newly_ranked += 1
        else:
            self.waiting.append(message)

    def _delay(self, entry: Delayed) -> None:
        self.delayed.append(entry)
        self.newly_delayed.append(entry)

    def _put_back(self, messages: Iterable[bytes]) -> None:
        """To where they were leased from, before their equals."""
        plain = []
        for message in messages:
            priority = asks(message).priority
            if priority:
                self.priority.append((-priority - 0.5, message))
                self.newly_ranked += 1
            else:
                plain.append(message)
        self.waiting[:0] = plain

    def _free(self, messages: Iterable[bytes]) -> None:
        """What they have held, since they are gone: their dedupe keys, and their groups, whose next
        can go, one of each group.
        """
        moved: set[bytes] = set()
        for message in messages:
            id, asked = message[4:20], asks(message)
            if asked.unique and self.unique.get(asked.unique) == Claim(id, 0):
                del self.unique[asked.unique]
            if not asked.group or self.groups.get(asked.group) != id or asked.group in moved:
                continue
            moved.add(asked.group)
            behind = self.grouped.get(asked.group)
            if behind:
                due, following = behind.pop(0)
                self.groups[asked.group] = following[4:20]
                self._arrive(following, due)
            else:
                del self.groups[asked.group]
            if not behind:
                self.grouped.pop(asked.group, None)

    # Leasing

    def _lease(self, operation: op.Lease) -> LeaseAnswer:
        lost = self._complete(operation.completed)
        ttl = self.ttl(operation.ttl)
        self._reclaim(MOVED, hold_of(ttl))
        self._promote()
        messages: list[bytes] = []
        malformed: list[bytes] = []
        most, why = self._allowance(operation.n)
        self._take(most, messages, malformed)
        first = max(self.last + 1, self.now * 1000)
        if messages and first < self.issued < first + 3 * MOVED:
            first = self.issued  # sequence numbers came before
        for token, message in enumerate(messages, first):
            self.leases[token] = Lease(message, operation.worker, self.now + ttl)
            self.raw += not message.startswith(MAGIC)
            asked = asks(message)
            keyed = KEYED * bool(asked.unique or asked.group)
            self._use(PRIORITY * bool(asked.priority) | keyed)
        for message in malformed:
            self._entomb(message, b"", b"malformed", b"")
        if messages:
            if "rate" in self.settings:
                self.full_at = self._bucket() + len(messages) * self._interval()
                self.told = 0
            return LeaseAnswer("items", lost, first, self.now + ttl, messages)
        unready = bool(self.delayed or self.leases or self.grouped)
        if not most and not unready and not self.priority:
            self._discard_markers()
        leasable = bool(self.waiting or self.handoff or self.priority)
        if not (leasable or unready):
            fresh = not (self.pushed or self.last or malformed)
            return LeaseAnswer("drained", lost, sealed=self.sealed, fresh=fresh)
        if self.paused:
            return LeaseAnswer("paused", lost)
        if why and not most and leasable:
            return LeaseAnswer(why, lost)
        return LeaseAnswer("group" if self.grouped and not leasable else "empty", lost)

    def _discard_markers(self) -> None:
        for source in (self.handoff, self.waiting):
            while source and source[0] == WAKE:
                del source[0]
            if source:
                break

    def ttl(self, seconds: float | None) -> int:
        """How long a lease lasts, ms."""
        ttl = self.settings.get("ttl", TTL) if seconds is None else round(seconds * 1000)
        return int(min(ttl, self.settings.get("max_lease", math.inf)))

    def _allowance(self, n: int) -> tuple[int, str]:
        """How many may be leased of those asked for, and what limits them."""
        if self.paused or not n:
            return 0, ""
        most, why = n, ""
        cap = max(self.settings.get("max_leased", math.inf) - len(self.leases), 0)
        if cap < most:
            most, why = int(cap), "limit"
        if "rate" in self.settings:
            missing = (self._bucket() - self.now * 1000) / self._interval()
            full = math.floor(self._burst() - missing)
            if full < most:
                most, why = full, "rate"
        return most, why

    def _interval(self) -> Fraction:
        """From one lease to the next at the rate, µs."""
        return 1_000_000 / Fraction(self.settings["rate"])

    def _burst(self) -> int:
        return int(self.settings.get("burst", max(math.floor(self.settings["rate"]), 1)))

    def _bucket(self) -> Fraction:
        """When the bucket will be full: not in the past, nor later than an empty one would be."""
        now = Fraction(self.now * 1000)
        return min(max(self.full_at, now), now + self._burst() * self._interval())

    def rate_wait(self) -> float:
        """What a worker is told that asks too early, seconds: the first when the next may go, each
        later one the time of one more; a far time is told as it is.
        """
        self.full_at = self._bucket()
        first = self.full_at - (self._burst() - 1) * self._interval() - self.now * 1000
        wait = math.ceil(first / 1000)
        if wait < 2000:
            wait = math.ceil(wait + self.told * self._interval() / 1000)
            self.told += 1
        return wait / 1000

    def _take(self, n: int, messages: list[bytes], malformed: list[bytes]) -> None:
        ranked = sorted(self.priority, key=lambda entry: entry[0])
        high = [message for score, message in ranked if score < 0]
        low = [message for score, message in ranked if score > 0]
        taken: list[bytes] = []
        for source in (self.handoff, high, self.waiting, low):
            while source and len(messages) < n:
                message = source[0]
                suspect = message not in self.malformed and Parts.of(message).flags & SUSPECT
                if suspect and messages:
                    n = 0
                    break
                del source[0]
                if source is high or source is low:
                    taken.append(message)
                if message in self.malformed:
                    malformed.append(message)
                elif message != WAKE:
                    messages.append(message)
                if suspect:
                    n = 0
        for message in taken:
            # Its first place in the order, should there be two of it.
            entry = next(x for x in ranked if x[1] == message)
            ranked.remove(entry)
            self.priority.remove(entry)

    def _promote(self) -> None:
        due = sorted(
            (entry for entry in self.delayed if entry.due is not None and entry.due <= self.now),
            key=lambda entry: entry.due or 0,
        )
        for entry in due[:MOVED]:
            self.delayed = [x for x in self.delayed if x is not entry]
            self._arrive(entry.message)

    def _reclaimable(self, deadline: int, hold: float) -> float:
        since, until = self.guard
        if since < deadline < until + hold:
            return until + hold
        return deadline

    def _reclaim(self, limit: int, hold: float) -> tuple[int, int]:
        out = sorted(
            (lease.deadline, token)
            for token, lease in self.leases.items()
            # Never before its deadline, whatever the guard says: the clock may have gone back.
            if max(lease.deadline, self._reclaimable(lease.deadline, hold)) <= self.now
        )[:limit]
        back: list[bytes] = []
        ended: list[bytes] = []
        for token in sorted(token for _, token in out):
            lease = self.leases.pop(token)
            message = returned(lease.message, token, charged=1, flags=SUSPECT)
            if Parts.of(message).attempts >= self._max_attempts(message):
                self._entomb(message, lease.worker, b"expired", b"the lease ran out")
                ended.append(message)
            else:
                back.append(message)
        self._put_back(back)
        self._free(ended)
        self.counters["expired"] += len(out)
        return len(back), len(ended)

    def next_event(self, hold: float) -> float:
        """When something happens by itself: a message is due, a lease can be reclaimed."""
        leases = (self._reclaimable(lease.deadline, hold) for lease in self.leases.values())
        return min((*leases, *(entry.due or 0 for entry in self.delayed)), default=NEVER)

    # Settling

    def _complete(self, tokens: Sequence[int]) -> list[int]:
        lost = [i for i, token in enumerate(tokens) if token not in self.leases]
        held = dict.fromkeys(token for token in tokens if token in self.leases)
        ended = [self.leases.pop(token).message for token in held]
        self._free(ended)
        self.completed += len(ended)
        return lost

    def _end(self, tokens: Sequence[int], end: Callable[[int, int, Lease], None]) -> list[int]:
        """Ends leases in the order of the tokens. A token given twice is lost the second time."""
        lost = []
        for position, token in enumerate(tokens):
            lease = self.leases.pop(token, None)
            if lease is None:
                lost.append(position)
            else:
                end(position, token, lease)
        return lost

    def _release(self, tokens: Sequence[int], delay: int) -> list[int]:
        messages: list[bytes] = []
        lost = self._end(tokens, lambda _, token, x: messages.append(returned(x.message, token)))
        if delay:
            for message in messages:
                self._delay(Delayed(self.now + delay, message))
        else:
            self._put_back(messages)
        self.counters["released"] += len(messages)
        return lost

    def _max_attempts(self, message: bytes) -> float:
        return asks(message).max_attempts or self.settings.get("max_attempts", MAX_ATTEMPTS)

    def _is_last(self, token: int) -> bool:
        """Whether an item is dead once this lease of it fails."""
        message = returned(self.leases[token].message, token, charged=1)
        return Parts.of(message).attempts >= self._max_attempts(message)

    def _fail(self, tokens: Sequence[int], error: str, retry_in: float | None) -> op.FailReply:
        dead: list[int] = []
        ready: list[bytes] = []
        ended: list[bytes] = []

        def end(position: int, token: int, lease: Lease) -> None:
            self.counters["failed"] += 1
            message = returned(lease.message, token, charged=1)
            if Parts.of(message).attempts >= self._max_attempts(message):
                dead.append(position)
                ended.append(message)
                self._entomb(message, lease.worker, b"failed", error.encode())
            elif retry_in is None:
                most = self._backoff(message)
                if most > 1:
                    self._delay(Delayed(None, message, most))
                else:
                    ready.append(message)
            elif round(retry_in * 1000):
                self._delay(Delayed(self.now + round(retry_in * 1000), message))
            else:
                ready.append(message)

        lost = self._end(tokens, end)
        for message in ready:
            self._arrive(message)
        self._free(ended)
        return op.FailReply(lost, dead)

    def _backoff(self, message: bytes) -> float:
        """The longest that it may wait, ms; the shortest is half of that."""
        asked, attempts = asks(message), Parts.of(message).attempts
        base = self.settings.get("backoff_base", BACKOFF_BASE)
        most = self.settings.get("backoff_max", BACKOFF_MAX)
        if asked.backoff is not None:
            base = asked.backoff * 1000
        if asked.backoff_max is not None:
            most = asked.backoff_max * 1000
        return min(base * math.pow(2, attempts - 1), most)

    def _bury(self, tokens: Sequence[int], reason: bytes, error: bytes) -> list[int]:
        ended: list[bytes] = []

        def end(_: int, token: int, lease: Lease) -> None:
            ended.append(returned(lease.message, token, charged=1))
            self._entomb(ended[-1], lease.worker, reason, error)

        lost = self._end(tokens, end)
        self._free(ended)
        return lost

    def _extend(self, tokens: Sequence[int], seconds: float | None) -> None:
        ttl = self.settings.get("ttl", TTL) if seconds is None else round(seconds * 1000)
        longest = self.settings.get("max_lease", math.inf)
        for token in tokens:
            if token in self.leases:
                # A token is the time when it was issued.
                deadline = min(self.now + ttl, token // 1000 + longest)
                self.leases[token].deadline = int(deadline)

    def _deadlines(self, tokens: Sequence[int]) -> op.ExtendReply:
        held = (self.leases.get(token) for token in tokens)
        return op.ExtendReply(
            self.now / 1000, [None if lease is None else lease.deadline / 1000 for lease in held]
        )

    def _entomb(self, message: bytes, worker: bytes, reason: bytes, error: bytes) -> None:
        id = message[4:20]
        letter = Letter(reason, worker, error, message)
        if len(id) < 16 or id in self.dead:
            self.nameless.append(letter)
        else:
            self.dead[id], self.died[id] = letter, self.now
        self.counters["dead"] += 1

    def check_wait(self, wait: float | None, hold: float, asked: int) -> None:
        """How long an empty-handed worker is told to wait: not past the next event, but for 50 ms
        for each that was told before.
        """
        event = self.next_event(hold)
        if event != NEVER:
            assert wait is not None
            assert 0 <= round(wait * 1000) <= max(event - self.now, 0) + 50 * asked

    # Dead letters, and operators

    def _configure(self, settings: Mapping[str, float | None]) -> Mapping[str, float]:
        for name, value in settings.items():
            if value is None:
                self.settings.pop(name, None)
            else:
                self.settings[name] = round(value * 1000) if op.SETTINGS[name] else value
        if self._limiting():
            self.version = 2
        return self._configured()

    def _configured(self) -> Mapping[str, float]:
        """In seconds, by the names of the API."""
        return {
            "backoff" if name == "backoff_base" else name: value
            / (1000 if op.SETTINGS[name] else 1)
            for name, value in self.settings.items()
        }

    def _limiting(self) -> int:
        """The flags of what is configured."""
        flags = [
            flag
            for flag, names in CONFIGURED.items()
            if any(name in self.settings for name in names)
        ]
        return sum(flags)

    def _purge(self, what: str) -> op.PurgeReply:
        if what == "dead":
            dropped = len(self.dead)
            self.dead.clear()
            self.died.clear()
        else:
            messages = self.dormant()
            dropped = len(messages)
            queues = (self.waiting, self.handoff, self.delayed, self.priority, self.grouped)
            for emptied in queues:
                emptied.clear()
            self._free(message for message in messages if message not in self.malformed)
        self.counters["purged"] += dropped
        return op.PurgeReply(dropped, more=False)

    def dropped(self, call: Call, reply: op.PurgeReply) -> op.PurgeReply:
        """The server's count of what a purge dropped, which may have markers in it."""
        record = self.memory[call.slot]
        assert isinstance(record.answer, op.PurgeReply)
        self.counters["purged"] += reply.dropped - record.answer.dropped
        self.memory[call.slot] = replace(record, answer=reply)
        return reply

    def _redrive(self, ids: Sequence[bytes]) -> list[int]:
        kept = []
        redriven = []
        for position, id in enumerate(ids):
            letter = self.dead.get(id)
            if letter is None or id in redriven or letter.message in self.malformed:
                kept.append(position)
                continue
            message = Parts.of(letter.message)._replace(attempts=0).pack()
            # Its own key may still hold for a time.
            if self._take_in(message, free=(message[4:20], True)):
                kept.append(position)
            else:
                redriven.append(id)
        for id in redriven:
            del self.dead[id], self.died[id]
        self.counters["redriven"] += len(redriven)
        return kept

    def _import(self, operation: op.Import) -> list[int]:
        kept = []
        for position, x in enumerate(operation.letters):
            id = id_bytes(x.id)
            if id in self.dead:
                kept.append(position)
            else:
                texts = (x.reason.encode(), x.worker.encode(), x.error.encode())
                self.dead[id] = Letter(*texts, x.message)
                self.died[id] = round(x.died_at * 1000)
                self.counters["imported"] += 1
        return kept

    # Against the server

    def agree(self, before: Snapshot, after: Snapshot) -> int:
        """Takes over what the server may choose, after checking that it may. Returns how many
        blocked workers were served.
        """
        state = after.state
        assert state is not None
        for slot, record in list(self.memory.items()):
            if slot not in after.calls:
                assert self.elapsed - record.time > REMEMBERED, "a young call was forgotten"
                del self.memory[slot]
        for key, claim in list(self.unique.items()):
            if claim.expiry and claim.expiry <= self.now and key not in after.unique:
                del self.unique[key]
        for letter in self.nameless:
            id = next(id for id, x in after.dead.items() if x == letter and id not in self.dead)
            self.dead[id], self.died[id] = letter, self.now
        self.nameless.clear()
        found = sorted(after.delayed, key=lambda entry: entry.sequence)
        assert [entry.message for entry in found] == [entry.message for entry in self.delayed]
        for entry, real in zip(self.delayed, found, strict=True):
            if entry.due is None:
                entry.due = int(real.score)
                wait = entry.due - self.now
                assert math.floor(entry.most / 2) <= wait <= entry.most, "a backoff out of range"
        if state.called != self.called and state.called == self.polled:
            self.called = self.polled
        assert state.last >= self.last, "the counter of tokens went back"
        self.last = state.last
        return self.wakes(before, after)

    def wakes(self, before: Snapshot, after: Snapshot) -> int:
        """BLMOVE takes the head of the list to the tail of the handoff: together they are as they
        were.
        """
        mine, real = [*self.handoff, *self.waiting], [*after.handoff, *after.waiting]
        assert [x for x in mine if x != WAKE] == [x for x in real if x != WAKE]
        # Of the handoff the script took from the head, and only BLMOVE adds to it.
        served = len(after.handoff) - len(self.handoff)
        assert served >= 0
        self.handoff, self.waiting = [*after.handoff], [*after.waiting]
        woke = served or after.waiting
        if self.newly_ranked and self.priority:
            assert woke, "nobody was woken for a message with a priority"
        due = min((entry.due or 0 for entry in self.newly_delayed), default=NEVER)
        known = before.state
        # A worker that was told of an earlier event learns of this one when it wakes for that.
        told = known and known.asked and self.now < known.event <= due
        if due - self.now < ASKED_AGAIN and not told:
            assert woke, "nobody was woken for a message that is due soon"
        self.newly_delayed, self.newly_ranked = [], 0
        return served

    def check(self, real: Snapshot) -> None:
        """The whole state is the same."""
        assert list(real.waiting) == self.waiting
        assert list(real.handoff) == self.handoff
        in_order = sorted(real.priority, key=lambda entry: entry.sequence)
        assert [(entry.score, entry.message) for entry in in_order] == self.priority
        in_order = sorted(real.delayed, key=lambda entry: entry.sequence)
        assert [(entry.score, entry.message) for entry in in_order] == [
            (entry.due, entry.message) for entry in self.delayed
        ]
        assert {
            group: [(entry.due, entry.message) for entry in behind]
            for group, behind in real.grouped.items()
        } == self.grouped
        assert real.groups == self.groups
        assert real.unique == self.unique
        assert real.unique_due == {
            key: claim.expiry for key, claim in self.unique.items() if claim.expiry
        }
        assert {
            token: Lease(held.message, held.worker, real.leases[token])
            for token, held in real.leased.items()
        } == self.leases
        asked = {token: asks(lease.message) for token, lease in self.leases.items()}
        assert real.special == {
            token: Bond(self.leases[token].message[4:20], x.unique or b"", x.group or b"")
            for token, x in asked.items()
            if x.unique or x.group
        }
        assert real.dead == self.dead
        assert real.died == self.died
        assert real.calls == {
            slot: Remembered(record.number, min(record.tokens, default=0), len(record.tokens))
            for slot, record in self.memory.items()
        }
        assert Counter(real.counters) == self.counters
        assert {name: float(value) for name, value in real.settings.items()} == self.settings
        state = real.state
        if state is None:
            assert self.called == 0
            return
        flags = SEALED * self.sealed + PAUSED * self.paused + TEST_FLAG
        assert state.flags == flags | self.used | self._limiting()
        assert state.version == self.version
        assert (state.pushed, state.completed, state.raw) == (
            self.pushed,
            self.completed,
            self.raw,
        )
        assert state.called == self.called
        assert self.polled - self.called < POLLS


def hold_of(ttl: float) -> float:
    """How long reclaim waits for heartbeats after an outage, in a lease call, ms."""
    return min(ttl // 3, 5_000)


def returned(message: bytes, token: int, charged: int = 0, flags: int = 0) -> bytes:
    """A message whose lease ended without completing it."""
    parts = Parts.of(message)
    return parts._replace(
        id=raw_id(token) if parts.id is None else parts.id,
        flags=parts.flags | flags,
        deliveries=parts.deliveries + 1,
        attempts=min(parts.attempts + charged, 65535),
    ).pack()
