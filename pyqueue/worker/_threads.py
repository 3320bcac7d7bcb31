"""``Worker``: handlers that are functions, in threads or child processes."""

from __future__ import annotations

import contextlib
import logging
import queue as queues
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, Protocol, TypeAlias

from pyqueue._exits import CONFIGURATION
from pyqueue._heartbeat import Heartbeat
from pyqueue.client import Lease, Queue
from pyqueue.errors import PyQueueError, ServerUnavailable

from ._common import (
    PREFETCH,
    SIGNALS,
    CannotStart,
    Ended,
    Errors,
    Hooks,
    Options,
    Pauses,
    Telling,
    Verdict,
    is_async,
    judge,
    some_classes,
    without_this_frame,
)
from ._engine import (
    LAST,
    Ask,
    Block,
    Complete,
    End,
    GiveBack,
    Interrupt,
    Start,
    Step,
    Until,
    Wait,
)

Handler: TypeAlias = Callable[[Lease], object]


class Slots(Protocol):
    """Where handlers run."""

    @property
    def call(self) -> Handler:
        """Works on an item in this thread; raises what the handler raised."""

    def end(self, lease: Lease) -> bool:
        """Ends the work on an item whose lease is lost. False: it goes on."""

    def interrupt(self) -> bool:
        """Ends the work on all items. False: it goes on."""

    def close(self) -> None:
        """No more items come."""


