"""Runs a case on real scripts and says what must hold of it.

- A script answers, or refuses with a word that its header names; refused, it has written nothing.
- No message is lost or doubled by any call: what is in the queue after it is what was before, and
  what the call put in or took out.
- What is leased is as it was pushed. What is malformed becomes a dead letter as it is. Which is
  which says a third reader of messages, below, that knows nothing of the scripts' or the client's.
- Afterwards the queue can be worked off: no message blocks those behind it.
- Each reply can be read by the Python client, and so can each message.
- No call takes the server more than 50 ms.
"""

import math
import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from pyqueue._connection import _WORDS
from pyqueue._keys import SUFFIXES
from pyqueue._message import Parsed
from pyqueue.errors import MalformedMessage
from pyqueue.models import Item
from tests.fuzz.cases import MOST_BYTES, Case, Json, Step, as_bytes
from tests.lua.harness import MAGIC, SCRIPTS, WAKE, Arg, Letter, VirtualQueue, command
from tests.lua.test_headers import OPERATIONS

#: ms of the server's time.
MOST_MILLISECONDS = 50
#: Times at which tokens, in µs, are integers that a double holds.
EARLIEST, LATEST = 1, 8_000_000_000_000
#: The errors that each script's header names.
HEADERS = {
    name: set(re.findall(r"^-- Errors (.+)$", script.source, re.MULTILINE)[0].split())
    for name, script in SCRIPTS.items()
}
DECODERS = {operation.script.name: operation for operation in OPERATIONS}

#: Below the nesting at which the server's msgpack gives up, and above.
SURELY_SHALLOW, SURELY_DEEP = 12, 10_000
#: Values one after the other that surely fit on the stack of the server's Lua, which has 8,000.
SURELY_FEW = 1_000


class Broken(AssertionError):
    """Something that must hold does not."""


# A reader of messages


class Unreadable(Exception):
    """No msgpack that the server's Lua can read; says why."""


