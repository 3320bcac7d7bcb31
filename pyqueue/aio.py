"""The asyncio client. ``client.py`` is generated from this file: ``make twins``."""

from __future__ import annotations

import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypeVar

from . import _flows
from . import _operations as op
from ._caller_aio import AsyncCaller
from ._calls import Slot
from ._check import look_through
from ._connection import connect_async, describe
from ._keys import Keys
from ._leases import (
    ASKS_NOTHING,
    HOLD,
    PAGE,
    UNSET,
    Batch,
    FollowUps,
    HeldLease,
    Unset,
    by_size,
    chunks,
    ending,
    error_text,
    follow_ups,
    mark_settled,
    worker_name,
)
from ._message import (
    DEFAULT_MAX_BYTES,
    MAGIC,
    Headers,
    Payload,
    envelope,
    id_bytes,
    id_text,
    new_id,
)
from ._outgoing import (
    FEW,
    MOST,
    MOST_BYTES,
    Encoded,
    Message,
    Options,
    checked,
    encode,
    grouped,
)
from .errors import LeaseLost, PyQueueError, QueueNotEmpty, ServerUnavailable
from .models import DeadLetter, LeasedItem, Report, Stats, WaitingItem

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

    AsyncClient: TypeAlias = "Redis | RedisCluster"

T = TypeVar("T")
logger = logging.getLogger("pyqueue")


class AsyncLease(HeldLease):
    """One item, held by this worker until its deadline.

    As a context manager it completes the item on success, fails it on an ``Exception`` (which goes
    on to the caller) and releases it on ``KeyboardInterrupt``, ``CancelledError``,
    ``GeneratorExit`` and ``SystemExit``.
    """

    __slots__ = ("_defer", "_queue")

    def __init__(
        self,
        queue: AsyncQueue,
        message: bytes,
        token: int,
        deadline: float,
        until: float,
        defer: Callable[[AsyncLease], None] | None = None,
    ) -> None:
        super().__init__(message, token, deadline, until)
        self._queue = queue
        self._defer = defer

    async def complete(self, push: FollowUps | None = None) -> None:
        """The item is done and gone. Raises LeaseLost.

        ``push`` are messages that follow from it, at most 100, for this queue or for others of the
        same tag (``Message(queue=…)``): they are pushed in the same step, so that they exist
        exactly when the item is gone. A seal or a limit of their queue does not refuse them.
        """
        if push is None:
            outcomes = await self._queue.complete_many([self])
        else:
            outcomes = await self._queue._complete_push(self, push)
        self._queue._lost_raises(self, outcomes)

    async def release(self, delay: float = 0) -> None:
        """Gives the item back without charging an attempt: to the head of the queue, or after
        ``delay`` seconds. Raises LeaseLost.
        """
        self._queue._lost_raises(self, await self._queue.release_many([self], delay=delay))

    async def fail(
        self,
        error: str | BaseException = "",
        retry_in: float | None = None,
        push: FollowUps | None = None,
    ) -> None:
        """Charges an attempt: the item waits again after ``retry_in`` seconds, by default after its
        or the queue's backoff, or is dead when its attempts are used up. Raises LeaseLost.

        ``push`` are messages that follow from its death, as with ``complete``: they are pushed in
        the same step when this was the last attempt, else not at all.
        """
        if push is None:
            outcomes = await self._queue.fail_many([self], error, retry_in=retry_in)
        else:
            outcomes = await self._queue._fail_push(self, push, error, retry_in)
        self._queue._lost_raises(self, outcomes)

    async def bury(self, reason: str, error: str | BaseException = "") -> None:
        """The item becomes a dead letter at once, with a reason (at most 255 bytes) and an error
        (at most 2 KiB). Raises LeaseLost.
        """
        self._queue._lost_raises(self, await self._queue.bury_many([self], reason, error))

    async def extend(self, ttl: float | None = None) -> float:
        """Moves the deadline to ``ttl`` seconds from now (default: the queue's), but not beyond its
        ``max_lease`` after the item was leased; returns it. Raises LeaseLost.
        """
        self._queue._lost_raises(self, await self._queue.extend_many([self], ttl=ttl))
        return self._deadline

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._settled:
            return
        if error is None:
            if self._defer is None:
                await self.complete()
            else:
                self._settled = True
                self._defer(self)
            return
        verb = "fail" if isinstance(error, Exception) else "release"
        try:
            await self.fail(error) if verb == "fail" else await self.release()
        except PyQueueError as problem:
            # The caller's own exception goes on; this one must not hide it.
            self._queue._log_unsettled(self, verb, problem)

    def __repr__(self) -> str:
        return f"<AsyncLease {self.id} token={self.token} queue={self._queue.name!r}>"


