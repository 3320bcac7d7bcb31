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

And of the features, as long as nobody pushes by hand what looks like a message of ours:

G   One item of a group at most is leased, or can be without another one ending first.
U   A dedupe key that holds until its item is settled has one live item at most.
L   No more items are leased than ``max_leased``, nor sooner than ``rate`` and ``burst`` allow.
K   A group has a live head, and what holds a key until it is settled is live: else nobody would
    ever free them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pyqueue import _operations as op
from pyqueue._keys import Keys
from tests.lua.harness import WAKE
from tests.model.reference import Call, asks
from tests.model.snapshot import Parts, Snapshot

MAIN, DOWNSTREAM = Keys("job2"), Keys("{job2}next")
KEYS = frozenset((*MAIN.all, *DOWNSTREAM.all))
CAUSES = ("released", "failed", "expired", "unseen")


def _payloads(messages: Iterable[bytes]) -> Counter[bytes]:
    return Counter(Parts.of(message).payload for message in messages)


def _deliveries(messages: Iterable[bytes]) -> int:
    return sum(Parts.of(message).deliveries for message in messages)


class Ledger:
    """What went into a queue, and what was accepted to be done."""

    def __init__(self, malformed: Collection[bytes]) -> None:
        self.malformed = malformed
        self.pushed: Counter[bytes] = Counter()
        #: Completed or purged.
        self.gone: Counter[bytes] = Counter()
        #: Deliveries that messages brought along, less those that went away with them.
        self.deliveries = 0
        self.buried = 0
        self.last_token = 0
        self.settled: set[int] = set()
        #: Groups and dedupe keys of messages that came by hand: there may be copies.
        self.foreign: set[bytes] = set()
        #: Server time and number of the leases since the last change of the rate or the clock.
        self.leased: list[tuple[int, int]] = []

    def pushed_raw(self, messages: Sequence[bytes]) -> None:
        """An RPUSH, of envelopes too."""
        items = [message for message in messages if message != WAKE]
        self.pushed += _payloads(items)
        self.deliveries += _deliveries(items)
        self._by_hand(items)

    def _by_hand(self, messages: Iterable[bytes]) -> None:
        for message in messages:
            if message not in self.malformed:
                asked = asks(message)
                self.foreign |= {x for x in (asked.group, asked.unique) if x}

    def followed(self, messages: Sequence[bytes]) -> None:
        """Follow-ups that were taken in."""
        self.pushed += _payloads(messages)

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
            messages = [x for i, x in enumerate(operation.messages) if i not in result.taken]
            assert result.appended == len(messages)
            self.pushed += _payloads(messages)
        if isinstance(operation, op.Import):
            letters = [x.message for i, x in enumerate(operation.letters) if i not in result]
            self.pushed_raw(letters)

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
        if isinstance(operation, (op.Complete, op.CompletePush, op.Lease)):
            messages = [before.leased[token].message for token in accepted]
            self.gone += _payloads(messages)
            self.deliveries -= _deliveries(messages)
        if isinstance(operation, op.Purge):
            dead = [letter.message for letter in before.dead.values()]
            back = [before.leased[token].message for token in unseen if token in before.leased]
            live = [*before.dormant(), *back]
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
            self._check_limits(len(result.messages), after, now)
        if isinstance(operation, op.Configure):
            self.leased.clear()

        for token, deadline in before.leases.items():
            if token not in after.leases and token not in accepted and token not in unseen:
                assert deadline <= now, "I7: an unexpired lease has ended by itself"

    def _check_limits(self, count: int, after: Snapshot, now: int) -> None:
        most = after.settings.get("max_leased")
        assert most is None or len(after.leases) <= int(most), "L: too many are leased"
        self.leased.append((now, count))
        if "rate" in after.settings:
            rate = float(after.settings["rate"])
            burst = int(after.settings.get("burst", max(int(rate), 1)))
            total = 0
            for time, some in reversed(self.leased[-100:]):
                total += some
                assert total <= burst + rate * (now - time) / 1000 + 1e-6, "L: too many at once"

    def _check_features(self, real: Snapshot) -> None:
        if not (real.groups or real.unique or real.grouped):
            return
        behind = Counter(x.message for entries in real.grouped.values() for x in entries)
        ahead = [x for x in real.live() if x not in self.malformed]
        for message in behind.elements():
            ahead.remove(message)
        live = {message[4:20] for message in (*ahead, *behind)}
        in_front = Counter(asks(message).group for message in ahead)
        for group in real.groups.keys() - self.foreign:
            assert in_front[group] <= 1, "G"
        held = Counter(asks(message).unique for message in (*ahead, *behind.elements()))
        for key, claim in real.unique.items():
            assert claim.expiry or claim.id in live, "K: a key is held by nobody"
            if key.startswith(b"u") and key not in self.foreign:
                assert held[key] <= 1, "U"
        heads = {message[4:20] for message in ahead}
        assert set(real.groups.values()) <= heads, "K: a group has no head"
        assert real.grouped.keys() <= real.groups.keys(), "K: a group without a head"

    def check(self, real: Snapshot) -> None:
        """What must hold between two scripts."""
        assert self.pushed == self.gone + _payloads(real.messages()), "I1"
        assert real.leases.keys() == real.leased.keys(), "I3"
        assert real.dead.keys() == real.died.keys(), "I3"
        ended = sum(real.counters[cause] for cause in CAUSES) + self.buried
        assert _deliveries(real.messages()) == self.deliveries + ended, "I4"
        assert real.keys <= KEYS, "I6"
        assert not real.expiring, "I6: a key has a TTL"
        self._check_features(real)


def _to_settle(operation: op.Operation[Any], result: Any) -> tuple[Sequence[int], Sequence[int]]:  # noqa: ANN401
    """The tokens that a call is to settle, and the positions of those that it found lost."""
    match operation:
        case op.Lease(completed=tokens):
            return tokens, result.lost
        case op.Fail(tokens=tokens):
            return tokens, result.lost
        case op.CompletePush(token):
            return [token], [] if result else [0]
        case op.FailPush(token):
            return [token], result.lost
        case op.Complete(tokens) | op.Release(tokens) | op.Bury(tokens):
            return tokens, result
    return (), ()
