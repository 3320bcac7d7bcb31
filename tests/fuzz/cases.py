"""What a fuzz case is, the first ones, and how a case is made of another.

A case is JSON, so that a file of the corpus can be read and changed by hand:

    {"name": N, "steps": [STEP, ...]}

A step is ``["clock", MS]`` (the time moves by so much, back as well), ``["rpush", MESSAGE, ...]``,
or ``[VERB, ARG, ...]`` with the arguments after the call id. An argument is a number, BYTES,
``{"token": k}`` (the k-th lease that somebody holds, modulo their number), ``{"id": k}`` (the same
of the dead letters) or a MESSAGE. BYTES is a string of which each character is a byte, or
``{"rep": [BYTES, n]}``, or ``{"cat": [BYTES, ...]}``. A MESSAGE is BYTES, or an envelope:
``{"headers": BYTES, "payload": BYTES, "id": ..., "flags": ..., "deliveries": ..., "attempts": ...,
"size": the length of the headers that it claims}``, each of which can be left out.
"""

import copy
import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgpack

from pyqueue._scripts import Script
from tests.lua.harness import MAGIC, SCRIPTS, WAKE

#: JSON.
Json: TypeAlias = Any
Case: TypeAlias = dict[str, Json]
Step: TypeAlias = list[Json]

#: The largest payload that a client pushes unless told otherwise.
LIMIT = 1 << 20
#: The most that a case may be when it is sent, bytes; and how many steps.
MOST_BYTES, MOST_STEPS = 3 * LIMIT, 14

WAKE_TEXT = WAKE.decode("latin-1")

#: Numbers that are none, or that a number's range forgets.
HOSTILE: list[Json] = [
    *("", "0", "-1", "-0", "nan", "inf", "-inf", "1e308", "0x10", " 5 ", "1.5", "٣", "true", "nil"),
    *(0, -1, 1, 2, 255, 256, 999, 1000, 1001, 65535, 65536, 2**31, 2**32, 2**53, 2**53 + 2),
    *(-(2**63), 2**64, 10**13, 10**13 + 1, 10**15, 10**15 + 1, "1e13", "1" * 400),
    *("\0", "\xff\xfe", "a\r\nb", "{job2}:meta", "%d%s%n", {"rep": ["x", 256]}),
    *({"rep": ["y", 2049]}, {"rep": ["\0", 70_000]}),
]
#: What the arguments of these names mostly are. Of a name that is not here, HOSTILE is tried.
USUAL: dict[str, list[Json]] = {
    "n": [1, 1, 2, 10, 100, 1000, 0],
    "ttl": [60_000, 1000, 1, 10**13],
    "worker": ["w", "host:1", "", "\0\xff", {"rep": ["w", 255]}],
    "token": [{"token": 0}, {"token": 1}, {"token": 5}],
    "delay": [0, 1, 2000, 100_000],
    "retry_in": ["", 0, 1, 5000],
    "error": ["boom", "", {"rep": ["e", 2048]}, "\xff\0"],
    "reason": ["why", "", "malformed", {"rep": ["r", 255]}],
    "limit": [1, 100, 1000],
    "hold": [0, 5000],
    "offset": [0, 1, 100],
    "count": [1, 10, 1000],
    "sealed": [0, 0, 0, 1],
    "paused": [0, 0, 0, 1],
    "what": ["waiting", "dead"],
    "force": [0, 1],
    "id": [{"id": 0}, {"id": 1}, {"rep": ["d", 16]}],
    # Of push: delay, window of the dedupe key, whether the ids were chosen.
    "options": ["", "0 0 0", "0 0 0", "1000 0 0", "0 5000 0", "0 0 1", "0 0 2", "0  0", "1 1 1 1"],
    "queue": [0, 0, 0, 1],
    "window": [0, 0, 1, 60_000],
    "died": [1_800_000_000_000, 0],
    "record": ["\1\3why\1w\0\4boomraw", "\1\0\0\0\0", {"cat": ["\1\0\0\0\0", WAKE_TEXT]}, "\1"],
    "name": ["max_attempts", "backoff_base", "backoff_max", "ttl", "max_lease", "max_leased"],
    "value": [1, 2, "", 0, 1000, 10**13, "0.5"],
}
USUAL["name"] += ["max_waiting", "max_bytes", "rate", "burst"]
#: Verbs that end what a case has built up; the others are chosen more often.
RARE = {"delete", "purge", "seal", "pause"}
CLOCKS = [1, 50, 1000, 2000, 4999, 5001, 60_000, 300_001, 10**9, -1, -1000, -60_000, -(10**9)]
NAMES = [
    *("job2", "a b", "é", "*", "[a-z]?", "a\\b", "a:b", "{tag}rest", "{a}x", "%", "-", "job2:meta"),
    *("'\"", "x" * 200, "日本" * 30, "\u202etxt", " ", "KEYS[1]", "nil"),
]

