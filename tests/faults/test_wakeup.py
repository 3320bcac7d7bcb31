"""Blocked workers: who wakes, when, and what becomes of them when the server or a neighbour fails.

Most tests make the workers wait for a minute where they would ask again after 2 s. So a worker that
should be woken and is not makes a test fail, and one on a busy machine that is a bit late does not.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import Queue, ServerUnavailable, _flows
from pyqueue import _operations as op
from tests.servers import Server, wait_until

#: Woken means within this, seconds. On a quiet machine it takes 1 ms.
AT_ONCE = 10.0
PATIENCE = 60.0
#: A blocked client whose time is over is let go up to so much late: hz is 10.
TIMER = 0.1


def blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


class Worker(threading.Thread):
    """Leases and completes, until it gets an item that says stop."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(daemon=True)
        self.queue = queue
        #: Payloads, and when they were there.
        self.got: list[tuple[bytes, float]] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            while True:
                try:
                    lease = self.queue.lease(ttl=60, wait=None)
                except ServerUnavailable:
                    continue  # on a busy machine it loads its data for longer than a client waits
                assert lease is not None
                self.got.append((lease.payload, time.monotonic()))
                assert (lease.attempts, lease.suspect) == (0, False)
                lease.complete()
                if lease.payload == b"stop":
                    return
        except BaseException as error:
            self.error = error
            raise


class Fleet:
    """Workers in threads, each with connections of its own."""

    def __init__(self, open_queue: Callable[[], Queue]) -> None:
        self._open = open_queue
        self.workers: list[Worker] = []

    def start(self, count: int) -> None:
        self.workers += [Worker(self._open()) for _ in range(count)]

    def got(self) -> list[tuple[bytes, float]]:
        """What they have leased, in the order of time."""
        assert not any(worker.error for worker in self.workers)
        return sorted((x for worker in self.workers for x in worker.got), key=lambda x: x[1])

    def wait_for(self, payloads: Sequence[bytes]) -> float:
        """Waits until they have leased exactly these, in whatever order; when the last was."""
        wait_until(lambda: len(self.got()) >= len(payloads), f"{len(payloads)} items are leased")
        assert sorted(payload for payload, _ in self.got()) == sorted(payloads)
        return self.got()[-1][1]

    def stop(self, client: redis.Redis) -> None:
        # Counted before, since they end meanwhile, and not each by its own message.
        alive = sum(worker.is_alive() for worker in self.workers)
        for _ in range(alive):
            client.rpush("job2", "stop")
        for worker in self.workers:
            worker.join(30)
            assert not worker.is_alive()
            worker.queue.close()
        assert not any(worker.error for worker in self.workers)


@pytest.fixture
def fleet(server: Server, client: redis.Redis) -> Iterator[Fleet]:
    """Workers that all can be stopped at the end: none hangs, none has failed."""
    fleet = Fleet(lambda: Queue("job2", url=server.url))
    yield fleet
    server.heal()
    fleet.stop(client)
    with Queue("job2", client=client) as queue:
        assert queue.stats().drained
        assert client.keys("*handoff") == []
        assert queue.stats().totals["expired"] == 0


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks again by himself."""
    monkeypatch.setattr(_flows, "MOST_WAIT", PATIENCE)


PROCESS = f"""
import sys
from pyqueue import Queue, _flows
_flows.MOST_WAIT = {PATIENCE}
with Queue("job2", url=sys.argv[1]) as queue:
    print("ready", flush=True)
    sys.stdin.readline()
    queue.lease(wait=None)
"""


class Process:
    """A worker that waits for one item, to be killed."""

    def __init__(self, server: Server) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", PROCESS, server.url]
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def process(server: Server) -> Iterator[Process]:
    process = Process(server)
    yield process
    process.kill()


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("count", [2, 20])
def test_one_rpush_wakes_exactly_one(fleet: Fleet, client: redis.Redis, count: int) -> None:
    """The server's own count of the calls shows it: nobody else has asked."""
    fleet.start(count)
    for number in range(1, 11):
        wait_until(lambda: blocked(client) == count, "all wait")
        client.config_resetstat()
        pushed = time.monotonic()
        client.rpush("job2", "apple")
        assert fleet.wait_for([b"apple"] * number) - pushed < AT_ONCE
        wait_until(lambda: blocked(client) == count, "it waits again")
        # Leased, completed, and asked for more.
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 3


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("raw", [True, False])
def test_a_burst_wakes_all_of_them(fleet: Fleet, client: redis.Redis, raw: bool) -> None:
    fleet.start(20)
    wait_until(lambda: blocked(client) == 20, "all wait")
    payloads = [b"%d" % number for number in range(200)]
    pushed = time.monotonic()
    if raw:
        client.rpush("job2", *payloads)
    else:
        with Queue("job2", client=client) as queue:
            queue.push_many(payloads)
    assert fleet.wait_for(payloads) - pushed < AT_ONCE
    assert all(worker.got for worker in fleet.workers)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("event", [None, 0.2], ids=["first", "second"])
def test_a_retry_is_leased_close_to_its_time(
    fleet: Fleet, client: redis.Redis, event: float | None
) -> None:
    """Also when an earlier event is known to the server of which nobody was told."""
    with Queue("job2", client=client) as queue:
        queue.push("apple")
        lease = queue.lease(ttl=60)
        assert lease is not None
        fleet.start(20)
        wait_until(lambda: blocked(client) == 20, "all wait")
        if event is not None:
            lease.extend(event)
        due = time.monotonic() + 0.4
        lease.release(delay=0.4)
        late = fleet.wait_for([b"apple"]) - due
        assert -0.05 < late < TIMER + AT_ONCE


