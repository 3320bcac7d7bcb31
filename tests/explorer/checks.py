"""What must hold after a step, said of the state before, the call, its answer, and the state after.

I1  What a step pushed, completed, buried or redrove is in the counters, as often as it did.
I2  A token is accepted only while it is held; what a call says to be lost was not held.
I3  Every item that was pushed and is not completed is in exactly one place; `leases` and `leased`
    have the same tokens, `dead` and `died` the same ids.
I4  Deliveries rise by one when a lease ends, attempts as its cause says, and nothing else changes
    a message.
I5  New tokens are above all that were issued.
I7  A lease ends only by a settlement, because its answer was never seen, or when it has run out and
    the outage guard does not hold it. What is leased is nowhere else.

And: a call that is refused or repeated changes nothing, and a repeated one has the same answer.
What can be leased is leased: after `empty` nothing is left that could be, `drained` is the truth,
and the bound of the next event is never later than the event.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.explorer.scenarios import HOLD, MAX_ATTEMPTS, TTL
from tests.explorer.states import (
    COUNTERS,
    DONE,
    LIVE,
    MARKER,
    OUTAGE,
    Call,
    Codec,
    Dump,
    Found,
    Kind,
    Record,
    State,
)
from tests.lua.harness import NEVER, PAUSED, SEALED, SETTINGS, START, raw_id

#: Where an item of the queue itself may be.
ALL_PLACES = {"waiting", "handoff", "delayed", "priority", "grouped", "leased", "dead"}


class Violated(Exception):
    """Something does not hold."""


class Fate(NamedTuple):
    """Where an item may be after a step, and what its message is then."""

    places: frozenset[str]
    attempts: int
    suspect: bool
    #: 1 when a lease of it has ended.
    delivered: int = 0
    #: The token that it was leased with, when it was.
    token: int = 0


def _fail_unless(true: object, what: str) -> None:
    if not true:
        raise Violated(what)


class Step(NamedTuple):
    """A call that arrived at the server."""

    worker: int
    call: Call
    reply: Any


def executed(before: State, worker: int, call: Call) -> str:
    """What the server must make of a call: "new", "again" or "stale"."""
    record = before.workers[worker].record
    if record and call.number <= record.number:
        return "again" if call.number == record.number else "stale"
    return "new"


def lost_of(call: Call, reply: Any) -> tuple[int, ...]:  # noqa: ANN401 - what a script answers
    """The positions of the tokens that the reply says to be lost."""
    match call.verb:
        case "lease":
            return tuple(reply[2])
        case "fail":
            return tuple(reply[0])
        case "extend":
            return tuple(i for i, deadline in enumerate(reply[1:]) if not deadline)
        case "complete" | "release" | "bury":
            return tuple(reply)
        case "complete_push" | "fail_push":
            return () if reply else (0,)
    return ()


def answer_of(call: Call, reply: Any) -> tuple[Any, ...]:  # noqa: ANN401 - what a script answers
    """What of a reply must be the same when it is repeated."""
    if call.verb == "lease":
        return (reply[0] == b"items", tuple(reply[2]))
    if call.verb == "extend":
        return ()
    if isinstance(reply, list):
        return tuple(tuple(x) if isinstance(x, list) else x for x in reply)
    return (reply,)


def check_repeated(before: State, codec: Codec, step: Step) -> None:
    """The answer to a second copy. That nothing has changed was seen already."""
    call, reply = step.call, step.reply
    record = before.workers[step.worker].record
    if record is None:
        raise Violated("no record of it")
    _fail_unless(not isinstance(reply, Exception), f"a copy was refused: {reply}")
    answer = answer_of(call, reply)
    deadlines = {token: deadline for token, deadline, _ in before.leased}
    if call.verb == "extend":
        expected: list[int] = [deadlines.get(token, 0) for token in call.tokens]
        _fail_unless(reply[1:] == expected, f"a copy was answered {reply[1:]}, not {expected}")
        return
    _fail_unless(answer == record.answer, f"a copy was answered {answer}, not {record.answer}")
    if call.verb == "lease" and answer[0]:
        messages = {token: codec.message(x) for token, _, x in before.leased}
        issued = range(record.first, record.first + record.leases)
        _fail_unless(reply[3] == record.first, "a copy has another first token")
        _fail_unless(
            reply[5:] == [messages.get(token) for token in issued], "a copy has other items"
        )


def refusal(before: State, call: Call) -> str:
    """The word that a call must be refused with, or ""."""
    if call.verb != "push":
        return ""
    if before.flags & SEALED:
        return "SEALED"
    most = before.setting(b"max_waiting")
    if most is None:
        return ""
    head = next((i for i, x in enumerate(before.waiting) if x != MARKER), len(before.waiting))
    there = len(before.waiting) - head
    there += len(before.delayed) + len(before.priority) + len(before.grouped)
    return "FULL" if there + len(call.items) > most else ""


def check_in_order(codec: Codec, checked: Sequence[Any], packed: bytes, after: Any) -> None:  # noqa: ANN401 - a dump, or an error
    """Nothing is found where nothing is wrong, and nothing is mended."""
    for reply in checked:
        if isinstance(reply, Exception):
            raise Violated(f"check or repair: {reply}")
        if isinstance(reply, list):
            problems = reply[5 if len(reply) == 7 else 8]
            _fail_unless(not problems, f"check has found {problems}")
        else:
            _fail_unless(reply in {b"fine", b"busy"}, f"repair has mended something: {reply}")
    _fail_unless(not isinstance(after, Exception), f"cannot be read: {after}")
    _fail_unless(codec.content(after) == codec.content(packed), "repair has changed something")


class Side:
    """A queue's dedupe keys, the heads of its groups, and what is behind them."""

    def __init__(self, before: State) -> None:
        self.heads = dict(before.groups)
        self.behind = list(before.grouped)
        self.keys = {key: (item, expiry) for key, item, expiry in before.unique}
        self.pushed = 0


