"""The queue as a plain program: what the protocol says, with lists and dicts.

It knows nothing of caches, bounds of events or packed fields. Where the protocol leaves something
open it takes what the server did, after checking that it is allowed: the jitter of a backoff,
whether a wake marker was needed, the sequence numbers, which idle poll was written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from pyqueue import _operations as op
from tests.lua.harness import MAGIC, NEVER, PAUSED, SEALED, TEST_FLAG, WAKE, Letter, raw_id
from tests.model.snapshot import SUSPECT, Parts, Remembered, Snapshot

MAX_ATTEMPTS = 5
BACKOFF_BASE, BACKOFF_MAX = 1_000, 300_000
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


class Stale(Exception):
    """A copy of a call that the slot has left behind."""


class Sealed(Exception):
    """The queue takes no more messages."""


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


@dataclass(frozen=True)
class LeaseAnswer:
    """What ``lease`` has to answer; ``wait`` is left to ``Reference.check_wait``."""

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
    waiting: list[bytes] = field(default_factory=list)
    handoff: list[bytes] = field(default_factory=list)
    #: Due time and message, in the order of being put here.
    delayed: list[tuple[int, bytes]] = field(default_factory=list)
    leases: dict[int, Lease] = field(default_factory=dict)
    dead: dict[bytes, Letter] = field(default_factory=dict)
    #: Dead letters whose own id was taken, or that have none.
    dead_otherwise: list[Letter] = field(default_factory=list)
    memory: dict[bytes, Record] = field(default_factory=dict)
    sealed: bool = False
    paused: bool = False
    pushed: int = 0
    completed: int = 0
    raw: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    #: The last token, or sequence number, that the server is known to have issued.
    last: int = 0
    #: When the last call was written down; 0 before the first.
    called: int = 0
    #: When the last idle poll was made, which need not be written down.
    polled: int = 0
    guard: tuple[int, int] = (0, 0)
    #: Delayed messages whose backoff the server chose: attempts and message.
    backed_off: list[tuple[int, bytes]] = field(default_factory=list)
    #: The due time of a message for which a blocked worker may have been woken.
    may_wake: int | None = None

    # What a script does, and in which order

    def apply(self, call: Call, operation: op.Operation[Any]) -> tuple[Answer, bool]:
        """Carries a call out. Returns its answer, and whether it was a copy of an earlier one.

        Raises Stale, Sealed: then nothing has changed.
        """
        record = self.memory.get(call.slot)
        if record is not None:
            if call.number < record.number:
                raise Stale
            if call.number == record.number:
                return self._again(record, operation), True
        if isinstance(operation, op.Push) and self.sealed:
            raise Sealed
        self._open()
        unseen = record is not None and record.number > call.ack and bool(record.tokens)
        if record is not None and unseen:
            self._give_back([token for token in record.tokens if token in self.leases])
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

    def _open(self) -> None:
        since, until = self.guard
        # When the clock went back to before the guard, that holds from now on.
        self.guard = (since, min(until, self.now))
        if self.called and self.now - self.called > OUTAGE:
            self.guard = (self.called, self.now)

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
        return answer

    def _carry_out(self, operation: op.Operation[Any]) -> Answer:  # noqa: PLR0911, PLR0912 - the verbs
        match operation:
            case op.Push(messages):
                self.waiting += messages
                self.pushed += len(messages)
                return op.PushReply(len(messages), {})
            case op.Lease():
                return self._lease(operation)
            case op.Complete(tokens):
                return self._complete(tokens)
            case op.Release(tokens, delay):
                return self._release(tokens, round(delay * 1000))
            case op.Fail():
                return self._fail(operation)
            case op.Bury(tokens, reason, error):
                return self._bury(tokens, reason.encode(), error.encode())
            case op.Extend(tokens, ttl):
                assert ttl is not None
                for token in tokens:
                    if token in self.leases:
                        self.leases[token].deadline = self.now + round(ttl * 1000)
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
            case op.Purge(what):
                return self._purge(what)
            case op.Redrive(ids):
                return self._redrive(ids)
            case op.Pause(paused):
                changed, self.paused = paused != self.paused, paused
                return changed
        raise NotImplementedError(operation)

    def delete(self, force: bool) -> op.DeleteReply:
        """What ``delete`` has to answer. When it deletes, this reference is done with."""
        live = len(self.delayed) + len(self.leases)
        live += sum(message != WAKE for message in self.waiting + self.handoff)
        dead = len(self.dead) + len(self.dead_otherwise)
        if live + dead > 0 and not force:
            return op.DeleteReply(False, live, dead)
        return op.DeleteReply(True, live, dead)

    # Leasing

    def _lease(self, operation: op.Lease) -> LeaseAnswer:
        lost = self._complete(operation.completed)
        assert operation.ttl is not None
        ttl = round(operation.ttl * 1000)
        hold = min(ttl // 3, 5_000)
        self._reclaim(MOVED, hold)
        self._promote()
        messages: list[bytes] = []
        malformed: list[bytes] = []
        if not self.paused:
            self._take(operation.n, messages, malformed)
        first = max(self.last + 1, self.now * 1000)
        for token, message in enumerate(messages, first):
            self.leases[token] = Lease(message, operation.worker, self.now + ttl)
            self.raw += not message.startswith(MAGIC)
        for message in malformed:
            self._entomb(None, message, b"", b"malformed", b"")
        if messages:
            return LeaseAnswer("items", lost, first, self.now + ttl, messages)
        if not (self.waiting or self.handoff or self.delayed or self.leases):
            fresh = not (self.pushed or self.last or malformed)
            return LeaseAnswer("drained", lost, sealed=self.sealed, fresh=fresh)
        return LeaseAnswer("paused" if self.paused else "empty", lost)

    def _take(self, n: int, messages: list[bytes], malformed: list[bytes]) -> None:
        for source in (self.handoff, self.waiting):
            while source and len(messages) < n:
                message = source[0]
                suspect = message not in self.malformed and Parts.of(message).flags & SUSPECT
                if suspect and messages:
                    return
                del source[0]
                if message in self.malformed:
                    malformed.append(message)
                elif message != WAKE:
                    messages.append(message)
                if suspect:
                    return

    def _promote(self) -> None:
        due = sorted((entry for entry in self.delayed if entry[0] <= self.now), key=lambda x: x[0])
        for entry in due[:MOVED]:
            self.delayed.remove(entry)
            self.waiting.append(entry[1])

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
        )
        back: list[bytes] = []
        for token in sorted(token for _, token in out[:limit]):
            lease = self.leases.pop(token)
            message = returned(lease.message, token, charged=1, flags=SUSPECT)
            if Parts.of(message).attempts >= MAX_ATTEMPTS:
                self._entomb(token, message, lease.worker, b"expired", b"the lease ran out")
            else:
                back.append(message)
        self.waiting[:0] = back
        self.counters["expired"] += len(out[:limit])
        return len(back), len(out[:limit]) - len(back)

    def next_event(self, hold: float) -> float:
        """When something happens by itself: a message is due, a lease can be reclaimed."""
        leases = (self._reclaimable(lease.deadline, hold) for lease in self.leases.values())
        return min((*leases, *(due for due, _ in self.delayed)), default=NEVER)

    # Settling

    def _give_back(self, tokens: Sequence[int]) -> None:
        """Their reply was never seen: nobody knows that he holds them."""
        leases = [(token, self.leases.pop(token)) for token in tokens]
        self.waiting[:0] = [returned(lease.message, token) for token, lease in leases]
        self.counters["unseen"] += len(leases)

    def _complete(self, tokens: Sequence[int]) -> list[int]:
        lost = [i for i, token in enumerate(tokens) if token not in self.leases]
        for token in set(tokens) & set(self.leases):
            del self.leases[token]
            self.completed += 1
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
                self._delay(message, delay)
        else:
            self.waiting[:0] = messages
        self.counters["released"] += len(messages)
        return lost

    def _fail(self, operation: op.Fail) -> op.FailReply:
        dead: list[int] = []

        def end(position: int, token: int, lease: Lease) -> None:
            self.counters["failed"] += 1
            message = returned(lease.message, token, charged=1)
            if Parts.of(message).attempts >= MAX_ATTEMPTS:
                dead.append(position)
                error = operation.error.encode()
                self._entomb(token, message, lease.worker, b"failed", error)
            elif operation.retry_in is None:
                self._delay(message, None)
            elif operation.retry_in:
                self._delay(message, round(operation.retry_in * 1000))
            else:
                self.waiting.append(message)

        return op.FailReply(self._end(operation.tokens, end), dead)

    def _bury(self, tokens: Sequence[int], reason: bytes, error: bytes) -> list[int]:
        def end(_: int, token: int, lease: Lease) -> None:
            message = returned(lease.message, token, charged=1)
            self._entomb(token, message, lease.worker, reason, error)

        return self._end(tokens, end)

    def _deadlines(self, tokens: Sequence[int]) -> op.ExtendReply:
        held = (self.leases.get(token) for token in tokens)
        return op.ExtendReply(
            self.now / 1000, [None if lease is None else lease.deadline / 1000 for lease in held]
        )

    def _delay(self, message: bytes, milliseconds: int | None) -> None:
        """Without a time it is the server's backoff, which is taken over in ``agree``."""
        if milliseconds is None:
            self.backed_off.append((Parts.of(message).attempts, message))
            due = self.now
        else:
            due = self.now + milliseconds
            self.delayed.append((due, message))
        if not self.waiting:
            self.may_wake = min(due, self.may_wake or due)

    def _entomb(
        self, token: int | None, message: bytes, worker: bytes, reason: bytes, error: bytes
    ) -> None:
        id = message[4:20]
        letter = Letter(reason, worker, error, message)
        if len(id) < 16 or id in self.dead:
            self.dead_otherwise.append(letter)
        else:
            self.dead[id] = letter
        self.counters["dead"] += 1

    def check_wait(self, wait: float | None, ttl: float, asked: int) -> None:
        """How long an empty-handed worker is told to wait: not past the next event, but for 50 ms
        for each that was told before.
        """
        event = self.next_event(min(ttl * 1000 // 3, 5_000))
        if event != NEVER:
            assert wait is not None
            assert 0 <= round(wait * 1000) <= max(event - self.now, 0) + 50 * asked

    # Dead letters, and operators

    def _purge(self, what: str) -> op.PurgeReply:
        if what == "dead":
            dropped = len(self.dead) + len(self.dead_otherwise)
            self.dead.clear()
            self.dead_otherwise.clear()
        else:
            dropped = len(self.delayed)
            dropped += sum(message != WAKE for message in self.waiting + self.handoff)
            for emptied in (self.waiting, self.handoff, self.delayed):
                emptied.clear()
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
        for position, id in enumerate(ids):
            letter = self.dead.get(id)
            if letter is None or letter.message in self.malformed:
                kept.append(position)
            else:
                del self.dead[id]
                self.waiting.append(Parts.of(letter.message)._replace(attempts=0).pack())
                self.counters["redriven"] += 1
        return kept

    # What others do to the list

    def handed(self) -> bytes:
        """A blocked worker's BLMOVE: the head of the list goes to the handoff."""
        self.handoff.append(self.waiting.pop(0))
        return self.handoff[-1]

    # Against the server

    def agree(self, before: Snapshot, after: Snapshot) -> None:
        """Takes over what the server may choose, after checking that it may."""
        state = after.state
        assert state is not None
        for slot, record in list(self.memory.items()):
            if slot not in after.calls:
                assert self.elapsed - record.time > REMEMBERED, "a young call was forgotten"
                del self.memory[slot]
        if self.backed_off:
            new = Counter((entry.due, entry.message) for entry in after.delayed)
            new -= Counter(self.delayed)
            # In the order of being put there.
            found = sorted(after.delayed, key=lambda entry: entry.sequence)
            chosen = [(x.due, x.message) for x in found if new[x.due, x.message] > 0]
            assert [message for _, message in chosen] == [m for _, m in self.backed_off]
            for (due, _), (attempts, _) in zip(chosen, self.backed_off, strict=True):
                most = min(BACKOFF_BASE * 2 ** (attempts - 1), BACKOFF_MAX)
                assert most // 2 <= due - self.now <= most, "a backoff out of range"
            if self.may_wake is not None:
                self.may_wake = min(due for due, _ in chosen)
            self.delayed += chosen
            self.backed_off.clear()
        if self.may_wake is not None:
            woke = after.markers - self.waiting.count(WAKE) - self.handoff.count(WAKE)
            known = before.state
            # A worker that was told of an earlier event learns of this one when it wakes for that.
            told = known and known.asked and self.now < known.event <= self.may_wake
            if self.may_wake - self.now < ASKED_AGAIN and not told:
                assert woke, "nobody was woken for a message that is due soon"
            if woke:
                self.waiting.append(WAKE)
            self.may_wake = None
        if state.called != self.called and state.called == self.polled:
            self.called = self.polled
        assert state.last >= self.last, "the counter of tokens went back"
        self.last = state.last

    def check(self, real: Snapshot) -> None:
        """The whole state is the same."""
        assert list(real.waiting) == self.waiting
        assert list(real.handoff) == self.handoff
        assert [(entry.due, entry.message) for entry in real.delayed] == sorted(
            self.delayed, key=lambda entry: entry[0]
        )
        assert {
            token: Lease(held.message, held.worker, real.leases[token])
            for token, held in real.leased.items()
        } == self.leases
        assert {id: real.dead.get(id) for id in self.dead} == self.dead
        others = [letter for id, letter in real.dead.items() if id not in self.dead]
        assert Counter(others) == Counter(self.dead_otherwise)
        assert real.died.keys() == real.dead.keys()
        assert real.calls == {
            slot: Remembered(record.number, min(record.tokens, default=0), len(record.tokens))
            for slot, record in self.memory.items()
        }
        assert Counter(real.counters) == self.counters
        state = real.state
        if state is None:
            assert self.called == 0
            return
        flags = SEALED * self.sealed + PAUSED * self.paused + TEST_FLAG
        assert state.flags == flags
        assert (state.pushed, state.completed, state.raw) == (
            self.pushed,
            self.completed,
            self.raw,
        )
        assert state.called == self.called
        assert self.polled - self.called < POLLS


def returned(message: bytes, token: int, charged: int = 0, flags: int = 0) -> bytes:
    """A message whose lease ended without completing it."""
    parts = Parts.of(message)
    return parts._replace(
        id=raw_id(token) if parts.id is None else parts.id,
        flags=parts.flags | flags,
        deliveries=parts.deliveries + 1,
        attempts=parts.attempts + charged,
    ).pack()
