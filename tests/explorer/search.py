"""Walks every interleaving on a real server, breadth first, so that the first violation is one of
the shortest.
"""

from __future__ import annotations

import re
import socket
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import hiredis
import redis

from pyqueue._keys import OTHERS
from pyqueue._scripts import Script, load, names
from tests.explorer.checks import (
    Step,
    Transition,
    Violated,
    check_in_order,
    check_repeated,
    executed,
    fates_after,
    lost_of,
    record_after,
    refusal,
)
from tests.explorer.scenarios import (
    HOLD,
    IMPORTED,
    PUSHING,
    Scenario,
    imported,
    push,
    unborn,
)
from tests.explorer.states import (
    ALL,
    DONE,
    DUMP,
    KEYS,
    LOAD,
    NAMES,
    OTHER,
    OTHER_ALL,
    SENT,
    TYPES,
    UNBORN,
    Call,
    Codec,
    Dump,
    Message,
    Renaming,
    State,
    Worker,
    canonical,
    later,
)
from tests.lua.harness import CAPS, GROUPS, NEVER, PRIORITY, RATE, SETTINGS_FLAG, SPECIAL, START

#: Queues with one of these flags want the keys of the features.
WIDE = PRIORITY | SPECIAL | RATE | CAPS | GROUPS


class Move(NamedTuple):
    """Something that happens. `how`:

    - seen, unseen: a worker's next call, whose answer it sees or not;
    - lost: its next call, which does not arrive, or not yet;
    - retry: its last call once more, whose answer it sees, as it did not see the first;
    - copy, late: a copy of its last call, or of the one before, whose answer nobody sees;
    - death: another takes the worker's place, whose leases run out; with "ghost", copies of its
      last two calls may still arrive;
    - rpush, handoff: somebody's RPUSH of an item; a blocked worker's BLMOVE;
    - repair: not a step; in each state `check` and `repair` must find nothing to do;
    - delete, wipe: somebody deletes the queue, if it is drained or whatever it holds, and makes it
      anew;
    - time: ms pass.
    """

    how: str
    worker: int = -1
    call: Call | None = None
    number: int = 0


class Successor(NamedTuple):
    """A state that a move leads to."""

    move: Move
    state: State
    renaming: Renaming
    reply: Any


class Broken(Exception):
    """A move after which something does not hold."""

    def __init__(self, move: Move, reply: Any, what: str) -> None:  # noqa: ANN401 - what a script answers
        super().__init__(what)
        self.move = move
        self.reply = reply
        self.what = what


class Wire:
    """A connection that sends many commands at once; redis-py would take most of the time."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client  # which closes its connections when it goes
        pool: Any = client.connection_pool
        self._connection = pool.get_connection()
        self._connection.connect()
        self._socket: socket.socket = self._connection._sock
        self._socket.settimeout(60)

    def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Returns the replies; errors are among them."""
        self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))
        reader = hiredis.Reader()
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = reader.gets()
            if reply is False:
                received = self._socket.recv(1 << 20)
                if not received:
                    raise ConnectionError("the server has closed the connection")
                reader.feed(received)
            else:
                replies.append(reply)
        return replies


