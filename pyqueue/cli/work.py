"""``pyqueue work``: any program becomes a worker.

One thread, the main one, decides everything: what happens elsewhere (a program has ended, the
server has answered, a lease is lost, a signal) reaches it as an event. So each item is settled
once, in the order of events, and a server that does not answer never delays a signal.

Other threads: one that makes the calls to the server; one that waits for messages in BLMOVE, which
leases nothing and so may be left behind at any time; the heartbeat's; and those of each program.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue as queues
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, TypeVar, cast

import click
from click.core import ParameterSource

from pyqueue import Batch, Lease, PyQueueError, Queue, ServerUnavailable
from pyqueue._connection import describe
from pyqueue._exits import CONFIGURATION, FAILED, exit_code
from pyqueue._flows import LEAST_BLOCK, MOST_WAIT
from pyqueue._heartbeat import Heartbeat
from pyqueue._leases import worker_name
from pyqueue.worker._command import CannotWork, Request
from pyqueue.worker._command import work as run_worker
from pyqueue.worker._common import Pauses
from pyqueue.worker._engine import Until

from . import _program
from ._base import (
    Failure,
    Settings,
    common_options,
    queue_argument,
)
from ._log import log
from ._program import CannotRun, DoesNotFit, Guard, Program
from ._text import seconds

T = TypeVar("T")
Event: TypeAlias = Callable[[], None]
Verb: TypeAlias = Literal["complete", "release", "fail", "bury"]

_DONE: dict[Verb, str] = {
    "complete": "completed",
    "release": "released",
    "fail": "failed",
    "bury": "buried",
}

#: Why nothing can be leased, as the script says it and for people.
_REASONS = {
    "empty": "nothing can be leased now",
    "drained": "nothing is left to do",
    "group": "all that waits comes after an item of its group that is leased or delayed",
    "limit": "as many items are in flight as the queue allows (max_leased)",
    "rate": "items are leased as fast as the queue allows (rate)",
    "paused": "the queue is paused",
}

#: How long an item that its program gave back (exit 75) waits at least, seconds: it would be
#: leased again at once, and again, and nothing else with it.
_SNOOZE = 1.0
#: How long it waits for an event at a time, seconds: a signal that comes just before the wait for a
#: lock goes unnoticed until that ends.
_GLANCE = 0.5
#: How long the end waits for a server that does not answer, seconds.
_LAST = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``pyqueue work`` was asked to do; times in seconds."""

    command: Sequence[str]
    marker: str
    until: str
    start_wait: float
    concurrency: int
    #: None: the queue's own.
    ttl: float | None
    max_items: int | None
    grace: float
    server_wait: float
    verbose: bool


