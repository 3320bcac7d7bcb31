"""The synchronous client."""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, overload

import redis

from . import _flows
from . import _operations as op
from ._calls import Slot, Slots
from ._check import look_through
from ._connection import connect, describe, nothing_happened, translated
from ._keys import Keys
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
from ._outgoing import MOST_BYTES, Encoded, Message, Options, checked, encode, grouped
from ._wire import Wire
from .errors import LeaseLost, PyQueueError, QueueNotEmpty, ServerUnavailable
from .models import DeadLetter, HeldItem, LeasedItem, Report, Stats, WaitingItem

if TYPE_CHECKING:
    from redis.cluster import RedisCluster

    Client: TypeAlias = "redis.Redis | RedisCluster"

T = TypeVar("T")
logger = logging.getLogger("pyqueue")

#: What the options of a push are when none is given.
ASKS_NOTHING = (None,) * 8
#: The most messages that one item can be followed by, in one step.
MOST_FOLLOW_UPS = 100
#: Messages of pushes with an unknown outcome whose slots wait for a repeat.
MOST_SET_ASIDE = 10_000

#: A page of ``waiting`` and ``leases``.
PAGE = 100
#: How long after an outage workers have to extend before others reclaim, seconds (DESIGN 4).
HOLD = 5.0


def heartbeat_period(ttl: float) -> float:
    """How often a lease of ``ttl`` seconds is extended while its item is worked on: often enough
    that two heartbeats may fail, and that the guard after an outage (5 s) sees somebody alive.
    """
    return min(ttl / 3, 4.0)


