"""What servers refuse, and how: each has its own class and words, and nothing is half moved."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import (
    Lease,
    PermissionDenied,
    PyQueueError,
    Queue,
    QueueFull,
    SchemaMismatch,
    ServerUnavailable,
    WrongType,
    _connection,
)
from tests.lua.harness import command, dump
from tests.servers import LocalServer, Server, launch, wait_until

SECRET = "h4x0r"
NEVER_AGAIN = Retry(NoBackoff(), 0)


def queue_on(url: str, **options: object) -> Queue:
    """A queue whose client gives up at once."""
    return Queue("job2", client=redis.Redis.from_url(url, retry=NEVER_AGAIN, **options))


def refusal(call: Callable[[], object], kind: type[PyQueueError], words: str) -> PyQueueError:
    """The error, which is of exactly this class and says these words."""
    with pytest.raises(PyQueueError, match=words) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value).startswith("queue 'job2'")
    assert " script:" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.fixture
def held(server: Server, client: redis.Redis) -> Iterator[Lease]:
    """A lease of one of three items of a queue that was used before the trouble began."""
    queue = queue_on(server.url)
    queue.push_many(["one", "two", "three"])
    lease = queue.lease()
    assert lease is not None
    yield lease
    queue.close()


def every_verb(held: Lease) -> dict[str, Callable[[], object]]:
    queue = held._queue
    return {
        "push": lambda: queue.push("apple"),
        "lease": queue.lease,
        "complete": held.complete,
        "release": held.release,
        "fail": lambda: held.fail("boom"),
        "bury": lambda: held.bury("why"),
        "extend": held.extend,
        "reclaim": queue.reclaim,
        "seal": queue.seal,
        "pause": queue.pause,
        "redrive": lambda: queue.redrive(["01a209c4-6d0b-76d6-8569-51ce914667aa"]),
        "purge": queue.purge,
        "delete": lambda: queue.delete(force=True),
    }


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nowhere/socket"])
def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(_connection, "RETRIES", 0)
    with Queue("job2", url=url) as queue:
        error = refusal(
            lambda: queue.push("apple"),
            ServerUnavailable,
            r"push: .* cannot be reached: .*Is the server running, and does PYQUEUE_URL name it",
        )
        assert isinstance(error, ServerUnavailable)
        assert not error.outcome_unknown
        assert len(error.ids) == 1
        refusal(queue.lease, ServerUnavailable, "lease: .* cannot be reached")


def test_a_server_that_comes_back_in_time_is_waited_for(server: Server) -> None:
    """Some 3 s in all, with pyqueue's own connection."""
    with Queue("job2", url=server.url) as queue:
        queue.push("apple")
        server.stop()
        later = threading.Thread(target=lambda: queue.push("banana"))
        later.start()
        server.start()
        later.join()
        assert [item.text for item in queue.waiting()] == ["apple", "banana"]


def test_a_server_that_stopped(server: Server, held: Lease) -> None:
    server.stop()
    for verb, call in every_verb(held).items():
        refusal(call, ServerUnavailable, verb)
    server.start()
    held.complete()
    assert held._queue.stats().waiting == 2


def test_a_server_that_does_not_answer(server: Server, client: redis.Redis) -> None:
    queue = queue_on(server.url, socket_timeout=0.1)
    queue.push("apple")
    server.pause()
    error = refusal(lambda: queue.push("banana"), ServerUnavailable, "no answer .* is unknown")
    assert isinstance(error, ServerUnavailable)
    assert error.outcome_unknown
    assert len(error.ids) == 1
    server.resume()
    # The paused server finds both calls when it goes on; what the first did is known by now.
    wait_until(lambda: client.llen("job2") == 2, "the call is carried out")
    queue.close()


def rewriting(client: redis.Redis) -> bool:
    found = client.info("persistence")
    return bool(found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])


def test_a_server_that_is_loading(server: Server, client: redis.Redis) -> None:
    if not isinstance(server, LocalServer):
        pytest.skip("only a server of this machine can be made to load slowly")
    client.rpush("job2", *map(str, range(100)))
    client.mset({f"other{number}": number for number in range(300)})
    client.bgrewriteaof()  # what follows slows down a snapshot only
    wait_until(lambda: not rewriting(client), "it is rewritten")
    usual = server.args
    # µs for each key, and how often it answers meanwhile.
    slow = ("--key-load-delay", "8000", "--loading-process-events-interval-bytes", "1024")
    server.stop()
    queue = queue_on(server.url)
    errors: list[PyQueueError] = []

    def call() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                queue.push("apple")
            except PyQueueError as error:
                errors.append(error)
                if "loading" in str(error):
                    return

    caller = threading.Thread(target=call)
    server.args = (*usual, *slow)
    try:
        caller.start()
        server.start()
    finally:
        server.args = usual
        caller.join()
    last = errors[-1]
    assert "push: the server is still loading its data; try again soon" in str(last)
    assert type(last) is ServerUnavailable
    assert not last.outcome_unknown
    assert client.llen("job2") == 100
    queue.close()