@pytest.mark.usefixtures("patience")
def test_when_the_first_who_was_told_is_dead_the_second_is_not_far(
    fleet: Fleet, client: redis.Redis, process: Process
) -> None:
    with Queue("job2", client=client) as queue:
        queue.push("apple")
        lease = queue.lease()
        assert lease is not None
        due = time.monotonic() + 2
        lease.release(delay=2)
        process.begin()
        wait_until(lambda: blocked(client) == 1, "it waits for the time")
        process.freeze()
        fleet.start(5)
        late = fleet.wait_for([b"apple"]) - due
        assert -0.05 < late < 0.05 + TIMER + AT_ONCE


def test_a_worker_that_dies_when_it_is_woken_delays_its_item_by_two_seconds_at_most(
    fleet: Fleet, client: redis.Redis, process: Process
) -> None:
    """It is in the handoff, and those who wait ask by themselves."""
    process.begin()
    wait_until(lambda: blocked(client) == 1, "it waits, before all others")
    fleet.start(5)
    wait_until(lambda: blocked(client) == 6, "all wait")
    process.freeze()
    pushed = time.monotonic()
    client.rpush("job2", "apple")
    assert client.lrange("{job2}:handoff", 0, -1) == [b"apple"]
    process.kill()
    assert fleet.wait_for([b"apple"]) - pushed < _flows.MOST_WAIT + AT_ONCE


@pytest.mark.parametrize("kill", [False, True], ids=["in good order", "killed"])
def test_the_server_is_restarted(
    fleet: Fleet, server: Server, client: redis.Redis, kill: bool
) -> None:
    fleet.start(5)
    wait_until(lambda: blocked(client) == 5, "all wait")
    server.restart(kill=kill)
    wait_until(lambda: blocked(client) == 5, "they wait again")
    pushed = time.monotonic()
    client.rpush("job2", "apple")
    assert fleet.wait_for([b"apple"]) - pushed < AT_ONCE


def test_the_server_freezes_and_goes_on(fleet: Fleet, server: Server, client: redis.Redis) -> None:
    fleet.start(5)
    wait_until(lambda: blocked(client) == 5, "all wait")
    server.pause()
    producer = threading.Thread(target=client.rpush, args=("job2", "apple"))
    producer.start()
    server.resume()
    producer.join(20)
    fleet.wait_for([b"apple"])


def test_a_frozen_server_finds_many_copies_of_a_call_when_it_goes_on(
    server: Server, client: redis.Redis
) -> None:
    """The client gives up on one connection after the other; the server reads them all."""
    impatient = redis.Redis.from_url(
        server.url,
        socket_timeout=0.02,
        retry=Retry(NoBackoff(), 5),
        # A connection begins with the call itself: nothing is to be answered before.
        protocol=2,
        driver_info=None,
    )

    def in_doubt(call: Callable[[], object]) -> None:
        server.pause()
        with pytest.raises(ServerUnavailable) as caught:
            call()
        assert caught.value.outcome_unknown
        server.resume()
        wait_until(client.ping, "the server answers")

    with Queue("job2", client=impatient) as queue:
        for script in (op.Push.script, op.Lease.script, op.Complete.script):
            client.script_load(script.source)
        client.rpush("job2", *range(20))
        client.config_resetstat()
        for _ in range(3):
            in_doubt(lambda: queue.lease_many(3))
        for number in range(20):
            lease = queue.lease()
            assert lease is not None
            assert (lease.text, lease.attempts) == (str(number), 0)
            in_doubt(lease.complete)
        in_doubt(lambda: queue.push("apple"))
        stats = queue.stats()
    assert (stats.waiting, stats.leased) == (1, 0)
    assert (stats.totals["completed"], stats.totals["expired"]) == (20, 0)
    commands = client.info("commandstats")
    assert commands["cmdstat_evalsha"]["calls"] > 5 * 24, "there were no copies"


@pytest.mark.parametrize("how", ["CLIENT KILL", "CLIENT UNBLOCK ERROR", "CLIENT UNBLOCK TIMEOUT"])
def test_an_operator_throws_them_out(fleet: Fleet, client: redis.Redis, how: str) -> None:
    fleet.start(5)
    wait_until(lambda: blocked(client) == 5, "all wait")
    waiting = [x["id"] for x in client.client_list() if x["cmd"] == "blmove"]
    assert len(waiting) == 5
    for id in waiting:
        if how == "CLIENT KILL":
            client.client_kill_filter(_id=id)
        else:
            client.client_unblock(int(id), error=how.endswith("ERROR"))
    client.rpush("job2", "apple", "banana")
    fleet.wait_for([b"apple", b"banana"])
    wait_until(lambda: blocked(client) == 5, "they wait again")


def test_a_full_server_drains(fleet: Fleet, client: redis.Redis) -> None:
    """BLMOVE and RPUSH are refused; what frees memory goes on, and so do the workers."""
    payloads = [b"%d" % number for number in range(200)]
    client.rpush("job2", *payloads)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.rpush("job2", "no room")
        fleet.start(5)
        fleet.wait_for(payloads)
        wait_until(
            lambda: client.info("commandstats").get("cmdstat_blmove", {}).get("rejected_calls"),
            "a worker was refused to block",
        )
    finally:
        client.config_set("maxmemory", 0)
    client.rpush("job2", "apple")
    fleet.wait_for([*payloads, b"apple"])