def worker_name() -> str:
    """What leases show as their holder unless told otherwise: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


#: What follows from an item: one message or several.
FollowUps: TypeAlias = "Payload | Message | Iterable[Payload | Message]"


class Unset(Enum):
    """What an option is that was not given, where None has a meaning of its own."""

    UNSET = "unset"


UNSET = Unset.UNSET


class Lease(HeldItem):
    """One item, held by this worker until its deadline.

    As a context manager it completes the item on success, fails it on an ``Exception`` (which goes
    on to the caller) and releases it on ``KeyboardInterrupt``, ``CancelledError``,
    ``GeneratorExit`` and ``SystemExit``.
    """

    __slots__ = ("_dead", "_deadline", "_defer", "_queue", "_settled", "_until")

    def __init__(
        self,
        queue: Queue,
        message: bytes,
        token: int,
        deadline: float,
        until: float,
        defer: Callable[[Lease], None] | None = None,
    ) -> None:
        super().__init__(message, token)
        self._queue = queue
        self._deadline = deadline
        self._until = until
        self._settled = False
        self._dead = False
        self._defer = defer

    @property
    def deadline(self) -> float:
        """When the lease runs out: seconds since the epoch by the server's clock."""
        return self._deadline

    @property
    def remaining(self) -> float:
        """Seconds until the lease runs out, by this machine's monotonic clock."""
        return self._until - time.monotonic()

    @property
    def settled(self) -> bool:
        """Whether a verb has ended this lease, or found it lost."""
        return self._settled

    @property
    def dead(self) -> bool:
        """Whether this lease ended with a dead letter: its item was buried, or failed for the last
        time.
        """
        return self._dead

    def _mark(self, deadline: float | None = None, until: float = 0.0) -> None:
        """Settled or lost; or, with a deadline, extended."""
        if deadline is None:
            self._settled = True
        else:
            self._deadline, self._until = deadline, until

    def complete(self, push: FollowUps | None = None) -> None:
        """The item is done and gone. Raises LeaseLost.

        ``push`` are messages that follow from it, at most 100, for this queue or for others of the
        same tag (``Message(queue=…)``): they are pushed in the same step, so that they exist
        exactly when the item is gone. A seal or a limit of their queue does not refuse them.
        """
        if push is None:
            outcomes = self._queue.complete_many([self])
        else:
            outcomes = self._queue._complete_push(self, push)
        self._queue._lost_raises(self, outcomes)

    def release(self, delay: float = 0) -> None:
        """Gives the item back without charging an attempt: to the head of the queue, or after
        ``delay`` seconds. Raises LeaseLost.
        """
        self._queue._lost_raises(self, self._queue.release_many([self], delay=delay))

    def fail(
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
            outcomes = self._queue.fail_many([self], error, retry_in=retry_in)
        else:
            outcomes = self._queue._fail_push(self, push, error, retry_in)
        self._queue._lost_raises(self, outcomes)

    def bury(self, reason: str, error: str | BaseException = "") -> None:
        """The item becomes a dead letter at once, with a reason (at most 255 bytes) and an error
        (at most 2 KiB). Raises LeaseLost.
        """
        self._queue._lost_raises(self, self._queue.bury_many([self], reason, error))

    def extend(self, ttl: float | None = None) -> float:
        """Moves the deadline to ``ttl`` seconds from now (default: the queue's), but not beyond its
        ``max_lease`` after the item was leased; returns it. Raises LeaseLost.
        """
        self._queue._lost_raises(self, self._queue.extend_many([self], ttl=ttl))
        return self._deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._settled:
            return
        if error is None:
            if self._defer is None:
                self.complete()
            else:
                self._settled = True
                self._defer(self)
            return
        verb = "fail" if isinstance(error, Exception) else "release"
        try:
            self.fail(error) if verb == "fail" else self.release()
        except PyQueueError as problem:
            # The caller's own exception goes on; this one must not hide it.
            self._queue._log_unsettled(self, verb, problem)

    def __repr__(self) -> str:
        return f"<Lease {self.id} token={self.token} queue={self._queue.name!r}>"


class Batch(Sequence[Lease]):
    """The leases of one call, and why there are none."""

    def __init__(self, leases: Sequence[Lease], reply: op.LeaseReply, lost: Sequence[int]) -> None:
        self._leases = leases
        #: "items", "empty", "group", "limit", "rate", "paused" or "drained".
        self.reason = reply.word
        #: True when nothing is left to do: nothing waiting, delayed or leased.
        self.drained = reply.word == "drained"
        #: Seconds until something happens by itself (an item is due, a lease runs out), if known.
        self.retry_in = reply.retry_in
        #: Whether the queue is drained and takes no more messages.
        self.sealed = reply.sealed
        #: Whether the queue is drained since it has never had an item.
        self.fresh = reply.fresh
        #: The tokens given as ``completed`` that no longer held a lease.
        self.lost = tuple(lost)

    @overload
    def __getitem__(self, index: int) -> Lease: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Lease]: ...
    def __getitem__(self, index: int | slice) -> Lease | Sequence[Lease]:
        return self._leases[index]

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases)

    def __repr__(self) -> str:
        return f"<Batch {self.reason} {list(self._leases)!r}>"


