"""The invariants I1 to I7 of the protocol, checked on what the server says and on nothing else.

The ledger notes what went in and what was accepted; the keys must hold the rest. It shares no
thought with the reference: a mistake in that one's idea of the protocol shows here.

I1  What was pushed is completed, dead, purged or live: the payloads that went in are those of the
    accepted completions, the dead letters, the purged and the items, each as often.
I2  A token has at most one accepted settlement, and only while it is held; so an item has at most
    one terminal transition for each time that it was pushed or redriven.
I3  ``leases`` and ``leased`` have the same tokens, ``dead`` and ``died`` the same ids.
I4  Every delivery that ended otherwise than by completion has one recorded cause: expiry, failure,
    release, burial, or a reply that was never seen.
I5  Tokens rise, also over the deletion of the queue; none is issued twice.
I6  A deleted queue leaves no key behind, and a queue has no keys but its own, none with a TTL.
    (The first half is checked where the queue is deleted.)
I7  Two unexpired leases never hold the same item: an unexpired lease ends only by a settlement, or
    because its reply was never seen. With I1, an item that is still leased is nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pyqueue import _operations as op
from pyqueue._keys import Keys
from tests.lua.harness import WAKE
from tests.model.reference import Call
from tests.model.snapshot import Parts, Snapshot

KEYS = frozenset(Keys("job2").all)
CAUSES = ("released", "failed", "expired", "unseen")


def _payloads(messages: Iterable[bytes]) -> Counter[bytes]:
    return Counter(Parts.of(message).payload for message in messages)


def _deliveries(messages: Iterable[bytes]) -> int:
    return sum(Parts.of(message).deliveries for message in messages)


class Ledger:
    """What went into a queue, and what was accepted to be done."""

    def __init__(self) -> None:
        self.pushed: Counter[bytes] = Counter()
        #: Completed or purged.
        self.gone: Counter[bytes] = Counter()
        #: Deliveries that messages brought along, less those that went away with them.
        self.deliveries = 0
        self.buried = 0
        self.last_token = 0
        self.settled: set[int] = set()

    def pushed_raw(self, messages: Sequence[bytes]) -> None:
        """An RPUSH, of envelopes too."""
        items = [message for message in messages if message != WAKE]
        self.pushed += _payloads(items)
        self.deliveries += _deliveries(items)

    def carried_out(
        self,
        call: Call,
        operation: op.Operation[Any],
        result: Any,  # noqa: ANN401 - the operation's own
        before: Snapshot,
        after: Snapshot,
        now: int,
    ) -> None:
        """A call that was no copy of another, and was not refused."""
        if isinstance(operation, op.Push):
            self.pushed += _payloads(operation.messages)

        known = before.calls.get(call.slot)
        unseen = (
            range(known.first, known.first + known.leased)
            if known is not None and known.number > call.ack
            else range(0)
        )
        tokens, lost = _to_settle(operation, result)
        accepted = {token for i, token in enumerate(tokens) if i not in lost}
        assert accepted <= before.leases.keys(), "I2: accepted without being held"
        assert not accepted & self.settled, "I2: settled twice"
        self.settled |= accepted
        if isinstance(operation, (op.Complete, op.Lease)):
            messages = [before.leased[token].message for token in accepted]
            self.gone += _payloads(messages)
            self.deliveries -= _deliveries(messages)
        if isinstance(operation, op.Purge):
            waiting = (*before.waiting, *before.handoff, *(x.message for x in before.delayed))
            dead = [letter.message for letter in before.dead.values()]
            back = [before.leased[token].message for token in unseen if token in before.leased]
            live = [message for message in waiting if message != WAKE] + back
            dropped = dead if operation.what == "dead" else live
            self.gone += _payloads(dropped)
            self.deliveries -= _deliveries(dropped)
            if operation.what == "waiting":
                self.deliveries -= len(back)
        self.buried += len(accepted) if isinstance(operation, op.Bury) else 0

        if isinstance(result, op.LeaseReply) and result.messages:
            assert result.first_token > self.last_token, "I5: a token did not rise"
            self.last_token = result.first_token + len(result.messages) - 1
            assert self.last_token < 2**53

        for token, deadline in before.leases.items():
            if token not in after.leases and token not in accepted and token not in unseen:
                assert deadline <= now, "I7: an unexpired lease has ended by itself"

    def check(self, real: Snapshot) -> None:
        """What must hold between two scripts."""
        assert self.pushed == self.gone + _payloads(real.messages()), "I1"
        assert real.leases.keys() == real.leased.keys(), "I3"
        assert real.dead.keys() == real.died.keys(), "I3"
        ended = sum(real.counters[cause] for cause in CAUSES) + self.buried
        assert _deliveries(real.messages()) == self.deliveries + ended, "I4"
        assert real.keys <= KEYS, "I6"
        assert not real.expiring, "I6: a key has a TTL"


def _to_settle(operation: op.Operation[Any], result: Any) -> tuple[Sequence[int], Sequence[int]]:  # noqa: ANN401
    """The tokens that a call is to settle, and the positions of those that it found lost."""
    match operation:
        case op.Lease(completed=tokens):
            return tokens, result.lost
        case op.Fail(tokens=tokens):
            return tokens, result.lost
        case op.Complete(tokens) | op.Release(tokens) | op.Bury(tokens):
            return tokens, result
    return (), ()