class Explorer:
    """The moves from any state of a scenario, carried out on a server."""

    def __init__(
        self,
        client: redis.Redis,
        scenario: Scenario,
        items: int,
        *,
        patch: Callable[[Script], str] | None = None,
    ) -> None:
        """`patch` may change the text of a script, to see that this is noticed."""
        self.scenario = scenario
        count = len(scenario.kinds)
        self.kinds = [item % count for item in range(items)]
        self.codec = Codec([scenario.kinds[kind] for kind in self.kinds])
        #: By script, and whether with the keys of the features.
        self.prefix: dict[tuple[str, bool], tuple[Any, ...]] = {}
        #: Scripts that can do without them.
        self.sparing = {name for name in names() if "features" in load(name).keys}
        for name in names():
            script = load(name)
            sha: Any = client.script_load(patch(script) if patch else script.source)
            others = OTHER.pick(OTHERS) if scenario.two and "others" in script.keys else ()
            for wide in (False, True):
                keys = (*KEYS.pick(script.keys, wide=wide), *others)
                self.prefix[name, wide] = (b"EVALSHA", sha, len(keys), *keys, START)
        load_sha: Any = client.script_load(LOAD)
        dump_sha: Any = client.script_load(DUMP)
        every = (*ALL, *OTHER_ALL) if scenario.two else ALL
        self._load = (b"EVALSHA", load_sha, len(every), *every)
        types = [TYPES.get(name, b"zset") for name in NAMES] * (len(every) // len(ALL))
        self._dump = (b"EVALSHA", dump_sha, len(every), *every, *types)
        self.wire = Wire(client)
        self.transitions = 0

    def begin(self, workers: int, pushed: int) -> State:
        """A queue with some items, in its canonical form. What asks for nothing waits in the list,
        the first of them raw; others are pushed by a call.
        """
        scenario = self.scenario
        state = scenario.begin(workers, len(self.kinds), pushed)
        self.scenario = replace(scenario, verbs=(push,), events=(), narrow=False, repair=False)
        state = state._replace(workers=(Worker(),) * workers)
        while sum(fate != UNBORN for fate in state.items) < pushed:
            ((_, successors),) = self.expand([state])
            state = next(successors).state._replace(workers=(scenario.worker,) * workers)
        self.scenario = scenario
        return canonical(state, self.kinds, HOLD)[0]

    # What can happen

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next. Of workers that are alike one is enough."""
        for i, worker in enumerate(state.workers):
            if worker not in state.workers[:i]:
                yield from self._moves_of(state, i)
        events = self.scenario.events
        if "rpush" in events:
            for item in unborn(state):
                # Nobody would give it its place in a group, or a dedupe key.
                if not self.codec.kinds[item].held:
                    yield Move("rpush", number=item)
        if "handoff" in events and state.waiting:
            yield Move("handoff")
        if "delete" in events:
            yield Move("delete")
        if "wipe" in events:
            yield Move("wipe", number=1)
        if "time" in events:
            times = [deadline for _, deadline, _ in state.leased]
            times += [due for due, _ in state.delayed]
            times += [state.guard_at + HOLD]
            times += [due for due, _ in state.grouped]
            times += [expiry for _, _, expiry in state.unique]
            times += [expiry for _, _, expiry in state.other.unique] if state.other else []
            rate, burst = state.setting(b"rate"), state.setting(b"burst")
            if rate and burst:
                # When each more of a burst may come.
                times += [state.bucket[0] // 1000 - i * 1000 // rate for i in range(burst)]
            following = min((time for time in times if time > START), default=NEVER)
            if following < NEVER:
                yield Move("time", number=following - START)
            for silence in self.scenario.silences:
                yield Move("time", number=silence)

    def _moves_of(self, state: State, i: int) -> Iterator[Move]:
        worker, events = state.workers[i], self.scenario.events
        if worker.gone:
            if worker.last:
                yield Move("copy", i, worker.last)
            if worker.previous:
                yield Move("late", i, worker.previous)
            return
        offered: dict[Call, None] = {}
        for verb in self.scenario.verbs:
            offered.update(dict.fromkeys(verb(state, worker)))
        for offer in offered:
            call = offer._replace(number=worker.number + 1, ack=worker.ack, wide=worker.wide)
            for how in ("seen", "unseen", "lost"):
                if how == "seen" or how in events:
                    yield Move(how, i, call)
        if worker.last and worker.doubt:
            yield Move("retry", i, worker.last._replace(wide=worker.wide))
        if worker.last and "copy" in events:
            yield Move("copy", i, worker.last)
        if worker.previous and "late" in events:
            yield Move("late", i, worker.previous)
        fresh = worker._replace(wide=not self.scenario.narrow) == self.scenario.worker
        if not fresh and "death" in events:
            yield Move("death", i)

    def command(self, move: Move) -> tuple[Any, ...] | None:
        """What the server has to do for it."""
        if move.how == "rpush":
            kind = self.codec.kinds[move.number]
            # Only an envelope can ask for anything.
            message = kind.new(move.number) if kind.headers else Message(move.number, True, 0, 0)
            return (b"RPUSH", KEYS.waiting, self.codec.message(message))
        if move.how in {"delete", "wipe"}:
            return (*self.prefix["delete", True], move.number)
        if move.how == "handoff":
            return (b"LMOVE", KEYS.waiting, KEYS.handoff, b"LEFT", b"RIGHT")
        call = move.call
        if call is None or move.how == "lost":
            return None
        last: list[Any] = [*call.tokens]
        if call.verb == "redrive":
            last += [self.codec.id(item) for item in call.items]
        elif call.verb == "import":
            for item in call.items:
                letter = self.codec.letter(IMPORTED, imported(item, self.codec.kinds[item]))
                last += [self.codec.id(item), START, letter]
        elif call.items:
            kinds = [self.codec.kinds[item] for item in call.items]
            messages = [
                self.codec.message(kind.new(item))
                for item, kind in zip(call.items, kinds, strict=True)
            ]
            if call.verb == "push":
                last += [kinds[0].options, *messages]
            else:
                targets = call.targets or (0,) * len(call.items)
                for target, kind, new in zip(targets, kinds, messages, strict=True):
                    last += [target, kind.delay, kind.window, new]
        slot = self.codec.slot(move.worker)
        return (*self.prefix[call.verb, call.wide], slot, call.number, call.ack, *call.args, *last)

    # What it leads to

    def expand(self, many: Sequence[State]) -> Iterator[tuple[State, Iterator[Successor]]]:
        """The successors of each state. The iterators raise Broken."""
        commands: list[tuple[Any, ...]] = []
        #: For each state its moves, and its commands' places in the replies.
        plans: list[tuple[State, int, list[tuple[Move, int]]]] = []
        for state in many:
            loading = (*self._load, self.codec.load(state))
            start = len(commands)
            commands += [loading, self._dump]
            checks = self._checks(state) if self.scenario.repair else []
            commands += checks
            if checks:
                commands.append(self._dump)
            known: dict[tuple[Any, ...], int] = {}
            moves = []
            for move in self.moves(state):
                command = self.command(move)
                at = -1
                if command is not None:
                    at = known.get(command, -1)
                    if at < 0:
                        at = known[command] = len(commands) + 1
                        commands += [loading, command, self._dump]
                moves.append((move, at))
            plans.append((state, start + 1, moves))
        replies = self.wire.run(commands)
        for state, start, moves in plans:
            yield state, self._successors(state, replies, start, moves)

    def _checks(self, state: State) -> list[tuple[Any, ...]]:
        """Asks `check` for what it finds, then `repair` to mend what is in order."""
        check = self.prefix["check", True]
        asked = [(*check, part, 0, 1000) for part in ("keys", *NAMES[:-1])]  # not meta
        wrong: list[tuple[Any, ...]] = [("tokens", "meta", state.last)]
        wrong += [("ttl", name) for name in NAMES]
        wrong += [("field", "meta", name) for name, _ in state.config]
        for token, _, _message in state.leased:
            wrong += [("lease", "leases", token), ("leased", "leased", token)]
            wrong += [("special", "special", token), ("damaged", "leased", token)]
        for _, message in state.dead:
            id = self.codec.id(message.item)
            wrong += [(what, "dead", id) for what in ("died", "damaged")]
            wrong += [("dead", "died", id), ("surplus", "dead", id, id, "", "dead", id)]
        for group, item in state.groups:
            id = self.codec.id(item)
            wrong += [("headless", "grouped", "", "", group), ("head", "groups", "", id, group)]
            wrong += [("unled", "waiting", 0, id, group, "", "")]
        for key, item, _ in state.unique:
            id = self.codec.id(item)
            wrong += [("due", "unique", key), ("key", "unique", "", id, key)]
            wrong += [("unheld", "waiting", 0, id, key)]
        for number, one in enumerate(wrong, 1):
            rest = ("",) * (7 - len(one))
            stamp = "of another time"
            asked.append(
                (*self.prefix["repair", True], b"mechanic", number, 0, 1, *one, *rest, stamp)
            )
        return asked

    def _successors(
        self, state: State, replies: list[Any], start: int, moves: list[tuple[Move, int]]
    ) -> Iterator[Successor]:
        unchanged = replies[start]
        if self.scenario.repair:
            count = len(self._checks(state))
            checked = replies[start + 1 : start + 1 + count]
            try:
                check_in_order(self.codec, checked, unchanged, replies[start + 1 + count])
            except Violated as error:
                raise Broken(Move("repair"), None, str(error)) from error
        #: By place of the command: what it led to, but for what the worker knows.
        led: dict[int, State] = {}
        for move, at in moves:
            self.transitions += 1
            reply = replies[at] if at >= 0 else None
            try:
                if at < 0:
                    following = self._without_server(state, move)
                else:
                    if at not in led:
                        dump = replies[at + 1]
                        led[at] = self._follow(state, move, reply, dump, dump == unchanged)
                    following = self._learn(led[at], state, move, reply)
                form, renaming = canonical(following, self.kinds, HOLD)
                if move.how == "time" and state.flags & SETTINGS_FLAG:
                    # The time in the tokens has changed as well.
                    names = {old + move.number * 1000: x for old, x in renaming.tokens.items()}
                    renaming = renaming._replace(tokens=names)
            except (Violated, ValueError) as error:
                raise Broken(move, reply, str(error)) from error
            yield Successor(move, form, renaming, reply)

    def _follow(self, state: State, move: Move, reply: Any, packed: Any, same: bool) -> State:  # noqa: ANN401 - what a script answers
        """What a command has made of the server, after checking that it may."""
        if isinstance(packed, Exception):
            raise Violated(f"cannot be read: {packed}")
        step = None
        if move.call:
            step = Step(move.worker, move.call, reply)
            if self._without_effect(state, step, same):
                return state
        dump = self.codec.dump(packed)
        transition = Transition(state, dump, step, self.codec.kinds)
        if move.how == "rpush":
            transition.expect_pushed(move.number)
        elif move.how == "handoff":
            transition.expect_handoff()
        elif move.how in {"delete", "wipe"}:
            transition.expect_deleted(reply, forced=move.how == "wipe")
            if not transition.deleted and not same:
                raise Violated("a queue was not deleted, and has changed")
        transition.check()
        if transition.deleted:
            return self.scenario.empty()._replace(
                items=fates_after(state, transition),
                workers=tuple(worker._replace(record=None) for worker in state.workers),
                other=state.other,
            )
        records = record_after(state, dump, step)
        return _state(state, dump)._replace(
            items=fates_after(state, transition),
            workers=tuple(
                worker if worker.record == record else worker._replace(record=record)
                for worker, record in zip(state.workers, records, strict=True)
            ),
        )

    def _without_effect(self, state: State, step: Step, same: bool) -> bool:
        """Whether the call is one that must change nothing. Then it has not."""
        worker, call, reply = step
        what = executed(state, worker, call)
        word = str(reply).partition(" ")[0] if isinstance(reply, Exception) else ""
        if word == "WIDE":
            self._check_wide(state, call, same)
            return True
        if not call.wide and call.verb in self.sparing and state.flags & WIDE:
            raise Violated(f"answered {reply} without the keys of the features")
        expected = {"stale": "STALE", "new": refusal(state, call)}.get(what, "")
        if what == "new" and not (expected and word):
            if expected:
                raise Violated(f"a push was not refused: {expected}")
            return False
        if not same:
            raise Violated(f"a call that was {word or 'repeated'} has changed something")
        if word != expected:
            raise Violated(f"answered {reply}, not {expected or 'as before'}")
        if what == "again":
            check_repeated(state, self.codec, step)
        return True

    def _check_wide(self, state: State, call: Call, same: bool) -> None:
        if call.wide or call.verb not in self.sparing:
            raise Violated("WIDE is the answer to a call with all keys")
        if not same:
            raise Violated("a call that was WIDE has changed something")
        if not state.flags & WIDE and not any(map(len, self.codec.headers)):
            raise Violated("WIDE on a queue without features")

    def _without_server(self, state: State, move: Move) -> State:
        if move.how == "time":
            return later(state, move.number)
        if move.how == "death":
            dead = state.workers[move.worker]
            state = _put(state, move.worker, self.scenario.worker)
            if "ghost" not in self.scenario.events or dead.last is None:
                return state
            ghost = dead._replace(number=0, ack=0, held=(), doubt=False, wide=True, gone=True)
            # One is remembered: the newest.
            for i, worker in enumerate(state.workers):
                if worker.gone:
                    return _put(state, i, ghost)
            return state._replace(workers=(*state.workers, ghost))
        assert move.how == "lost"
        return _sent(state, move, doubt=True)

    def _learn(self, following: State, state: State, move: Move, reply: Any) -> State:  # noqa: ANN401 - what a script answers
        """What the worker knows then."""
        if move.how == "unseen":
            return _sent(following, move, doubt=True)
        if move.how not in {"seen", "retry"} or move.call is None:
            return following
        call = move.call
        if str(reply).startswith("WIDE "):
            # It will call again, with the same number and all keys.
            if move.how == "seen":
                following = _sent(following, move, doubt=True)
            worker = following.workers[move.worker]
            return _put(following, move.worker, worker._replace(wide=True))
        if move.how == "seen":
            if call.verb == "release" and not call.tokens:
                # Closed; another slot begins.
                fresh = Worker(wide=following.workers[move.worker].wide)
                return _put(following, move.worker, fresh)
            following = _sent(following, move, doubt=False)
        worker = following.workers[move.worker]._replace(doubt=False, last=call)
        if not isinstance(reply, Exception):
            worker = _told(worker, call, reply)
        return _put(following, move.worker, worker)


def _put(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))


def _sent(state: State, move: Move, *, doubt: bool) -> State:
    worker = state.workers[move.worker]
    call = move.call
    assert call
    if call.verb in PUSHING:
        items = (SENT if i in call.items and x == UNBORN else x for i, x in enumerate(state.items))
        state = state._replace(items=tuple(items))
    return _put(
        state,
        move.worker,
        worker._replace(number=call.number, last=call, previous=worker.last, doubt=doubt),
    )


def _told(worker: Worker, call: Call, reply: Any) -> Worker:  # noqa: ANN401 - what a script answers
    """What a client makes of an answer."""
    held = set(worker.held)
    recorded = True
    if call.verb == "extend":
        held -= {call.tokens[i] for i in lost_of(call, reply)}
    else:
        held -= set(call.tokens)
    if call.verb == "lease":
        # As the client has it: of which nothing is left, leased nothing.
        leased = reply[0] == b"items" and any(x is not None for x in reply[5:])
        recorded = leased or bool(call.tokens)
        if leased:
            held |= {reply[3] + i for i, x in enumerate(reply[5:]) if x is not None}
    return worker._replace(held=tuple(sorted(held)), ack=call.number if recorded else worker.ack)


def _state(before: State, dump: Dump) -> State:
    """The server's part of a state."""
    state = dump.state
    return before._replace(
        version=state.version,
        flags=state.flags,
        last=state.last,
        event=state.event,
        asked=state.asked,
        called=state.called,
        guard_from=state.guard_from,
        guard_at=state.guard_at,
        rotated=state.rotated,
        pushed=state.pushed,
        tail=state.tail,
        waiting=tuple(x.message for x in dump.waiting),
        handoff=tuple(x.message for x in dump.handoff),
        delayed=tuple((due, x.message) for due, x in dump.delayed),
        leased=tuple((t, dump.leases[t], x.message) for t, x in sorted(dump.leased.items())),
        dead=tuple((reason, x.message) for reason, x in dump.dead.values()),
        priority=tuple((score, x.message) for score, x in dump.priority),
        grouped=tuple((due, x.message) for due, x in dump.grouped),
        groups=tuple(dump.groups.items()),
        unique=tuple((key, item, expiry) for key, (item, expiry) in dump.unique.items()),
        bucket=dump.bucket,
        other=_state(before.other, dump.other) if before.other and dump.other else None,
    )


# The walk


@dataclass
class Found:
    """What a walk has covered, and what it has found."""

    #: How many states are new at each depth.
    depths: list[int] = field(default_factory=list)
    transitions: int = 0
    seconds: float = 0.0
    #: Whether every successor of every state is known: there is nothing deeper.
    complete: bool = False
    #: Whether the last depth has more states than were asked for: it was not walked to its end.
    cut: bool = False
    #: The shortest way to a violation, and what it is.
    trace: list[str] = field(default_factory=list)
    violation: str = ""

    @property
    def states(self) -> int:
        return sum(self.depths)


#: Of some states the packed successors of each, what does not hold after them, and how many
#: transitions there were.
Expanded: TypeAlias = tuple[list[list[bytes]], str | None, int]


def expand_packed(explorer: Explorer, many: list[bytes]) -> Expanded:
    """Expands states up to the first violation. Returns how many transitions that were, too."""
    result: list[list[bytes]] = []
    before = explorer.transitions
    try:
        for _, successors in explorer.expand([State.unpack(packed) for packed in many]):
            result.append(list({successor.state.pack(): None for successor in successors}))
    except Broken as broken:
        return result, broken.what, explorer.transitions - before
    return result, None, explorer.transitions - before


def walk(
    begin: State,
    explorer: Explorer,
    *,
    depth: int,
    most: int,
    run: Callable[[Iterator[list[bytes]]], Iterator[Expanded]] | None = None,
    report: Callable[[Found], None] = lambda _: None,
) -> Found:
    """Walks until a depth is done, or `most` states are known, or something does not hold.

    `run` may expand chunks elsewhere; it gives back the results in their order.
    """
    if run is None:

        def run(chunks: Iterator[list[bytes]]) -> Iterator[Expanded]:
            return (expand_packed(explorer, chunk) for chunk in chunks)

    start = time.monotonic()
    known = {begin.pack(): 0}
    ordered = list(known)
    parents = array("q", [-1])
    found = Found([1])
    done = 0
    while len(found.depths) <= depth:
        level = range(done, len(ordered))
        chunks = (ordered[i : min(i + CHUNK, level.stop)] for i in range(done, level.stop, CHUNK))
        for successors, violation, transitions in run(chunks):
            found.transitions += transitions
            for many in successors:
                for packed in many:
                    if packed not in known:
                        known[packed] = len(ordered)
                        ordered.append(packed)
                        parents.append(done)
                done += 1
            if violation is not None:
                found.depths.append(len(ordered) - level.stop)
                found.seconds = time.monotonic() - start
                found.trace = trace(explorer, [ordered[i] for i in _path(parents, done)])
                found.violation = found.trace[-1].strip()
                return found
            if len(ordered) >= most:
                break
        found.depths.append(len(ordered) - level.stop)
        found.seconds = time.monotonic() - start
        found.cut = done < level.stop
        report(found)
        if len(ordered) >= most:
            break
        if done == len(ordered):
            found.complete = True
            break
    return found


#: States expanded at once.
CHUNK = 16


def _path(parents: Sequence[int], last: int) -> list[int]:
    path = [last]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]


