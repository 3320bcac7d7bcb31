"""True concurrency: processes that are killed, on a real server."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from pyqueue import Queue, ServerUnavailable
from tests.faults import fleet
from tests.servers import Server, wait_until

#: Some workers are always dead: their items come back after this, seconds.
TTL = 2.0


def run(
    server: Server,
    client: redis.Redis,
    directory: Path,
    *,
    items: int,
    workers: int = 50,
    kill_every: float = 0.1,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Runs a fleet on so many items, half of them raw, half of them pushed while it works."""
    queue = Queue("job2", client=client)
    # Killed as often as this, an item may well be leased more than five times.
    client.hset("{job2}:meta", mapping={"max_attempts": 1_000_000})
    payloads = [str(number) for number in range(items)]
    some = items // 4
    queue.push_many(payloads[:some])
    client.rpush("job2", *payloads[some : 2 * some])
    arguments = (server.url, "job2", TTL, directory, workers, kill_every)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.fleet", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            queue.push_many(payloads[2 * some : 3 * some])
            for start in range(3 * some, items, 100):
                client.rpush("job2", *payloads[start : start + 100])
            meanwhile()
            queue.seal()
            output, _ = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 0
    stats = queue.stats()
    print(f"{output.strip()} kills, {stats}")
    assert stats.drained
    assert stats.dead == 0
    assert stats.totals["completed"] == items
    print(fleet.check(list(fleet.read(directory, TTL)), payloads))
    queue.delete()
    assert client.keys() == []


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing_and_double_nothing(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """50 workers, 20,000 items, a SIGKILL every 0.1 s."""
    run(server, client, tmp_path, items=20_000)


@pytest.mark.slow
def test_a_server_that_is_killed_neither(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """With an append-only file that is written at once: the promise is the server's, then."""
    queue = Queue("job2", client=client)

    def completed(least: int) -> bool:
        try:
            return queue.stats().totals["completed"] >= least
        except ServerUnavailable:  # the connection that the kill has broken
            return False

    def kill() -> None:
        for number in range(1, 5):
            wait_until(partial(completed, 1_000 * number), "they work")
            server.restart(kill=True)

    run(server, client, tmp_path, items=8_000, workers=10, meanwhile=kill)


@pytest.mark.slow
@pytest.mark.skipif(
    settings.get_current_profile_name() != "soak", reason="the large form, of `make soak`"
)
def test_workers_that_are_killed_lose_nothing_and_double_nothing_for_long(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    run(server, client, tmp_path, items=2_000_000)