@dataclass
class _Reader:
    data: bytes
    at: int = 0
    deepest: int = 0
    #: A table as a key, of which Python has none.
    odd_keys: bool = False

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Unreadable("truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def read_headers(data: bytes) -> tuple[_Reader, int]:
    """Reads all values there are, as the server's Lua does; says how many. Raises Unreadable."""
    reader = _Reader(data)
    values = 0
    while reader.at < len(data):
        _read_one(reader)
        values += 1
    return reader, values


def _read_one(reader: _Reader) -> None:
    """Reads a value, without recursion."""
    # How many values are to come at each level, and whether each second one is a key.
    levels: list[list[int]] = [[1, 0]]
    while levels:
        if levels[-1][0] == 0:
            levels.pop()
            continue
        level = levels[-1]
        is_key = level[1] == 1 and level[0] % 2 == 0
        level[0] -= 1
        opened = _value(reader, is_key=is_key)
        if opened is not None:
            count, is_map = opened
            reader.odd_keys = reader.odd_keys or is_key
            levels.append([2 * count if is_map else count, int(is_map)])
            reader.deepest = max(reader.deepest, len(levels) - 1)


_SIZED = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def _value(  # noqa: PLR0912 - a branch for each kind of msgpack
    reader: _Reader, *, is_key: bool
) -> tuple[int, bool] | None:
    """Skips a value; of an array or a map only its beginning, whose count it returns."""
    first = reader.number(1)
    if first >= 0xE0 or first < 0x80 or first in (0xC2, 0xC3):
        return None
    if first < 0x90:
        return first & 15, True
    if first < 0xA0:
        return first & 15, False
    if first < 0xC0:
        reader.take(first & 31)
    elif first == 0xC0:
        if is_key:
            raise Unreadable("nil as a key")
    elif first in (0xCA, 0xCB):
        packed = reader.take(4 if first == 0xCA else 8)
        (number,) = struct.unpack(">f" if first == 0xCA else ">d", packed)
        if is_key and math.isnan(number):
            raise Unreadable("NaN as a key")
    elif first in _NUMBERS:
        reader.take(_NUMBERS[first])
    elif first in _SIZED:
        reader.take(reader.number(_SIZED[first]))
    elif first in (0xDC, 0xDD):
        return reader.number(2 if first == 0xDC else 4), False
    elif first in (0xDE, 0xDF):
        return reader.number(2 if first == 0xDE else 4), True
    else:
        raise Unreadable("bin or ext" if first != 0xC1 else "no type at all")
    return None


@dataclass(frozen=True)
class Verdict:
    """What a message is: "raw", "marker", "envelope", "malformed", or "either" of the last two."""

    kind: str
    why: str = ""
    #: What is known to be read by the server and not by Python.
    python_refuses: str = ""


def judge(message: bytes) -> Verdict:  # noqa: PLR0911 - a verdict each
    """What a message is, by lua/README.md."""
    if message == WAKE:
        return Verdict("marker")
    if not message.startswith(MAGIC):
        return Verdict("raw")
    if len(message) < 27:
        return Verdict("malformed", "shorter than an envelope")
    flags, size = message[20], int.from_bytes(message[25:27], "big")
    if flags >= 128:
        return Verdict("malformed", "flag 128")
    if size == 0:
        return Verdict("envelope", "no headers")
    packed = message[27 : 27 + size]
    if len(packed) < size:
        return Verdict("malformed", "headers longer than the message")
    if not (0x80 <= packed[0] <= 0x8F or packed[0] in (0xDE, 0xDF)):
        return Verdict("malformed", "headers are no map")
    try:
        reader, values = read_headers(packed)
    except Unreadable as error:
        return Verdict("malformed", str(error))
    refuses = "a table as a key" if reader.odd_keys else ""
    if values > 1:
        refuses = "something after the map"
    if values > SURELY_FEW:
        return Verdict("either", "many", refuses)
    if reader.deepest > SURELY_DEEP:
        return Verdict("either", "deep", refuses or "deep")
    if reader.deepest > SURELY_SHALLOW:
        return Verdict("either", "nested", refuses or "deep")
    return Verdict("envelope", "headers", refuses)


def check_python(message: bytes, *, leased: bool) -> str:
    """Holds the client's reader against the verdict. Returns how they differ, if allowed."""
    verdict = judge(message)
    parsed = Parsed(message)
    item = Item(message)
    if item.payload != parsed.payload:
        raise Broken("two payloads")
    try:
        headers = item.headers
    except MalformedMessage:
        readable = False
    else:
        readable = True
        if not isinstance(headers, dict):
            raise Broken(f"headers are {headers!r}")
    if verdict.kind == "raw":
        if parsed.id is not None or parsed.payload != message:
            raise Broken("Python takes a raw message for an envelope")
    elif leased:
        if parsed.id != message[4:20]:
            raise Broken("Python takes an envelope for a raw message")
        if not readable:
            if not verdict.python_refuses:
                raise Broken(f"Python cannot read what was leased: {verdict}")
            return f"leased, and unreadable for Python: {verdict.python_refuses}"
    elif readable and verdict.kind == "malformed" and parsed.id is not None and parsed.flags < 128:
        return f"dead, and readable for Python: {verdict.why}"
    return ""


# What a queue holds


def core(message: bytes) -> bytes:
    """What of a message must never change: not its counts, its suspicion, or becoming an envelope.

    A raw message and the envelope that the scripts make of it have the same core.
    """
    if judge(message).kind in ("raw", "malformed"):
        return b"raw" + message if judge(message).kind == "raw" else b"bad" + message
    id = message[4:20]
    if id.endswith(b"\x80raw\0\0\0\0") and message[25:27] == b"\0\0":
        return b"raw" + message[27:]
    flags = bytes([message[20] & ~1])
    return b"env" + id + flags + message[25:]


#: All that a queue holds, in one call: three lists, and each key as the server would save it.
_LOOK = """#!lua flags=no-writes
local found = {
  redis.call('LRANGE', KEYS[1], 0, -1),
  redis.call('LRANGE', KEYS[2], 0, -1),
  redis.call('ZRANGE', KEYS[3], 0, -1),
  redis.call('ZRANGE', KEYS[4], 0, -1),
  redis.call('ZRANGE', KEYS[5], 0, -1),
  redis.call('HGETALL', KEYS[6]),
  redis.call('HVALS', KEYS[7]),
}
for i = 1, #KEYS do
  found[#found + 1] = redis.call('DUMP', KEYS[i])
end
return found
"""
_LOOKED_AT = ("waiting", "handoff", "delayed", "priority", "grouped", "leased", "dead")


@dataclass(frozen=True)
class Held:
    """What a queue holds."""

    #: The messages under each key that holds some.
    messages: dict[str, list[bytes]]
    #: Token → message.
    leased: dict[bytes, bytes]
    #: Each key, byte for byte.
    dump: list[bytes | None]


def look(queue: VirtualQueue) -> Held:
    """What a queue holds."""
    names = [*_LOOKED_AT, *(name for name in SUFFIXES if name not in _LOOKED_AT)]
    found: Any = command(
        queue.client, "EVAL", _LOOK, len(names), *(queue.key(name) for name in names)
    )
    waiting, handoff, delayed, priority, grouped, leased, dead, *dump = found
    held = {
        token: value[1 + value[0] :] for token, value in zip(leased[::2], leased[1::2], strict=True)
    }
    messages = {
        "waiting": [message for message in waiting if message != WAKE],
        "handoff": [message for message in handoff if message != WAKE],
        "delayed": [member[8:] for member in delayed],
        "priority": [member[8:] for member in priority],
        "grouped": [member.partition(b"\0")[2][14:] for member in grouped],
        "leased": list(held.values()),
        "dead": [Letter.unpack(record).message for record in dead],
    }
    return Held(messages, held, dump)


def cores(held: Held, *names: str) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for name in names or held.messages:
        found.update(core(message) for message in held.messages[name])
    return found


# A case


@dataclass
class Outcome:
    """What a case has shown."""

    #: Classes of outcomes; a case that shows a new one goes into the corpus.
    features: set[str] = field(default_factory=set)
    #: How the client's reader of messages differs from the scripts', where that is allowed.
    differences: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    #: The slowest call, ms of the server, and what it was.
    slowest: tuple[float, str] = (0.0, "")


class Run:
    """A case on an empty server."""

    def __init__(self, client: redis.Redis, case: Case) -> None:
        client.flushall()
        command(client, "SLOWLOG", "RESET")
        self.client = client
        self.case = case
        self.queue = VirtualQueue(client, case["name"])
        self.outcome = Outcome()
        self.held = look(self.queue)

    def run(self) -> Outcome:
        """Raises Broken."""
        sent = 0
        for step in self.case["steps"]:
            sent += self.step(step)
            if sent > MOST_BYTES:
                break
        self.work_off()
        self.slow_calls()
        return self.outcome

    def step(self, step: Step) -> int:
        """Takes a step; returns how many bytes were sent."""
        verb, *given = step
        if verb == "clock":
            self.queue.now = min(max(self.queue.now + int(given[0]), EARLIEST), LATEST)
            return 0
        if verb == "rpush":
            data = [as_bytes(value) for value in given]
            if data:
                self.queue.rpush(*data)
            self.now_holds(self.held_cores() + self.arrived(data), verb)
            return sum(map(len, data))
        if verb not in SCRIPTS:
            return 0  # of an older corpus
        args = [self.argument(value) for value in given]
        self.call(verb, args)
        return sum(len(arg) for arg in args if isinstance(arg, bytes))

    def argument(self, value: Json) -> Arg:
        if isinstance(value, bool) or value is None:
            return str(value)
        if isinstance(value, (int, float)):
            return value
        if isinstance(value, dict):
            for key, suffix, command_ in (("token", "leases", "zrange"), ("id", "died", "zrange")):
                if isinstance(value.get(key), int):
                    found = getattr(self.client, command_)(self.queue.key(suffix), 0, -1)
                    return cast("bytes", found[value[key] % len(found)]) if found else b"1"
        return as_bytes(value)

    def held_cores(self) -> Counter[bytes]:
        return cores(self.held)

    @staticmethod
    def arrived(messages: list[bytes]) -> Counter[bytes]:
        return Counter(core(message) for message in messages if message != WAKE)

    def call(self, verb: str, args: list[Arg]) -> Any:  # noqa: ANN401 - what the script answers
        """Makes a call and checks all that must hold of it."""
        self.outcome.calls += 1
        try:
            reply = self.queue.call(verb, *args)
        except redis.ResponseError as error:
            self.refused(verb, error)
            return None
        self.decode(verb, reply)
        expected = self.expected(verb, args, reply)
        if expected is not None:
            self.now_holds(expected, verb)
        else:
            self.held = look(self.queue)
        self.feature(verb, reply)
        return reply

    def refused(self, verb: str, error: redis.ResponseError) -> None:
        word = str(error).partition(" ")[0]
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            word = "OOM"
        if word not in HEADERS[verb] or word not in _WORDS or word == "WRONGTYPE":
            raise Broken(f"{verb} raised {error}")
        if look(self.queue) != self.held:
            raise Broken(f"{verb} was refused and has written: {error}")
        # A number is used up by a refused call in no script.
        self.outcome.features.add(f"{verb}: {word} {str(error).partition(' ')[2].split(' is ')[0]}")

    def decode(self, verb: str, reply: Any) -> None:  # noqa: ANN401 - what the script answers
        decoded = DECODERS[verb].decode(reply) if verb in DECODERS else None
        for entry in getattr(decoded, "entries", ()):
            for name in ("payload", "id", "attempts", "deliveries", "suspect"):
                getattr(entry, name)
            self.python(entry._message, leased=verb == "leases")
        for message in getattr(decoded, "messages", ()):
            if message is not None:
                if judge(message).kind == "malformed":
                    raise Broken(f"a malformed message was leased: {judge(message)}")
                self.outcome.features.add(f"leased: {judge(message)}")
                self.python(message, leased=True)

    def python(self, message: bytes, *, leased: bool) -> None:
        difference = check_python(message, leased=leased)
        if difference:
            self.outcome.differences[difference] += 1
            self.outcome.features.add(difference)

    def expected(  # noqa: PLR0911 - one for each way that messages come and go
        self,
        verb: str,
        args: list[Arg],
        reply: Any,  # noqa: ANN401 - what the script answers
    ) -> Counter[bytes] | None:
        """The cores that the queue must hold after a call; None when that is not checked here."""
        held = self.held_cores()
        if verb == "push":
            taken = set(reply[1::2])
            messages = [self.sent(arg) for arg in args[1:]]
            return held + self.arrived([m for at, m in enumerate(messages) if at not in taken])
        if verb == "import":
            records = [self.sent(arg) for arg in args[2::3]]
            new = [record for at, record in enumerate(records) if at not in reply]
            # Whatever it is: of a wake marker, too, a letter is kept.
            return held + Counter(core(Letter.unpack(record).message) for record in new)
        if verb in ("complete_push", "fail_push"):
            return self.followed(verb, args, reply)
        if verb in ("complete", "lease"):
            tokens = args[3:] if verb == "lease" else args
            lost = set(reply[2] if verb == "lease" else reply)
            done = {
                self.sent(token) for position, token in enumerate(tokens) if position not in lost
            }
            leased = self.held.leased
            if not done <= set(leased):
                raise Broken(f"{verb} completed what was not leased: {done - set(leased)}")
            return held - Counter(core(leased[token]) for token in done)
        if verb == "purge":
            what = ("waiting", "handoff", "delayed", "priority", "grouped")
            dropped = cores(self.held, *(("dead",) if self.sent(args[0]) == b"dead" else what))
            if reply != [dropped.total(), 0]:
                raise Broken(f"purge says {reply} and dropped {dropped.total()}")
            return held - dropped
        if verb == "delete":
            return Counter() if reply[0] else held
        return held if verb in KEEPS else None

    def followed(self, verb: str, args: list[Arg], reply: int) -> Counter[bytes]:
        """What the queue must hold after an item was followed by others, or not."""
        held = self.held_cores()
        at = 1 if verb == "complete_push" else 3
        if verb == "complete_push" and reply:
            held -= Counter([core(self.held.leased[self.sent(args[0])])])
        if reply < (1 if verb == "complete_push" else 2):
            return held
        messages = [self.sent(arg) for arg in args[at + 3 :: 4]]
        # One whose dedupe key is taken is left out.
        found = cores(look(self.queue))
        left_out = Counter(
            core(message) for message in messages if message[20:21] and message[20] & 130 == 2
        )
        expected = held + self.arrived(messages)
        return expected - (left_out & (expected - found))

    @staticmethod
    def sent(arg: Arg) -> bytes:
        return arg if isinstance(arg, bytes) else str(arg).encode()

    def now_holds(self, expected: Counter[bytes], verb: str) -> None:
        before, self.held = self.held, look(self.queue)
        found = self.held_cores()
        if found != expected:
            shown = (
                [one[:100] for one in (expected - found)],
                [one[:100] for one in found - expected],
            )
            raise Broken(f"{verb}: lost {shown[0]}, too many {shown[1]}")
        for message in self.held.messages["dead"][len(before.messages["dead"]) :]:
            self.outcome.features.add(f"dead: {judge(message)}")

    def feature(self, verb: str, reply: Any) -> None:  # noqa: ANN401 - what the script answers
        shape = _shape(reply)
        filled = ",".join(name for name, messages in self.held.messages.items() if messages)
        self.outcome.features.update((f"{verb}: {shape}", f"{verb}: {filled}"))

    def work_off(self) -> None:
        """Nothing blocks the queue: all that is due comes out, is as it was, and can be done."""
        if self.client.exists(self.queue.key("meta")) == 0:
            self.queue = VirtualQueue(self.client, self.case["name"])
            self.held = look(self.queue)
        self.call("pause", [0])
        # Whatever was configured, or its rate and caps would be obeyed.
        self.call("configure", [part for name in CAPS for part in (name, "")])
        held = list(self.held.leased)
        for first in range(0, len(held), 1000):
            self.call("release", [0, *held[first : first + 1000]])
        most = 3 * sum(map(len, self.held.messages.values())) + 30
        tokens: list[int] = []
        for _ in range(most):
            word, _, _, *rest = self.call("lease", [100, 1000, "end", *tokens])
            tokens = []
            if word == b"items":
                first, _, *messages = rest
                tokens = [first + position for position in range(len(messages))]
            elif word == b"drained":
                break
            elif word not in (b"empty", b"group"):
                raise Broken(f"the queue answers {word} at its end")
            elif rest[0] < 0:
                raise Broken(f"the queue is {word.decode()} for good, and not drained")
            elif self.queue.now + rest[0] > LATEST:
                break  # a delay until the end of time
            else:
                self.queue.now += rest[0]
        else:
            raise Broken(f"not worked off in {most} calls")
        for name in ("waiting", "handoff", "leased", "priority"):
            if self.held.messages[name]:
                raise Broken(f"at the end some are {name}: {self.held.messages[name][:3]}")
        self.letters()

    def letters(self) -> None:
        for _, letter in self.queue.dead().values():
            verdict = judge(letter.message)
            if letter.reason == b"malformed" and letter.worker == b"" and letter.error == b"":
                if verdict.kind not in ("malformed", "either"):
                    raise Broken(f"dead as malformed: {verdict}, {letter.message[:200]!r}")
            elif verdict.kind == "malformed":
                raise Broken(f"malformed, and dead of {letter.reason!r}")
            self.outcome.features.add(f"letter: {verdict}")
            self.python(letter.message, leased=False)

    def slow_calls(self) -> None:
        """By the server's own clock. See `run`."""
        for entry in self.client.slowlog_get(128):
            if entry["command"].startswith(b"EVAL") and b"local found" not in entry["command"]:
                took = entry["duration"] / 1000
                self.outcome.slowest = max(
                    self.outcome.slowest, (took, entry["command"][:60].decode(errors="replace"))
                )


CAPS = ("max_leased", "max_waiting", "max_bytes", "rate")
#: The verbs that neither bring nor take a message, however they end.
KEEPS = {
    *("release", "fail", "bury", "extend", "reclaim", "redrive", "seal", "pause", "configure"),
    *("stats", "waiting", "leases", "dead", "check"),
}


def _shape(reply: Any, depth: int = 0) -> str:  # noqa: ANN401 - what a script answers
    """A reply's class: words as they are, numbers by their sign, lists by about how many."""
    if isinstance(reply, list):
        if depth > 1 or len(reply) > 8:
            return f"[{min(len(reply), 20) // 4}]"
        return "[" + " ".join(_shape(one, depth + 1) for one in reply) + "]"
    if isinstance(reply, bytes):
        return reply.decode() if depth <= 1 and reply.isalpha() and len(reply) < 12 else "…"
    return "n" if reply is None else "+" if reply > 0 else str(reply and "-")


def run(client: redis.Redis, case: Case) -> Outcome:
    """Runs a case. Raises Broken.

    The server's clock goes on while others have the processor: too slow is what is so ten times.
    """
    outcome = Run(client, case).run()
    for _ in range(9):
        if outcome.slowest[0] <= MOST_MILLISECONDS:
            break
        outcome = Run(client, case).run()
    if outcome.slowest[0] > MOST_MILLISECONDS:
        raise Broken(f"took {outcome.slowest[0]:.0f} ms: {outcome.slowest[1]}")
    return outcome