@pytest.fixture
def changed(client: redis.Redis) -> Iterator[Callable[[str, object], None]]:
    """Changes the configuration of the server for the test."""
    before: dict[str, str] = {}

    def change(name: str, value: object) -> None:
        found = client.config_get(name)
        before.setdefault(name, str(next(iter(found.values()))))
        client.config_set(name, str(value))

    yield change
    for name, value in before.items():
        client.config_set(name, value)


def test_a_replica(server: Server) -> None:
    words = "the server is a read-only replica: connect to its master"
    with launch(server.source, "--replicaof", "127.0.0.1 1") as other, queue_on(other.url) as queue:
        for call in (lambda: queue.push("apple"), queue.lease, lambda: queue.delete(force=True)):
            refusal(call, ServerUnavailable, words)
        assert queue.stats().waiting == 0  # reading is possible
        with other.client() as client:
            client.config_set("replica-serve-stale-data", "no")
        refusal(queue.stats, ServerUnavailable, "the server is a replica that has lost its master")


def test_a_server_that_became_a_replica(server: Server, client: redis.Redis, held: Lease) -> None:
    before = dump(client)
    client.replicaof("127.0.0.1", 1)
    try:
        for call in every_verb(held).values():
            refusal(call, ServerUnavailable, "read-only replica")
        assert dump(client) == before
    finally:
        client.replicaof("NO", "ONE")
    held.complete()


def test_a_password(server: Server) -> None:
    with launch(server.source, "--requirepass", SECRET) as locked:
        with queue_on(locked.url) as queue:
            words = r"wants a password: put it into PYQUEUE_URL .* or into PYQUEUE_PASSWORD"
            refusal(lambda: queue.push("apple"), PermissionDenied, words)
            refusal(queue.lease, PermissionDenied, words)
            refusal(queue.stats, PermissionDenied, words)
        with queue_on(locked.url, password="wrong " + SECRET) as queue:
            words = "refuses the user name or the password"
            refusal(lambda: queue.push("apple"), PermissionDenied, words)
        with queue_on(locked.url, password=SECRET) as queue:
            queue.push("apple")
            assert SECRET not in repr(queue)


@pytest.fixture
def limited(client: redis.Redis) -> Iterator[Callable[..., None]]:
    """Makes a user "limited" who may do everything but what is given."""

    def make(*rules: str, keys: str = "~*") -> None:
        command(client, "ACL", "SETUSER", "limited", "reset", "on", "nopass", keys, "+@all", *rules)

    yield make
    client.acl_deluser("limited")


@pytest.mark.parametrize("refused", ["-evalsha", "-ltrim", "-hset", "-time", "-rpush"])
def test_a_user_who_may_not_run_a_command(
    server: Server,
    client: redis.Redis,
    held: Lease,
    limited: Callable[..., None],
    refused: str,
) -> None:
    limited(refused)
    before = dump(client)
    with queue_on(server.url, username="limited", password="any") as queue:
        for call in (lambda: queue.push("apple"), queue.lease, queue.seal, queue.purge):
            refusal(call, PermissionDenied, "the server's ACL refuses this user a command or a key")
    assert dump(client) == before


@pytest.mark.parametrize("refused", ["-zrem", "-hdel", "-hset", "-lpush"])
def test_a_user_whose_rights_are_taken_away_meanwhile(
    server: Server, client: redis.Redis, limited: Callable[..., None], refused: str
) -> None:
    """That may leave an item in two places, and never loses one."""
    limited()
    with queue_on(server.url, username="limited", password="any") as queue:
        queue.push_many(["one", "two"])
        lease = queue.lease()
        assert lease is not None
        limited(refused)
        refusal(lease.release, PermissionDenied, "release: the server's ACL refuses")
    with queue_on(server.url) as queue:
        waiting, held = list(queue.waiting()), list(queue.leases())
        assert {item.text for item in [*waiting, *held]} == {"one", "two"}


