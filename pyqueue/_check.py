"""The flow of ``Queue.check``: what to look at, what it means, what to mend.

It goes through the queue in rounds, in the order in which items move, so that none is missed that
only goes forward meanwhile. What can be seen to be wrong in one script is verified, and mended, at
once. The rest takes a second round, which looks for the ids, keys and groups that the first has
found suspicious: a second copy must be there together with the first, and that nobody holds a key
is known only when no item was given back meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterator
from typing import Any, TypeAlias

from . import _operations as op
from ._message import id_text
from .models import Finding, Report

Flow: TypeAlias = Generator[op.Operation[Any], Any, None]

#: In the order in which items move: what is being settled is looked at before what it frees.
PARTS = (
    *("grouped", "delayed", "priority", "waiting", "handoff", "leased", "dead"),
    *("leases", "special", "died", "groups", "unique", "unique_due", "calls0", "calls1"),
)
#: Rounds until what could not be decided is left open.
MOST_ROUNDS = 8
#: Ids that one round looks for.
MOST_WANTED = 500
#: Findings beyond this many of one kind are only counted.
MOST_TOLD = 1000

#: Of two copies the one in the earlier of these places is kept.
_KEPT_FIRST = ("leased", "handoff", "priority", "waiting", "delayed", "grouped", "dead")

_TEXTS = {
    "type": "{where} holds a {detail}, which is not pyqueue's: remove it, or use another queue"
    " name. Nothing else is mended before",
    "ttl": "{where} would expire: no key of a queue may have a TTL",
    "state": "the queue's state is {detail}; its totals are lost, and so are a seal and a pause:"
    " seal or pause it again if it was",
    "flags": "the state does not say that the queue has what it has",
    "event": "leases that run out and delayed messages that are due would not be noticed",
    "clock": "the state has times in the future: the server's clock went back",
    "tokens": "a token is higher than the last one that was issued: it could be issued again",
    "field": "{what} has the value {detail}, which stops the scripts; its default takes its place",
    "call": "what is remembered of a caller's last call cannot be read",
    "lease": "a lease without its message: the message of this token is lost",
    "leased": "a message without its lease, which would never end",
    "damaged": "an entry of {where} that cannot be read; its bytes belong among the dead letters",
    "special": "what this lease holds, a dedupe key or a group, is not as its message says",
    "died": "a dead letter without its time of death, which is not listed",
    "dead": "the time of death of a dead letter that is not there",
    "due": "a dedupe key and the time until which it holds do not agree",
    "unheld": "its dedupe key {detail} is free, so that it could be pushed once more",
    "conflict": "its dedupe key {detail} is held by another item; it ends when either is settled",
    "unled": "its group {detail} does not know it as its head",
    "rival": "another item of its group {detail} is the head: they are not worked off in order",
    "headless": "nobody leads the group {what}, so that its messages would wait for ever",
    "head": "the head of the group {what} is gone, so that its messages would wait for ever",
    "key": "the dedupe key {what} is held by an item that is gone",
    "surplus": "a second copy of this item; the other, {detail}, is kept",
    "differs": "another item with the same id but another payload, {detail}: neither is touched",
    "markers": "",
    "books": "{detail}",
}


class _Ids:
    """The ids of many items: 16 bytes each and no more, in 4,096 heaps."""

    def __init__(self) -> None:
        self._heaps: list[bytearray | None] = [None] * 4096
        self._sorted: dict[int, set[bytes]] = {}

    @staticmethod
    def _heap(id: bytes) -> int:
        # Random in a UUIDv7; of raw messages the last microseconds.
        return (id[15] << 8 | id[7]) & 4095

    def add(self, ids: bytes) -> None:
        for at in range(0, len(ids), 16):
            id = ids[at : at + 16]
            number = self._heap(id)
            heap = self._heaps[number]
            if heap is None:
                heap = self._heaps[number] = bytearray()
            heap += id

    def _split(self, number: int) -> Iterator[bytes]:
        heap = bytes(self._heaps[number] or b"")
        return (heap[at : at + 16] for at in range(0, len(heap), 16))

    def __contains__(self, id: bytes) -> bool:
        if len(id) != 16:
            return False
        number = self._heap(id)
        known = self._sorted.get(number)
        if known is None:
            if len(self._sorted) > 64:
                self._sorted.clear()
            known = self._sorted[number] = set(self._split(number))
        return id in known

    def twice(self, other: _Ids | None = None) -> Iterator[bytes]:
        """The ids that are here twice, or here and in the other."""
        for number in range(4096):
            seen = set() if other is None else set(other._split(number))
            for id in self._split(number):
                if id in seen:
                    yield id
                elif other is None:
                    seen.add(id)


class _Round:
    """What one walk through the queue has seen."""

    def __init__(self) -> None:
        self.stamp = b""
        #: Items outside of ``grouped``; behind others of their group; dead.
        self.outside, self.grouped, self.dead = _Ids(), _Ids(), _Ids()
        self.items: dict[str, int] = defaultdict(int)
        self.raw = self.malformed = self.highest = 0
        self.markers: dict[str, int] = defaultdict(int)
        self.headless: set[bytes] = set()
        #: Of groups and dedupe keys that say an id which is not there.
        self.heads: dict[bytes, bytes] = {}
        self.keys: dict[bytes, bytes] = {}
        #: Items that are out of their group before their turn, by id.
        self.rivals: dict[bytes, op.Problem] = {}
        self.places: dict[bytes, list[op.Place]] = defaultdict(list)
        #: Whether something was mended, or could not be decided.
        self.mended = self.undecided = False

    def candidates(self) -> set[tuple[str, bytes, bytes]]:
        """What takes a second round to be sure of."""
        return {
            *(("head", group, id) for group, id in self.heads.items()),
            *(("key", key, id) for key, id in self.keys.items()),
            *(("headless", group, b"") for group in self.headless),
        }


class _Check:
    def __init__(self, repair: bool) -> None:
        self.repair = repair
        self.findings: dict[tuple[str, str, bytes, bytes], Finding] = {}
        #: Those that are only reported, of the last round.
        self.reported: dict[tuple[str, str, bytes, bytes], Finding] = {}
        self.notes: list[str] = []
        self.foreign = False

    # Findings

    def _note(self, x: op.Problem, *, repaired: bool, only_reported: bool = False) -> None:
        # Of an item what matters is the item, not where it was just then.
        ref = b"" if x.id else x.ref
        key = (x.kind, "" if x.id else x.where, x.id or ref, x.detail if x.id else b"")
        what = x.detail if x.kind in ("headless", "head", "key") else x.id or x.ref
        named = id_text(what) if what == x.id and len(what) == 16 else None
        if x.where in ("dead", "died") and len(x.ref) == 16:
            named = id_text(x.ref)
        shown = named or _shown(what)
        text = _TEXTS[x.kind].format(where=x.where, what=shown, detail=_shown(x.detail))
        into = self.reported if only_reported else self.findings
        into[key] = Finding(x.kind, x.where, shown, repaired, text)

    def _mend(
        self,
        seen: _Round,
        x: op.Problem,
        *,
        other: op.Place | None = None,
        other_ref: bytes = b"",
        stamp: bytes = b"",
    ) -> Flow:
        """Verifies a problem, and mends it if that is wanted; the finding says so."""
        where = "" if other is None else other.where
        ref = other_ref if other is None else other.ref
        word = yield op.Repair(self.repair, *x, other_where=where, other_ref=ref, stamp=stamp)
        if word in ("done", "found"):
            if x.kind != "markers":
                self._note(x, repaired=word == "done")
            seen.mended = seen.mended or word == "done"
        elif word == "busy":
            seen.undecided = True
        elif word == "differs":
            self._note(x._replace(kind="differs"), repaired=False, only_reported=True)

    # Rounds

    def round(self, seen: _Round, before: _Round | None, wanted: list[bytes]) -> Flow:
        """One walk; ``before`` is the round before it, ``wanted`` the ids to look for."""
        survey: op.Survey = yield op.Check("keys")
        yield from self._as_a_whole(seen, survey)
        if not survey.everything:
            if not self.foreign and self.repair:
                seen.undecided = True  # the state was mended: now the rest
            else:
                self.notes.append("nothing else could be looked at")
            return
        seen.stamp = survey.stamp
        for part in PARTS:
            yield from self._part(seen, part, wanted)
        last = op.Problem("tokens", "meta", b"%d" % seen.highest)
        if seen.highest > survey.last_token:
            yield from self._mend(seen, last)
        yield from self._second_copies(seen)
        if before is not None:
            yield from self._gone(seen, before)
        for list_name, count in seen.markers.items():
            if self.repair and count > survey.facts["head markers"] * (list_name == "waiting"):
                yield from self._mend(seen, op.Problem("markers", list_name, b""))

    def _as_a_whole(self, seen: _Round, survey: op.Survey) -> Flow:
        """The types of the keys, and the state."""
        self.foreign = any(x.kind == "type" for x in survey.problems)
        for x in survey.problems:
            if self.foreign or not self.repair:
                self._note(x, repaired=False)
                continue
            kind = x.kind if x.kind in ("ttl", "field") else "state"
            word = yield op.Repair(True, kind, x.where, x.ref, b"", b"")
            seen.mended = True
            if word == "done":
                self._note(x, repaired=True)

    def _part(self, seen: _Round, part: str, wanted: list[bytes]) -> Flow:
        cursor = b"0"
        while cursor:
            page: op.PartPage = yield op.Check(part, cursor, wanted=wanted)
            cursor = page.cursor
            seen.items[part] += page.items
            seen.raw += page.raw if part != "dead" else 0
            # What was malformed was never counted when it came.
            seen.malformed += page.malformed
            seen.markers[part] += page.markers
            seen.highest = max(seen.highest, page.highest_token)
            ids = {"grouped": seen.grouped, "dead": seen.dead}.get(part, seen.outside)
            ids.add(page.ids)
            for place in page.found:
                seen.places[place.id].append(place)
            if part == "groups":
                seen.heads.update((g, id) for g, id in page.couples if id not in seen.outside)
            elif part == "unique":
                for key, id in page.couples:
                    if id not in seen.outside and id not in seen.grouped:
                        seen.keys[key] = id
            for x in page.problems:
                if x.kind == "headless":
                    seen.headless.add(x.detail)
                elif x.kind in ("rival", "conflict"):
                    self._note(x, repaired=False, only_reported=True)
                    if x.kind == "rival":
                        seen.rivals[x.id] = x
                else:
                    yield from self._mend(seen, x)

    def _second_copies(self, seen: _Round) -> Flow:
        for id, places in seen.places.items():
            rival = seen.rivals.get(id)
            early = rival is not None and rival.detail not in seen.heads
            order = sorted(set(places), key=lambda x: _rank(x, early))
            for kept, surplus in ((order[0], x) for x in order[1:]):
                detail = f"in {kept.where}".encode()
                x = op.Problem("surplus", surplus.where, surplus.ref, id, detail)
                yield from self._mend(seen, x, other=kept)
                if seen.mended and surplus.where in ("waiting", "handoff"):
                    seen.markers[surplus.where] += 1  # now a marker is in its place

    def _gone(self, seen: _Round, before: _Round) -> Flow:
        """Groups and keys whose item was in neither of two rounds."""
        rivals = {x.detail: x for x in seen.rivals.values()}
        for group, id in seen.heads.items():
            if before.heads.get(group) != id:
                continue
            if rival := rivals.get(group):
                x = rival._replace(kind="unled")
                yield from self._mend(seen, x, other_ref=id, stamp=seen.stamp)
            else:
                x = op.Problem("head", "groups", b"", id, group)
                yield from self._mend(seen, x, stamp=seen.stamp)
        for group in seen.headless & before.headless:
            x = op.Problem("headless", "grouped", b"", b"", group)
            yield from self._mend(seen, x, stamp=seen.stamp)
        for key, id in seen.keys.items():
            if before.keys.get(key) == id:
                x = op.Problem("key", "unique", b"", id, key)
                yield from self._mend(seen, x, stamp=seen.stamp)

    def suspicious(self, seen: _Round) -> list[bytes]:
        """Ids that seem to be in two places."""
        found: dict[bytes, None] = {}
        pairs = (
            (seen.outside, None),
            (seen.grouped, None),
            (seen.dead, None),
            (seen.outside, seen.grouped),
            (seen.outside, seen.dead),
            (seen.grouped, seen.dead),
        )
        for ids, other in pairs:
            for id in ids.twice(other):
                found[id] = None
                if len(found) >= MOST_WANTED:
                    return list(found)
        return list(found)

    # The whole

    def run(self) -> Generator[op.Operation[Any], Any, Report]:
        before: _Round | None = None
        wanted: list[bytes] = []
        seen = _Round()
        start: op.Survey | None = None
        for _ in range(MOST_ROUNDS):
            seen = _Round()
            self.reported = {}
            start = yield op.Check("keys")
            yield from self.round(seen, before, wanted)
            if not seen.stamp and not seen.undecided:
                break
            again = self.suspicious(seen)
            # Once more when there is something new to look for. Not for ever on a busy queue, where
            # what moves looks suspicious: only as long as something was mended.
            new = set(again) - set(wanted) or seen.candidates() - (
                set() if before is None else before.candidates()
            )
            fresh = bool(new) and (before is None or before.mended)
            before, wanted = seen, again
            if not (seen.mended or seen.undecided or fresh):
                break
        else:
            if seen.undecided:
                self.notes.append(
                    "items are given back all the time: a few groups or dedupe keys may be held by"
                    " items that are gone, which could not be decided; check again"
                )
        accounted: bool | None = None
        missing = 0
        end: op.Survey = yield op.Check("keys")
        if seen.stamp and not seen.mended and not self.foreign and end.everything:
            if start is None or start.everything != end.everything:
                self.notes.append(
                    "the queue is being worked on, so that its items could not be counted up"
                )
            else:
                accounted, missing = yield from self._books(seen, end)
        items = {
            "waiting": sum(seen.items[x] for x in ("waiting", "handoff", "priority")),
            **{x: seen.items[x] for x in ("delayed", "grouped", "leased", "dead")},
        }
        findings = [*self.findings.values(), *self.reported.values()]
        notes = tuple(dict.fromkeys(self.notes))
        return Report(findings, items, seen.raw, accounted, missing, notes)

    def _books(
        self, seen: _Round, survey: op.Survey
    ) -> Generator[op.Operation[Any], Any, tuple[bool | None, int]]:
        """Whether what came in is done, dead, purged or there."""
        x = survey.facts
        came = x["pushed"] + x["raw"] + x["imported"] + x["adjusted"]
        there = sum(seen.items.values()) - seen.raw - seen.malformed
        missing = came - there - x["completed"] - x["purged"] - x["missing"]
        # Those without a message are told of one by one.
        missing -= sum(x.kind == "lease" and not x.repaired for x in self.findings.values())
        if missing == 0:
            return True, 0
        if 0 < -missing <= x["purged"]:
            self.notes.append(
                f"{-missing} more items were purged than were counted when they came: raw messages"
                " are counted when they are leased"
            )
            return None, 0
        text = (
            f"{missing} items that came in are neither done, dead, purged nor there: they were"
            " deleted by somebody else"
            if missing > 0
            else f"{-missing} items more are there, or done, than came in through pyqueue: they"
            " were put there by somebody else, or the totals are lost"
        )
        word = "found"
        if self.repair:
            word = yield op.Repair(True, "books", "meta", b"%d" % missing, b"", survey.everything)
            text += "; from now on the books begin with what is there"
        self.findings["books", "meta", b"", b""] = Finding(
            "missing" if missing > 0 else "unknown", "", "", word == "done", text
        )
        return False, missing


def _rank(place: op.Place, early: bool) -> tuple[int, int, bytes]:
    """The lower, the rather this copy is kept; ``early``: it would come before its group's head."""
    where = place.where
    rank = 2 * _KEPT_FIRST.index(where)
    if early and where == "grouped":
        rank = 1
    if early and where == "dead":
        rank = -1  # what it held is passed on already: it is dead indeed
    if where in ("waiting", "handoff", "leased") and place.ref.isdigit():
        return rank, -int(place.ref), b""  # the nearer to the head; the newer token
    return rank, int(where == "dead" and place.ref != place.id), place.ref


def _shown(value: bytes) -> str:
    """Bytes for people: short."""
    text = value[:80].decode(errors="backslashreplace")
    return text if len(value) <= 80 else f"{text}…"


def look_through(repair: bool) -> Generator[op.Operation[Any], Any, Report]:
    """Drives one check: yields operations, wants their results, returns the report."""
    return _Check(repair).run()
