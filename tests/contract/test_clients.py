"""Whatever redis-py client the user passes, and whatever is done around it."""

import copy
import os
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from pyqueue import Queue
from tests.contract.conftest import OpenQueue
from tests.servers import Server

BINARY = b"\xff\x00\xfe PQ \r\n"

CLIENTS: dict[str, Callable[[str], redis.Redis]] = {
    "plain": redis.Redis.from_url,
    "decoding": lambda url: redis.Redis.from_url(url, decode_responses=True),
    "decoding latin": lambda url: redis.Redis.from_url(
        url, decode_responses=True, encoding="latin-1"
    ),
    "RESP2": lambda url: redis.Redis.from_url(url, protocol=2),
    "RESP3": lambda url: redis.Redis.from_url(url, protocol=3),
    "single connection": lambda url: redis.Redis.from_url(url, single_connection_client=True),
    "pool of one": lambda url: redis.Redis.from_url(url, max_connections=1),
    "blocking pool of one": lambda url: redis.Redis(
        connection_pool=redis.BlockingConnectionPool.from_url(url, max_connections=1, timeout=5)
    ),
    "short socket timeout": lambda url: redis.Redis.from_url(url, socket_timeout=0.2),
    "database 3": lambda url: redis.Redis.from_url(url, db=3),
}


@pytest.fixture(params=CLIENTS)
def given(server: Server, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A client of the user's."""
    with CLIENTS[request.param](server.url) as client:
        yield client


def test_any_client_will_do(given: redis.Redis, open_queue: OpenQueue) -> None:
    queue = open_queue(client=given, worker="würker")
    id = queue.push(BINARY, headers={"größe": 1})
    assert [(item.id, item.payload) for item in queue.waiting()] == [(id, BINARY)]
    lease = queue.lease()
    assert lease is not None
    assert (lease.id, lease.payload, lease.headers) == (id, BINARY, {"größe": 1})
    assert [item.worker for item in queue.leases()] == ["würker"]
    lease.extend(5)
    lease.bury("no good", "très mal")
    assert [(letter.id, letter.reason) for letter in queue.dead()] == [(id, "no good")]
    # A blocked call is longer than a short socket timeout.
    assert queue.lease(wait=0.4) is None
    # The queue keeps nothing of the user's pool.
    assert given.ping()
    queue.delete(force=True)
    assert not given.exists("{job2}:meta")


def test_a_given_client_stays_open(client: redis.Redis) -> None:
    with Queue("job2", client=client) as queue:
        queue.push("apple")
    assert client.llen("job2") == 1


def test_a_closed_queue_connects_anew(server: Server, client: redis.Redis) -> None:
    queue = Queue("job2", url=server.url)
    queue.push("apple")
    before = client.info("clients")["connected_clients"]
    queue.close()
    assert client.info("clients")["connected_clients"] == before - 1
    queue.push("banana")
    queue.close()
    queue.close()
    assert client.llen("job2") == 2


def test_url_and_client_exclude_each_other(client: redis.Redis, server: Server) -> None:
    with pytest.raises(ValueError, match="not both"):
        Queue("job2", url=server.url, client=client)


def test_a_worker_name_has_a_limit(client: redis.Redis) -> None:
    Queue("job2", client=client, worker="ü" * 127)
    with pytest.raises(ValueError, match="255 bytes"):
        Queue("job2", client=client, worker="ü" * 128)


def test_threads_share_a_queue(queue: Queue) -> None:
    queue.push_many(str(number) for number in range(400))
    done: list[str] = []

    def work() -> None:
        while (lease := queue.lease()) is not None:
            with lease:
                done.append(lease.text)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done, key=int) == [str(number) for number in range(400)]
    assert queue.stats().totals["completed"] == 400


def test_script_flush_is_invisible_at_any_time(queue: Queue, client: redis.Redis) -> None:
    finished = threading.Event()

    def flush() -> None:
        while not finished.is_set():
            client.script_flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        for number in range(150):
            queue.push(str(number))
            lease = queue.lease()
            assert lease is not None
            assert lease.text == str(number)
            lease.complete()
    finally:
        finished.set()
        flusher.join()
    totals = queue.stats().totals
    assert (totals["pushed"], totals["completed"]) == (150, 150)


@pytest.mark.parametrize("kill", [False, True], ids=["in good order", "killed"])
def test_a_server_that_was_restarted_is_as_good(queue: Queue, server: Server, kill: bool) -> None:
    queue.push_many(["apple", "banana"])
    lease = queue.lease(ttl=600)
    assert lease is not None
    server.restart(kill=kill)
    lease.complete()
    second = queue.lease()
    assert second is not None
    assert second.text == "banana"
    assert second.token > lease.token


@pytest.mark.threads
def test_a_fork_goes_on_by_itself(queue: Queue, client: redis.Redis) -> None:
    """Parent and child neither share a connection nor number their calls in one slot."""
    queue.push("before")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(50):
                queue.push("child")
            status = 0
        finally:
            os._exit(status)
    for _ in range(50):
        queue.push("parent")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    queue.push("after")
    payloads = [item.text for item in queue.waiting()]
    assert {name: payloads.count(name) for name in set(payloads)} == {
        "before": 1,
        "child": 50,
        "parent": 50,
        "after": 1,
    }


@pytest.mark.threads
def test_closing_in_a_forked_child_leaves_the_parent_alone(queue: Queue) -> None:
    queue.push("apple")
    lease = queue.lease()
    assert lease is not None
    child = os.fork()
    if child == 0:
        queue.close()
        os._exit(0)
    os.waitpid(child, 0)
    lease.complete()
    assert queue.stats().totals["completed"] == 1


def test_a_queue_is_not_pickled_nor_copied_deeply(queue: Queue) -> None:
    """Two processes must never number their calls in one slot."""
    queue.push("apple")
    with pytest.raises(TypeError):
        pickle.dumps(queue)
    with pytest.raises(TypeError):
        copy.deepcopy(queue)
