"""Recorded histories of many processes are checked; and the checker refuses what is wrong."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from pyqueue import Queue
from tests.faults.histories import Call, Settled, Taken, check, read
from tests.servers import Server

LARGE = settings.get_current_profile_name() == "soak"


@pytest.mark.slow
def test_histories_of_many_processes(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    if server.source == "url":
        pytest.skip("the times of calls are compared with the server's: it must have this clock")
    workers, items = (16, 100_000) if LARGE else (12, 2_000)
    arguments = (server.url, "job2", tmp_path, workers, items)
    output = subprocess.run(
        [sys.executable, "-m", "tests.faults.histories", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    calls = list(read(tmp_path))
    seen = check(calls)
    print(f"{output.strip()} stops, {seen}")
    assert seen["lost"] > 20, "too little happened"
    assert seen["items"] == items

    # The account: every lease has ended in one way, and every item.
    held = Counter(call.verb for call in calls for settled in call.settled if settled.held)
    ended = held.total() - held["extend"]
    queue = Queue("job2", client=client)
    stats = queue.stats()
    totals = stats.totals
    assert stats.drained
    assert totals["completed"] == held["complete"] + held["lease"]
    assert (totals["released"], totals["failed"]) == (held["release"], held["fail"])
    assert totals["expired"] == seen["leases"] - ended
    assert totals["completed"] + stats.dead == items
    payload_of = {taken.token: taken.payload for call in calls for taken in call.taken}
    completed = {
        payload_of[settled.token]
        for call in calls
        for settled in call.settled
        if settled.held and call.verb in ("complete", "lease")
    }
    assert completed.isdisjoint(letter.text for letter in queue.dead())


def call(verb: str, invoked: int, returned: int, **answer: object) -> Call:
    """A call at times that are the same in ms by each clock."""
    return Call(verb, invoked, returned, invoked, returned, **answer)  # type: ignore[arg-type]


def lease(invoked: int, returned: int, token: int, **how: int) -> Call:
    """Of the only item, for 100 ms, made half-way."""
    start = how.pop("start", (invoked + returned) // 2)
    counts = (how.get("deliveries", 0), how.get("attempts", 0))
    return call(
        "lease", invoked, returned, taken=[Taken(token, "apple", *counts, start, start + 100)]
    )


def settle(verb: str, invoked: int, returned: int, token: int, held: bool = True) -> Call:
    deadline = returned + 100 if verb == "extend" else 0
    return call(verb, invoked, returned, settled=[Settled(token, held, deadline)])


PUSH = call("push", 0, 10, payloads=["apple"])
LEASE = lease(20, 30, 1)
GOOD = {
    "completed": [PUSH, LEASE, settle("complete", 40, 50, 1)],
    "pushed and leased at once": [PUSH, lease(5, 8, 1)],
    "completed late, since nobody took it": [PUSH, LEASE, settle("complete", 500, 510, 1)],
    "released and leased again": [
        *(PUSH, LEASE, settle("release", 40, 50, 1)),
        *(lease(45, 60, 2, deliveries=1), settle("complete", 70, 80, 2)),
    ],
    "failed": [PUSH, LEASE, settle("fail", 40, 50, 1), lease(60, 70, 2, deliveries=1, attempts=1)],
    "ran out": [
        *(PUSH, LEASE, lease(130, 140, 2, deliveries=1, attempts=1)),
        *(settle("complete", 150, 160, 1, held=False), settle("complete", 150, 160, 2)),
    ],
    "ran out, and nobody has it": [PUSH, LEASE, settle("extend", 130, 140, 1, held=False)],
    "extended in time": [
        *(PUSH, LEASE, settle("extend", 100, 110, 1)),
        lease(205, 225, 2, deliveries=1, attempts=1),
    ],
    "two at once, one wins": [
        *(PUSH, LEASE, settle("release", 40, 60, 1, held=False), settle("complete", 40, 60, 1)),
    ],
    "drained": [PUSH, LEASE, settle("complete", 40, 50, 1), call("lease", 45, 60, drained=True)],
}
BAD = {
    "I2": [PUSH, LEASE, settle("complete", 40, 50, 1), settle("complete", 60, 70, 1)],
    "I2: apple has ended twice": [
        *(PUSH, LEASE, lease(130, 140, 2, deliveries=1, attempts=1)),
        *(settle("complete", 150, 160, 1), settle("complete", 150, 160, 2)),
    ],
    "I2: a token has ended twice": [
        *(PUSH, LEASE, settle("release", 40, 50, 1), settle("fail", 40, 50, 1)),
    ],
    "I5: a token was issued twice": [
        *(PUSH, LEASE, settle("release", 40, 50, 1), lease(60, 70, 1, deliveries=1)),
    ],
    "I5: tokens did not rise": [
        *(PUSH, lease(20, 30, 9), settle("release", 40, 50, 9), lease(60, 70, 1, deliveries=1)),
    ],
    "two live leases": [PUSH, LEASE, lease(100, 110, 2, deliveries=1, attempts=1)],
    "leased after it was extended": [
        *(PUSH, LEASE, settle("extend", 100, 110, 1)),
        lease(190, 200, 2, deliveries=1, attempts=1),
    ],
    "a stale token was accepted": [
        *(PUSH, LEASE, lease(130, 140, 2, deliveries=1, attempts=1)),
        settle("release", 150, 160, 1),
    ],
    "a stale token was extended": [
        *(PUSH, LEASE, settle("release", 40, 50, 1), settle("extend", 60, 70, 1)),
    ],
    "a lease was lost that was held": [PUSH, LEASE, settle("extend", 40, 50, 1, held=False)],
    "leased after it was completed": [
        *(PUSH, LEASE, settle("complete", 40, 50, 1), lease(130, 140, 2, deliveries=1, attempts=1)),
    ],
    "leased before it was pushed": [call("push", 40, 50, payloads=["apple"]), LEASE],
    "leased without being pushed": [LEASE],
    "an attempt too many": [
        *(PUSH, LEASE, settle("release", 40, 50, 1), lease(60, 70, 2, deliveries=1, attempts=1)),
    ],
    "an attempt too few": [PUSH, LEASE, lease(130, 140, 2, deliveries=1)],
    "a message too many": [PUSH, LEASE, lease(22, 32, 2)],
    "leased before its time": [
        *(PUSH, LEASE, replace(settle("release", 40, 50, 1), delay=30)),
        lease(55, 65, 2, deliveries=1),
    ],
    "was live when": [
        *(PUSH, LEASE, call("lease", 35, 45, drained=True), settle("complete", 50, 60, 1)),
    ],
}


@pytest.mark.parametrize("calls", GOOD.values(), ids=GOOD)
def test_a_history_that_can_be(calls: list[Call]) -> None:
    check(calls)


@pytest.mark.parametrize(("what", "calls"), BAD.items(), ids=BAD)
def test_a_history_that_cannot_be(what: str, calls: list[Call]) -> None:
    named = what.startswith(("I", "was live"))
    with pytest.raises(AssertionError, match=what if named else "no order explains it"):
        check(calls)
