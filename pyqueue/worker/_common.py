"""What both workers have in common: their options, what an exception means, hooks and logs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeAlias, TypeVar

from pyqueue import _operations as op
from pyqueue._outgoing import MOST
from pyqueue.aio import AsyncLease
from pyqueue.client import Lease
from pyqueue.errors import PyQueueError, ServerUnavailable

from ._engine import FIRST_PAUSE, MOST_PAUSE, Engine, Holding, Until

L = TypeVar("L", bound=Holding)
EitherLease: TypeAlias = Lease | AsyncLease
OneLease = TypeVar("OneLease", Lease, AsyncLease)
P = ParamSpec("P")
Verb: TypeAlias = Literal["fail", "bury", "release"]
#: What became of an item. "settled": its handler did that by itself.
Outcome: TypeAlias = Literal["completed", "failed", "buried", "released", "settled", "lost"]
Errors: TypeAlias = tuple[type[BaseException], ...]

logger = logging.getLogger("pyqueue")

OUTCOMES: Mapping[Verb, Outcome] = {"fail": "failed", "bury": "buried", "release": "released"}

#: The signals that end a worker.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: How long an item waits at least that its handler's own CancelledError gave back, seconds: it
#: would be leased again at once, and again.
SNOOZE = 1.0
#: Of the items that are leased ahead, unless told otherwise.
PREFETCH = 100


class Retry(Exception):
    """Raised by a handler: fails the item, which is tried again after ``in_`` seconds (None: after
    its or the queue's backoff). An attempt is charged, and the last one makes it a dead letter.

    ``error`` is what the dead letter then says; by default the exception that this one was raised
    from, or this one.
    """

    def __init__(self, in_: float | None = None, error: str | BaseException | None = None) -> None:
        super().__init__(
            "the handler wants it tried again" + ("" if in_ is None else f" in {in_:g} s")
        )
        self.in_ = in_
        self.error = error


class Hooks:
    """What a worker tells of its items: for metrics and traces. Override what you need.

    ``Worker`` calls them from its threads, several at a time; ``AsyncWorker`` from the event loop,
    so that they must not block. What they raise is logged, and nothing else.
    """

    def started(self, lease: EitherLease) -> None:
        """Its handler is about to be called."""

    def error(self, lease: EitherLease, error: BaseException) -> None:
        """Its handler has raised an exception."""

    def finished(self, lease: EitherLease, outcome: Outcome, seconds: float) -> None:
        """Its handler ran for so many seconds, and this became of the item: "completed", "failed",
        "buried", "released", "settled" (by the handler itself) or "lost".
        """

    def lost(self, lease: EitherLease) -> None:
        """Its lease was lost while it was worked on, or before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of an item whose handler did not return."""

    verb: Verb
    #: Why: a dead letter's reason, and what the log says.
    reason: str
    error: str | BaseException = ""
    retry_in: float | None = None
    delay: float = 0
    #: The exit code to end with, if the worker is to end.
    code: int | None = None


class CannotStart(Exception):
    """A child process ended before it could work: its handler cannot be imported there."""


class Ended(Exception):
    """The child process that worked on an item has ended, or its handler did not return there."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def judge(error: BaseException, retry_on: Errors, bury_on: Errors) -> Verdict:
    """What an exception of a handler means for its item."""
    name = type(error).__name__
    if isinstance(error, Retry):
        said = error.error or error.__cause__ or str(error)
        return Verdict("fail", name, said, error.in_)
    if isinstance(error, asyncio.CancelledError):
        return Verdict("release", name, delay=SNOOZE)
    if isinstance(error, KeyboardInterrupt):
        return Verdict("release", name, code=128 + signal.SIGINT)
    if isinstance(error, bury_on):
        return Verdict("bury", name, error)
    if isinstance(error, Exception) and not isinstance(error, retry_on):
        return Verdict("bury", name, error)
    return Verdict("fail", name, error)


def without_this_frame(error: BaseException) -> BaseException:
    """The exception with the handler's own frames only: the worker's say nothing."""
    trace = error.__traceback__
    return error if trace is None or trace.tb_next is None else error.with_traceback(trace.tb_next)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A worker's options; times in seconds. Raises ValueError for one that is out of range."""

    concurrency: int
    prefetch: int
    ttl: float | None
    max_lease: float | None
    until: Until
    start_wait: float
    server_wait: float
    grace: float
    retry_on: Errors
    bury_on: Errors
    signals: bool

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MOST:
            raise ValueError(f"concurrency is {self.concurrency}: it must be from 1 to {MOST}")
        if not 0 <= self.prefetch <= MOST:
            raise ValueError(f"prefetch is {self.prefetch}: it must be from 0 to {MOST}")
        if self.until not in ("drained", "sealed", "forever"):
            raise ValueError(f"until is 'drained', 'sealed' or 'forever', not {self.until!r}")
        op.ttl_ms(self.ttl)
        if self.max_lease is not None:
            op.milliseconds(self.max_lease, "max_lease", 1)
        for name in ("start_wait", "server_wait", "grace"):
            op.milliseconds(getattr(self, name), name)

    def engine(self, now: float, kind: type[L]) -> Engine[L]:  # noqa: ARG002 - for its type only
        """The state of a run with such leases that begins now."""
        return Engine(
            concurrency=self.concurrency,
            prefetch=self.prefetch,
            until=self.until,
            start_wait=self.start_wait,
            server_wait=self.server_wait,
            grace=self.grace,
            now=now,
        )


class Pauses:
    """Between the tries of a call, until a number of seconds is over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = FIRST_PAUSE

    def next(self) -> float | None:
        """Seconds to wait; None to give up."""
        if time.monotonic() >= self._end:
            return None
        pause, self._pause = self._pause, min(2 * self._pause, MOST_PAUSE)
        return pause * random.uniform(0.5, 1)


def is_async(handler: object) -> bool:
    """Whether calling it makes a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - of an object
    )


