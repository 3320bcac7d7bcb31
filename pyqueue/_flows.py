"""Flows that alternate calls and waiting, as generators: they say what to wait for, a driver waits.

A driver sends back the reply of a ``Call`` and nothing for the rest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from . import _operations as op

#: The longest that a worker blocks or sleeps before it asks again, in seconds. A marker is pushed
#: only for what is due earlier than that (lua/lib/delay.lua).
MOST_WAIT = 2.0
#: BLMOVE with 0 would block for ever.
LEAST_BLOCK = 0.001


@dataclass(frozen=True, slots=True)
class Call:
    """Run this operation and send its reply back."""

    operation: op.Lease


@dataclass(frozen=True, slots=True)
class Block:
    """Wait for a message, with BLMOVE, at most so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so many seconds."""

    seconds: float


Step: TypeAlias = Call | Block | Sleep


def wait_for_items(
    reply: op.LeaseReply, again: op.Lease, wait: float | None, until_drained: bool
) -> Generator[Step, op.LeaseReply, op.LeaseReply]:
    """Goes on from a lease call's reply until there are items, or ``wait`` seconds are over (None:
    never), or with ``until_drained`` the queue is drained. ``again`` is the call to repeat.

    Only when the script finds the queue empty does the worker block, in BLMOVE from the list into
    the handoff; then the script again, which takes from the handoff first. For any other reason it
    sleeps: BLMOVE would shovel the list into the handoff. An answer that there is more to do at
    once (``retry_in`` is 0) is no answer, however little time is left.
    """
    give_up = None if wait is None else time.monotonic() + wait
    while reply.word != "items" and not (until_drained and reply.word == "drained"):
        seconds = MOST_WAIT * random.uniform(0.75, 1)
        if reply.retry_in is not None:
            seconds = min(seconds, reply.retry_in)
        if give_up is not None:
            left = give_up - time.monotonic()
            if left <= 0 and reply.retry_in != 0:
                break
            seconds = min(seconds, left)
        if reply.word not in ("empty", "group", "drained"):
            yield Sleep(seconds)
        elif reply.retry_in != 0:
            yield Block(max(seconds, LEAST_BLOCK))
        reply = yield Call(again)
    return reply