@click.command(short_help="Run a program once for each item.")
@queue_argument
@click.argument("command", metavar="-- PROGRAM [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-I",
    "marker",
    metavar="STRING",
    default="{}",
    show_default=True,
    help="The argument that the payload takes the place of.",
)
@click.option(
    "--handler",
    metavar="MODULE:FUNCTION",
    help="Call a Python function for each item instead of running a program.",
)
@click.option(
    "--processes", is_flag=True, help="With --handler: in child processes instead of threads."
)
@click.option(
    "--until",
    type=click.Choice(["drained", "sealed", "forever"]),
    default="drained",
    show_default=True,
    help="When to end: nothing is left to do; the same, and the queue is sealed; never.",
)
@click.option(
    "--start-wait",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long a queue that has never had an item is given to get one.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="How many programs run at once. With --handler the default is 10, or 100 for an async"
    " def.",
)
@click.option(
    "--ttl",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="How soon the item of a worker that died goes to another; a program may run longer."
    " Default: what `pyqueue configure` has set, else 60.",
)
@click.option(
    "--max-items",
    type=click.IntRange(min=1),
    help="End when so many items were completed or buried.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=20,
    show_default=True,
    metavar="SECONDS",
    help="How long a program has to end after SIGTERM, before SIGKILL.",
)
@click.option(
    "--server-wait",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long to go on trying when the server is out of reach.",
)
@click.option(
    "--worker", metavar="NAME", help="The worker's name, as leases show it. Default: host:pid."
)
@click.option("-v", "--verbose", is_flag=True, help="Also say what is waited for.")
@common_options
@click.pass_context
def work(
    context: click.Context,
    name: str,
    command: tuple[str, ...],
    marker: str,
    handler: str | None,
    processes: bool,
    until: str,
    start_wait: float,
    concurrency: int,
    ttl: float | None,
    max_items: int | None,
    grace: float,
    server_wait: float,
    worker: str | None,
    verbose: bool,
) -> int:
    """Run PROGRAM once for each item of QUEUE, until nothing is left to do.

    \b
    pyqueue work job2 -- ./process.sh {}

    There is no shell. The payload is on the program's standard input; in each argument that is
    exactly {} (never inside a longer one); and in $PYQUEUE_PAYLOAD, if it is UTF-8 without NUL and
    at most 96 KiB. $PYQUEUE_ID, $PYQUEUE_TOKEN, $PYQUEUE_ATTEMPT (from 1) and $PYQUEUE_QUEUE say
    what it is.

    The program's exit code says what becomes of the item: 0 completes it. 65 buries it: it is never
    tried again. 75 gives it back for a second or more, no attempt charged. Anything else, and death
    by a signal, fails it: it is tried again later, up to its number of attempts. An item that
    cannot be an argument (a NUL byte, too long) is buried.

    The lease is extended while the program runs, up to the queue's max_lease. If it is lost all the
    same, the item is somebody else's, and the program is told to end.

    SIGTERM, SIGINT and SIGHUP: nothing more is leased; SIGTERM goes to the program and all that it
    has started (each runs in a session of its own), and SIGKILL after --grace. Items whose programs
    did not end with 0 or 65 are given back, no attempt charged. A second signal kills at once. If
    this worker itself is killed with SIGKILL, its programs are killed with it.

    \b
    pyqueue work job2 --handler module:function

    This calls a function with each lease, or awaits an async def, as pyqueue.Worker and
    pyqueue.AsyncWorker do.

    \b
    Exit codes:
      0    drained, or --max-items reached
      143  SIGTERM (130 SIGINT, 129 SIGHUP)
      78   bad configuration, such as a program that cannot be run
      69   the server stayed out of reach
      1    anything else
    """  # noqa: D301 - click wants the character
    settings: Settings = context.obj
    if handler is not None:
        if command or max_items is not None or marker != "{}":
            raise click.UsageError("--handler goes with no program, --max-items or -I")
        given = context.get_parameter_source("concurrency") is not ParameterSource.DEFAULT
        request = Request(
            handler=handler,
            queue=name,
            url=settings.url,
            worker=worker,
            concurrency=concurrency if given else None,
            processes=processes,
            ttl=ttl,
            until=cast("Until", until),
            start_wait=start_wait,
            grace=grace,
            server_wait=server_wait,
        )
        try:
            return run_worker(request)
        except CannotWork as error:
            raise Failure(str(error), CONFIGURATION) from error
    if processes:
        raise click.UsageError("--processes goes with --handler")
    if not command:
        raise click.UsageError(f"Say which program: pyqueue work {name} -- PROGRAM [ARGUMENT]...")
    if command[0] == marker:
        raise click.UsageError("The program itself cannot be the payload.")
    if shutil.which(command[0]) is None:
        raise Failure(
            f"cannot run {command[0]!r}: no such program, or not executable", CONFIGURATION
        )
    plan = Plan(
        command=command,
        marker=marker,
        until=until,
        start_wait=start_wait,
        concurrency=concurrency,
        ttl=ttl,
        max_items=max_items,
        grace=grace,
        server_wait=server_wait,
        verbose=verbose,
    )
    worker = worker or worker_name()
    return _Worker(settings.open(name, worker=worker), worker, plan).run()


@dataclass(slots=True, eq=False)
class _Run:
    """A program that works on an item."""

    lease: Lease
    program: Program
    lost: bool = False