class AsyncQueue(AsyncCaller):
    """A work queue on Redis or Valkey.

    ``AsyncQueue("job2")`` finds the server through PYQUEUE_URL, else REDIS_SERVICE_HOST and
    REDIS_SERVICE_PORT, else on localhost. Or pass ``url=`` (``redis://``, ``rediss://``,
    ``unix://``, ``embedded:``), or ``client=`` (a ``redis.asyncio`` ``Redis``, ``RedisCluster`` or
    a Sentinel master). The tasks of an event loop may share a queue.

    ``worker`` is the name that its leases show (default host:pid); ``max_bytes`` is the largest
    payload that ``push`` takes (default 1 MiB). With ``batching``, what is pushed and settled at
    the same time goes in one call.

    A caller that is cancelled loses nothing: what it leased is given back, and what it pushed or
    settled goes on.

    Raises InvalidName. Every verb may raise ServerUnavailable, PermissionDenied, WrongType and
    SchemaMismatch.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        client: AsyncClient | None = None,
        worker: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        batching: bool = True,
    ) -> None:
        if client is not None and url is not None:
            raise ValueError("give either url or client, not both")
        super().__init__(
            Keys(name),
            connect_async(url) if client is None else client,
            owns_client=client is None,
            batching=batching,
        )
        self._worker = (worker or worker_name()).encode()
        if len(self._worker) > 255:
            raise ValueError("a worker's name is at most 255 bytes long")
        self._max_bytes = max_bytes

    @property
    def name(self) -> str:
        """The queue's name: its list's key."""
        return self._keys.name

    def __repr__(self) -> str:
        return f"<AsyncQueue {self.name!r} on {describe(self._client)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Producing

    async def push(
        self,
        payload: Payload | Message,
        *,
        headers: Headers | None = None,
        id: str | None = None,
        delay: float = 0,
        priority: int = 0,
        unique: str | None = None,
        unique_for: float | None = None,
        group: str | None = None,
        max_attempts: int | None = None,
        backoff: float | None = None,
        backoff_max: float | None = None,
    ) -> str:
        """Appends a message; returns its id. ``str`` is sent as UTF-8. For the options see
        ``Message``; one of these may be given instead of all. When ``unique`` or ``id`` is taken,
        nothing is appended, and the id of the item that has it is returned.

        When it ends in ServerUnavailable with ``outcome_unknown``, this queue may push the message
        again under the id that the error carries: it is taken in once.

        Raises QueueSealed, QueueFull, MessageTooLarge, ValueError for an option out of range.
        """
        asked: Options | None = None
        mine = (headers, id, unique, unique_for, group, max_attempts, backoff, backoff_max)
        if isinstance(payload, Message):
            asked, data = self._encoded(payload)
        elif mine == ASKS_NOTHING and delay == priority == 0:
            # As most messages do: they need not be asked one by one.
            data = envelope(new_id(), checked(payload, self._max_bytes))
        else:
            message = Message(
                payload,
                headers=headers,
                id=id,
                delay=delay,
                priority=priority,
                unique=unique,
                unique_for=unique_for,
                group=group,
                max_attempts=max_attempts,
                backoff=backoff,
                backoff_max=backoff_max,
            )
            asked, data = encode(message, self._max_bytes)
        ids, _ = await self._push(op.Push([data], asked))
        return ids[0]

    async def push_many(
        self,
        payloads: Iterable[Payload | Message],
        *,
        headers: Headers | None = None,
        ids: Iterable[str] | None = None,
        delay: float = 0,
        priority: int = 0,
        unique: Callable[[Payload], str] | None = None,
        unique_for: float | None = None,
        group: str | Callable[[Payload], str] | None = None,
        max_attempts: int | None = None,
        backoff: float | None = None,
        backoff_max: float | None = None,
    ) -> list[str]:
        """Appends messages in order; returns their ids. Up to 1,000 that ask for the same delay go
        in one call: those are appended together or not at all. When an error ends it half-way, its
        notes say how many messages were pushed before.

        The options are for each payload (``unique`` and ``group`` may be functions of it); a
        ``Message`` brings its own instead.

        Raises QueueSealed, QueueFull, MessageTooLarge, ValueError for an option out of range.
        """
        if isinstance(payloads, (str, bytes, bytearray, memoryview)):
            raise TypeError("push_many takes several payloads; use push for one")
        given = None if ids is None else iter(ids)
        common = Message(
            payload=b"",
            headers=headers,
            delay=delay,
            priority=priority,
            unique=None if unique is None else "given",
            unique_for=unique_for,
            group=group if isinstance(group, str) else None,
            max_attempts=max_attempts,
            backoff=backoff,
            backoff_max=backoff_max,
        )
        same = unique is None and not callable(group)
        asked, like = encode(common, 0)
        fixed = like[20:]

        def encoded() -> Iterator[Encoded]:
            for payload in payloads:
                id = None if given is None else next(given, None)
                if given is not None and id is None:
                    raise ValueError("push_many wants as many ids as payloads")
                if isinstance(payload, Message):
                    message = payload if id is None else replace(payload, id=id)
                    yield self._encoded(message)
                elif same and id is None:
                    data = checked(payload, self._max_bytes)
                    yield asked, b"".join((MAGIC, new_id(), fixed, data))
                else:
                    message = replace(
                        common,
                        payload=payload,
                        id=id,
                        unique=None if unique is None else unique(payload),
                        group=group(payload) if callable(group) else group,
                    )
                    yield encode(message, self._max_bytes)

        pushed: list[str] = []
        try:
            for some in grouped(encoded()):
                pushed += (await self._push(op.Push(some.messages, some.options)))[0]
        except Exception as error:
            if pushed:
                error.add_note(f"{len(pushed)} messages before it were pushed")
            raise
        return pushed

    def _encoded(self, message: Message) -> Encoded:
        if message.queue not in (None, self.name):
            raise ValueError(
                f"a message for queue {message.queue!r} cannot be pushed to {self.name!r}:"
                " `queue` is for what follows from an item"
            )
        return encode(message, self._max_bytes)

    async def _push(self, operation: op.Push) -> tuple[list[str], int]:
        """Pushes; returns the ids of the items that there are now, and how many were there before:
        they have the dedupe key or the id.
        """
        ids = list(operation.ids())
        if self._slots.set_aside or self._slots.known:
            known = await self._ask_again(ids)
            if known:
                left = [m for id, m in zip(ids, operation.messages, strict=True) if id not in known]
                new, taken = (
                    await self._push(replace(operation, messages=left)) if left else ([], 0)
                )
                rest = iter(new)
                for position, id in enumerate(ids):
                    other = known.get(id)
                    if id not in known:
                        ids[position] = next(rest)
                    elif other is not None:
                        ids[position], taken = id_text(other), taken + 1
                return ids, taken
        reply = await self._run(operation)
        for position, other in reply.taken.items():
            ids[position] = id_text(other)
        return ids, len(reply.taken)

    async def _ask_again(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """Sends the pushes of messages whose outcome is unknown as the same calls once more: the
        server knows whether they were carried out. Returns for each such message None, or the id of
        the item that has its key.
        """
        slots = self._slots
        # One at a time: those who were joined in one call ask for it at the same time.
        async with self._asking_again:
            for id in ids:
                if id in slots.set_aside:
                    await self._ask_once_more(*slots.set_aside[id])
            return {id: slots.known.pop(id) for id in ids if id in slots.known}

    async def _ask_once_more(self, slot: Slot, operation: op.Push) -> None:
        slots, ids = self._slots, operation.ids()
        slot.number -= 1
        try:
            reply = await self._sent(operation, slot)
        except PyQueueError as error:
            # Also when this copy was refused unseen, by a full server for example.
            await self._wire.release(slot)
            if not isinstance(error, ServerUnavailable) or error.outcome_unknown:
                raise
            raise ServerUnavailable(
                f"{error}. An earlier try of this push may have been carried out",
                outcome_unknown=True,
                ids=ids,
            ) from error
        for position, id in enumerate(ids):
            slots.set_aside.pop(id, None)
            slots.known[id] = reply.taken.get(position)
        slots.give(slot)

    # Working

    async def lease(self, ttl: float | None = None, wait: float | None = 0) -> AsyncLease | None:
        """Leases the next item for ``ttl`` seconds (default: the queue's, else 60); waits up to
        ``wait`` seconds for one (None: for ever). Returns None when there was none.
        """
        batch = await self.lease_many(1, ttl, wait)
        return batch[0] if batch else None

    async def lease_many(
        self,
        n: int,
        ttl: float | None = None,
        wait: float | None = 0,
        *,
        completed: Iterable[AsyncLease] = (),
    ) -> Batch[AsyncLease]:
        """Leases up to ``n`` items (at most 1,000) for ``ttl`` seconds; waits up to ``wait``
        seconds for the first (None: for ever).

        ``completed`` are leases whose items are done (at most 1,000): they are completed in the
        same call, so that a worker's loop costs one round trip. Those that were lost are in
        ``Batch.lost``.

        An item whose earlier lease ran out is leased alone (``AsyncLease.suspect``): it may have
        killed its worker.
        """
        return await self._lease(n, ttl, wait, list(completed), False, None)

    async def _lease(
        self,
        n: int,
        ttl: float | None,
        wait: float | None,
        completed: Sequence[AsyncLease],
        until_drained: bool,
        defer: Callable[[AsyncLease], None] | None,
    ) -> Batch[AsyncLease]:
        if not 1 <= n <= MOST:
            raise ValueError(f"n is {n}: from 1 to {MOST} items can be leased in one call")
        if len(completed) > MOST:
            raise ValueError(f"at most {MOST} leases can be completed in one call")
        lost: list[int] = []
        while self._wide and len(completed) > FEW:
            some, completed = completed[:FEW], completed[FEW:]
            kept = await self.complete_many(some)
            lost += [lease.token for lease, ok in zip(some, kept, strict=True) if not ok]
        tokens = [lease.token for lease in completed]
        asked = time.monotonic()
        reply = await self._run(op.Lease(n, ttl, self._worker, tokens))
        for lease in completed:
            lease._mark()
        lost += [tokens[position] for position in reply.lost]
        if not reply.messages:
            asked, reply = await self._wait(
                reply, op.Lease(n, ttl, self._worker), wait, until_drained
            )
        leases = [
            AsyncLease(
                self, message, token, reply.deadline, asked + reply.deadline - reply.now, defer
            )
            for token, message in enumerate(reply.messages, reply.first_token)
            if message is not None
        ]
        return Batch(leases, reply, lost)

    async def _wait(
        self, reply: op.LeaseReply, again: op.Lease, wait: float | None, until_drained: bool
    ) -> tuple[float, op.LeaseReply]:
        """Drives the waiting. Returns when the last call was sent, and its reply."""
        asked = time.monotonic()
        flow = _flows.wait_for_items(reply, again, wait, until_drained)
        try:
            step = next(flow)
            while True:
                if isinstance(step, _flows.Call):
                    asked = time.monotonic()
                    step = flow.send(await self._run(step.operation))
                    continue
                if isinstance(step, _flows.Block):
                    await self._block(step.seconds)
                else:
                    await self._sleep(step.seconds)
                step = next(flow)
        except StopIteration as stop:
            return asked, stop.value

    async def drain(
        self, ttl: float | None = None, *, batch: int = 1, wait: float | None = None
    ) -> AsyncIterator[AsyncLease]:
        """Yields leases until the queue is drained: nothing waiting, delayed or in flight.

        Use each as a context manager as the body of the loop. An item that ended well is completed
        together with the next lease, in one round trip, when the loop goes on; if its lease was
        lost meanwhile, LeaseLost is raised then. A lease that is left unsettled when the loop goes
        on or ends is released.

        ``batch`` items are leased at a time. Ends after ``wait`` seconds without an item, if given.
        """
        done: list[AsyncLease] = []
        held: list[AsyncLease] = []
        try:
            while True:
                # Taken out first: when the call is not answered, completing them again would only
                # say that they are lost. The error carries their tokens.
                completed, done[:] = done[:], []
                leased = await self._lease(batch, ttl, wait, completed, True, done.append)
                held = list(leased)
                if leased.lost:
                    raise LeaseLost(
                        f"queue {self.name!r}: completed too late: the leases of tokens"
                        f" {list(leased.lost)} had run out and were reclaimed",
                        leased.lost,
                    )
                if not held:
                    return
                while held:
                    yield held[0]
                    lease = held.pop(0)
                    if not lease.settled:
                        await self._settle_logged("release", self.release_many, [lease])
        finally:
            try:
                await self._settle_logged(
                    "release", self.release_many, [x for x in held if not x.settled]
                )
            finally:
                # Also when that was cancelled, as often as there was something to wait for.
                await self._settle_logged("complete", self.complete_many, done)

    async def _settle_logged(
        self,
        verb: str,
        settle: Callable[[list[AsyncLease]], Awaitable[list[bool]]],
        leases: list[AsyncLease],
    ) -> None:
        """Settles where no caller can be told of a lost lease: the log is."""
        if not leases:
            return
        try:
            outcomes = await settle(leases)
            lost = [x for x, kept in zip(leases, outcomes, strict=True) if not kept]
            reason = "its lease is lost"
        except PyQueueError as error:
            lost, reason = leases, str(error)
        for lease in lost:
            self._log_unsettled(lease, verb, reason)

    def _log_unsettled(self, lease: AsyncLease, verb: str, reason: object) -> None:
        logger.warning(
            "queue %r: cannot %s item %s token %d: %s",
            self.name,
            verb,
            lease.id,
            lease.token,
            reason,
        )

    async def complete_many(self, leases: Iterable[AsyncLease]) -> list[bool]:
        """Completes leases. Returns for each whether it was still held; a lost one is False."""
        some = chunks(list(leases), FEW if self._wide else MOST)
        return await self._settle(some, lambda tokens: self._run(op.Complete(tokens)))

    async def release_many(self, leases: Iterable[AsyncLease], delay: float = 0) -> list[bool]:
        """Releases leases, after ``delay`` seconds, no attempt charged. Returns for each whether it
        was still held.
        """
        some = by_size(leases, FEW)
        return await self._settle(some, lambda tokens: self._run(op.Release(tokens, delay)))

    async def fail_many(
        self,
        leases: Iterable[AsyncLease],
        error: str | BaseException = "",
        *,
        retry_in: float | None = None,
    ) -> list[bool]:
        """Fails leases with one error; they wait again after ``retry_in`` seconds (default: the
        queue's backoff) or are dead. Returns for each whether it was still held.
        """
        text = error_text(error)
        leases = list(leases)
        outcomes: list[bool] = []
        for some in by_size(leases, FEW):
            with ending(some):
                reply = await self._run(op.Fail([lease.token for lease in some], text, retry_in))
            outcomes += mark_settled(some, reply.lost, reply.dead)
        return outcomes

    async def bury_many(
        self, leases: Iterable[AsyncLease], reason: str, error: str | BaseException = ""
    ) -> list[bool]:
        """Makes the items of leases dead letters at once, with a reason (at most 255 bytes) and an
        error (at most 2 KiB). Returns for each whether it was still held.
        """
        text = error_text(error)
        leases = list(leases)
        outcomes = await self._settle(
            by_size(leases, FEW), lambda tokens: self._run(op.Bury(tokens, reason, text))
        )
        for lease, kept in zip(leases, outcomes, strict=True):
            lease._dead = kept
        return outcomes

    async def extend_many(
        self, leases: Iterable[AsyncLease], ttl: float | None = None
    ) -> list[bool]:
        """Moves the deadlines of leases to ``ttl`` seconds from now (default: the queue's), but not
        beyond its ``max_lease``. Returns for each whether it was still held.
        """
        leases = list(leases)
        outcomes: list[bool] = []
        for some in chunks(leases, FEW):
            asked = time.monotonic()
            reply = await self._run(op.Extend([lease.token for lease in some], ttl))
            for lease, deadline in zip(some, reply.deadlines, strict=True):
                outcomes.append(deadline is not None)
                lease._mark(deadline, asked + (deadline or 0) - reply.now)
        return outcomes

    async def _complete_push(self, lease: AsyncLease, push: FollowUps) -> list[bool]:
        ups = follow_ups(push, self._keys, self._max_bytes)
        if not ups:
            return await self.complete_many([lease])
        with ending([lease]):
            kept = await self._run(op.CompletePush(lease.token, ups))
        return mark_settled([lease], [] if kept else [0])

    async def _fail_push(
        self,
        lease: AsyncLease,
        push: FollowUps,
        error: str | BaseException,
        retry_in: float | None,
    ) -> list[bool]:
        ups = follow_ups(push, self._keys, self._max_bytes)
        if not ups:
            return await self.fail_many([lease], error, retry_in=retry_in)
        with ending([lease]):
            reply = await self._run(op.FailPush(lease.token, ups, error_text(error), retry_in))
        return mark_settled([lease], reply.lost, reply.dead)

    async def _settle(
        self,
        chunked: Iterable[Sequence[AsyncLease]],
        run: Callable[[Sequence[int]], Awaitable[Sequence[int]]],
    ) -> list[bool]:
        outcomes: list[bool] = []
        for some in chunked:
            with ending(some):
                lost = await run([lease.token for lease in some])
            outcomes += mark_settled(some, lost)
        return outcomes

    def _lost_raises(self, lease: AsyncLease, outcomes: Sequence[bool]) -> None:
        if not outcomes[0]:
            raise LeaseLost(
                f"queue {self.name!r}: item {lease.id} token {lease.token}: the lease is not held"
                " any more: it ran out and was reclaimed, or was settled before",
                [lease.token],
            )

    # Looking after

    async def reclaim(self, *, hold: float = HOLD) -> int:
        """Takes back every lease that has run out; returns how many. Items whose attempts are used
        up become dead letters, the others wait again. Workers do it as well with each lease call.

        When nobody has called for more than 5 s (an outage, or no worker at all), workers that are
        alive get ``hold`` seconds to extend first: then this call waits as long.
        """
        total = 0
        while True:
            reply = await self._run(op.Reclaim(FEW, hold))
            total += reply.reclaimed + reply.dead
            if reply.left == 0:
                return total
            await self._sleep(reply.wait)

    async def seal(self) -> bool:
        """The queue takes no more messages: ``push`` raises QueueSealed. A raw RPUSH cannot be
        refused; it is worked off if anybody still works. Returns whether that changed it.
        """
        return await self._run(op.Seal(True))

    async def unseal(self) -> bool:
        """The queue takes messages again. Returns whether that changed it."""
        return await self._run(op.Seal(False))

    async def pause(self) -> bool:
        """The queue leases nothing until ``resume``. Returns whether that changed it."""
        return await self._run(op.Pause(True))

    async def resume(self) -> bool:
        """The queue leases again; workers notice within 2 s. Returns whether that changed it."""
        return await self._run(op.Pause(False))

    async def configure(
        self,
        *,
        max_attempts: int | Unset | None = UNSET,
        backoff: float | Unset | None = UNSET,
        backoff_max: float | Unset | None = UNSET,
        ttl: float | Unset | None = UNSET,
        max_lease: float | Unset | None = UNSET,
        max_leased: int | Unset | None = UNSET,
        max_waiting: int | Unset | None = UNSET,
        max_bytes: int | Unset | None = UNSET,
        rate: float | Unset | None = UNSET,
        burst: int | Unset | None = UNSET,
    ) -> Mapping[str, float]:
        """Sets the queue's own numbers, for all who use it; None gives one its default back. Those
        that are not given stay. Returns all that are set.

        - ``max_attempts`` (5): so many leases may fail or run out until the item is dead.
        - ``backoff`` (1), ``backoff_max`` (300), seconds: after the n-th failed attempt an item
          waits ``min(backoff * 2**(n - 1), backoff_max)``, times a jitter between ½ and 1.
        - ``ttl`` (60), seconds: of leases that name none.
        - ``max_lease``, seconds: no lease lasts longer, however often it is extended.
        - ``max_leased``: items in flight. ``max_waiting``: messages that wait; ``push`` raises
          QueueFull. ``max_bytes``: of a payload; ``push`` raises MessageTooLarge.
        - ``rate``: leases per second, at most; ``burst`` (one second's, at least 1) at once.

        Raises PyQueueError for a number out of range.
        """
        given = {
            "max_attempts": max_attempts,
            "backoff_base": backoff,
            "backoff_max": backoff_max,
            "ttl": ttl,
            "max_lease": max_lease,
            "max_leased": max_leased,
            "max_waiting": max_waiting,
            "max_bytes": max_bytes,
            "rate": rate,
            "burst": burst,
        }
        settings = {name: x for name, x in given.items() if not isinstance(x, Unset)}
        return await self._run(op.Configure(settings))

    async def stats(self) -> Stats:
        """Counts of every state, the totals over the queue's life, and its flags."""
        return await self._run(op.ReadStats())

    def waiting(self, offset: int = 0, count: int | None = None) -> AsyncIterator[WaitingItem]:
        """What waits, in the order of leasing, read page by page and not changed: items that move
        meanwhile can be missed or seen twice. ``count`` limits how many.
        """
        return self._pages(op.ReadWaiting, offset, count)

    def leases(self, offset: int = 0, count: int | None = None) -> AsyncIterator[LeasedItem]:
        """What is in flight, by deadline, with worker and token; read page by page."""
        return self._pages(op.ReadLeases, offset, count)

    def dead(self, offset: int = 0, count: int | None = None) -> AsyncIterator[DeadLetter]:
        """The dead letters, the oldest first, with reason, error, worker and time; read page by
        page and not changed.
        """
        return self._pages(op.ReadDead, offset, count)

    async def redrive(
        self,
        letters: Iterable[DeadLetter | str] | None = None,
        *,
        reason: str | None = None,
        limit: int | None = None,
    ) -> int:
        """Puts dead letters (or their ids) back to the tail of the queue; by default all, or those
        that died of exactly ``reason``, the oldest first and at most ``limit``. Their attempts
        restart. Returns how many; one stays that is malformed, whose dedupe key is taken by another
        item, or that is gone.
        """
        if letters is not None:
            if reason is not None or limit is not None:
                raise ValueError("give either letters, or reason and limit")
            ids = [id_bytes(x if isinstance(x, str) else x.id) for x in letters]
            return sum([await self._redrive(some) for some in chunks(ids, PAGE)])
        # Not those that die anew meanwhile: they are at the end.
        left = (await self.stats()).dead
        wanted = left if limit is None else limit
        redriven = kept = 0
        while left > 0 and redriven < wanted:
            page = (await self._run(op.ReadDead(kept, min(left, PAGE)))).entries
            if not page:
                break
            some = [x for x in page if reason in (None, x.reason)][: wanted - redriven]
            back = await self._redrive([id_bytes(x.id) for x in some]) if some else 0
            redriven += back
            kept += len(page) - back
            left -= len(page)
        return redriven

    async def _redrive(self, ids: Sequence[bytes]) -> int:
        kept = await self._run(op.Redrive(ids))
        return len(ids) - len(kept)

    async def purge(self, what: Literal["waiting", "dead"] = "waiting") -> int:
        """Drops all that waits, delayed messages and those behind others of their group too, or all
        dead letters; returns how many. Their dedupe keys are free again. What is in flight stays.
        """
        if what not in ("waiting", "dead"):
            raise ValueError(f"purge drops what is 'waiting' or 'dead', not {what!r}")
        total = 0
        while True:
            reply = await self._run(op.Purge(what))
            total += reply.dropped
            if not reply.more:
                return total

    async def import_dead(self, letters: Iterable[DeadLetter]) -> int:
        """Puts dead letters that were read elsewhere, or before they were purged, among the dead
        letters of this queue. Returns how many; one whose id is there already is left as it is.

        Raises QueueFull.
        """
        imported = size = 0
        some: list[DeadLetter] = []
        for letter in letters:
            if some and (len(some) == PAGE or size + len(letter.message) > MOST_BYTES):
                imported += await self._import(some)
                some, size = [], 0
            some.append(letter)
            size += len(letter.message)
        return imported + (await self._import(some) if some else 0)

    async def _import(self, letters: Sequence[DeadLetter]) -> int:
        there = await self._run(op.Import(letters))
        return len(letters) - len(there)

    async def _pages(
        self,
        operation: Callable[[int, int], op.Operation[op.Page[T]]],
        offset: int,
        count: int | None,
    ) -> AsyncIterator[T]:
        following: int | None = offset
        left = count
        while following is not None and (left is None or left > 0):
            page = await self._run(operation(following, PAGE if left is None else min(left, PAGE)))
            for entry in page.entries:
                yield entry
            if left is not None:
                left -= len(page.entries)
            following = page.next

    async def check(self, repair: bool = False) -> Report:
        """Looks through the whole queue for what a lost write, an eviction, a deleted key or
        somebody else's command can have left: an item without a lease, a second copy, a group that
        nobody leads …; with ``repair`` mends it. Workers and producers may go on meanwhile: what is
        found is verified, and mended, one by one, each in one step.

        Nothing is dropped or invented silently: each is a finding. When nobody works on the queue
        meanwhile, all items are accounted for. Out of sight are raw messages that were never
        leased: whether one of them was taken away, or is there twice, nobody can know.

        Takes 16 bytes of memory for each item.
        """
        flow = look_through(repair)
        try:
            operation = next(flow)
            while True:
                operation = flow.send(await self._run(operation))
        except StopIteration as stop:
            report: Report = stop.value
            return report

    async def delete(self, *, force: bool = False) -> None:
        """Deletes every key of the queue when it is drained and has no dead letters; with ``force``
        whatever it holds. Raises QueueNotEmpty.
        """
        reply = await self._run(op.Delete(force))
        if not reply.deleted:
            raise QueueNotEmpty(
                f"queue {self.name!r} holds {reply.live} items and {reply.dead} dead letters:"
                " drain it first, or delete with force=True"
            )
