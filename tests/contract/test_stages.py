"""Pipelines and groups, whose workers are killed at any instant."""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pyqueue import Message, Queue
from pyqueue._message import Parsed
from tests.contract.conftest import OpenQueue
from tests.contract.stages import STAGES
from tests.servers import Server, wait_until


@contextlib.contextmanager
def fleet(kind: str, server: Server, directory: Path, workers: int, every: float) -> Iterator[None]:
    """Workers, of whom one is killed every so many seconds. At the end none has failed."""
    command = [sys.executable, "-m", "tests.contract.stages", kind, server.url, str(directory)]
    with subprocess.Popen(
        [*command, str(workers), str(every)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(x for x in sys.path if x)},
    ) as process:
        try:
            yield
        finally:
            out, _ = process.communicate("end\n", 30)
        print(f"{out.strip()} workers were killed")
        assert process.returncode == 0
        assert int(out) >= 5


def where(client: redis.Redis) -> dict[bytes, list[str]]:
    """In which stages each payload is, at one instant."""
    with client.pipeline(transaction=True) as pipe:
        for name in STAGES:
            pipe.lrange(name, 0, -1)
            pipe.lrange(f"{name}:handoff", 0, -1)
            pipe.zrange(f"{name}:delayed", 0, -1)
            pipe.hvals(f"{name}:leased")
            pipe.hlen(f"{name}:dead")
        replies = iter(pipe.execute())
    found: dict[bytes, list[str]] = defaultdict(list)
    for name in STAGES:
        listed, handed, delayed, leased = (next(replies) for _ in range(4))
        assert next(replies) == 0
        messages = listed + handed + [x[8:] for x in delayed]
        messages += [x[1 + x[0] :] for x in leased]  # after the worker's name
        for parsed in map(Parsed, messages):
            if not parsed.flags & 0x80:  # a wake marker
                found[parsed.payload].append(name)
    return found


def test_downstream_exists_exactly_when_upstream_is_gone(
    server: Server, open_queue: OpenQueue, client: redis.Redis, tmp_path: Path
) -> None:
    """Looked at again and again while workers and the server are killed: every item is in one
    stage, once, and at the end all are in the last.
    """
    number = 400
    payloads = {b"%d" % x for x in range(number)}
    first, second, third = map(open_queue, STAGES)
    for queue in (first, second):
        queue.configure(max_attempts=1000, backoff=0)
    first.push_many(map(str, range(number)))
    first.seal()
    third.configure(max_waiting=0)
    looks = restarts = 0
    middle = False
    with fleet("pipeline", server, tmp_path, 4, 0.04):
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(redis.ConnectionError):
                found = where(client)
                looks += 1
                assert set(found) == payloads
                assert all(len(places) == 1 for places in found.values())
                places = [place for (place,) in found.values()]
                if set(places) == {STAGES[2]}:
                    break
                middle = middle or len(set(places)) == 3
                done = places.count(STAGES[2]) / number
                if done > (restarts + 1) / 3:
                    restarts += 1
                    server.restart(kill=True)
            assert time.monotonic() < deadline, places
    print(f"{looks} looks")
    assert middle
    assert restarts == 2
    assert looks > 20
    for queue, pushed in ((first, number), (second, number), (third, number)):
        assert queue.stats().totals["pushed"] == pushed
    assert first.stats().drained
    assert second.stats().drained
    assert {x.payload for x in third.waiting()} == payloads


def test_the_order_of_each_group_holds_under_kills(
    server: Server, queue: Queue, client: redis.Redis, tmp_path: Path
) -> None:
    """Tokens rise, so they say in which order items were leased: of each group, one after the
    other, each again until it is done, and none is left out.
    """
    members, names = 60, [f"user-{x}" for x in range(12)]
    queue.configure(max_attempts=1000)
    queue.push_many(
        [
            Message(payload=f"{name} {number}", group=name)
            for number in range(members)
            for name in names
        ]
    )
    with fleet("groups", server, tmp_path, 8, 0.05):
        wait_until(lambda: queue.stats().drained, "all is done", 90)
    leased: list[tuple[int, str, int]] = []
    for path in tmp_path.glob("*.log"):
        for line in path.read_text().splitlines():
            token, group, place = line.split()
            leased.append((int(token), group, int(place)))
    order: dict[str, list[int]] = defaultdict(list)
    for _, group, number in sorted(leased):
        order[group].append(number)
    assert set(order) == set(names)
    for group, seen in order.items():
        assert seen == sorted(seen), group
        assert sorted(set(seen)) == list(range(members)), group
    stats = queue.stats()
    again = len(leased) - members * len(names)
    print(f"{again} were leased again")
    assert again > 0
    assert (stats.groups, stats.grouped) == (0, 0)
    assert stats.totals["completed"] == members * len(names)
    assert not client.exists("{job2}:special", "{job2}:groups", "{job2}:grouped")


def test_a_failed_head_holds_its_group_alone(queue: Queue) -> None:
    queue.push_many(["a1", "a2", "b1", "b2"], group=lambda payload: str(payload)[0], max_attempts=2)
    a1, b1 = queue.lease_many(9)
    a1.fail(retry_in=0.05)
    b1.complete()
    (b2,) = queue.lease_many(9)
    assert b2.text == "b2"
    assert queue.lease_many(9).reason == "group" or queue.stats().delayed == 0
    again = queue.lease(wait=10)
    assert again is not None
    assert (again.text, again.attempts) == ("a1", 1)
    again.fail()
    assert again.dead
    a2 = queue.lease(wait=10)
    assert a2 is not None
    assert a2.text == "a2"
    # What is redriven comes at the end of its group.
    queue.push("a3", group="a")
    assert queue.redrive() == 1
    a2.complete()
    for expected in ("a3", "a1"):
        (lease,) = queue.lease_many(9)
        assert lease.text == expected
        lease.complete()
    b2.complete()
    assert queue.stats().drained


@pytest.mark.parametrize("number", [5000])
def test_thousands_of_groups(queue: Queue, number: int) -> None:
    """In three rounds: of each group one at a time."""
    payloads = [f"{group} {x}" for x in range(3) for group in range(number)]
    queue.push_many(payloads, group=lambda payload: str(payload).split()[0])
    stats = queue.stats()
    assert (stats.waiting, stats.grouped, stats.groups) == (number, 2 * number, number)
    for expected in range(3):
        seen: list[str] = []
        while len(seen) < number:
            batch = queue.lease_many(random.randint(500, 1000), ttl=600)
            assert batch
            held = list(batch)[: number - len(seen)]
            queue.release_many(list(batch)[len(held) :])
            queue.complete_many(held)
            seen += [lease.text for lease in held]
        assert sorted(seen) == sorted(f"{group} {expected}" for group in range(number))
    stats = queue.stats()
    assert (stats.drained, stats.groups, stats.unique) == (True, 0, 0)
    queue.delete()
