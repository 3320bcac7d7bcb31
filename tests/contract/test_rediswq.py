"""The tutorial's interface, with a worker of the tutorial's shape in processes of its own."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from pyqueue import Queue
from pyqueue.rediswq import RedisWQ
from tests.servers import Server, wait_until

pytestmark = pytest.mark.threads

FRUITS = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange"]

# The loop is the tutorial's, but for the import, the sleep and the short lease.
WORKER = """
import os, sys, time
import pyqueue.rediswq as rediswq

host = os.getenv("REDIS_SERVICE_HOST")
q = rediswq.RedisWQ(name="job2", host=host)
print("Worker with sessionID: " + q.sessionID())
print("Initial queue state: empty=" + str(q.empty()))
while not q.empty():
    item = q.lease(lease_secs=1, block=True, timeout=2)
    if item is not None:
        itemstr = item.decode("utf-8")
        print("Working on " + itemstr, flush=True)
        if itemstr == os.getenv("HANG"):
            time.sleep(600)
        time.sleep(float(os.getenv("SECONDS")))
        q.complete(item)
    else:
        print("Waiting for work")
print("Queue empty, exiting")
"""


@pytest.fixture
def wq(server: Server) -> RedisWQ:
    return _open(server)


def _open(server: Server) -> RedisWQ:
    parts = urlsplit(server.url)
    if parts.scheme == "unix":
        return RedisWQ("job2", unix_socket_path=parts.path)
    return RedisWQ("job2", host=parts.hostname, port=parts.port)


def _worker(server: Server, folder: Path, **environ: str) -> subprocess.Popen[str]:
    script = folder / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    return subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYQUEUE_URL": server.url, "PYTHONPATH": str(Path.cwd()), **environ},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_tutorials_worker(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    client.rpush("job2", *FRUITS)
    workers = [_worker(server, tmp_path, SECONDS="0.02") for _ in range(2)]
    outputs = [worker.communicate(timeout=30)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    for output in outputs:
        assert output[0].startswith("Worker with sessionID: ")
        assert output[-1] == "Queue empty, exiting"
    done = [line for output in outputs for line in output if line.startswith("Working on ")]
    assert sorted(done) == [f"Working on {fruit}" for fruit in FRUITS]


def test_a_dead_workers_item_comes_back(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """In the original every other worker says "Waiting for work" for ever."""
    client.rpush("job2", "apple", "banana")
    dead = _worker(server, tmp_path, SECONDS="0", HANG="apple")
    assert dead.stdout is not None
    wait_until(lambda: "Working on apple" in dead.stdout.readline(), "the worker's item")  # type: ignore[union-attr] # checked above
    dead.kill()
    dead.communicate()
    output = _worker(server, tmp_path, SECONDS="0").communicate(timeout=30)[0]
    assert "Working on banana\n" in output
    assert "Working on apple\n" in output


def test_a_slow_worker_keeps_its_item(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    """The tutorial leases for 10 s and works for 10 s: nobody else gets it meanwhile."""
    client.rpush("job2", "apple")
    workers = [_worker(server, tmp_path, SECONDS="2.5") for _ in range(2)]
    outputs = [worker.communicate(timeout=30)[0] for worker in workers]
    assert "".join(outputs).count("Working on apple") == 1


def test_first_in_first_out(wq: RedisWQ, client: redis.Redis) -> None:
    client.rpush("job2", "a", "b")
    assert wq.lease() == b"a"
    assert wq.lease() == b"b"
    wq.close()


def test_equal_items_are_separate(wq: RedisWQ, client: redis.Redis) -> None:
    client.rpush("job2", "a", "a")
    assert wq.lease() == b"a"
    assert wq.lease() == b"a"
    wq.complete(b"a")
    assert not wq.empty()
    wq.complete(b"a")
    assert wq.empty()
    wq.close()


def test_nothing_to_lease(wq: RedisWQ) -> None:
    assert wq.empty()
    assert wq.lease(block=False) is None
    assert wq.lease(block=True, timeout=0.05) is None
    wq.close()


def test_a_lost_lease_is_logged(
    wq: RedisWQ, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Its callers know no such error."""
    wq.complete(b"never leased")
    assert "was never held" in caplog.text
    client.rpush("job2", "a")
    assert wq.lease() == b"a"
    client.delete("{job2}:leases", "{job2}:leased")
    wq.complete(b"a")
    assert caplog.text.count("its lease is lost") == 2
    wq.close()


def test_close_gives_back(wq: RedisWQ, server: Server, client: redis.Redis) -> None:
    client.rpush("job2", "a")
    assert wq.lease() == b"a"
    wq.close()
    item = next(Queue("job2", client=client).waiting())
    assert (item.payload, item.attempts, item.deliveries) == (b"a", 0, 1)


def test_the_item_leased_again_is_completed_not_the_lost_one(
    wq: RedisWQ, server: Server, client: redis.Redis
) -> None:
    client.rpush("job2", "a")
    assert wq.lease(lease_secs=0.05) == b"a"
    queue = Queue("job2", client=client)
    # Another's reclaim while this session is cut off from the server: its heartbeat cannot beat.
    wq._heartbeat.close()
    wait_until(lambda: queue.stats().expired, "the end of the lease")
    assert queue.reclaim() == 1
    lost = wq._held[b"a"][0]
    wq._forget(lost)
    assert wq.lease() == b"a"
    wq.complete(b"a")
    assert wq.empty()
    wq.close()


def in_a_child(what: Callable[[], object]) -> None:
    """Runs it in a forked child, and fails if it raises."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            what()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_gives_nothing_of_its_parents_back(wq: RedisWQ, client: redis.Redis) -> None:
    client.rpush("job2", "a")
    assert wq.lease() == b"a"
    in_a_child(wq.close)
    assert client.llen("job2") == 0
    wq.complete(b"a")
    assert wq.empty()
    wq.close()


def test_a_forked_child_keeps_what_it_leases(
    wq: RedisWQ, server: Server, client: redis.Redis
) -> None:
    client.rpush("job2", "a", "b")
    assert wq.lease() == b"a"

    def work() -> None:
        assert wq.lease(lease_secs=1) == b"b"
        with server.client() as own:
            queue = Queue("job2", client=own)
            (before,) = (item.deadline for item in queue.leases() if item.payload == b"b")

            def extended() -> bool:
                return any(
                    item.payload == b"b" and item.deadline > before for item in queue.leases()
                )

            wait_until(extended, "a heartbeat")
        wq.complete(b"b")
        wq.close()

    in_a_child(work)
    wq.complete(b"a")
    assert wq.empty()
    wq.close()
