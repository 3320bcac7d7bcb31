"""What a worker decides, apart from how it waits: no threads, no tasks, no calls, no clock.

A driver asks ``turn`` what to do next, does that, and says what came of it. Slots (threads, tasks,
child processes) take items from ``ready`` and put them into ``done`` or ``ended``; deque's append
and popleft are atomic, so that costs no lock. All else belongs to the driver.

    leased ──▶ ready ──▶ (a slot's) ──▶ done ──completed with the next lease call──▶
                 │             └──────▶ ended: settled otherwise, or lost
                 └──given back untouched
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from pyqueue._exits import UNAVAILABLE, exit_code
from pyqueue._flows import LEAST_BLOCK, MOST_WAIT
from pyqueue._outgoing import MOST

Until: TypeAlias = Literal["drained", "sealed", "forever"]

#: Between two tries of a call, seconds. Less than the 5 s for which a server that comes back holds
#: what ran out meanwhile, so that what was done is still in time.
FIRST_PAUSE, MOST_PAUSE = 0.1, 2.0
#: Items are leased ahead for so many seconds of work, or two calls if those take longer.
_AHEAD = 0.005
#: After so many seconds items that were leased ahead, and for which no slot became free, go back.
_PATIENCE = 1.0
#: Seconds for those that were leased to be done, before it is asked for more, when there were fewer
#: than asked for: then one call settles them and asks.
_SOON = 0.005
#: How long the end waits for handlers that were told to end, and for a server that does not answer.
LAST = 5.0


class Holding(Protocol):
    """A lease, as far as the engine looks at it."""

    token: int

    @property
    def suspect(self) -> bool: ...


L = TypeVar("L", bound=Holding)
L_co = TypeVar("L_co", covariant=True)


class Answer(Protocol[L_co]):
    """A ``Batch`` of either client."""

    reason: str
    drained: bool
    retry_in: float | None
    sealed: bool
    fresh: bool

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[L_co]: ...
    def __getitem__(self, index: int, /) -> L_co: ...


@dataclass(frozen=True, slots=True)
class Ask(Generic[L]):
    """Lease up to ``n`` items and complete these in the same call."""

    n: int
    completed: Sequence[L]


@dataclass(frozen=True, slots=True)
class Complete(Generic[L]):
    """Complete these: nothing is leased any more, or just now."""

    leases: Sequence[L]


@dataclass(frozen=True, slots=True)
class GiveBack(Generic[L]):
    """Release these, no attempt charged."""

    leases: Sequence[L]


@dataclass(frozen=True, slots=True)
class Start:
    """A suspect is alone now, and ready."""


@dataclass(frozen=True, slots=True)
class Block:
    """Wait for a message, with BLMOVE, at most so many seconds; then call ``woken``. Meanwhile the
    engine is asked for further turns.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The grace is over: end the handlers that still run. Those that cannot be: ``abandon``."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a slot has ended something, somebody called, or so many seconds are over."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class End(Generic[L]):
    """All is over; these could not be settled."""

    code: int
    unsettled: Sequence[L]


#: What to do next.
Step: TypeAlias = "Ask[L] | Complete[L] | GiveBack[L] | Start | Block | Interrupt | Wait | End[L]"