# The trace


def trace(explorer: Explorer, path: Sequence[bytes]) -> list[str]:
    """The moves along a path of states, and the one after it that breaks something, as text.

    Each state has names of its own, so those of the first are carried along.
    """
    state = State.unpack(path[0])
    spoken = Spoken(
        [f"worker {i + 1}" for i in range(len(state.workers))],
        [chr(97 + i) for i in range(len(state.items))],
        {},
    )
    lines = [f"   at first: {spoken.state(state)}"]
    for number, packed in enumerate([*path[1:], b""], 1):
        ((_, successors),) = explorer.expand([state])
        try:
            successor = next((x for x in successors if x.state.pack() == packed), None)
        except Broken as broken:
            said = spoken.move(broken.move, state, broken.reply)
            return [*lines, f"{number:2} {said}", f"   {spoken.what(broken.what)}"]
        assert successor, "the way cannot be walked again"
        said = spoken.move(successor.move, state, successor.reply)
        spoken = spoken.renamed(successor)
        state = successor.state
        lines += [f"{number:2} {said}", f"   {spoken.state(state)}"]
    raise AssertionError("nothing was broken at the end of the way")


@dataclass
class Spoken:
    """The names of a state's workers, items and tokens in a trace."""

    workers: list[str]
    items: list[str]
    tokens: Mapping[int, str]
    issued: int = 0

    def token(self, token: int) -> str:
        return self.tokens.get(token, "#gone")

    def move(self, move: Move, state: State, reply: Any = None) -> str:  # noqa: ANN401 - what a script answers
        if move.how == "rpush":
            return f"somebody: RPUSH {self.items[move.number]}"
        nobody = {
            "handoff": "a blocked worker's BLMOVE takes the head",
            "time": f"{move.number} ms pass",
            "delete": f"somebody deletes the queue if it is drained -> {reply}",
            "wipe": f"somebody deletes the queue -> {reply}",
            "repair": "somebody looks whether all is in order, and mends what is",
        }
        if move.how in nobody:
            return nobody[move.how]
        name = self.workers[move.worker]
        if move.how == "death":
            return f"{name} dies, another begins"
        call = move.call
        assert call
        args = [x.decode() if isinstance(x, bytes) else str(x) for x in call.args]
        args += [self.token(x) for x in call.tokens]
        targets = call.targets or (0,) * len(call.items)
        args += [self.items[x] + "→" * y for x, y in zip(call.items, targets, strict=True)]
        args += [] if call.wide else ["few keys"]
        said = f"{call.verb}({', '.join(args)}) number {call.number} ack {call.ack}"
        how = {
            "seen": "calls",
            "unseen": "calls, and does not see the answer to,",
            "lost": "calls, but it does not arrive,",
            "retry": "repeats, and sees the answer to,",
            "copy": "has a second copy arrive of its last call,",
            "late": "has a late copy arrive of its call before the last,",
        }[move.how]
        answer = "" if reply is None else f" -> {self.answer(call, reply)}"
        return f"{name} {how} {said}{answer}"

    def what(self, violation: str) -> str:
        return re.sub(r"<(\d+)>", lambda item: self.items[int(item[1])], violation)

    def answer(self, call: Call, reply: Any) -> str:  # noqa: ANN401 - what a script answers
        if call.verb == "lease" and not isinstance(reply, Exception):
            word = reply[0].decode()
            lost = f", lost {reply[2]}" if reply[2] else ""
            if word != "items":
                return f"{word} {reply[3:]}{lost}"
            count = sum(x is not None for x in reply[5:])
            return f"{count} of {len(reply) - 5} items{lost}"
        return str(reply)

    def renamed(self, successor: Successor) -> Spoken:
        names = {new: self.tokens.get(old, "") for old, new in successor.renaming.tokens.items()}
        issued = self.issued
        for token in sorted(names):
            if not names[token]:
                issued += 1
                names[token] = f"#{issued}"
        items = [""] * len(self.items)
        for old, new in enumerate(successor.renaming.items):
            items[new] = self.items[old]
        known = [*self.workers, "one that is dead"]
        workers = [known[old] for old in successor.renaming.workers]
        return Spoken(workers, items, names, issued)

    def message(self, message: Message) -> str:
        if message.item < 0:
            return "wake marker"
        marks = "'" * message.attempts + "?" * message.suspect + "°" * message.raw
        return self.items[message.item] + marks

    def state(self, state: State) -> str:
        parts = []
        if state.other:
            parts.append(f"[next queue: {self.state(state.other)}]")

        def part(name: str, entries: Sequence[str]) -> None:
            if entries:
                parts.append(f"{name} {', '.join(entries)}")

        part("waiting", [self.message(x) for x in state.waiting])
        part("handoff", [self.message(x) for x in state.handoff])
        part("priority", [self.message(x) for _, x in state.priority])
        part("behind", [self.message(x) for _, x in state.grouped])
        part("heads", [f"{self.items[item]} of {group}" for group, item in state.groups])
        part("keys", [f"{key} of {self.items[item]}" for key, item, _ in state.unique])
        part("delayed", [f"{self.message(x)} ({due - START:+} ms)" for due, x in state.delayed])
        leased = [
            f"{self.message(x)} {self.token(token)} ({deadline - START:+} ms)"
            for token, deadline, x in state.leased
        ]
        part("leased", leased)
        part("dead", [self.message(x) for _, x in state.dead])
        gone = [self.items[i] for i, fate in enumerate(state.items) if fate == DONE]
        part("done", gone)
        if state.flags % 2:
            parts.append("sealed")
        if state.flags // 2 % 2:
            parts.append("paused")
        return "; ".join(parts) or "empty"
