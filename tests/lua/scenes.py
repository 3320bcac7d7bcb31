"""Queues in the middle of their lives, and a typical call of each script on them."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.lua.harness import NEVER, Arg, Caller, VirtualQueue, envelope


def message(number: int) -> bytes:
    return envelope(b"pushed %d" % number, b"id of number %03d" % number)


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


#: ARGV after the call id, for two tokens.
TYPICAL: dict[str, Callable[[int, int], tuple[Arg, ...]]] = {
    "bury": lambda a, b: (b"no good", b"boom", a, b),
    "complete": lambda a, b: (a, b),
    "extend": lambda a, b: (90_000, a, b),
    "fail": lambda a, b: ("", b"boom", a, b),
    "lease": lambda a, b: (2, 60_000, b"me", a, b),
    "pause": lambda _a, _b: (1,),
    "push": lambda _a, _b: (message(100), message(101)),
    "purge": lambda _a, _b: ("waiting",),
    "reclaim": lambda _a, _b: (1000, 0),
    "redrive": lambda _a, _b: (message(1)[4:20],),
    "release": lambda a, b: (0, a, b),
    "seal": lambda _a, _b: (1,),
    # Those that only read, and `delete`, have no call id.
    "dead": lambda _a, _b: (0, 100),
    "delete": lambda _a, _b: (1,),
    "leases": lambda _a, _b: (0, 100),
    "stats": lambda _a, _b: (),
    "waiting": lambda _a, _b: (0, 100),
}


def typical(scene: Scene, verb: str) -> tuple[Arg, ...]:
    return TYPICAL[verb](scene.tokens[0], scene.tokens[1])