class Engine(Generic[L]):
    """The state of one worker's run. Times are seconds of one monotonic clock."""

    def __init__(
        self,
        *,
        concurrency: int,
        prefetch: int,
        until: Until,
        start_wait: float,
        server_wait: float,
        grace: float,
        now: float,
    ) -> None:
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._until = until
        self._start_wait = start_wait
        self._server_wait = server_wait
        self._grace = grace
        self._started = now
        #: Every lease from the answer that brought it until its settling is answered.
        self.held: dict[int, L] = {}
        #: Leased, and for slots to take.
        self.ready: deque[L] = deque()
        #: The handler has returned: to be completed with the next call.
        self.done: deque[L] = deque()
        #: Settled, or lost.
        self.ended: deque[L] = deque()
        #: To be released.
        self._back: list[L] = []
        #: A call is under way; it completes these, or releases them.
        self._calling = False
        self._completing: Sequence[L] = ()
        self._releasing: Sequence[L] = ()
        #: How long the last one took.
        self._call = 0.0
        self._asked = now
        self._asked_for = 0
        #: A suspect: nothing else is leased or started while there is one. Apart while other items
        #: are held.
        self._suspect: L | None = None
        self._apart = False
        #: There may be something to lease; or there may be from then on.
        self._hopeful = True
        self._look_at: float | None = None
        #: What BLMOVE is to be given, seconds; and whether it is under way.
        self._block: float | None = None
        self._blocked = False
        #: How many items were done since when, and per second; how many are leased ahead for that.
        self._finished = 0
        self._measured = now
        self._rate = 0.0
        self._ahead = 0
        #: The next to be started, and since when it has been that.
        self._head: L | None = None
        self._head_since = now
        #: The server does not answer since then.
        self._down_since: float | None = None
        self._gave_up = False
        self._pause = FIRST_PAUSE
        self._retry_at = now
        #: What to end with, once it is clear, and when handlers are interrupted and all is over.
        self.code: int | None = None
        self._interrupt_at: float | None = None
        self._over_at: float | None = None
        #: Whether it ended since the queue has never had an item.
        self.never_had_any = False

    # What to do

    def turn(self, now: float) -> Step[L]:  # noqa: PLR0911 - one for each thing to do
        """What to do now. After an Ask, a Complete or a GiveBack one of ``leased``, ``settled``,
        ``unreachable`` and ``refused`` is to be called; until then other turns may be asked for.
        """
        while self.ended:
            self._forget(self.ended.popleft())
        if self.code is not None:
            return self._ending(now)
        if self._calling or now < self._retry_at:
            return Wait(None if self._calling else self._retry_at - now)
        if self._back:
            return self._give_back()
        if self._apart and self._suspect is not None and len(self.held) == 1:
            self._apart = False
            self.ready.append(self._suspect)
            return Start()
        if self._look_at is not None and self._look_at <= now:
            self._look_at, self._hopeful = None, True
        done = self._take_done()
        room = self._room(len(done), now)
        if room > 0 and (self._hopeful or done):
            self._hopeful, self._look_at, self._block = False, None, None
            self._calling, self._completing = True, done
            self._asked, self._asked_for = now, room
            return Ask(room, done)
        if done:
            self._calling, self._completing = True, done
            return Complete(done)
        if self._block is not None and not self._blocked:
            seconds, self._block, self._blocked = self._block, None, True
            return Block(seconds)
        return self._idle(now)

    def _room(self, done: int, now: float) -> int:
        if self._suspect is not None:
            return 0
        self._finished += done
        passed = now - self._measured
        if passed >= 0.001:
            self._rate = (self._rate + self._finished / passed) / 2
            self._finished, self._measured = 0, now
            seconds = max(_AHEAD, 2 * self._call)
            self._ahead = min(self._prefetch, int(self._rate * seconds))
        return min(self._concurrency + self._ahead - (len(self.held) - done), MOST)

    def _take_done(self) -> list[L]:
        done: list[L] = []
        queued = self.done
        while queued and len(done) < MOST:
            done.append(queued.popleft())
        return done

    def _give_back(self) -> GiveBack[L]:
        some, self._back = self._back[:MOST], self._back[MOST:]
        self._calling, self._releasing = True, some
        return GiveBack(some)

    def _idle(self, now: float) -> Step[L]:
        """Nothing to do until something happens; or until a time."""
        times = [] if self._look_at is None else [self._look_at]
        head = self._next_ready()
        if head is not self._head:
            self._head, self._head_since = head, now
        if head is not None:
            if now >= self._head_since + _PATIENCE:
                # All slots are busy with long work: other workers may have time.
                self._take_ready()
                self._ahead, self._rate = 0, 0.0
                return self._give_back() if self._back else Wait(0)
            times.append(self._head_since + _PATIENCE)
        return Wait(max(min(times) - now, 0) if times else None)

    def _next_ready(self) -> L | None:
        try:
            return self.ready[0]
        except IndexError:
            return None

    def _take_ready(self) -> None:
        while True:
            try:
                self._back.append(self.ready.popleft())
            except IndexError:  # slots take from it too
                return

    def _ending(self, now: float) -> Step[L]:
        self._take_ready()
        if self._apart and self._suspect is not None:
            self._apart = False
            self._back.append(self._suspect)
        if not self.held and not self._calling:
            return End(self.code or 0, ())
        if self._interrupt_at is not None:
            running = bool(self.running())
            if now >= self._interrupt_at or not running:
                self._interrupt_at, self._over_at = None, now + LAST
                if running:
                    return Interrupt()
                if self._gave_up:
                    self._over_at = now
        if self._over_at is not None and now >= self._over_at:
            return End(self.code or 0, list(self.held.values()))
        if not self._calling and now >= self._retry_at:
            if self._back:
                return self._give_back()
            if done := self._take_done():
                self._calling, self._completing = True, done
                return Complete(done)
        times = [self._interrupt_at, self._over_at, None if self._calling else self._retry_at]
        left = [x - now for x in times if x is not None and x > now]
        return Wait(min(left, default=None))

    # What came of it

    def leased(self, answer: Answer[L], now: float) -> None:
        """The answer to an Ask."""
        self._answered()
        self._call = now - self._asked
        number = len(answer)
        if number:
            for lease in answer:
                self.held[lease.token] = lease
            # A suspect is leased alone.
            if number == 1 and answer[0].suspect:
                self._suspect, self._apart = answer[0], True
            else:
                self.ready.extend(answer)
            if number < self._asked_for:
                self._look_at = now + _SOON
            else:
                self._hopeful = True
        elif self.code is None:
            self._nothing(answer, now)

    def settled(self) -> None:
        """The answer to a Complete or a GiveBack."""
        self._answered()
        self._hopeful = True

    def _answered(self) -> None:
        held = self.held
        for lease in self._completing or self._releasing:
            held.pop(lease.token, None)
        if self._suspect is not None and self._suspect.token not in held:
            self._forget(self._suspect)
        self._completing, self._releasing, self._calling = (), (), False
        if self._down_since is not None:
            self._down_since, self._gave_up, self._pause = None, False, FIRST_PAUSE

    def _nothing(self, answer: Answer[L], now: float) -> None:
        """Nothing could be leased: waits for a message, or until something happens by itself."""
        if answer.drained and not self.held and self._is_over(answer, now):
            self.code = 0
            return
        delay = MOST_WAIT * random.uniform(0.75, 1)
        if answer.retry_in is not None:
            delay = min(delay, answer.retry_in)
        if answer.drained and answer.fresh and self._until == "drained":
            delay = min(delay, max(self._started + self._start_wait - now, 0))
        if answer.reason not in ("empty", "group", "drained"):
            self._look_at = now + delay
        elif answer.retry_in == 0:
            self._hopeful = True
        else:
            # If it is blocked already, that is no longer than MOST_WAIT, and what is due earlier
            # wakes it.
            self._block = max(delay, LEAST_BLOCK)

    def _is_over(self, answer: Answer[L], now: float) -> bool:
        if self._until != "drained":
            return self._until == "sealed" and answer.sealed
        if not answer.fresh or answer.sealed:
            return True
        self.never_had_any = now - self._started >= self._start_wait
        return self.never_had_any

    def unreachable(self, now: float) -> Sequence[L]:
        """ServerUnavailable was the answer: it is tried again. Returns what was to be completed."""
        if self._down_since is None:
            self._down_since = now
        self._retry_at = now + self._pause * random.uniform(0.5, 1)
        self._pause = min(2 * self._pause, MOST_PAUSE)
        self._calling, self._hopeful = False, True
        completing = self._completing
        self.done.extendleft(reversed(completing))
        self._back.extend(self._releasing)
        self._completing, self._releasing = (), ()
        if now - self._down_since >= self._server_wait and self.code is None:
            self._gave_up = True
            self.stop(UNAVAILABLE, now)
        return completing

    def refused(self, error: Exception, now: float) -> Sequence[L]:
        """Another error was the answer, which stays: ends. Returns what was not settled."""
        unsettled = self._completing or self._releasing
        self._completing, self._releasing, self._calling = (), (), False
        for lease in unsettled:
            self._forget(lease)
        self.stop(exit_code(error), now)
        return unsettled

    def woken(self) -> None:
        """BLMOVE is over."""
        self._blocked = False
        self._hopeful = True

    def is_working_on(self, lease: L) -> bool:
        """Whether it is held, and neither done nor being settled by the driver."""
        return (
            self.held.get(lease.token) is lease
            and lease not in self.done
            and lease not in self._completing
            and lease not in self._releasing
            and lease not in self._back
        )

    def lost(self, lease: L) -> bool:
        """Its lease is lost. Returns whether a slot has it; else it is dropped."""
        try:
            self.ready.remove(lease)
        except ValueError:
            if not (self._apart and lease is self._suspect):
                return True
        self.ended.append(lease)
        return False

    def running(self) -> list[L]:
        """What slots have."""
        settling = (*self.done, *self._completing, *self._back, *self._releasing)
        others = {lease.token for lease in (*self.ready, *self.ended, *settling)}
        if self._apart and self._suspect is not None:
            others.add(self._suspect.token)
        return [lease for token, lease in self.held.copy().items() if token not in others]

    def abandon(self) -> None:
        """What slots have is released, whatever they do with it: they cannot be ended."""
        self._back += self.running()

    def _forget(self, lease: L) -> None:
        self.held.pop(lease.token, None)
        self._finished += 1
        self._hopeful = True
        if lease is self._suspect:
            self._suspect, self._apart = None, False

    # The end

    def stop(self, code: int, now: float) -> None:
        """Leases nothing more, gives back what was not started, and gives handlers the grace; when
        that was said before, the grace is over.
        """
        if self.code is None:
            self._interrupt_at = now + self._grace
            self.code = code
        elif self._interrupt_at is not None:
            self._interrupt_at = now