#: Values of headers: each of a kind of msgpack, small and large, and broken.
VALUES: list[bytes] = [
    *map(msgpack.packb, (None, True, 0, -1, 127, 2**32, -(2**63), 2**64 - 1, 0.5, 1e308)),
    *map(msgpack.packb, (float("nan"), float("inf"), -0.0, "", "é", "a" * 300, "\0")),
    *map(msgpack.packb, ([], [1, [2]], {}, {"a": {"b": None}}, b"bin", b"")),
    *(b"\xc1", b"\xc7\x00\x01", b"\xd4\x01a", b"\xd8\x01" + b"x" * 16, b"\xd7\xff" + bytes(8)),
    *(b"\xda\xff\xff", b"\xdb\xff\xff\xff\xffa", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf"),
    *(b"\xa3\xff\xfe\xfd", b"\xca\x7f\xc0\x00\x00", b"\xcb" + b"\xff" * 8, b"\xd9\x05ab"),
]
#: Headers of pyqueue's own begin with a colon, and mean something with flag 2.
NAMED = [":unique", ":group", ":priority", ":max_attempts", ":backoff", ":backoff_max", ":none"]
OWN_VALUES: list[object] = [
    *(None, True, False, 0, 1, -1, 2**20, 2**20 + 1, -(2**20), -(2**20) - 1, 2**63, -(2**63)),
    *(0.5, -0.5, 1e300, float("nan"), float("inf"), float("-inf"), "", "1", "user-42", "\0"),
    *("a\0b", "x" * 300, [], [1], {}, {"a": 1}, b"\xff", "\xff" * 40),
]


def text(data: bytes) -> str:
    """Bytes as a case has them."""
    return data.decode("latin-1")


def headers_of(pairs: dict[str, object]) -> Json:
    return text(msgpack.packb(pairs))


def bombs() -> Iterator[Json]:
    """Headers that are larger, deeper or odder than any program means them."""
    for value in VALUES:
        yield text(b"\x81\xa1k" + value)
        yield text(b"\x81" + value + b"\xa1v")
        yield text(value)
    for opening in ("\x91", "\x81\xa1k", "\x81", "\xdd\0\0\0\1", "\xdf\0\0\0\1\1", "\x92\1"):
        for count in (15, 16, 17, 100, 200, 1000, 5000, 65_000):
            if count * len(opening) < 65_000:
                deep: Json = {"rep": [opening, count]}
                yield {"cat": ["\x81\xa1k", deep, "\xc0"]}
                yield {"cat": [deep, {"rep": ["\xc0", count + 1]}]}
    many = "".join(chr(number) for number in range(128))
    yield {"cat": ["\xde\xff\xff", {"rep": ["\xc0", 65_532]}]}
    yield {"cat": ["\xde\x7f\xff", {"rep": ["\1\2", 32_766]}]}
    yield {"cat": ["\xdf\x7f\xff\xff\xff", many]}
    yield {"cat": ["\xdf\0\0\0\0", many]}
    yield {"cat": ["\x81\xa1k\xda\xff\xf0", {"rep": ["v", 65_520]}]}  # 65,526 bytes
    yield {"cat": ["\x81\xa1k\xdc\xff\xf0", {"rep": ["\xc0", 65_520]}]}
    yield {"cat": ["\x82\xa1k\1\xa1k\2"]}
    yield "\x80\x80"
    yield "\x80 and something behind it"
    yield {"cat": ["\x82\1\2", {"rep": ["\x80", 3]}]}


def of_our_own() -> Iterator[Json]:
    for name in NAMED:
        for value in OWN_VALUES:
            yield headers_of({name: value})
    yield headers_of(dict.fromkeys(NAMED, "x"))
    yield headers_of({":group": "g", ":priority": 5, ":unique": "u", "plain": 1})
    yield headers_of({":": 1, "::": 2, ":group ": 3, "": 4})


def messages() -> Iterator[Json]:
    """Messages of each kind, and what is nearly one."""
    for size in (0, 1, 26, 27, 28, 65_535, 65_536, LIMIT):
        yield {"rep": ["p", size]}
        yield {"payload": {"rep": ["p", size]}}
    for length in range(len(WAKE) + 2):
        yield text((WAKE + b"xx")[:length])
        yield text((MAGIC + b"\1" * 40)[:length])
    yield text(WAKE[:-1] + b"\1")
    yield text(b"\0PQ\2" + WAKE[4:])
    for flags in (0, 1, 2, 3, 4, 64, 127, 128, 129, 255):
        yield {"flags": flags, "payload": "flagged"}
        yield {"flags": flags, "payload": "flagged", "deliveries": 65535, "attempts": 65535}
    for size in (1, 2, 100, 65_535):
        yield {"size": size, "headers": "", "payload": ""}
        yield {"size": size, "headers": "\x80", "payload": "p"}
    yield {"id": text(bytes(16)), "payload": "no id"}
    yield {"id": text(b"\xff" * 16), "payload": "late"}
    for bomb in bombs():
        yield {"headers": bomb, "payload": "bomb"}
    for headers in of_our_own():
        yield {"headers": headers, "flags": 2, "payload": "ours"}
    for number in range(4):
        headers = headers_of({":group": "g", ":unique": f"u{number % 2}", ":priority": number})
        yield {"headers": headers, "flags": 2, "payload": "next", "id": f"id number {number:06}"}


#: What follows a push in the first cases: each way that a message can take.
LIVES: list[list[Step]] = [
    [],
    [["lease", 10, 1000, "w"], ["clock", 1001], ["lease", 10, 1000, "w"]],
    [
        *(["lease", 10, 1000, "w"], ["fail", 0, "boom", {"token": 0}, {"token": 1}]),
        *(["lease", 1, 60_000, "w"], ["release", 3000, {"token": 0}], ["waiting", 0, 10]),
    ],
    [
        *(["lease", 10, 1000, "w"], ["bury", "why", "boom", {"token": 0}], ["dead", 0, 10]),
        *(["redrive", {"id": 0}], ["lease", 2, 1000, "w", {"token": 0}]),
    ],
]


#: What two messages that wait for each other may ask for.
ASKED: list[dict[str, object]] = [
    {":group": "g"},
    {":group": "g", ":unique": "u"},
    {":group": "h", ":priority": 5},
    {":unique": "u"},
    {":unique": "v", ":priority": -3},
    {":max_attempts": 1, ":group": "g"},
    {":backoff": 0, ":group": "h"},
]


def together() -> Iterator[list[Step]]:
    """Messages that share groups and dedupe keys, through all that can become of them."""
    own: list[Json] = [
        {"headers": headers_of(asked), "flags": 2, "payload": "ours", "id": f"id number {at:06}"}
        for at, asked in enumerate(ASKED)
    ]
    token = {"token": 0}
    for at, one in enumerate(own):
        for other in (one, *own[at + 1 :]):
            yield [
                *(["push", "0 0 0", one, other, one], ["lease", 2, 1000, "w"]),
                *(["push", "100 5000 0", other], ["fail", 0, "boom", token], ["clock", 1500]),
                *(["lease", 5, 1000, "w"], ["bury", "why", "boom", token], ["redrive", {"id": 0}]),
                ["purge", "waiting"],
            ]
            yield [
                *(["push", "0 0 1", one, other], ["lease", 1, 1000, "w"]),
                ["complete_push", token, 0, 0, 0, other, 0, 1000, 0, one],
                *(["lease", 5, 1000, "w"], ["fail_push", 0, "boom", token, 0, 0, 0, one]),
                ["configure", "max_attempts", 1, "rate", 5, "burst", 1, "max_leased", 2],
            ]


def seeds() -> list[Case]:
    """The first cases: each message through a life, each name, each verb with odd arguments."""
    found: list[Case] = [{"name": "{a}x", "steps": steps} for steps in together()]
    for number, message in enumerate(messages()):
        life = copy.deepcopy(LIVES[number % len(LIVES)])
        push: Step = ["rpush", "before", message, "after"]
        if number % 3 == 0:
            push = ["push", "", "before", message, "after"]
            if number % 2:
                # With options each must be an envelope.
                push = ["push", "0 0 0", {"payload": "before"}, message, {"payload": "after"}]
        found.append({"name": "job2", "steps": [push, *life]})
    for name in NAMES:
        steps = [
            ["push", "", {"payload": "a"}],
            ["lease", 1, 1000, "w"],
            ["stats"],
            ["clock", 6000],
        ]
        found.append({"name": name, "steps": steps})
    for verb, script in SCRIPTS.items():
        for value in HOSTILE:
            once, group = arguments_of(script)
            arguments = [usual(name) for name in once + group]
            steps = [["rpush", "a", "b"], ["lease", 1, 1000, "w"]]
            for position in range(len(arguments)):
                steps.append([verb, *arguments[:position], value, *arguments[position + 1 :]])
            found.append({"name": "job2", "steps": steps})
    for there in CLOCKS:
        for back in (-there, -2 * there, there):
            steps = [["push", "", {"payload": "a"}, {"payload": "b"}], ["lease", 1, 60_000, "w"]]
            steps += [["clock", there], ["lease", 1, 1000, "v"], ["clock", back]]
            steps += [["lease", 1, 1000, "w"], ["extend", 1000, {"token": 0}], ["reclaim", 10, 0]]
            found.append({"name": "job2", "steps": steps})
    return found


def arguments_of(script: Script) -> tuple[list[str], list[str]]:
    """The names of a script's arguments after what all calls have in common: those that are there
    once, and those of the group that is repeated.
    """
    names = [*script.args[4 if script.takes_call else 1 :]]
    if not names or not names[-1].endswith("..."):
        return names, []
    pattern = r"^-- ARGV\[\d+\.\.\.\] ((?:\w+(?: \w+)?, )+)\.\.\.:"
    found = re.search(pattern, script.source, re.MULTILINE)
    group = [words.split()[0] for words in found[1].split(", ")[:-1]] if found else []
    return names[:-1], group or [names[-1].removesuffix("...")]


def usual(name: str) -> Json:
    if name == "message":
        return {"payload": "usual"}
    return USUAL.get(name, HOSTILE)[0]


# Mutation

_MESSAGES = list(messages())
_SMALL = [message for message in _MESSAGES if len(json.dumps(message)) < 3000]


class Mutator:
    """Makes cases of others. The same seed makes the same ones of the same corpus."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def mutate(self, case: Case, other: Case) -> Case:
        """A case with up to four changes, one of which may be some steps of the other."""
        result: Case = copy.deepcopy(case)
        steps: list[Step] = result["steps"]
        for _ in range(self.random.choice((1, 1, 2, 4))):
            change = self.random.randrange(8)
            at = self.random.randrange(len(steps) + 1)
            if change == 0 or not steps:
                steps.insert(at, self.step())
            elif change == 1:
                steps.pop(at % len(steps))
            elif change == 2:
                first = self.random.randrange(len(other["steps"]) + 1)
                steps[at:at] = copy.deepcopy(other["steps"][first : first + 3])
            elif change == 3:
                steps.insert(at, copy.deepcopy(steps[at % len(steps)]))
            elif change == 4:
                result["name"] = self.random.choice(NAMES)
            else:
                self.change(steps[at % len(steps)])
        del steps[MOST_STEPS:]
        return result

    def step(self) -> Step:
        """Some step."""
        kind = self.random.randrange(10)
        if kind == 0:
            return ["clock", self.random.choice(CLOCKS)]
        if kind == 1:
            return ["rpush", self.message()]
        if kind <= 3:
            return ["push", self.argument("options"), self.message(), self.message()]
        verbs = [verb for verb in SCRIPTS if verb not in RARE or self.random.random() < 0.2]
        verb = self.random.choice(verbs)
        names, group = arguments_of(SCRIPTS[verb])
        if group:
            names += group * self.random.choice((1, 1, 2, 4, 40))
            if self.random.random() < 0.1:
                names.pop()
        return [verb, *(self.argument(name) for name in names)]

    def argument(self, name: str) -> Json:
        if name == "message":
            return self.message()
        odd = name not in USUAL or self.random.random() < 0.1
        return copy.deepcopy(self.random.choice(HOSTILE if odd else USUAL[name]))

    def message(self) -> Json:
        # The large ones are slow to send and to look at.
        small = self.random.random() < 0.98
        return copy.deepcopy(self.random.choice(_SMALL if small else _MESSAGES))

    def change(self, step: Step) -> None:
        """Changes something within a step."""
        if len(step) == 1:
            step.append(self.random.choice(HOSTILE))
            return
        at = self.random.randrange(1, len(step))
        if step[0] == "clock":
            step[1] = self.random.choice(CLOCKS)
        elif self.random.random() < 0.2:
            step.insert(at, copy.deepcopy(step[at]))
        else:
            step[at] = self.changed(step[at])

    def changed(self, value: Json) -> Json:
        """Some other value of the same kind, mostly."""
        if isinstance(value, str):
            return self.other_bytes(value)
        if isinstance(value, int):
            near = (value + 1, value - 1, -value, value * 2, value // 2)
            return self.random.choice([*near, *HOSTILE])
        return self.changed_parts(value) if value else self.message()

    def changed_parts(self, value: dict[str, Json]) -> Json:
        (key, inner) = self.random.choice(list(value.items()))
        if key in ("token", "id") and isinstance(inner, int):
            return {key: self.random.randrange(8)}
        if key == "rep":
            count = self.random.choice((inner[1] + 1, inner[1] // 2, inner[1] - 1, 0))
            return {"rep": [self.changed(inner[0]), max(count, 0)]}
        if key == "cat":
            at = self.random.randrange(len(inner) or 1)
            return {"cat": [*inner[:at], *map(self.changed, inner[at : at + 1]), *inner[at + 1 :]]}
        result = dict(value)
        if key in ("flags", "size", "deliveries", "attempts"):
            most = 255 if key == "flags" else 65_535
            result[key] = self.random.choice(
                (0, 1, 2, 3, 127, 128, most, self.random.randint(0, most))
            )
        elif self.random.random() < 0.2:
            del result[key]
        else:
            result[key] = self.changed(inner)
        return result

    def other_bytes(self, value: str) -> str:
        """The same with one bit, byte or part changed."""
        at = self.random.randrange(len(value) + 1)
        some = self.random.choice(
            (
                chr(self.random.randrange(256)),
                text(self.random.choice(VALUES)),
                text(struct.pack(">I", self.random.choice((0, 1, 2**16, 2**31, 2**32 - 1)))),
            )
        )
        match self.random.randrange(4):
            case 0:
                return value[:at] + some + value[at:]
            case 1:
                return value[:at] + some + value[at + len(some) :]
            case 2:
                return value[:at] + value[at + self.random.choice((1, 2, 4)) :]
            case _:
                bit = 1 << self.random.randrange(8)
                flipped = "".join(chr(ord(one) % 256 ^ bit) for one in value[at : at + 1])
                return value[:at] + flipped + value[at + 1 :]


# From a case to what is sent


def as_bytes(value: Json) -> bytes:
    """BYTES or a MESSAGE as it is sent."""
    if isinstance(value, str):
        # Also of text that a case gives as it is, such as digits of another script.
        return value.encode("latin-1") if value.isascii() or max(value) < "Ā" else value.encode()
    if isinstance(value, (int, float)):
        return str(value).encode()
    if "rep" in value:
        inner, count = value["rep"]
        data: bytes = as_bytes(inner)
        times: int = min(count, MOST_BYTES // (len(data) or 1))
        return data * times
    if "cat" in value:
        return b"".join(map(as_bytes, value["cat"]))
    if "token" in value or ("id" in value and not isinstance(value["id"], str)):
        return b"?"  # where there is neither
    headers = as_bytes(value.get("headers", ""))
    counts = struct.pack(
        ">BHHH",
        value.get("flags", 0),
        value.get("deliveries", 0),
        value.get("attempts", 0),
        value.get("size", min(len(headers), 65_535)),
    )
    id = as_bytes(value.get("id", "i" * 16))[:16].ljust(16, b"\0")
    return MAGIC + id + counts + headers + as_bytes(value.get("payload", ""))
