"""Queues in the middle of their lives, and a typical call of each script on them."""

from collections.abc import Callable
from dataclasses import dataclass

import msgpack

from tests.lua.harness import NEVER, START, Arg, Caller, VirtualQueue, envelope


def id_of(number: int) -> bytes:
    return b"id of number %03d" % number if number < 1000 else b"id number %06d" % number


def message(number: int) -> bytes:
    return envelope(b"pushed %d" % number, id_of(number))


def asking(number: int, **asks: object) -> bytes:
    """That message, with headers of the protocol's own: group, unique, priority, ..."""
    packed = msgpack.packb({f":{name}": value for name, value in asks.items()})
    return envelope(b"pushed %d" % number, id_of(number), flags=2, headers=packed)


def number_of(message: bytes) -> int:
    """The inverse, whatever its headers and counts are."""
    return int(message[27 + int.from_bytes(message[25:27], "big") :].removeprefix(b"pushed "))


@dataclass
class Scene:
    """A queue with something under each of its keys."""

    queue: VirtualQueue
    #: Held by the queue's first caller, who knows it.
    tokens: list[int]
    #: A caller whose last lease was never answered, for as far as it knows.
    unlucky: Caller
    unseen: list[int]


def busy(queue: VirtualQueue) -> Scene:
    """Items wait, are handed off, leased, delayed and dead; the memory of calls has two halves;
    nothing is due, and the bound of the next event is exact.
    """
    queue.push(*(message(number) for number in range(12)))
    queue.rpush("raw", "", "raw", b"\0\xff")
    (late,) = queue.take()
    queue.release(late, delay=50_000)
    (gone,) = queue.take()
    queue.bury(gone)
    queue.client.rename(queue.key("calls0"), queue.key("calls1"))
    unlucky = queue.caller()
    tokens = queue.take(4)
    unseen = queue.lease(3, by=unlucky, seen=False).tokens
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.change_state(event=min([due for due, _ in queue.delayed()], default=NEVER))
    return Scene(queue, tokens, unlucky, unseen)


def rich(queue: VirtualQueue) -> Scene:
    """The same of a queue that uses every feature."""
    settings = {"max_leased": 1000, "max_waiting": 10_000, "max_bytes": 1 << 20, "rate": 1000}
    more = {"burst": 500, "ttl": 60_000, "max_lease": 3_600_000}
    queue.call("configure", *(x for pair in (settings | more).items() for x in pair))
    queue.ask(asking(0, unique="late", group="late"))
    queue.release(*queue.take(), delay=50_000)
    queue.ask(asking(1, unique="gone", group="gone", priority=3))
    queue.bury(*queue.take())
    queue.client.rename(queue.key("calls0"), queue.key("calls1"))
    unlucky = queue.caller()
    queue.ask(asking(2, unique="a", group="a", max_attempts=3), asking(3, group="a"))
    queue.ask(asking(4, group="a"), delay=58_000)
    queue.ask(asking(5, priority=7, unique="b"), message(6), asking(7, priority=-1))
    ranked, *tokens = queue.take(4)
    queue.ask(asking(8, priority=1), asking(9, group="u", unique="u"), message(10))
    queue.ask(asking(11, group="u"))
    unseen = queue.lease(3, by=unlucky, seen=False).tokens
    queue.rpush("raw", "", "raw", b"\0\xff")
    queue.ask(*(asking(number, group="c") for number in (12, 13)), message(14))
    queue.ask(*(asking(number, priority=number - 17) for number in range(15, 20)))
    queue.ask(asking(20, unique="window", backoff=1, backoff_max=2), window=100_000, chosen=True)
    queue.ask(asking(21, priority=2, unique="later"), delay=55_000)
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    queue.change_state(event=START + 50_000)
    return Scene(queue, [tokens[0], ranked, *tokens[1:]], unlucky, unseen)


SCENES = {"plain": busy, "features": rich}

#: ARGV after the call id, for two tokens.
TYPICAL: dict[str, Callable[[int, int], tuple[Arg, ...]]] = {
    "bury": lambda a, b: (b"no good", b"boom", a, b),
    "complete": lambda a, b: (a, b),
    "complete_push": lambda a, _b: (a, 0, 0, 0, message(100), 0, 5_000, 0, message(101)),
    "configure": lambda _a, _b: ("max_attempts", 9, "backoff_max", ""),
    "extend": lambda a, b: (90_000, a, b),
    "fail": lambda a, b: ("", b"boom", a, b),
    "fail_push": lambda a, _b: ("", b"boom", a, 0, 0, 0, message(100)),
    "import": lambda _a, _b: (b"imported letter!", START, b"\1\3why\1w\0\4boom" + message(100)),
    "lease": lambda a, b: (2, 60_000, b"me", a, b),
    "pause": lambda _a, _b: (1,),
    "push": lambda _a, _b: ("", message(100), message(101)),
    "purge": lambda _a, _b: ("waiting",),
    "reclaim": lambda _a, _b: (1000, 0),
    "redrive": lambda _a, _b: (message(1)[4:20],),
    "release": lambda a, b: (0, a, b),
    "repair": lambda a, _b: (1, "lease", "leases", a, "", "", "", "", ""),
    "seal": lambda _a, _b: (1,),
    # Those that only read, and `delete`, have no call id.
    "check": lambda _a, _b: ("waiting", 0, 100),
    "dead": lambda _a, _b: (0, 100),
    "delete": lambda _a, _b: (1,),
    "leases": lambda _a, _b: (0, 100),
    "stats": lambda _a, _b: (),
    "waiting": lambda _a, _b: (0, 100),
}


def typical(scene: Scene, verb: str) -> tuple[Arg, ...]:
    return TYPICAL[verb](scene.tokens[0], scene.tokens[1])