class _Server:
    """Makes calls to the server, one after the other, each until it is answered."""

    def __init__(self, name: str, patience: float, post: Callable[[Event], None]) -> None:
        self._name = name
        self._patience = patience
        self._post = post
        self._todo: queues.SimpleQueue[Event] = queues.SimpleQueue()
        #: Whether the last try was answered.
        self.answers = True
        threading.Thread(target=self._serve, name="pyqueue-server", daemon=True).start()

    def call(
        self,
        action: Callable[[], T],
        answered: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Makes a call; its answer or its error becomes an event."""
        self._todo.put(partial(self._call, action, answered, failed))

    def _serve(self) -> None:
        while True:
            self._todo.get()()

    def _call(
        self,
        action: Callable[[], T],
        answered: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        try:
            answer = self._persist(action)
        except Exception as error:  # noqa: BLE001 - the main thread decides, also about a bug
            self._post(partial(failed, error))
        else:
            self._post(partial(answered, answer))

    def _persist(self, action: Callable[[], T]) -> T:
        pauses: Pauses | None = None
        unknown = False
        while True:
            try:
                answer = action()
            except ServerUnavailable as error:
                self.answers = False
                unknown = unknown or error.outcome_unknown
                if pauses is None:
                    pauses = Pauses(self._patience)
                    log(
                        logging.WARNING,
                        f"{error}. Goes on trying for {seconds(self._patience)}",
                        {"event": "unreachable", "queue": self._name},
                    )
                if (pause := pauses.next()) is None:
                    raise
                time.sleep(pause)
            else:
                self.answers = True
                if pauses is not None:
                    text = "the server answers again"
                    if unknown:
                        text += "; an item that is lost now may have been settled by a call whose"
                        text += " answer was lost"
                    log(
                        logging.INFO,
                        f"{self._name}: {text}",
                        {"event": "reachable", "queue": self._name},
                    )
                return answer


class _Worker:
    """Leases items, runs a program for each, and settles them by how it ends."""

    def __init__(self, queue: Queue, worker: str, plan: Plan) -> None:
        self._queue = queue
        self._worker = worker
        self._plan = plan
        self._events: queues.SimpleQueue[Event] = queues.SimpleQueue()
        self._server = _Server(queue.name, plan.server_wait, self._events.put)
        self._heartbeat = Heartbeat(queue)
        self._guard = Guard()
        self._is_init = os.getpid() == 1
        #: Every lease from the answer that brought it until its settling is answered.
        self._held: dict[int, Lease] = {}
        self._running: dict[int, _Run] = {}
        #: Programs that ended with 0: they are completed with the next call.
        self._done: list[_Run] = []
        #: A suspect: nothing else is leased while there is one. Apart while other items are held.
        self._suspect: Lease | None = None
        self._apart = False
        #: A lease call is under way.
        self._asking = False
        #: There may be something to lease.
        self._ready = True
        #: The blocking thread waits for a message; or a timer runs where blocking is no good.
        self._blocked = self._sleeps = False
        #: Why nothing could be leased, as was said last.
        self._reason = ""
        self._blocks: queues.SimpleQueue[float] = queues.SimpleQueue()
        self._timers: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()
        self._started = time.monotonic()
        self._waits_for_first = False
        self._counts = dict.fromkeys(("completed", "failed", "buried", "released", "lost"), 0)
        #: What to end with, once it is clear.
        self._code: int | None = None
        #: Only the server is waited for; and that is over, too.
        self._leaving = self._abandoned = False

    # Events

    def run(self) -> int:
        """Works until the end; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # What was ignored stays so: nohup, and the background jobs of a script.
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        if self._is_init:
            signal.signal(signal.SIGCHLD, lambda *_: self._events.put(self._reap))
        threading.Thread(target=self._block, name="pyqueue-block", daemon=True).start()
        self._say(
            logging.INFO,
            f"worker {self._worker} on {describe(self._queue._client)}",
            {"event": "started"},
        )
        try:
            code = self._loop()
        except BaseException:
            for run in self._running.values():
                run.program.signal(signal.SIGKILL)
            held = list(self._held.values())
            self._queue._settle_logged("release", self._queue.release_many, held)
            raise
        finally:
            self._guard.close()
        if self._server.answers:
            self._heartbeat.close()
            self._queue.close()
        return code

    def _loop(self) -> int:
        while True:
            self._step()
            if self._code is not None and not self._running:
                if self._abandoned or (not self._held and not self._asking):
                    return self._code
                if not self._leaving:
                    self._leaving = True
                    self._later(_LAST, self._abandon)
            try:
                self._events.get(timeout=self._until_timer())()
            except queues.Empty:
                if self._timers and self._timers[0][0] <= time.monotonic():
                    _, _, event = heapq.heappop(self._timers)
                    event()

    def _until_timer(self) -> float:
        left = self._timers[0][0] - time.monotonic() if self._timers else _GLANCE
        return min(max(left, 0), _GLANCE)

    def _later(self, delay: float, event: Event) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), event))

    def _on_signal(self, number: int, _frame: object) -> None:
        # `put` may be interrupted by itself, that is: used in a signal's handler.
        self._events.put(partial(self._stop, signal.Signals(number)))

    def _reap(self) -> None:
        _program.reap_orphans(
            {self._guard.pid, *(run.program.group for run in self._running.values())}
        )

    # Leasing

    def _step(self) -> None:
        """Does what can be done now."""
        if self._apart and self._suspect is not None and len(self._held) == 1:
            self._apart = False
            self._start(self._suspect)
        if self._asking:
            return
        free = self._free()
        if free > 0 and (self._ready or self._done):
            self._ask(free)
        elif self._done:
            done, self._done = self._done, []
            self._server.call(
                partial(self._queue.complete_many, [run.lease for run in done]),
                partial(self._completed, done),
                partial(self._unsettled, "complete", [run.lease for run in done]),
            )
        elif self._plan.max_items == self._finished and not self._held and self._code is None:
            self._end(0, f"--max-items {self._plan.max_items} reached")
            self._warn_of_completions()

    @property
    def _finished(self) -> int:
        return self._counts["completed"] + self._counts["buried"]

    def _free(self) -> int:
        """How many items may be leased now."""
        if self._code is not None or self._suspect is not None:
            return 0
        free = self._plan.concurrency - len(self._running)
        if self._plan.max_items is not None:
            free = min(free, self._plan.max_items - self._finished - len(self._held))
        return free

    def _ask(self, number: int) -> None:
        """Leases, and completes what is done in the same call."""
        done, self._done = self._done, []
        self._asking, self._ready = True, False
        leases = [run.lease for run in done]
        self._server.call(
            partial(self._queue.lease_many, number, self._plan.ttl, completed=leases),
            partial(self._answered, done),
            partial(self._unanswered, leases),
        )

    def _answered(self, done: list[_Run], batch: Batch[Lease]) -> None:
        self._asking = False
        self._completed(done, [run.lease.token not in batch.lost for run in done])
        for lease in batch:
            self._take(lease)
        if batch:
            self._ready, self._reason = True, ""
        elif self._code is None:
            self._wait(batch)

    def _unanswered(self, leases: list[Lease], error: Exception) -> None:
        self._asking = False
        self._unsettled("complete", leases, error)

    def _take(self, lease: Lease) -> None:
        self._held[lease.token] = lease
        attempt = lease.attempts + 1
        alone = ", alone since an earlier lease of it ran out" if lease.suspect else ""
        self._say(
            logging.INFO,
            f"leased (attempt {attempt}{alone})",
            {"event": "leased", "attempt": attempt, "suspect": lease.suspect},
            lease,
        )
        if self._code is not None:
            self._settle("release", lease, "the worker ends")
            return
        self._heartbeat.add(lease, self._plan.ttl, self._on_lost)
        if lease.suspect:
            self._suspect, self._apart = lease, True
        else:
            self._start(lease)

    def _wait(self, batch: Batch[Lease]) -> None:
        """Nothing could be leased: waits for a message, or until something happens by itself."""
        if batch.drained and not self._held and self._is_over(batch):
            self._end(0, "drained")
            return
        if self._plan.verbose and batch.reason != self._reason:
            self._reason = batch.reason
            self._say(
                logging.INFO,
                f"waits: {_REASONS[batch.reason]}",
                {"event": "waiting", "reason": batch.reason},
            )
        delay = MOST_WAIT * random.uniform(0.75, 1)
        if batch.retry_in is not None:
            delay = min(delay, batch.retry_in)
        if batch.drained and batch.fresh and self._plan.until == "drained":
            delay = min(delay, self._started + self._plan.start_wait - time.monotonic())
        if batch.reason not in ("empty", "group", "drained"):
            if not self._sleeps:
                self._sleeps = True
                self._later(delay, self._awake)
        elif batch.retry_in == 0:
            self._ready = True
        elif not self._blocked:
            # If it is blocked already, that is no longer than MOST_WAIT, and what is due earlier
            # wakes it.
            self._blocked = True
            self._blocks.put(max(delay, LEAST_BLOCK))

    def _is_over(self, batch: Batch[Lease]) -> bool:
        if self._plan.until != "drained":
            return self._plan.until == "sealed" and batch.sealed
        if not batch.fresh or batch.sealed:
            return True
        if time.monotonic() - self._started >= self._plan.start_wait:
            self._say(logging.WARNING, "it has never had an item: is the name right?", {})
            return True
        if not self._waits_for_first:
            self._waits_for_first = True
            self._say(
                logging.INFO,
                f"it has never had an item: waits up to {seconds(self._plan.start_wait)} for one",
                {"event": "waiting"},
            )
        return False

    def _block(self) -> None:
        while True:
            delay = self._blocks.get()
            try:
                self._queue._block(delay)
            except Exception as error:  # noqa: BLE001 - the main thread decides
                self._events.put(partial(self._fatal, error))
                return
            self._events.put(self._woken)

    def _woken(self) -> None:
        self._blocked = False
        self._ready = True

    def _awake(self) -> None:
        self._sleeps = False
        self._ready = True

    # Programs

    def _start(self, lease: Lease) -> None:
        plan = self._plan
        self._guard.starts(lease)
        try:
            program = Program(
                plan.command,
                plan.marker,
                self._queue.name,
                lease,
                partial(self._events.put, partial(self._ended, lease.token)),
            )
        except DoesNotFit as error:
            self._guard.ended(lease)
            self._heartbeat.remove(lease)
            self._settle("bury", lease, str(error))
        except CannotRun as error:
            self._guard.ended(lease)
            self._heartbeat.remove(lease)
            self._settle("release", lease, str(error))
            self._end(FAILED if error.transient else CONFIGURATION, str(error))
        else:
            self._guard.runs(lease, program)
            self._running[lease.token] = _Run(lease, program)

    def _ended(self, token: int) -> None:
        """A program has ended: its exit code says what becomes of the item."""
        run = self._running.pop(token)
        if self._is_init:
            self._reap()  # the one that has ended is out of the way
        lease, program = run.lease, run.program
        self._guard.ended(lease)
        self._heartbeat.remove(lease)
        self._ready = True
        code, outcome = program.exit_code, program.outcome
        if run.lost:
            self._say(
                logging.WARNING,
                f"its program ended after the lease was lost: {outcome}",
                {"event": "ended", "exit": code},
                lease,
            )
            self._forget(lease)
        elif code == 0:
            self._done.append(run)
        elif code == _program.BURY:
            self._settle("bury", lease, outcome, run)
        elif self._code is not None:
            self._settle("release", lease, f"the worker ends; {outcome}", run)
        elif code == _program.RELEASE:
            self._settle("release", lease, outcome, run, delay=_SNOOZE)
        else:
            self._settle("fail", lease, outcome, run)

    def _on_lost(self, lease: Lease) -> None:
        self._events.put(partial(self._lost, lease))

    def _lost(self, lease: Lease) -> None:
        """The heartbeat found a lease lost. If its program has ended, the settling says so."""
        run = self._running.get(lease.token)
        if run is not None:
            self._counts["lost"] += 1
            run.lost = True
            self._say(
                logging.WARNING,
                "its lease is lost, and it goes to somebody else: its program is told to end",
                {"event": "lost"},
                lease,
            )
            run.program.signal(signal.SIGTERM)
            self._later(self._plan.grace, partial(self._kill, run))
        elif self._apart and lease is self._suspect:
            self._counts["lost"] += 1
            self._forget(lease)

    def _kill(self, run: _Run) -> None:
        if run.lease.token in self._running:
            self._say(
                logging.WARNING,
                "its program did not end: SIGKILL",
                {"event": "killed"},
                run.lease,
            )
            run.program.signal(signal.SIGKILL)

    # Settling

    def _settle(
        self, verb: Verb, lease: Lease, why: str, run: _Run | None = None, delay: float = 0
    ) -> None:
        """Ends a lease otherwise than by completing it."""
        queue = self._queue
        errors = run.program.errors if run else ""
        call: Callable[[], list[bool]]
        if verb == "bury":
            call = partial(queue.bury_many, [lease], why[:255], errors)
        elif verb == "fail":
            call = partial(queue.fail_many, [lease], f"{why}\n{errors}".strip())
        else:
            call = partial(queue.release_many, [lease], delay)
        self._server.call(
            call,
            lambda kept: self._settled(verb, lease, why, run, kept=kept[0]),
            partial(self._unsettled, verb, [lease]),
        )

    def _settled(self, verb: Verb, lease: Lease, why: str, run: _Run | None, *, kept: bool) -> None:
        self._forget(lease)
        event = _DONE[verb]
        fields: dict[str, object] = {}
        after = ""
        if run is not None:
            fields = {"exit": run.program.exit_code, "seconds": round(run.program.seconds, 3)}
            after = f" after {seconds(run.program.seconds)}"
        if not kept:
            self._counts["lost"] += 1
            self._say(
                logging.WARNING,
                f"could not be {event}{after} ({why}): its lease is lost, somebody else has it",
                {"event": "lost", **fields},
                lease,
            )
            return
        self._counts[event] += 1
        if verb == "complete":
            self._say(
                logging.INFO,
                f"completed{after.replace('after', 'in')}",
                {"event": event, **fields},
                lease,
            )
        else:
            if verb == "fail":
                event_after = ", and is dead" if lease.dead else ", waits again"
                fields["dead"] = lease.dead
            else:
                event_after = ""
            self._say(
                logging.WARNING if verb in ("fail", "bury") else logging.INFO,
                f"{event}{after}: {why}{event_after}",
                {"event": event, "reason": why, **fields},
                lease,
            )

    def _completed(self, done: list[_Run], kept: Sequence[bool]) -> None:
        for run, ok in zip(done, kept, strict=True):
            self._settled("complete", run.lease, "exit 0", run, kept=ok)

    def _unsettled(self, verb: Verb, leases: list[Lease], error: Exception) -> None:
        for lease in leases:
            self._forget(lease)
            self._say(
                logging.ERROR,
                f"(token {lease.token}) could not be {_DONE[verb]}: {error}",
                {"event": "unsettled", "verb": verb, "reason": str(error)},
                lease,
            )
        self._fatal(error)

    def _forget(self, lease: Lease) -> None:
        self._held.pop(lease.token, None)
        if lease is self._suspect:
            self._suspect, self._apart = None, False
            self._ready = True

    # The end

    def _stop(self, number: signal.Signals) -> None:
        if self._code is None:
            self._end(128 + number, number.name)
            return
        if self._running:
            self._say(logging.WARNING, f"{number.name} again: programs are killed", {})
        self._kill_all()

    def _fatal(self, error: Exception) -> None:
        if not isinstance(error, PyQueueError):
            raise error
        if self._code is None:
            self._end(exit_code(error), str(error))

    def _end(self, code: int, why: str) -> None:
        """Leases nothing more; what runs is told to end."""
        self._code = code
        counts = ", ".join(f"{number} {what}" for what, number in self._counts.items() if number)
        text = f"{why}; {counts or 'nothing done'} in {seconds(time.monotonic() - self._started)}"
        if self._running:
            text += (
                f"; SIGTERM to {len(self._running)} running, SIGKILL in {seconds(self._plan.grace)}"
            )
        self._say(
            logging.INFO if code in (0, 129, 130, 143) else logging.ERROR,
            text,
            {"event": "ending", "exit_code": code, **self._counts},
        )
        if self._apart and self._suspect is not None:
            self._apart = False
            self._heartbeat.remove(self._suspect)
            self._settle("release", self._suspect, "the worker ends")
        for run in self._running.values():
            run.program.signal(signal.SIGTERM)
        if self._running:
            self._later(self._plan.grace, self._kill_all)

    def _kill_all(self) -> None:
        for run in list(self._running.values()):
            self._kill(run)

    def _abandon(self) -> None:
        """The server has had its time."""
        for lease in self._held.values():
            self._say(
                logging.ERROR,
                f"(token {lease.token}) was not settled: the server does not answer; the lease runs"
                " out in"
                f" {seconds(max(lease.remaining, 0))}",
                {"event": "unsettled", "reason": "the server does not answer"},
                lease,
            )
        self._abandoned = True

    def _warn_of_completions(self) -> None:
        # A Job does not say in its pods whether it has `completions`, except by an index.
        if "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" not in os.environ:
            self._say(
                logging.WARNING,
                "in a Kubernetes Job, --max-items needs `completions`: without it, one pod that"
                " ends with 0 says that all the work is done",
                {},
            )

    def _say(
        self, level: int, text: str, fields: Mapping[str, object], lease: Lease | None = None
    ) -> None:
        """Logs. Never a payload."""
        about: dict[str, object] = {"queue": self._queue.name, "worker": self._worker}
        if lease is not None:
            about |= {"item": lease.id, "token": lease.token}
            text = f"item {lease.id} {text}"
        log(level, f"{self._queue.name}: {text}", {**about, **fields})
