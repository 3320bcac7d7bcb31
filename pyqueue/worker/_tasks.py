"""``AsyncWorker``: handlers that are coroutines, each item in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from pyqueue._heartbeat import AsyncHeartbeat
from pyqueue.aio import AsyncLease, AsyncQueue
from pyqueue.errors import PyQueueError, ServerUnavailable

from ._common import (
    PREFETCH,
    SIGNALS,
    Errors,
    Hooks,
    Options,
    Pauses,
    Telling,
    Verdict,
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

AsyncHandler: TypeAlias = Callable[[AsyncLease], Awaitable[object]]

#: Runs that were cancelled twice, and go on giving back what they hold.
_last_runs: set[asyncio.Task[None]] = set()


class AsyncWorker:
    """Awaits ``handler(lease)`` for each item of a queue, in a task of its own, with up to
    ``concurrency`` (100) at once.

    It is as ``Worker`` is, with the same options, but for these:

    - A handler that blocks the event loop blocks all of them, and the heartbeat.
    - When a lease is lost, the handler's task is cancelled, then ``on_lease_lost(lease)`` called
      from the event loop. What the handler does after that settles nothing.
    - When the ``grace`` is over, the tasks that still run are cancelled, and their items given
      back, no attempt charged.
    - A handler's own CancelledError gives its item back for a second, no attempt charged.
    - When ``run`` itself is cancelled, the grace is over at once. With ``signals=False`` it handles
      no signals, as part of a program that does so itself: ``stop`` or cancel it then.

    Raises ValueError for an option that is out of range.
    """

    def __init__(
        self,
        queue: AsyncQueue,
        handler: AsyncHandler,
        *,
        concurrency: int = 100,
        prefetch: int = PREFETCH,
        ttl: float | None = None,
        max_lease: float | None = None,
        until: Until = "forever",
        grace: float = 20,
        retry_on: type[BaseException] | Errors = (Exception,),
        bury_on: type[BaseException] | Errors = (),
        on_lease_lost: Callable[[AsyncLease], object] | None = None,
        hooks: Hooks | None = None,
        start_wait: float = 60,
        server_wait: float = 600,
        signals: bool = True,
    ) -> None:
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
        self._on_lease_lost = on_lease_lost
        self._hooks = hooks
        self._run: AsyncRun | None = None

    async def run(self) -> int:
        """Works until the end; returns the exit code, as ``Worker.run`` does.

        Raises RuntimeError when it runs already.
        """
        if self._run is not None:
            raise RuntimeError("the worker runs already")
        self._run = AsyncRun(
            self._queue, self._handler, self._options, self._on_lease_lost, self._hooks
        )
        try:
            return await self._run.run()
        finally:
            self._run = None

    def stop(self) -> None:
        """Ends ``run``, which then returns 0, as SIGTERM does; a second time, at once. From any
        thread, and from a handler.
        """
        run = self._run
        if run is not None:
            run.stop(0)


class AsyncRun:
    """One run of an AsyncWorker.

    A task drives the engine. Calls are tasks of their own, one at a time, so that a server that
    does not answer never delays the rest.
    """

    def __init__(
        self,
        queue: AsyncQueue,
        handler: AsyncHandler,
        options: Options,
        on_lease_lost: Callable[[AsyncLease], object] | None,
        hooks: Hooks | None,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._options = options
        self._on_lease_lost = on_lease_lost
        self._tell = Telling(queue.name, hooks)
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._engine = options.engine(time.monotonic(), AsyncLease)
        self._heartbeat = AsyncHeartbeat(
            queue.name,
            self._extend,
            self._engine.held,
            ttl=options.ttl,
            max_lease=options.max_lease,
            on_lost=self._lost,
        )
        self._work = self._plain if hooks is None else self._watched
        #: The tasks of items, by their tokens.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: All others.
        self._others: set[asyncio.Task[None]] = set()
        #: A call is under way: items that are done wait for its end anyway.
        self._calling = False
        self._waiter: asyncio.Future[None] | None = None
        #: Tokens that item's tasks are settling.
        self._settling: set[int] = set()
        self._interrupted = False
        self._crash: BaseException | None = None

    async def run(self) -> int:
        """Works until the end; returns the exit code."""
        driver = self._loop.create_task(self._drive(), name="pyqueue-worker")
        with self._handling_signals():
            try:
                await asyncio.shield(driver)
            except asyncio.CancelledError:
                self.stop(1)
                self.stop(1)
                # Cancelled once more, it still goes on: what is held must be given back.
                _last_runs.add(driver)
                driver.add_done_callback(_last_runs.discard)
                await asyncio.shield(driver)
                raise
        return self._engine.code or 0

    def stop(self, code: int) -> None:
        """Begins the end; the second time, ends the grace. From any thread."""
        self._engine.stop(code, time.monotonic())
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake)

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        before = {}
        if self._options.signals and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # What was ignored stays so: the background jobs of a script.
                if handler is not signal.SIG_IGN:
                    self._loop.add_signal_handler(number, self._signalled, number)
                    before[number] = handler
        try:
            yield
        finally:
            for number, handler in before.items():
                self._loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _signalled(self, number: signal.Signals) -> None:
        self._tell.say(logging.INFO, "stopping", f"{number.name}: nothing more is leased")
        self.stop(128 + number)

    # The driver

    async def _drive(self) -> None:
        engine = self._engine
        self._spawn(self._heartbeat.run())
        try:
            while True:
                step = engine.turn(time.monotonic())
                if isinstance(step, End):
                    break
                if isinstance(step, Wait):
                    await self._wait(step.seconds)
                else:
                    self._do(step)
                self._raise_crash()
            self._tell.ended(step.code, step.unsettled, never_had_any=engine.never_had_any)
        except BaseException:
            held = list(engine.held.values())
            await self._queue._settle_logged("release", self._queue.release_many, held)
            raise
        finally:
            for task in (*self._others, *self._tasks.values()):
                task.cancel()

    def _do(self, step: Step[AsyncLease]) -> None:
        if isinstance(step, Ask):
            self._calling = True
            self._spawn(self._ask(step))
        elif isinstance(step, (Complete, GiveBack)):
            self._calling = True
            self._spawn(self._settle_some(step))
        elif isinstance(step, Start):
            self._start_ready()
        elif isinstance(step, Block):
            self._spawn(self._block(step.seconds))
        elif isinstance(step, Interrupt):
            self._interrupted = True
            for task in self._tasks.values():
                task.cancel()
            # Some may not let themselves be cancelled.
            self._loop.call_later(LAST / 2, self._abandon)

    def _abandon(self) -> None:
        if self._tasks:
            text = f"{len(self._tasks)} handlers go on when cancelled: their items are released"
            self._tell.say(logging.WARNING, "grace", text)
            self._engine.abandon()
            self._wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = error
            self._wake()

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise self._crash

    async def _wait(self, seconds: float | None) -> None:
        waiter = self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _ask(self, step: Ask[AsyncLease]) -> None:
        engine, completed = self._engine, step.completed
        try:
            batch = await self._queue.lease_many(step.n, self._options.ttl, completed=completed)
        except PyQueueError as error:
            self._failed(error)
            return
        self._tell.reachable()
        engine.leased(batch, time.monotonic())
        if batch:
            self._heartbeat.leased(batch[0].remaining)
            if engine.code is None:
                self._start_ready()
        self._called()
        if batch.lost or self._hooks is not None:
            self._tell.completed(completed, batch.lost)

    async def _settle_some(self, step: Complete[AsyncLease] | GiveBack[AsyncLease]) -> None:
        queue = self._queue
        try:
            if isinstance(step, Complete):
                kept = await queue.complete_many(step.leases)
                lost = [x.token for x, ok in zip(step.leases, kept, strict=True) if not ok]
                self._tell.completed(step.leases, lost)
            else:
                await queue.release_many(step.leases)
        except PyQueueError as error:
            self._failed(error)
        else:
            self._tell.reachable()
            self._engine.settled()
            self._called()

    def _failed(self, error: PyQueueError) -> None:
        self._tell.failed(error, self._engine, self._options.server_wait)
        self._called()

    def _called(self) -> None:
        self._calling = False
        self._wake()

    async def _block(self, seconds: float) -> None:
        await self._queue._block(seconds)
        self._engine.woken()
        self._wake()

    async def _extend(self, leases: Sequence[AsyncLease], ttl: float | None) -> Sequence[bool]:
        return await self._queue.extend_many(leases, ttl)

    def _lost(self, lease: AsyncLease) -> None:
        """A lease is lost. If its handler has ended, its settling says so."""
        engine = self._engine
        if lease._ending or not engine.is_working_on(lease) or lease.token in self._settling:
            return
        lease._mark()
        started = engine.lost(lease)
        self._tell.lost(lease, started=started)
        if started:
            self._tasks[lease.token].cancel()
            if self._on_lease_lost is not None:
                self._tell.call(self._on_lease_lost, lease)
        self._wake()

    # Items

    def _start_ready(self) -> None:
        ready, tasks, work = self._engine.ready, self._tasks, self._work
        most = self._options.concurrency - len(tasks)
        while ready and most > 0:
            most -= 1
            lease = ready.popleft()
            tasks[lease.token] = self._loop.create_task(work(lease))

    async def _plain(self, lease: AsyncLease) -> None:
        """Works on an item, puts it where the driver finds it, and starts the next."""
        engine = self._engine
        try:
            await self._handler(lease)
        except BaseException as error:  # noqa: BLE001 - decides about the item
            await self._raised(lease, without_this_frame(error), 0.0)
        else:
            (engine.ended if lease._settled else engine.done).append(lease)
        self._ended(lease)

    async def _watched(self, lease: AsyncLease) -> None:
        """The same, for hooks."""
        engine, tell = self._engine, self._tell
        hooks = self._hooks or Hooks()
        tell.call(hooks.started, lease)
        began = time.monotonic()
        try:
            await self._handler(lease)
        except BaseException as error:  # noqa: BLE001 - decides about the item
            seconds = time.monotonic() - began
            tell.call(hooks.error, lease, error)
            await self._raised(lease, without_this_frame(error), seconds)
        else:
            seconds = time.monotonic() - began
            tell.worked(lease, seconds, engine)
        self._ended(lease)

    def _ended(self, lease: AsyncLease) -> None:
        del self._tasks[lease.token]
        ready = self._engine.ready
        if ready and self._engine.code is None:
            following = ready.popleft()
            self._tasks[following.token] = self._loop.create_task(self._work(following))
        if not self._calling:
            self._wake()

    async def _raised(self, lease: AsyncLease, error: BaseException, seconds: float) -> None:
        try:
            if not lease.settled:
                verdict = judge(error, self._options.retry_on, self._options.bury_on)
                if self._interrupted and isinstance(error, asyncio.CancelledError):
                    verdict = Verdict("release", "the worker ends")
                self._settling.add(lease.token)
                await self._settle(lease, verdict, seconds)
                if verdict.code is not None:
                    self.stop(verdict.code)
            elif not isinstance(error, asyncio.CancelledError):
                self._tell.raised_after(lease, error, seconds)
            else:
                self._tell.settled_itself(lease, seconds)
        finally:
            self._settling.discard(lease.token)
            self._engine.ended.append(lease)

    async def _settle(self, lease: AsyncLease, verdict: Verdict, seconds: float) -> None:
        queue = self._queue
        call: Callable[[], Awaitable[list[bool]]]
        if verdict.verb == "fail":
            call = partial(queue.fail_many, [lease], verdict.error, retry_in=verdict.retry_in)
        elif verdict.verb == "bury":
            call = partial(queue.bury_many, [lease], verdict.reason, verdict.error)
        else:
            call = partial(queue.release_many, [lease], verdict.delay)
        pauses = Pauses(self._options.server_wait)
        while True:
            try:
                (kept,) = await call()
            except ServerUnavailable as error:
                if (pause := pauses.next()) is None:
                    self._tell.unsettled(lease, verdict.verb, error)
                    return
                self._tell.unreachable(error, (), self._options.server_wait)
                await asyncio.sleep(pause)
            except PyQueueError as error:
                self._tell.unsettled(lease, verdict.verb, error)
                return
            else:
                self._tell.settled(lease, verdict, seconds, kept=kept, dead=lease.dead)
                return