def test_a_user_who_may_not_touch_the_keys(
    server: Server, client: redis.Redis, held: Lease, limited: Callable[..., None]
) -> None:
    before = dump(client)
    for keys in ("~other*", "~job2", "%R~*"):
        limited(keys=keys)
        with queue_on(server.url, username="limited", password="any") as queue:
            for call in (lambda: queue.push("apple"), queue.lease):
                refusal(call, PermissionDenied, "the server's ACL refuses")
    assert dump(client) == before


def test_another_type_under_the_queues_name(server: Server, client: redis.Redis) -> None:
    client.set("job2", "somebody's")
    with queue_on(server.url) as queue:
        words = "a key of the queue holds another type than pyqueue's: choose another queue name"
        refusal(lambda: queue.push("apple"), WrongType, words)
        refusal(queue.lease, WrongType, words)
        refusal(queue.stats, WrongType, words)
        refusal(lambda: list(queue.waiting()), WrongType, words)
    assert dump(client) == {"job2": b"somebody's"}


def test_another_schema(server: Server, client: redis.Redis, held: Lease) -> None:
    client.hset("{job2}:meta", "state", b"\2 of a later version")
    before = dump(client)
    for call in every_verb(held).values():
        refusal(call, SchemaMismatch, "written by another version of pyqueue")
    assert dump(client) == before


def test_a_full_server(
    server: Server,
    client: redis.Redis,
    held: Lease,
    changed: Callable[[str, object], None],
) -> None:
    queue = held._queue
    changed("maxmemory", 1)
    before = dump(client)
    error = refusal(
        lambda: queue.push_many(["four", "five"]),
        QueueFull,
        r"out of memory \(maxmemory\): wait until workers have drained some of it",
    )
    assert not hasattr(error, "outcome_unknown")
    assert dump(client) == before
    # It is worked off: neither leasing nor waiting in vain needs room.
    held.complete()
    for text in ("two", "three"):
        lease = queue.lease(wait=5)
        assert lease is not None
        with lease:
            assert lease.text == text
    assert queue.lease(wait=0.05) is None
    assert queue.stats().drained


def test_a_server_that_cannot_save(
    server: Server,
    client: redis.Redis,
    held: Lease,
    changed: Callable[[str, object], None],
) -> None:
    if not isinstance(server, LocalServer):
        pytest.skip("only the directory of a server of this machine can be spoiled")
    obstacle = server.directory / "dump.rdb"
    obstacle.mkdir()
    try:
        changed("save", "3600 1000000")
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "BGSAVE fails"
        )
        before = dump(client)
        for call in every_verb(held).values():
            refusal(call, ServerUnavailable, "refuses writes because it cannot save to disk")
        assert dump(client) == before
    finally:
        obstacle.rmdir()
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "BGSAVE succeeds"
        )
        obstacle.unlink()
    held.complete()


def test_too_few_replicas(
    client: redis.Redis, held: Lease, changed: Callable[[str, object], None]
) -> None:
    before = dump(client)
    changed("min-replicas-to-write", 1)
    for call in every_verb(held).values():
        refusal(call, ServerUnavailable, "refuses writes: too few replicas are connected")
    assert dump(client) == before


def test_a_server_that_is_busy_with_somebodys_script(
    server: Server,
    client: redis.Redis,
    held: Lease,
    changed: Callable[[str, object], None],
) -> None:
    changed("busy-reply-threshold", 20)

    def hog() -> None:
        with server.client() as other, contextlib.suppress(redis.ResponseError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=hog)
    thread.start()
    try:
        wait_until(lambda: not answers(client), "the server is busy")
        for call in every_verb(held).values():
            refusal(call, ServerUnavailable, "the server is busy with a script of somebody else")
    finally:
        client.script_kill()
        thread.join()
    held.complete()


def answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return not str(error).startswith("BUSY")
    return True


def test_a_cluster_node_without_the_slot(server: Server) -> None:
    with launch(server.source, "--cluster-enabled", "yes") as node, queue_on(node.url) as queue:
        refusal(
            lambda: queue.push("apple"),
            ServerUnavailable,
            "the cluster is down or has no node for this queue",
        )


def test_what_is_not_known_is_passed_on(client: redis.Redis, held: Lease) -> None:
    slots = held._queue._slots
    slot = slots.take()
    slots.give(slot)
    client.hset("{job2}:calls0", slot.id, b"no record")
    refusal(held.complete, PyQueueError, r"complete: the server refused the call \(.*too short")