class InThreads:
    """Handlers run in this process: nobody can end them."""

    def __init__(self, handler: Handler) -> None:
        self.call = handler

    def end(self, lease: Lease) -> bool:  # noqa: ARG002
        return False

    def interrupt(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Worker:
    """Calls ``handler(lease)`` for each item of a queue, with up to ``concurrency`` at once.

    A handler that returns completes its item, unless it has settled it by itself; one that raises
    an exception fails it. ``run`` works until the end and returns an exit code.

    - ``pool``: where handlers run, "threads" or "processes". Of the latter each works on one item
      at a time, and one that is killed or crashes fails that item only; the handler must be
      importable. A lease's verbs work there too.
    - ``prefetch`` (100): at most so many items are leased ahead, so that no handler waits for the
      server; no more than handlers end within 5 ms (or two calls), so that with slow handlers there
      are none. Those for which no slot became free within a second are given back untouched.
    - ``ttl``, seconds: how soon the items of a worker that died go to another; a handler may run
      longer, as leases are extended. Default: the queue's. ``max_lease``, seconds: so long after it
      was leased an item is extended no more, so that a handler that hangs loses it.
    - ``until``: "forever"; "drained": nothing is left to do; "sealed": and the queue is sealed.
      A queue that has never had an item is given ``start_wait`` (60) seconds to get one.
    - ``retry_on`` (Exception), ``bury_on``: classes of exceptions. An item dies at once of one in
      ``bury_on``, and of an Exception that is not in ``retry_on``: the reason is its class's name.
      ``raise Retry(in_=30)`` chooses the delay. KeyboardInterrupt releases the item and ends the
      worker; any other exception, such as SystemExit, fails it.
    - ``on_lease_lost(lease)`` is called, from another thread, when the heartbeat finds a lease
      lost, or it has run out since ``max_lease`` is reached: somebody else gets the item. From then
      on ``lease.settled`` is True, where a slow handler may look. What it returns is ignored. A
      child process gets SIGTERM, which raises SystemExit in the handler, and after ``grace``
      seconds SIGKILL.
    - ``grace`` (20), seconds: how long handlers may go on after SIGTERM, SIGINT or ``stop``.
      Nothing is leased any more then, and what was not started is given back at once. What still
      runs is given back when the time is over, no attempt charged: child processes get SIGTERM, and
      SIGKILL 2 s later; a thread cannot be ended, and should end with its process. A second signal
      ends the grace.
    - ``server_wait`` (600), seconds: how long to go on when the server is out of reach.
    - ``hooks``: see ``Hooks``. The logger "pyqueue" gets what goes wrong.
    - ``signals``: whether SIGTERM and SIGINT are handled while it runs; only in the main thread.

    An item whose earlier lease ran out (``lease.suspect``) may have killed its worker: it is worked
    on alone.

    Raises ValueError for an option that is out of range, and for a handler that child processes
    cannot import; TypeError for an ``async def``, which is for ``AsyncWorker``.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        concurrency: int = 10,
        prefetch: int = PREFETCH,
        ttl: float | None = None,
        max_lease: float | None = None,
        until: Until = "forever",
        pool: Literal["threads", "processes"] = "threads",
        grace: float = 20,
        retry_on: type[BaseException] | Errors = (Exception,),
        bury_on: type[BaseException] | Errors = (),
        on_lease_lost: Callable[[Lease], object] | None = None,
        hooks: Hooks | None = None,
        start_wait: float = 60,
        server_wait: float = 600,
        signals: bool = True,
    ) -> None:
        if is_async(handler):
            raise TypeError("the handler is an async def: use AsyncWorker")
        self._queue = queue
        self._handler = handler
        self._options = Options(
            concurrency=concurrency,
            prefetch=prefetch,
            ttl=ttl,
            max_lease=max_lease,
            until=until,
            start_wait=start_wait,
            server_wait=server_wait,
            grace=grace,
            retry_on=some_classes(retry_on),
            bury_on=some_classes(bury_on),
            signals=signals,
        )
        if pool not in ("threads", "processes"):
            raise ValueError(f"pool is 'threads' or 'processes', not {pool!r}")
        self._pool = pool
        if pool == "processes":
            from ._processes import check_importable

            check_importable(handler)
        self._on_lease_lost = on_lease_lost
        self._hooks = hooks
        self._run: Run | None = None

    def run(self) -> int:
        """Works until the end; returns the exit code: 0 when the queue is drained (or after
        ``stop``), 143 after SIGTERM, 130 after SIGINT, 69 when the server stayed out of reach, 78
        for what no second try mends (permissions, the name, a key of another type), else 1.

        Raises RuntimeError when it runs already.
        """
        if self._run is not None:
            raise RuntimeError("the worker runs already")
        slots: Slots
        if self._pool == "processes":
            from ._processes import InProcesses

            slots = InProcesses(self._queue, self._handler, self._options)
        else:
            slots = InThreads(self._handler)
        self._run = Run(self._queue, slots, self._options, self._on_lease_lost, self._hooks)
        try:
            return self._run.run()
        finally:
            self._run = None

    def stop(self) -> None:
        """Ends ``run``, which then returns 0, as SIGTERM does; a second time, at once. From any
        thread, a handler's too.
        """
        run = self._run
        if run is not None:
            run.stop(0)


class Run:
    """One run of a Worker.

    A thread of its own drives the engine and makes its calls; the one that called ``run`` waits,
    so that a server that does not answer never delays a signal. Others: those of the slots, that of
    the heartbeat, and one that waits for messages in BLMOVE, which leases nothing and so may be
    left behind at any time.
    """

    def __init__(
        self,
        queue: Queue,
        slots: Slots,
        options: Options,
        on_lease_lost: Callable[[Lease], object] | None,
        hooks: Hooks | None,
    ) -> None:
        self._queue = queue
        self._slots = slots
        self._options = options
        self._on_lease_lost = on_lease_lost
        self._tell = Telling(queue.name, hooks)
        self._hooks = hooks
        self._engine = options.engine(time.monotonic(), Lease)
        self._heartbeat = Heartbeat(
            queue,
            self._engine.held,
            ttl=options.ttl,
            max_lease=options.max_lease,
            on_lost=self._lost,
        )
        self._threads = _Threads(
            options.concurrency, self._engine.ready, self._work if hooks is None else self._watched
        )
        #: For the driving thread: there may be something to do.
        self._pokes: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._waits = False
        self._blocks: queues.SimpleQueue[float | None] = queues.SimpleQueue()
        self._blocker: threading.Thread | None = None
        #: For the thread of `run`: signals; a byte says that there is one, or that all is over. It
        #: waits for that byte, which the interpreter writes too (set_wakeup_fd): a signal that
        #: comes just before a wait for a lock would go unnoticed until that ends.
        self._signals: deque[int] = deque()
        self._bell, self._button = socket.socketpair()
        self._button.setblocking(False)
        self._crash: BaseException | None = None
        self._over = threading.Event()
        #: Tokens that slots are settling.
        self._settling: set[int] = set()

    # The thread of `run`

    def run(self) -> int:
        """Works until the end; returns the exit code."""
        with self._handling_signals():
            driver = threading.Thread(target=self._drive, name="pyqueue-worker", daemon=True)
            driver.start()
            try:
                self._wait_for_end()
            except BaseException:
                # Somebody else's handler of a signal has raised it here.
                self.stop(1)
                self.stop(1)
                self._over.wait(2 * LAST)
                raise
        if self._crash is not None:
            raise self._crash
        return self._engine.code or 0

    def _wait_for_end(self) -> None:
        end: float | None = None
        while not self._over.is_set():
            if self._engine.code is not None and end is None:
                # A server that does not answer may hold the driver up in a call.
                end = time.monotonic() + self._options.grace + 2 * LAST
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            self._bell.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self._bell.recv(1024)
            while self._signals:
                number = self._signals.popleft()
                name = signal.Signals(number).name
                self._tell.say(logging.INFO, "stopping", f"{name}: nothing more is leased")
                if self._engine.code is not None and end is not None:
                    end = min(end, time.monotonic() + 2 * LAST)
                self.stop(128 + number)

    def _ring(self) -> None:
        # Full: it rings already. Closed: nobody waits any more.
        with contextlib.suppress(OSError):
            self._button.send(b"\0")

    def stop(self, code: int) -> None:
        """Begins the end; the second time, ends the grace."""
        self._engine.stop(code, time.monotonic())
        self._pokes.put(None)
        self._ring()

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        before = {}
        ours = self._options.signals and threading.current_thread() is threading.main_thread()
        wakeup = -1
        if ours:
            wakeup = signal.set_wakeup_fd(self._button.fileno(), warn_on_full_buffer=False)
            for number in SIGNALS:
                # What was ignored stays so: the background jobs of a script.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, lambda n, _: self._signals.append(n))
        try:
            yield
        finally:
            if ours:
                signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._bell.close()
            self._button.close()

    # The driving thread

    def _drive(self) -> None:
        engine = self._engine
        try:
            while True:
                step = engine.turn(time.monotonic())
                if isinstance(step, End):
                    break
                self._do(step)
            self._tell.ended(step.code, step.unsettled, never_had_any=engine.never_had_any)
        except BaseException as error:  # noqa: BLE001 - raised in the thread of `run`
            self._crash = error
            self._queue._settle_logged(
                "release", self._queue.release_many, list(engine.held.values())
            )
        finally:
            self._over.set()
            self._slots.close()
            self._threads.close()
            self._blocks.put(None)
            self._heartbeat.close(0)
            self._ring()

    def _do(self, step: Step[Lease]) -> None:
        if isinstance(step, Ask):
            self._ask(step)
        elif isinstance(step, Wait):
            self._wait(step.seconds)
        elif isinstance(step, Start):
            self._threads.wake()
        elif isinstance(step, Block):
            if self._blocker is None:
                self._blocker = threading.Thread(
                    target=self._block, name="pyqueue-block", daemon=True
                )
                self._blocker.start()
            self._blocks.put(step.seconds)
        elif isinstance(step, Interrupt):
            self._interrupt()
        else:
            self._settle_some(step)

    def _ask(self, step: Ask[Lease]) -> None:
        queue, engine, completed = self._queue, self._engine, step.completed
        try:
            batch = queue.lease_many(step.n, self._options.ttl, completed=completed)
        except PyQueueError as error:
            self._tell.failed(error, self._engine, self._options.server_wait)
            return
        self._tell.reachable()
        engine.leased(batch, time.monotonic())
        if batch:
            self._heartbeat.leased(batch[0].remaining)
            self._threads.wake()
        if batch.lost or self._hooks is not None:
            self._tell.completed(completed, batch.lost)

    def _settle_some(self, step: Complete[Lease] | GiveBack[Lease] | End[Lease]) -> None:
        queue = self._queue
        try:
            if isinstance(step, Complete):
                kept = queue.complete_many(step.leases)
                lost = [x.token for x, ok in zip(step.leases, kept, strict=True) if not ok]
                self._tell.completed(step.leases, lost)
            elif isinstance(step, GiveBack):
                queue.release_many(step.leases)
        except PyQueueError as error:
            self._tell.failed(error, self._engine, self._options.server_wait)
        else:
            self._tell.reachable()
            self._engine.settled()

    def _wait(self, seconds: float | None) -> None:
        engine = self._engine
        self._waits = True
        # Looked at after the flag is up: a slot looks at the flag after it has put something there.
        if not engine.done and not engine.ended:
            with contextlib.suppress(queues.Empty):
                self._pokes.get(timeout=seconds)
        self._waits = False

    def _poke(self) -> None:
        if self._waits:
            self._waits = False
            self._pokes.put(None)

    def _interrupt(self) -> None:
        running = self._engine.running()
        if not running:
            return
        if self._slots.interrupt():
            return
        text = f"{len(running)} handlers go on after the grace: their items are released"
        self._tell.say(logging.WARNING, "grace", text)
        self._engine.abandon()

    def _block(self) -> None:
        while (seconds := self._blocks.get()) is not None:
            try:
                self._queue._block(seconds)
            except Exception as error:  # noqa: BLE001 - the next call says what is wrong
                # The queue may be closed by now, when it is over.
                if self._over.is_set():
                    return
                self._tell.say(logging.WARNING, "blocking", f"BLMOVE: {error}", error=error)
                self._over.wait(min(seconds, 0.5))
            self._engine.woken()
            self._pokes.put(None)

    # The heartbeat's thread

    def _lost(self, lease: Lease) -> None:
        """A lease is lost. If its handler has ended, its settling says so."""
        engine = self._engine
        if lease._ending or not engine.is_working_on(lease) or lease.token in self._settling:
            return
        lease._mark()
        started = engine.lost(lease)
        self._poke()
        self._tell.lost(lease, started=started)
        if started:
            self._slots.end(lease)
            if self._on_lease_lost is not None:
                self._tell.call(self._on_lease_lost, lease)

    # Slots

    def _work(self, lease: Lease) -> None:
        """Works on an item, and puts it where the driver finds it."""
        engine = self._engine
        try:
            self._slots.call(lease)
        except BaseException as error:  # noqa: BLE001 - decides about the item
            self._raised(lease, without_this_frame(error), 0.0)
        else:
            (engine.ended if lease.settled else engine.done).append(lease)
        if self._waits:
            self._poke()

    def _watched(self, lease: Lease) -> None:
        """The same, for hooks."""
        engine, tell = self._engine, self._tell
        hooks = self._hooks or Hooks()
        tell.call(hooks.started, lease)
        began = time.monotonic()
        try:
            self._slots.call(lease)
        except BaseException as error:  # noqa: BLE001 - decides about the item
            seconds = time.monotonic() - began
            tell.call(hooks.error, lease, error)
            self._raised(lease, without_this_frame(error), seconds)
        else:
            seconds = time.monotonic() - began
            tell.worked(lease, seconds, engine)
        self._poke()

    def _raised(self, lease: Lease, error: BaseException, seconds: float) -> None:
        if lease.settled:
            self._tell.raised_after(lease, error, seconds)
        else:
            if isinstance(error, Ended):
                verdict = error.verdict
            elif isinstance(error, CannotStart):
                self._tell.say(logging.ERROR, "refused", str(error))
                verdict = Verdict("release", "its process could not start", code=CONFIGURATION)
            else:
                verdict = judge(error, self._options.retry_on, self._options.bury_on)
            self._settling.add(lease.token)
            self._settle(lease, verdict, seconds)
            self._settling.discard(lease.token)
            if verdict.code is not None:
                self.stop(verdict.code)
        self._engine.ended.append(lease)

    def _settle(self, lease: Lease, verdict: Verdict, seconds: float) -> None:
        queue = self._queue
        call: Callable[[], list[bool]]
        if verdict.verb == "fail":
            call = partial(queue.fail_many, [lease], verdict.error, retry_in=verdict.retry_in)
        elif verdict.verb == "bury":
            call = partial(queue.bury_many, [lease], verdict.reason, verdict.error)
        else:
            call = partial(queue.release_many, [lease], verdict.delay)
        try:
            (kept,) = self._persist(call)
        except PyQueueError as error:
            self._tell.unsettled(lease, verdict.verb, error)
        else:
            self._tell.settled(lease, verdict, seconds, kept=kept, dead=lease.dead)

    def _persist(self, call: Callable[[], list[bool]]) -> list[bool]:
        """Makes a call until it is answered, or all is over."""
        pauses = Pauses(self._options.server_wait)
        while True:
            try:
                return call()
            except ServerUnavailable as error:
                if (pause := pauses.next()) is None or self._over.wait(pause):
                    raise
                self._tell.unreachable(error, (), self._options.server_wait)


class _Threads:
    """Threads that take what is ready. One that takes an item while more are ready wakes the next:
    so one thread alone works off what it can do without waiting for anything, and no other one
    fights it for the interpreter.
    """

    def __init__(self, most: int, ready: deque[Lease], work: Callable[[Lease], None]) -> None:
        self._most = most
        self._ready = ready
        self._work = work
        self._wakes: queues.SimpleQueue[None] = queues.SimpleQueue()
        #: One for each thread that waits, or is about to; who takes one out puts a wake in.
        self._idle: deque[None] = deque()
        self._number = 0
        self._starting = threading.Lock()
        self._closed = False

    def wake(self) -> None:
        """Something is ready: wakes or starts one more thread, if there may be one."""
        try:
            self._idle.pop()
        except IndexError:
            if self._number < self._most:
                self._start()
        else:
            self._wakes.put(None)

    def _start(self) -> None:
        with self._starting:
            if self._number >= self._most or self._closed:
                return
            self._number += 1
            name = f"pyqueue-handler-{self._number}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        ready, idle, work = self._ready, self._idle, self._work
        while not self._closed:
            try:
                lease = ready.popleft()
            except IndexError:
                idle.append(None)
                if ready or self._closed:
                    # It came between the two: nobody need wake us, unless somebody does already.
                    with contextlib.suppress(IndexError):
                        idle.pop()
                        continue
                self._wakes.get()
                continue
            if ready and (idle or self._number < self._most):
                self.wake()
            work(lease)

    def close(self) -> None:
        """Ends them, each when its handler has returned."""
        self._closed = True
        for _ in range(self._most):
            self._wakes.put(None)