class Queue:
    """A work queue on Redis or Valkey.

    ``Queue("job2")`` finds the server through PYQUEUE_URL, else REDIS_SERVICE_HOST and
    REDIS_SERVICE_PORT, else on localhost. Or pass ``url=`` (``redis://``, ``rediss://``,
    ``unix://``, ``embedded:``), or ``client=`` (a redis-py ``Redis``, ``RedisCluster`` or a
    Sentinel master). Threads may share a queue. After a fork each process goes on by itself.

    ``worker`` is the name that its leases show (default host:pid); ``max_bytes`` is the largest
    payload that ``push`` takes (default 1 MiB).

    Raises InvalidName. Every verb may raise ServerUnavailable, PermissionDenied, WrongType and
    SchemaMismatch.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        client: Client | None = None,
        worker: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if client is not None and url is not None:
            raise ValueError("give either url or client, not both")
        self._keys = Keys(name)
        self._owns_client = client is None
        self._client: Any = connect(url) if client is None else client
        self._worker = (worker or worker_name()).encode()
        if len(self._worker) > 255:
            raise ValueError("a worker's name is at most 255 bytes long")
        self._max_bytes = max_bytes
        self._slots = Slots()
        self._wire = Wire(self._client, shared=not self._owns_client)
        #: Whether calls name the keys of the features: from the first answer on that wants them.
        self._wide = False
        #: Milliseconds as text; only on a queue whose state carries the test flag.
        self._clock: Callable[[], str] | None = None

    @property
    def name(self) -> str:
        """The queue's name: its list's key."""
        return self._keys.name

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} on {describe(self._client)}>"

    def close(self) -> None:
        """Gives back what an unanswered call may have leased, and closes a client of its own.

        The queue can be used again afterwards; it connects anew.
        """
        for slot in self._slots.take_all():
            # Also when the last call was a lease that found nothing: a copy of it may yet arrive.
            if slot.unresolved or slot.number > slot.ack:
                try:
                    self._send(op.Release((), 0), slot)
                except redis.RedisError as error:
                    logger.warning(
                        "queue %r: an unanswered call stays unresolved: %s", self.name, error
                    )
            self._wire.release(slot)
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Calls

    def _send(self, operation: op.Operation[T], slot: Slot) -> T:
        script = operation.script
        now = "" if self._clock is None else self._clock()
        args: tuple[op.Arg, ...]
        if script.takes_call:
            slot.number += 1
            args = (now, slot.id, slot.number, slot.ack, *operation.args())
        else:
            args = (now, *operation.args())
        # A call that only reads, or is refused, resolves nothing of an earlier one.
        was_unresolved = slot.unresolved
        slot.unresolved = was_unresolved or script.takes_call
        while True:
            wide = self._wide or operation.wide
            keys = self._keys.pick(script.keys, wide=wide) + operation.other_keys()
            try:
                reply = self._wire.evalsha(slot, script, keys, args)
                break
            except redis.RedisError as error:
                if not wide and str(error).startswith("WIDE "):
                    self._wide = True
                    continue
                if nothing_happened(error):
                    slot.unresolved = was_unresolved
                raise
        slot.unresolved = was_unresolved and not script.takes_call
        result = operation.decode(reply)
        if script.takes_call and operation.recorded(result):
            slot.ack = slot.number
        return result

    def _run(self, operation: op.Operation[T]) -> T:
        """Runs an operation. Errors come in pyqueue's words."""
        slot = self._slots.take()
        try:
            return self._sent(operation, slot)
        finally:
            # Also after KeyboardInterrupt: the slot's next call gives back what this one leased.
            self._slots.give(slot)

    def _sent(self, operation: op.Operation[T], slot: Slot) -> T:
        try:
            return self._send(operation, slot)
        except redis.RedisError as error:
            raise translated(
                error, self.name, describe(self._client), operation.script.name, operation.ids()
            ) from error

    def _block(self, seconds: float) -> None:
        """Waits for a message: BLMOVE from the list into the handoff, where any lease call finds
        it, whatever becomes of this worker.
        """
        slot = self._slots.take()
        try:
            self._wire.block(slot, self._keys.waiting, self._keys.handoff, seconds)
        except redis.RedisError as error:
            # A full server refuses it, a failover unblocks it: the lease script finds out.
            logger.debug("queue %r: BLMOVE: %s", self.name, error)
            time.sleep(min(seconds, 0.5))
        finally:
            self._slots.give(slot)

    # Producing

    def push(
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
        ids, _ = self._push(op.Push([data], asked))
        return ids[0]

    def push_many(
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
                pushed += self._push(op.Push(some.messages, some.options))[0]
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

    def _push(self, operation: op.Push) -> tuple[list[str], int]:
        """Pushes; returns the ids of the items that there are now, and how many were there before:
        they have the dedupe key or the id.
        """
        ids = list(operation.ids())
        aside = self._slots.set_aside
        known: dict[str, bytes | None] = {}
        for id in ids if aside else ():
            if id in aside:
                known.update(self._ask_again(id))
        if known:
            left = [m for id, m in zip(ids, operation.messages, strict=True) if id not in known]
            new, taken = self._push(replace(operation, messages=left)) if left else ([], 0)
            rest = iter(new)
            for position, id in enumerate(ids):
                other = known.get(id)
                if id not in known:
                    ids[position] = next(rest)
                elif other is not None:
                    ids[position], taken = id_text(other), taken + 1
            return ids, taken
        slot = self._slots.take()
        try:
            reply = self._sent(operation, slot)
        except ServerUnavailable as error:
            if error.outcome_unknown and len(aside) < MOST_SET_ASIDE:
                aside.update(dict.fromkeys(ids, (slot, operation)))
                self._wire.release(slot)  # of the pool's connections all others have need
            raise
        finally:
            if not any(id in aside for id in ids):
                self._slots.give(slot)
        for position, other in reply.taken.items():
            ids[position] = id_text(other)
        return ids, len(reply.taken)

    def _ask_again(self, id: str) -> dict[str, bytes | None]:
        """Sends the push of a message whose outcome is unknown as the same call once more: the
        server knows whether it was carried out. Returns for each message of that call None, or the
        id of the item that has its key.
        """
        aside = self._slots.set_aside
        found = slot, operation = aside[id]
        ids = operation.ids()
        for known in ids:
            aside.pop(known, None)
        slot.number -= 1
        try:
            reply = self._sent(operation, slot)
        except PyQueueError as error:
            # Also when this copy was refused unseen, by a full server for example.
            aside.update(dict.fromkeys(ids, found))
            self._wire.release(slot)
            if not isinstance(error, ServerUnavailable) or error.outcome_unknown:
                raise
            raise ServerUnavailable(
                f"{error}. An earlier try of this push may have been carried out",
                outcome_unknown=True,
                ids=ids,
            ) from error
        finally:
            if id not in aside:
                self._slots.give(slot)
        return {id: reply.taken.get(position) for position, id in enumerate(ids)}

    # Working

    def lease(self, ttl: float | None = None, wait: float | None = 0) -> Lease | None:
        """Leases the next item for ``ttl`` seconds (default: the queue's, else 60); waits up to
        ``wait`` seconds for one (None: for ever). Returns None when there was none.
        """
        batch = self.lease_many(1, ttl, wait)
        return batch[0] if batch else None

    def lease_many(
        self,
        n: int,
        ttl: float | None = None,
        wait: float | None = 0,
        *,
        completed: Iterable[Lease] = (),
    ) -> Batch:
        """Leases up to ``n`` items (at most 1,000) for ``ttl`` seconds; waits up to ``wait``
        seconds for the first (None: for ever).

        ``completed`` are leases whose items are done (at most 1,000): they are completed in the
        same call, so that a worker's loop costs one round trip. Those that were lost are in
        ``Batch.lost``.

        An item whose earlier lease ran out is leased alone (``Lease.suspect``): it may have killed
        its worker.
        """
        return self._lease(n, ttl, wait, list(completed), False, None)

    def _lease(
        self,
        n: int,
        ttl: float | None,
        wait: float | None,
        completed: Sequence[Lease],
        until_drained: bool,
        defer: Callable[[Lease], None] | None,
    ) -> Batch:
        if not 1 <= n <= op.MOST:
            raise ValueError(f"n is {n}: from 1 to {op.MOST} items can be leased in one call")
        if len(completed) > op.MOST:
            raise ValueError(f"at most {op.MOST} leases can be completed in one call")
        tokens = [lease.token for lease in completed]
        asked = time.monotonic()
        reply = self._run(op.Lease(n, ttl, self._worker, tokens))
        for lease in completed:
            lease._mark()
        lost = [tokens[position] for position in reply.lost]
        if not reply.messages:
            asked, reply = self._wait(reply, op.Lease(n, ttl, self._worker), wait, until_drained)
        leases = [
            Lease(self, message, token, reply.deadline, asked + reply.deadline - reply.now, defer)
            for token, message in enumerate(reply.messages, reply.first_token)
            if message is not None
        ]
        return Batch(leases, reply, lost)

    def _wait(
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
                    step = flow.send(self._run(step.operation))
                    continue
                if isinstance(step, _flows.Block):
                    self._block(step.seconds)
                else:
                    time.sleep(step.seconds)
                step = next(flow)
        except StopIteration as stop:
            return asked, stop.value

    def drain(
        self, ttl: float | None = None, *, batch: int = 1, wait: float | None = None
    ) -> Iterator[Lease]:
        """Yields leases until the queue is drained: nothing waiting, delayed or in flight.

        Use each as a context manager as the body of the loop. An item that ended well is completed
        together with the next lease, in one round trip, when the loop goes on; if its lease was
        lost meanwhile, LeaseLost is raised then. A lease that is left unsettled when the loop goes
        on or ends is released.

        ``batch`` items are leased at a time. Ends after ``wait`` seconds without an item, if given.
        """
        done: list[Lease] = []
        held: list[Lease] = []
        try:
            while True:
                # Taken out first: when the call is not answered, completing them again would only
                # say that they are lost. The error carries their tokens.
                completed, done[:] = done[:], []
                leased = self._lease(batch, ttl, wait, completed, True, done.append)
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
                        self._settle_logged("release", self.release_many, [lease])
        finally:
            self._settle_logged("release", self.release_many, [x for x in held if not x.settled])
            self._settle_logged("complete", self.complete_many, done)

    def _settle_logged(
        self, verb: str, settle: Callable[[list[Lease]], list[bool]], leases: list[Lease]
    ) -> None:
        """Settles where no caller can be told of a lost lease: the log is."""
        if not leases:
            return
        try:
            lost = [x for x, kept in zip(leases, settle(leases), strict=True) if not kept]
            reason = "its lease is lost"
        except PyQueueError as error:
            lost, reason = leases, str(error)
        for lease in lost:
            self._log_unsettled(lease, verb, reason)

    def _log_unsettled(self, lease: Lease, verb: str, reason: object) -> None:
        logger.warning(
            "queue %r: cannot %s item %s token %d: %s",
            self.name,
            verb,
            lease.id,
            lease.token,
            reason,
        )

    def complete_many(self, leases: Iterable[Lease]) -> list[bool]:
        """Completes leases. Returns for each whether it was still held; a lost one is False."""
        return self._settle(leases, lambda tokens: self._run(op.Complete(tokens)))

    def release_many(self, leases: Iterable[Lease], delay: float = 0) -> list[bool]:
        """Releases leases, after ``delay`` seconds, no attempt charged. Returns for each whether it
        was still held.
        """
        return self._settle(leases, lambda tokens: self._run(op.Release(tokens, delay)))

    def fail_many(
        self,
        leases: Iterable[Lease],
        error: str | BaseException = "",
        *,
        retry_in: float | None = None,
    ) -> list[bool]:
        """Fails leases with one error; they wait again after ``retry_in`` seconds (default: the
        queue's backoff) or are dead. Returns for each whether it was still held.
        """
        text = _error_text(error)
        leases = list(leases)
        outcomes: list[bool] = []
        for some in _chunks(leases, op.MOST):
            reply = self._run(op.Fail([lease.token for lease in some], text, retry_in))
            outcomes += _mark_settled(some, reply.lost, reply.dead)
        return outcomes

    def bury_many(
        self, leases: Iterable[Lease], reason: str, error: str | BaseException = ""
    ) -> list[bool]:
        """Makes the items of leases dead letters at once, with a reason (at most 255 bytes) and an
        error (at most 2 KiB). Returns for each whether it was still held.
        """
        text = _error_text(error)
        leases = list(leases)
        outcomes = self._settle(leases, lambda tokens: self._run(op.Bury(tokens, reason, text)))
        for lease, kept in zip(leases, outcomes, strict=True):
            lease._dead = kept
        return outcomes

    def extend_many(self, leases: Iterable[Lease], ttl: float | None = None) -> list[bool]:
        """Moves the deadlines of leases to ``ttl`` seconds from now (default: the queue's), but not
        beyond its ``max_lease``. Returns for each whether it was still held.
        """
        leases = list(leases)
        outcomes: list[bool] = []
        for some in _chunks(leases, op.MOST):
            asked = time.monotonic()
            reply = self._run(op.Extend([lease.token for lease in some], ttl))
            for lease, deadline in zip(some, reply.deadlines, strict=True):
                outcomes.append(deadline is not None)
                lease._mark(deadline, asked + (deadline or 0) - reply.now)
        return outcomes

    def _complete_push(self, lease: Lease, push: FollowUps) -> list[bool]:
        ups = self._follow_ups(push)
        if not ups:
            return self.complete_many([lease])
        kept = self._run(op.CompletePush(lease.token, ups))
        return _mark_settled([lease], [] if kept else [0])

    def _fail_push(
        self,
        lease: Lease,
        push: FollowUps,
        error: str | BaseException,
        retry_in: float | None,
    ) -> list[bool]:
        ups = self._follow_ups(push)
        if not ups:
            return self.fail_many([lease], error, retry_in=retry_in)
        reply = self._run(op.FailPush(lease.token, ups, _error_text(error), retry_in))
        return _mark_settled([lease], reply.lost, reply.dead)

    def _follow_ups(self, push: FollowUps) -> list[op.FollowUp]:
        if isinstance(push, (str, bytes, bytearray, memoryview, Message)):
            push = [push]
        found: list[op.FollowUp] = []
        for x in push:
            message = x if isinstance(x, Message) else Message(payload=x)
            queue = None
            if message.queue is not None and message.queue != self.name:
                queue = Keys(message.queue)
                if queue.tag != self._keys.tag:
                    raise ValueError(
                        f"queue {message.queue!r} has another tag than {self.name!r}: name them"
                        f" {{{self._keys.tag}}}… both, so that one step can write to both"
                    )
            options, data = encode(message, self._max_bytes)
            delay, window, _ = options or (0.0, 0.0, False)
            found.append(op.FollowUp(queue, delay, window, data))
        if len(found) > MOST_FOLLOW_UPS:
            raise ValueError(f"{len(found)} messages follow: at most {MOST_FOLLOW_UPS} can")
        return found

    def _settle(
        self, leases: Iterable[Lease], run: Callable[[Sequence[int]], Sequence[int]]
    ) -> list[bool]:
        outcomes: list[bool] = []
        for some in _chunks(list(leases), op.MOST):
            outcomes += _mark_settled(some, run([lease.token for lease in some]))
        return outcomes

    def _lost_raises(self, lease: Lease, outcomes: Sequence[bool]) -> None:
        if not outcomes[0]:
            raise LeaseLost(
                f"queue {self.name!r}: item {lease.id} token {lease.token}: the lease is not held"
                " any more: it ran out and was reclaimed, or was settled before",
                [lease.token],
            )

    # Looking after

    def reclaim(self, *, hold: float = HOLD) -> int:
        """Takes back every lease that has run out; returns how many. Items whose attempts are used
        up become dead letters, the others wait again. Workers do it as well with each lease call.

        When nobody has called for more than 5 s (an outage, or no worker at all), workers that are
        alive get ``hold`` seconds to extend first: then this call waits as long.
        """
        total = 0
        while True:
            reply = self._run(op.Reclaim(op.MOST, hold))
            total += reply.reclaimed + reply.dead
            if reply.left == 0:
                return total
            time.sleep(reply.wait)

    def seal(self) -> bool:
        """The queue takes no more messages: ``push`` raises QueueSealed. A raw RPUSH cannot be
        refused; it is worked off if anybody still works. Returns whether that changed it.
        """
        return self._run(op.Seal(True))

    def unseal(self) -> bool:
        """The queue takes messages again. Returns whether that changed it."""
        return self._run(op.Seal(False))

    def pause(self) -> bool:
        """The queue leases nothing until ``resume``. Returns whether that changed it."""
        return self._run(op.Pause(True))

    def resume(self) -> bool:
        """The queue leases again; workers notice within 2 s. Returns whether that changed it."""
        return self._run(op.Pause(False))

    def configure(
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
        return self._run(op.Configure(settings))

    def stats(self) -> Stats:
        """Counts of every state, the totals over the queue's life, and its flags."""
        return self._run(op.ReadStats())

    def waiting(self, offset: int = 0, count: int | None = None) -> Iterator[WaitingItem]:
        """What waits, in the order of leasing, read page by page and not changed: items that move
        meanwhile can be missed or seen twice. ``count`` limits how many.
        """
        return self._pages(op.ReadWaiting, offset, count)

    def leases(self, offset: int = 0, count: int | None = None) -> Iterator[LeasedItem]:
        """What is in flight, by deadline, with worker and token; read page by page."""
        return self._pages(op.ReadLeases, offset, count)

    def dead(self, offset: int = 0, count: int | None = None) -> Iterator[DeadLetter]:
        """The dead letters, the oldest first, with reason, error, worker and time; read page by
        page and not changed.
        """
        return self._pages(op.ReadDead, offset, count)

    def redrive(
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
            return sum(self._redrive(some) for some in _chunks(ids, PAGE))
        # Not those that die anew meanwhile: they are at the end.
        left = self.stats().dead
        wanted = left if limit is None else limit
        redriven = kept = 0
        while left > 0 and redriven < wanted:
            page = self._run(op.ReadDead(kept, min(left, PAGE))).entries
            if not page:
                break
            some = [x for x in page if reason in (None, x.reason)][: wanted - redriven]
            back = self._redrive([id_bytes(x.id) for x in some]) if some else 0
            redriven += back
            kept += len(page) - back
            left -= len(page)
        return redriven

    def _redrive(self, ids: Sequence[bytes]) -> int:
        return len(ids) - len(self._run(op.Redrive(ids)))

    def purge(self, what: Literal["waiting", "dead"] = "waiting") -> int:
        """Drops all that waits, delayed messages and those behind others of their group too, or all
        dead letters; returns how many. Their dedupe keys are free again. What is in flight stays.
        """
        if what not in ("waiting", "dead"):
            raise ValueError(f"purge drops what is 'waiting' or 'dead', not {what!r}")
        total = 0
        while True:
            reply = self._run(op.Purge(what))
            total += reply.dropped
            if not reply.more:
                return total

    def import_dead(self, letters: Iterable[DeadLetter]) -> int:
        """Puts dead letters that were read elsewhere, or before they were purged, among the dead
        letters of this queue. Returns how many; one whose id is there already is left as it is.

        Raises QueueFull.
        """
        imported = size = 0
        some: list[DeadLetter] = []
        for letter in letters:
            if some and (len(some) == PAGE or size + len(letter.message) > MOST_BYTES):
                imported += len(some) - len(self._run(op.Import(some)))
                some, size = [], 0
            some.append(letter)
            size += len(letter.message)
        return imported + len(some) - len(self._run(op.Import(some))) if some else imported

    def _pages(
        self,
        operation: Callable[[int, int], op.Operation[op.Page[T]]],
        offset: int,
        count: int | None,
    ) -> Iterator[T]:
        following: int | None = offset
        left = count
        while following is not None and (left is None or left > 0):
            page = self._run(operation(following, PAGE if left is None else min(left, PAGE)))
            yield from page.entries
            if left is not None:
                left -= len(page.entries)
            following = page.next

    def check(self, repair: bool = False) -> Report:
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
                operation = flow.send(self._run(operation))
        except StopIteration as stop:
            report: Report = stop.value
            return report

    def delete(self, *, force: bool = False) -> None:
        """Deletes every key of the queue when it is drained and has no dead letters; with ``force``
        whatever it holds. Raises QueueNotEmpty.
        """
        reply = self._run(op.Delete(force))
        if not reply.deleted:
            raise QueueNotEmpty(
                f"queue {self.name!r} holds {reply.live} items and {reply.dead} dead letters:"
                " drain it first, or delete with force=True"
            )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _mark_settled(
    leases: Sequence[Lease], lost: Sequence[int], dead: Sequence[int] = ()
) -> list[bool]:
    """Marks leases by the positions in a reply; returns for each whether it was still held."""
    outcomes = [True] * len(leases)
    for position in lost:
        outcomes[position] = False
    for position in dead:
        leases[position]._dead = True
    for lease in leases:
        lease._mark()
    return outcomes


def _error_text(error: str | BaseException) -> str:
    """An error for the dead letter. Of a traceback the last lines say most, so those are kept."""
    if isinstance(error, str):
        return error
    lines = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    return lines[-op.MOST_ERROR :].decode(errors="ignore")