def some_classes(given: type[BaseException] | Errors) -> Errors:
    """One class or several, as several."""
    return given if isinstance(given, tuple) else (given,)


class Telling:
    """Tells hooks and the log what becomes of items: never a payload."""

    def __init__(self, queue: str, hooks: Hooks | None) -> None:
        self._queue = queue
        self.hooks = hooks
        #: token → seconds that the handler ran, of those to be completed; only for hooks.
        self.seconds: dict[int, float] = {}
        #: Tokens that were to be completed by a call whose outcome is unknown.
        self._unknown: set[int] = set()
        self._down = False

    def say(
        self,
        level: int,
        event: str,
        text: str,
        lease: EitherLease | None = None,
        error: BaseException | None = None,
        **fields: object,
    ) -> None:
        """Writes to the log: ``text``, and as extra fields what it is about."""
        about: dict[str, object] = {"event": event, "queue": self._queue}
        if lease is not None:
            about |= {"item": lease.id, "token": lease.token}
            text = f"item {lease.id} (token {lease.token}) {text}"
        about |= fields
        extra = {"fields": about, **about}
        logger.log(level, "%s: %s", self._queue, text, extra=extra, exc_info=error)

    def call(self, hook: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls a function of the user's, whose errors harm no item."""
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - said aloud
            self.say(logging.ERROR, "hook", "a hook has raised an exception", error=error)

    def _finished(self, lease: EitherLease, outcome: Outcome, seconds: float) -> None:
        if self.hooks is not None:
            self.call(self.hooks.finished, lease, outcome, seconds)

    def completed(self, leases: Sequence[EitherLease], lost: Collection[int]) -> None:
        """The server's answer to the completing of leases."""
        if lost:
            for lease in leases:
                if lease.token in lost:
                    self._not_completed(lease)
        if self.hooks is not None:
            for lease in leases:
                outcome: Outcome = "lost" if lease.token in lost else "completed"
                self._finished(lease, outcome, self.seconds.pop(lease.token, 0.0))
        if self._unknown:
            self._unknown.difference_update(lease.token for lease in leases)

    def _not_completed(self, lease: EitherLease) -> None:
        why = "its lease is lost, somebody else has it"
        if lease.token in self._unknown:
            why = "its lease is lost, or it was completed by a call whose answer was lost"
        self.say(logging.WARNING, "lost", f"could not be completed: {why}", lease)

    def settled(
        self, lease: EitherLease, verdict: Verdict, seconds: float, *, kept: bool, dead: bool
    ) -> None:
        """The server's answer to the settling of an item whose handler did not return."""
        outcome = OUTCOMES[verdict.verb] if kept else "lost"
        error = verdict.error if isinstance(verdict.error, BaseException) else None
        text = f"{outcome}: {verdict.reason}"
        if verdict.verb == "fail" and kept:
            text += ", and is dead" if dead else ", and waits again"
        if not kept:
            text = f"could not be {OUTCOMES[verdict.verb]} ({verdict.reason}): its lease is lost"
        level = logging.INFO if verdict.verb == "release" and kept else logging.WARNING
        self.say(level, outcome, text, lease, error, reason=verdict.reason, dead=dead)
        self._finished(lease, outcome, seconds)

    def unsettled(self, lease: EitherLease, verb: str, error: object) -> None:
        """An item could not be settled: it goes to somebody else when its lease has run out."""
        self.say(
            logging.ERROR,
            "unsettled",
            f"could not be {verb}: {error}",
            lease,
            reason=str(error),
        )

    def worked(self, lease: OneLease, seconds: float, engine: Engine[OneLease]) -> None:
        """The handler has returned. Tells the engine too."""
        if lease.settled:
            self.settled_itself(lease, seconds)
            engine.ended.append(lease)
        else:
            self.seconds[lease.token] = seconds
            engine.done.append(lease)

    def settled_itself(self, lease: EitherLease, seconds: float) -> None:
        """The handler has settled the item by itself."""
        self._finished(lease, "settled", seconds)

    def raised_after(self, lease: EitherLease, error: BaseException, seconds: float) -> None:
        """A handler raised an exception when its item was settled or lost already."""
        self.say(
            logging.WARNING,
            "error",
            f"was settled or lost already when its handler raised {type(error).__name__}",
            lease,
            error,
        )
        self._finished(lease, "settled", seconds)

    def lost(self, lease: EitherLease, *, started: bool) -> None:
        """The heartbeat found a lease lost, or it ran out since ``max_lease`` is reached."""
        text = "while it is worked on" if started else "before it was started"
        self.say(logging.WARNING, "lost", f"the lease is lost {text}", lease, started=started)
        if self.hooks is not None:
            self.call(self.hooks.lost, lease)

    def unreachable(
        self, error: ServerUnavailable, leases: Sequence[EitherLease], patience: float
    ) -> None:
        """A call was not answered, and is tried again."""
        if error.outcome_unknown:
            self._unknown.update(lease.token for lease in leases)
        if not self._down:
            self._down = True
            text = f"{error}. Goes on trying for {patience:g} s"
            self.say(logging.WARNING, "unreachable", text)

    def failed(self, error: PyQueueError, engine: Engine[OneLease], patience: float) -> None:
        """The worker's call was not answered, and is tried again; or refused, and would be again.
        Tells the engine too.
        """
        now = time.monotonic()
        if isinstance(error, ServerUnavailable):
            self.unreachable(error, engine.unreachable(now), patience)
            return
        unsettled = engine.refused(error, now)
        self.say(logging.ERROR, "refused", str(error))
        for lease in unsettled:
            self.unsettled(lease, "settled", error)

    def reachable(self) -> None:
        """The server has answered."""
        if self._down:
            self._down = False
            self.say(logging.INFO, "reachable", "the server answers again")

    def ended(self, code: int, leases: Sequence[EitherLease], *, never_had_any: bool) -> None:
        """It is over."""
        for lease in leases:
            self.unsettled(lease, "settled", "the server does not answer")
        if never_had_any:
            text = "the queue has never had an item: is the name right?"
            self.say(logging.WARNING, "ending", text)
        level = logging.INFO if code in (0, 130, 143) else logging.ERROR
        self.say(level, "ended", f"the worker has ended with {code}", exit_code=code)