class Transition:
    """One call that was carried out, or an RPUSH, BLMOVE or deletion of somebody."""

    def __init__(
        self, before: State, after: Dump, step: Step | None, kinds: Sequence[Kind]
    ) -> None:
        self.kinds = kinds
        self.own = Side(before)
        self.other = Side(before.other) if before.other else None
        self.deleted = False
        self.before = before
        self.after = after
        self.counted = dict.fromkeys(COUNTERS, 0)
        self.completed = 0
        self.bucket = before.bucket
        self.fates: dict[int, Fate] = {}
        #: Items that are done after this step, or live after having been unborn.
        self.done: set[int] = set()
        self.born: set[int] = set()
        for place, message in _places(before):
            self.fates[message.item] = Fate(frozenset({place}), message.attempts, message.suspect)
        self.deadlines = {token: deadline for token, deadline, _ in before.leased}
        self.held = {token: message for token, _, message in before.leased}
        self.issued: set[int] = set()
        if step is not None:
            self._carry_out(step)

    # What the step must do to each item

    def expect_pushed(self, item: int) -> None:
        self.born.add(item)
        self.fates[item] = Fate(frozenset({"waiting"}), 0, False)

    def _arrival(self, item: int) -> str:
        return "priority" if self.kinds[item].priority else "waiting"

    def _place(
        self, side: Side, item: int, due: int, window: int, ended: int | None = None
    ) -> str | None:
        """Where a new item goes, or None when another has its dedupe key. That of the item that
        ends is free.
        """
        kind = self.kinds[item]
        if kind.unique:
            owner, expiry = side.keys.get(kind.unique, (item, START))
            free = owner == item or (owner == ended and expiry == 0)
            if not free and (expiry == 0 or expiry > START):
                return None
            side.keys[kind.unique] = (item, START + window if window else 0)
        if kind.group:
            if kind.group in side.heads:
                return "grouped"
            side.heads[kind.group] = item
        return "delayed" if due > START else self._arrival(item)

    def _free(self, item: int) -> None:
        """An item is done or dead: its dedupe key and its group are free."""
        kind, own = self.kinds[item], self.own
        if kind.unique and own.keys.get(kind.unique) == (item, 0):
            del own.keys[kind.unique]
        if kind.group and own.heads.get(kind.group) == item:
            del own.heads[kind.group]
            for entry in own.behind:
                due, message = entry
                if self.kinds[message.item].group == kind.group:
                    own.behind.remove(entry)
                    own.heads[kind.group] = message.item
                    place = "delayed" if due > START else self._arrival(message.item)
                    fate = self.fates[message.item]
                    self.fates[message.item] = fate._replace(places=frozenset({place}))
                    break

    def expect_deleted(self, reply: Any, *, forced: bool) -> None:  # noqa: ANN401 - what a script answers
        places = {item: place for place in ALL_PLACES for item in self._in({place})}
        dead = sum(place == "dead" for place in places.values())
        live = len(places) - dead
        self.deleted = forced or not places
        expected = [int(self.deleted), live, dead]
        _fail_unless(reply == expected, f"a deletion answered {reply}, not {expected}")
        if not self.deleted:
            return
        _fail_unless(self.after.empty, "something was not deleted")
        for item in places:
            del self.fates[item]
        self.done |= places.keys()
        self.own = Side(State())
        self.deadlines, self.held = {}, {}

    def _in(self, places: set[str]) -> list[int]:
        """The items that must be in one of them."""
        return [item for item, fate in self.fates.items() if fate.places & places]

    def _drop(self, places: set[str], reply: Any) -> None:  # noqa: ANN401 - what a script answers
        dropped = self._in(places)
        for item in dropped:
            del self.fates[item]
        if "grouped" in places:
            self.own.behind.clear()
            for item in dropped:
                self._free(item)
        self.done.update(dropped)
        self.counted["purged"] += len(dropped)
        _fail_unless(reply == [len(dropped), 0], f"{len(dropped)} were dropped, not {reply}")

    def _import(self, call: Call, reply: Any) -> None:  # noqa: ANN401 - what a script answers
        there = self._in({"dead"})
        kept = [i for i, item in enumerate(call.items) if item in there]
        for i, item in enumerate(call.items):
            if i not in kept:
                self.counted["imported"] += 1
                self.born.add(item)
                self.fates[item] = Fate(frozenset({"dead"}), MAX_ATTEMPTS, False)
        _fail_unless(reply == kept, f"{kept} are kept, not {reply}")

    def expect_handoff(self) -> None:
        """A blocked worker's BLMOVE."""
        item = self.before.waiting[0].item
        if item >= 0:
            self.fates[item] = self.fates[item]._replace(places=frozenset({"handoff"}))

    def _end(self, token: int, place: str, charged: int, suspect: bool = False) -> None:
        """A lease ends."""
        message = self.held.pop(token)
        del self.deadlines[token]
        if place == "waiting":
            place = self._arrival(message.item)
        if place == "dead":
            self._free(message.item)
        self.fates[message.item] = Fate(
            frozenset({place}),
            message.attempts + charged,
            message.suspect or suspect,
            1,
            token,
        )

    def _charge(self, token: int, place: str, suspect: bool = False) -> None:
        if self.held[token].attempts + 1 >= MAX_ATTEMPTS:
            self.counted["dead"] += 1
            place = "dead"
        self._end(token, place, 1, suspect)

    def _carry_out(self, step: Step) -> None:
        worker, call, reply = step
        before, verb = self.before, call.verb
        if isinstance(reply, Exception):
            raise Violated(f"refused: {reply}")
        self._give_back(before.workers[worker].record, call)
        lost = []
        for i, token in enumerate(call.tokens):
            if token not in self.held or (verb != "extend" and token in call.tokens[:i]):
                lost.append(i)
                continue
            self._settle(call, token)
        _fail_unless(lost_of(call, reply) == tuple(lost), f"I2: not {lost} were lost: {reply}")
        if verb == "fail":
            dead = [i for i, t in enumerate(call.tokens) if i not in lost and self._died(t)]
            _fail_unless(reply[1] == dead, f"the dead are {dead}, not {reply[1]}")
        if verb == "fail_push" and not lost:
            _fail_unless(reply == 1 + self._died(call.tokens[0]), f"fail_push answered {reply}")
        if verb in {"lease", "reclaim"}:
            self._reclaim()
        if verb == "push":
            self._push(call, reply)
        if verb == "redrive":
            self._redrive(call, reply)
        if verb == "purge":
            waiting = call.args == (b"waiting",)
            self._drop(ALL_PLACES - {"leased", "dead"} if waiting else {"dead"}, reply)
        if verb == "import":
            self._import(call, reply)
        if verb == "lease":
            self._lease(call, reply)
        flag = {"seal": SEALED, "pause": PAUSED}.get(verb)
        if flag:
            changed = int((before.flags & flag > 0) != call.args[0])
            _fail_unless(reply == changed, f"{verb} answered {reply}")

    def _take_in(self, call: Call, ended: int | None = None) -> None:
        """New items, or the follow-ups of one that is about to go; those no seal refuses."""
        for item, target in zip(call.items, call.targets or (0,) * len(call.items), strict=True):
            kind, side = self.kinds[item], self.other if target else self.own
            assert side
            except_for = None if target else ended
            place = self._place(side, item, START + kind.delay, kind.window, except_for)
            if place is None:
                self.done.add(item)
                continue
            side.pushed += 1
            self.born.add(item)
            self.fates[item] = Fate(frozenset({"other " * target + place}), 0, False)
            if place == "grouped":
                due = START + kind.delay if kind.delay else 0
                side.behind.append((due, kind.new(item)))

    def _push(self, call: Call, reply: Any) -> None:  # noqa: ANN401 - what a script answers
        self._take_in(call)
        taken: list[Any] = []
        for i, item in enumerate(call.items):
            if item in self.done:
                taken += [i, Codec.id(self.own.keys[self.kinds[item].unique][0])]
        expected = [len(call.items) - len(taken) // 2, *taken]
        _fail_unless(reply == expected, f"push answered {reply}, not {expected}")

    def _give_back(self, record: Record | None, call: Call) -> None:
        """What was leased by a call that was never answered."""
        if record and record.number > call.ack:
            for token in range(record.first, record.first + record.leases):
                if token in self.held:
                    self._end(token, "waiting", 0)
                    self.counted["unseen"] += 1

    def _died(self, token: int) -> bool:
        return any(x.token == token and "dead" in x.places for x in self.fates.values())

    def _settle(self, call: Call, token: int) -> None:
        dying = self.held[token].attempts + 1 >= MAX_ATTEMPTS
        if call.verb == "complete_push" or (call.verb == "fail_push" and dying):
            self._take_in(call, self.held[token].item)
        match call.verb:
            case "complete" | "lease" | "complete_push":
                self.completed += 1
                item = self.held.pop(token).item
                self.done.add(item)
                self._free(item)
                del self.fates[item], self.deadlines[token]
            case "release":
                self.counted["released"] += 1
                self._end(token, "delayed" if call.args[0] else "waiting", 0)
            case "fail" | "fail_push":
                self.counted["failed"] += 1
                self._charge(token, "waiting" if call.args[0] == 0 else "delayed")
            case "bury":
                self.counted["dead"] += 1
                self._end(token, "dead", 1)
            case "extend":
                self.deadlines[token] = min(START + TTL, self._longest(token))

    def _longest(self, token: int) -> int:
        """When a lease ends, however often it is extended."""
        return token // 1000 + (self.before.setting(b"max_lease") or NEVER)

    def _reclaim(self) -> None:
        before = self.before
        guard_from, guard_at = before.guard_from, before.guard_at
        if before.called and START - before.called > OUTAGE:
            guard_from, guard_at = before.called, START
        for token, deadline in list(self.deadlines.items()):
            guarded = guard_at + HOLD > START and deadline > guard_from
            if deadline <= START and not guarded:
                self._charge(token, "waiting", suspect=True)
                self.counted["expired"] += 1

    def _redrive(self, call: Call, reply: Any) -> None:  # noqa: ANN401 - what a script answers
        dead = {message.item for _, message in self.before.dead}
        kept = []
        for i, item in enumerate(call.items):
            place = self._place(self.own, item, START, 0) if item in dead else None
            if place is None:
                kept.append(i)
            else:
                self.counted["redriven"] += 1
                fate = self.fates[item]
                self.fates[item] = fate._replace(places=frozenset({place}), attempts=0)
        _fail_unless(reply == kept, f"{kept} stay dead, not {reply}")

    def _lease(self, call: Call, reply: Any) -> None:  # noqa: ANN401 - what a script answers
        for due, message in self.before.delayed:
            if due <= START:
                fate = self.fates[message.item]
                place = self._arrival(message.item)
                self.fates[message.item] = fate._replace(places=frozenset({place}))
        word = reply[0]
        paused = self.before.flags & PAUSED
        after = self.after
        room, free = self._allowance()
        if word == b"items":
            self._leased(call, reply, room, free)
            return
        live = len(after.leased) + len(after.delayed) + len(after.grouped)
        items = [x for x in (*after.waiting, *after.handoff) if x.message != MARKER]
        items += [x for _, x in after.priority]
        if word == b"drained":
            _fail_unless(not live and not items, "drained, but there are items")
            return
        _fail_unless(live or items, f"{word!r}, but nothing is left")
        _fail_unless((word == b"paused") == bool(paused), f"{word!r} on such a queue")
        if word == b"limit":
            _fail_unless(room == 0, "max_leased is not reached")
        if word == b"rate":
            _fail_unless(free == 0, "the rate allows one more")
            arrival, told = self.bucket
            interval, burst = self._rate()
            wait = arrival // 1000 - START - (burst - 1) * interval // 1000
            wait += told * interval // 1000
            _fail_unless(reply[3] == wait, f"wait is {reply[3]}, not {wait}")
            self.bucket = (arrival, told + 1)
        if word in {b"empty", b"group"}:
            # A marker may be taken for something that can be leased, until somebody takes it.
            listed = bool(after.waiting or after.handoff)
            behind = (word == b"group") == bool(after.grouped) or listed
            _fail_unless(behind, f"the reason is {word!r}")
            _fail_unless(not items or call.args[0] == 0, "empty, but there are items to lease")
            event = _next_event(after, HOLD)
            soonest = 1 if event > START else 0
            _fail_unless(reply[3] >= soonest or event == NEVER, f"wait is {reply[3]}")
            latest = max(event - START, 0) + 50 * self.before.asked
            _fail_unless(event == NEVER or reply[3] <= latest, f"wait is {reply[3]}, not {latest}")

    def _leased(self, call: Call, reply: Any, room: int, free: int) -> None:  # noqa: ANN401 - what a script answers
        paused, after = self.before.flags & PAUSED, self.after
        first, deadline, *messages = reply[3:]
        self.issued = set(range(first, first + len(messages)))
        _fail_unless(not paused, "leased on a paused queue")
        _fail_unless(1 <= len(messages) <= int(call.args[0]), "leased more than was asked for")
        _fail_unless(first > self.before.last, "I5: a token did not rise")
        _fail_unless(len(messages) <= room, "more are leased than max_leased allows")
        _fail_unless(len(messages) <= free, "more were leased than the rate allows")
        self._use(len(messages))
        _fail_unless(deadline == START + TTL, "the deadline is wrong")
        for token in self.issued:
            self.deadlines[token] = deadline
        for item, fate in self.fates.items():
            if fate.places & {"waiting", "handoff", "priority"}:
                self.fates[item] = fate._replace(places=fate.places | {"leased"})
        found = [after.leased.get(token) for token in sorted(self.issued)]
        _fail_unless(None not in found, "an item was answered that is not leased")
        suspects = [x for x in found if x and x.message.suspect]
        if len(messages) > 1:
            _fail_unless(not suspects, "a suspect was not leased alone")
        most = min(int(call.args[0]), room, free)
        left = [x for x in (*after.waiting, *after.handoff) if x.message != MARKER]
        left += [x for _, x in after.priority]
        if len(messages) < most and not suspects:
            _fail_unless(all(x.message.suspect for x in left), "less was leased than there is")
        self._check_order()

    def _rate(self) -> tuple[int, int]:
        """µs from one to the next, and how many may come at once."""
        rate = self.before.setting(b"rate")
        return (1_000_000 // rate, self.before.setting(b"burst") or rate) if rate else (0, 0)

    def _allowance(self) -> tuple[int, int]:
        """How many may be leased: by max_leased, and by the rate."""
        most = self.before.setting(b"max_leased")
        room = 1000 if most is None else max(most - len(self.deadlines), 0)
        interval, burst = self._rate()
        if not interval:
            return room, 1000
        arrival, told = self.bucket
        self.bucket = max(arrival, START * 1000), told
        return room, burst - -(-(self.bucket[0] - START * 1000) // interval)

    def _use(self, count: int) -> None:
        interval, _ = self._rate()
        if interval:
            self.bucket = (self.bucket[0] + count * interval, 0)

    def _check_order(self) -> None:
        """Nothing is leased while something of a higher priority is left."""
        left = [self.kinds[x.message.item].priority for _, x in self.after.priority]
        left += [0 for x in self.after.waiting if x.message != MARKER]
        handed = {x.item for x in self.before.handoff}
        for token in self.issued:
            item = self.after.leased[token].message.item
            level = self.kinds[item].priority
            _fail_unless(
                item in handed or level >= max(left, default=level),
                f"{_name(item)} was leased before what is of a higher priority",
            )

    # Whether it has

    def check(self) -> None:
        after = self.after
        _fail_unless(after.leases.keys() == after.leased.keys(), "I3: leases are not leased")
        _fail_unless(after.dead.keys() == after.died, "I3: dead are not died")
        seen: set[int] = set()
        for place, found in after.places():
            if found.message == MARKER:
                listed = place.removeprefix("other ") in {"waiting", "handoff"}
                _fail_unless(listed, f"I3: a marker is {place}")
                continue
            item = found.message.item
            _fail_unless(item not in seen, f"I3, I7: {_name(item)} is in two places")
            seen.add(item)
            fate = self.fates.get(item)
            if fate is None:
                raise Violated(f"I1: {_name(item)} was completed or not pushed, and is {place}")
            _check(found, place, fate, self.before)
        for item in self.fates.keys() - seen:
            raise Violated(f"I1: {_name(item)} is lost")
        for token, deadline in after.leases.items():
            expected = self.deadlines.get(token)
            _fail_unless(expected == deadline, f"I7: a deadline is {deadline}, not {expected}")
        _fail_unless(after.leases.keys() == self.deadlines.keys(), "I7: a lease has ended")
        for token, message in self.held.items():
            _fail_unless(after.leased[token].message == message, "I7: a lease has another item")
        self._check_features()
        self._check_state()

    def _check_features(self) -> None:
        after = self.after
        _check_side(self.own, after)
        if self.other and after.other:
            _check_side(self.other, after.other)
        bonds = {
            t: self.kinds[x.message.item].bond(x.message.item) for t, x in after.leased.items()
        }
        bonds = {token: bond for token, bond in bonds.items() if bond}
        _fail_unless(after.special == bonds, "special and leased differ")

    def _check_state(self) -> None:
        other, behind = self.before.other, self.after.other
        if other and behind and self.other:
            pushed = behind.state.pushed - other.pushed
            _fail_unless(pushed == self.other.pushed, f"I1: {pushed} pushed to the next queue")
            _fail_unless(
                behind.state.event <= max(_next_event(behind, 0), START), "an event is lost"
            )
            _fail_unless(not behind.leased and not behind.dead, "the next queue has more than new")
        if self.deleted:
            return
        state = self.after.state
        kept = {k: v for k, v in self.after.meta.items() if k in SETTINGS}
        _fail_unless(kept == dict(self.before.config), "the configuration has changed")
        arrival, told = self.after.bucket
        late = arrival >= START * 1000 or self.bucket[0] >= START * 1000
        same = (arrival, told) == self.bucket
        _fail_unless(same or not late, f"the bucket is {arrival, told}, not {self.bucket}")
        _fail_unless(max(self.after.leases, default=0) <= state.last, "I5: a token is above last")
        _fail_unless(state.last >= self.before.last, "I5: the last token went back")
        event = _next_event(self.after, 0)
        _fail_unless(state.event <= max(event, START), "an event would be missed")
        totals = (state.pushed - self.before.pushed, state.completed)
        _fail_unless(totals == (self.own.pushed, self.completed), f"I1: {totals} pushed, completed")
        for name, count in self.counted.items():
            real = int(self.after.meta.get(name.encode(), 0))
            _fail_unless(real == count, f"I1: {name} was counted {real} times, not {count}")


def _check_side(side: Side, after: Dump) -> None:
    _fail_unless(after.groups == side.heads, f"the heads are {after.groups}, not {side.heads}")
    young = {k: v for k, v in side.keys.items() if v[1] == 0 or v[1] > START}
    found = {k: v for k, v in after.unique.items() if v[1] == 0 or v[1] > START}
    _fail_unless(found == young, f"the dedupe keys are {found}, not {young}")
    _fail_unless(after.unique.keys() <= side.keys.keys(), "a dedupe key of nobody")
    expiries = {k: expiry for k, (_, expiry) in after.unique.items() if expiry}
    _fail_unless(after.unique_due == expiries, "unique and unique_due differ")


def _next_event(after: Dump, hold: int) -> int:
    events = [due for due, _ in after.delayed]
    guard_from, guard_at = after.state.guard_from, after.state.guard_at
    for deadline in after.leases.values():
        guarded = guard_from < deadline < guard_at + hold
        events.append(guard_at + hold if guarded else deadline)
    return min(events, default=NEVER)


def _check(found: Found, place: str, fate: Fate, before: State) -> None:
    message, id, deliveries = found
    name = _name(message.item)
    _fail_unless(place in fate.places, f"I3, I7: {name} is {place}, not {' or '.join(fate.places)}")
    _fail_unless(message.attempts == fate.attempts, f"I4: {name} has {message.attempts} attempts")
    _fail_unless(message.suspect == fate.suspect, f"I4: {name} is a suspect or not, wrongly")
    if message.raw:
        _fail_unless(not fate.delivered, f"I4: {name} is raw after a delivery")
        return
    was_raw = any(x.raw and x.item == message.item for _, x in _places(before))
    expected = raw_id(fate.token) if was_raw else Codec.id(message.item)
    _fail_unless(id == expected, f"{name} has another id")
    _fail_unless(deliveries == (0 if was_raw else 1) + fate.delivered, f"I4: deliveries of {name}")


def _places(state: State) -> list[tuple[str, Any]]:
    """Every message but markers, and where it is."""
    other = _places(state.other) if state.other else []
    return [
        *((f"other {place}", x) for place, x in other),
        *(("waiting", x) for x in state.waiting if x.item >= 0),
        *(("handoff", x) for x in state.handoff if x.item >= 0),
        *(("delayed", x) for _, x in state.delayed),
        *(("priority", x) for _, x in state.priority),
        *(("grouped", x) for _, x in state.grouped),
        *(("leased", x) for _, _, x in state.leased),
        *(("dead", x) for _, x in state.dead),
    ]


def _name(item: int) -> str:
    """A trace puts the item's first name there."""
    return f"<{item}>"


def record_after(before: State, after: Dump, step: Step | None) -> list[Record | None]:
    """What the server remembers of each slot now, which must be as it was but for the caller."""
    records: list[Record | None] = []
    for i, worker in enumerate(before.workers):
        entry = after.calls.get(i)
        known = worker.record
        if entry is None:
            # Forgotten, or never remembered.
            forgettable = known is None or known.older
            _fail_unless(forgettable, "a call was forgotten before its time")
            records.append(None)
            continue
        older, packed = entry
        number, first, count = struct.unpack_from(">QQH", packed)
        outcomes = packed[18:]
        if known and (number, first, count, outcomes) == known[:4]:
            records.append(known._replace(older=older))
            continue
        _fail_unless(step is not None and step.worker == i, "another slot's memory has changed")
        if step is None or executed(before, i, step.call) != "new":
            raise Violated("the memory of a slot has changed")
        _fail_unless(number == step.call.number, "another number is remembered")
        leased = step.call.verb == "lease" and step.reply[0] == b"items"
        issued = len(step.reply) - 5 if leased else 0
        _fail_unless(count == issued, f"{count} leases are remembered, not {issued}")
        answer = answer_of(step.call, step.reply)
        records.append(Record(number, first, count, outcomes, older, answer))
    if step is not None and step.call.verb != "lease":
        mine = records[step.worker]
        _fail_unless(mine and mine.number == step.call.number, "the call is not remembered")
    return records


def fates_after(before: State, transition: Transition) -> tuple[int, ...]:
    return tuple(
        DONE if i in transition.done else LIVE if i in transition.born else fate
        for i, fate in enumerate(before.items)
    )
