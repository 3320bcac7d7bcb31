"""What `diagnose` finds on real servers that are set up badly."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from pyqueue import PermissionDenied, Queue, ServerUnavailable
from pyqueue import doctor as module
from pyqueue._keys import SUFFIXES
from pyqueue.doctor import TYPES, Finding, Level, commands, diagnose, diagnose_server
from tests.lua.harness import SCRIPTS, command
from tests.servers import Server, launch, wait_until

pytestmark = pytest.mark.threads


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def only(findings: list[Finding], check: str, level: Level) -> Finding:
    """The one finding of that kind."""
    (found,) = [finding for finding in of(findings, check) if finding.level == level]
    return found


def levels(findings: list[Finding], level: Level) -> set[str]:
    return {finding.check for finding in findings if finding.level == level}


@pytest.fixture
def configured(client: redis.Redis) -> Iterator[Callable[..., None]]:
    """Changes settings of the server until the end of the test."""
    before: dict[str, str] = {}

    def configure(**settings: str) -> None:
        for key, value in settings.items():
            name = key.replace("_", "-")
            before.setdefault(name, dict(client.config_get(name))[name])  # type: ignore[arg-type]
            client.config_set(name, value)

    yield configure
    for name, value in before.items():
        client.config_set(name, value)


@pytest.fixture
def limited(server: Server, client: redis.Redis) -> Iterator[Callable[..., Queue]]:
    """Opens "job2" as a user with the given rules."""
    opened: list[Queue] = []

    def as_user(*rules: str, name: str = "job2") -> Queue:
        command(client, "ACL", "SETUSER", "small", "reset", "on", ">pw", *rules)
        queue = Queue(name, url=server.tcp_url.replace("redis://", "redis://small:pw@"))
        opened.append(queue)
        return queue

    yield as_user
    for queue in opened:
        queue.close()
    client.acl_deluser("small")


def rules() -> list[str]:
    """What a user needs and no more, as the advice is made up."""
    return [f"+{name.lower()}" for name in commands()]


def test_a_good_server_has_no_problem(server: Server) -> None:
    with Queue("job2", url=server.url) as queue:
        queue.push_many(["a", "b"])
        before = queue.stats()
        findings = diagnose(queue)
        assert levels(findings, "problem") == set()
        # maxmemory is not set, and the file is not synced: it is a server of tests.
        assert levels(findings, "note") == {"memory", "persistence"}
        assert only(findings, "version", "ok").text.startswith(server.kind.capitalize())
        assert "2 items" in only(findings, "queue", "ok").text
        assert {finding.check for finding in findings} == {
            *("version", "memory", "persistence", "role", "clock", "timeouts", "timers"),
            *("latency", "permissions", "queue"),
        }
        assert queue.stats().as_dict() | {"oldest": 0} == before.as_dict() | {"oldest": 0}


def test_without_a_queue_only_the_server_is_looked_at(client: redis.Redis) -> None:
    findings = diagnose_server(client)
    assert levels(findings, "problem") == set()
    assert not of(findings, "permissions") + of(findings, "queue")
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("policy", "level"),
    [
        ("allkeys-lru", "problem"),
        ("allkeys-random", "problem"),
        # No key of a queue has a TTL, so none is evicted.
        ("volatile-ttl", "note"),
    ],
)
def test_a_server_that_evicts(
    client: redis.Redis, configured: Callable[..., None], policy: str, level: Level
) -> None:
    configured(maxmemory="200mb", maxmemory_policy=policy)
    found = only(diagnose_server(client), "memory", level)
    assert policy in found.text
    assert "noeviction" in found.advice


def test_memory_that_runs_out(client: redis.Redis, configured: Callable[..., None]) -> None:
    used = int(client.info("memory")["used_memory"])
    configured(maxmemory_policy="noeviction", maxmemory=str(200 << 20))
    assert levels(of(diagnose_server(client), "memory"), "ok")
    configured(maxmemory=str(int(used * 1.1)))
    assert "are used" in only(diagnose_server(client), "memory", "note").text
    configured(maxmemory=str(used // 2))
    assert "refused" in only(diagnose_server(client), "memory", "problem").text


def test_what_is_written_to_disk(client: redis.Redis, configured: Callable[..., None]) -> None:
    found = []
    for fsync in ("no", "everysec", "always"):
        configured(appendfsync=fsync)
        (finding,) = of(diagnose_server(client), "persistence")
        found.append(finding.level)
    assert found == ["note", "ok", "ok"]
    configured(appendonly="no")
    assert "loses all" in only(diagnose_server(client), "persistence", "problem").text
    configured(save="3600 1")
    assert "3600 1" in only(diagnose_server(client), "persistence", "note").text


def test_timers_and_idle_connections(client: redis.Redis, configured: Callable[..., None]) -> None:
    configured(hz="2", timeout="3", busy_reply_threshold="10")
    findings = diagnose_server(client)
    timers = [finding.text for finding in of(findings, "timers") if finding.level == "note"]
    assert [text.split()[0] for text in timers] == ["hz", "busy-reply-threshold"]
    assert "idle for 3 s" in of(findings, "timeouts")[-1].text


@pytest.mark.parametrize("timeout", [None, 0.2])
def test_socket_timeouts(server: Server, timeout: float | None) -> None:
    with redis.Redis.from_url(server.url, socket_timeout=timeout) as client:
        assert "socket_timeout" in only(diagnose_server(client), "timeouts", "note").text


def test_replies_as_text(server: Server) -> None:
    """A client that decodes its replies is looked at like any other."""
    for protocol in (2, 3):
        with redis.Redis.from_url(
            server.url, decode_responses=True, protocol=protocol, socket_timeout=5
        ) as client:
            findings = diagnose(Queue("job2", client=client))
            assert levels(findings, "problem") == set()
            assert levels(findings, "note") == {"memory", "persistence"}


# Permissions


def test_a_user_that_may_just_enough(limited: Callable[..., Queue]) -> None:
    """Which the worker that it then is confirms. What it may not see is said to be out of sight."""
    queue = limited("~job2", "~{job2}:*", *rules())
    findings = diagnose(queue)
    assert levels(findings, "problem") == set()
    assert levels(of(findings, "permissions"), "ok")
    unseen = {finding.check for finding in findings if "cannot be seen" in finding.text}
    assert unseen == {"memory", "persistence", "role", "timeouts", "timers"}
    assert "not measured" in only(findings, "clock", "note").text
    queue.push("apple")
    lease = queue.lease()
    assert lease is not None
    lease.fail("boom", retry_in=0)
    assert queue.lease(wait=1) is not None


def test_each_command_that_lacks_is_named(limited: Callable[..., Queue]) -> None:
    for name in commands():
        queue = limited("~job2", "~{job2}:*", *rules(), f"-{name.lower()}")
        found = only(diagnose(queue), "permissions", "problem")
        assert f"may not run {name}" in found.text
        assert found.advice == f"ACL SETUSER small +{name.lower()}"


def test_several_lack(limited: Callable[..., Queue]) -> None:
    """And without EVAL the server is asked by ACL DRYRUN."""
    queue = limited("~job2", "~{job2}:*", *rules(), "-hget", "-blmove", "-eval", "+acl")
    found = only(diagnose(queue), "permissions", "problem")
    assert found.advice == "ACL SETUSER small +eval +blmove +hget"


@pytest.mark.parametrize(
    ("name", "patterns", "advice"),
    [
        ("job2", ["~job2"], "~{job2}:*"),
        ("job2", ["~{job2}:*"], "~job2"),
        ("job2", ["~job2", "%R~{job2}:*"], "~{job2}:*"),
        ("job2", ["~other*"], "~job2 ~{job2}:*"),
        ("job2", [], "~job2 ~{job2}:*"),
        ("{a}x", ["~{a}x"], "~{a}x:*"),
        ("a*[b]?", ["~{a*"], r"~a\*\[b]\?"),
    ],
)
def test_each_key_that_is_closed_is_named(
    limited: Callable[..., Queue],
    client: redis.Redis,
    name: str,
    patterns: list[str],
    advice: str,
) -> None:
    queue = limited(*patterns, *rules(), name=name)
    found = only(diagnose(queue), "permissions", "problem")
    assert found.advice == f"ACL SETUSER small {advice}"
    # Whoever follows the advice is rid of it.
    command(client, *found.advice.split())
    assert levels(of(diagnose(queue), "permissions"), "problem") == set()


def test_a_user_that_may_nothing(limited: Callable[..., Queue]) -> None:
    findings = diagnose(limited())
    assert only(findings, "permissions", "problem").advice == "ACL SETUSER small +eval"
    assert "cannot be seen" in only(findings, "queue", "note").text


# The queue's own keys


def test_keys_of_another_type_and_keys_that_expire(client: redis.Redis) -> None:
    client.set("{job2}:leases", "mine")
    client.rpush("job2", "apple")
    client.expire("job2", 1000)
    texts = [finding.text for finding in of(diagnose(Queue("job2", client=client)), "queue")]
    assert len(texts) == 2
    assert "job2 will be deleted in 1000 s" in texts[0]
    assert "{job2}:leases holds a string, and should hold a zset" in texts[1]


def test_a_schema_of_the_future(client: redis.Redis) -> None:
    queue = Queue("job2", client=client)
    queue.push("apple")
    state = client.hget("{job2}:meta", "state")
    assert isinstance(state, bytes)
    client.hset("{job2}:meta", "state", b"\xff" + state[1:])
    assert "another version" in only(diagnose(queue), "queue", "problem").text


def test_the_types_are_those_of_the_scripts() -> None:
    assert set(TYPES) == {"waiting", *SUFFIXES}
    for script in SCRIPTS.values():
        for line in script.source.splitlines():
            words = line.split()
            if line.startswith("-- KEYS[") and not words[2].endswith((":", "every")):
                assert TYPES[words[2]] == words[3].lower(), line


def test_the_commands_are_those_of_the_scripts() -> None:
    found = commands()
    assert len(found) == len(set(found))
    assert {"EVALSHA", "EVAL", "BLMOVE", "HSET", "ZADD", "ZSCORE", "TIME"} <= set(found)
    assert all(name.isalpha() for name in found)


# Several servers


def test_a_replica(session_server: Server) -> None:
    """It is read-only; and its master can say how its clock differs."""
    if session_server.source == "url":
        pytest.skip("needs two servers")
    with launch(session_server.source) as master, master.client() as writes:
        _, _, port = master.tcp_url.rpartition(":")
        args = ("--replicaof", f"127.0.0.1 {port}", "--repl-diskless-sync-delay", "0")
        writes.config_set("repl-diskless-sync-delay", "0")
        with launch(session_server.source, *args) as replica, replica.client() as reads:

            def linked() -> bool:
                return "'master_link_status': 'up'" in str(reads.info("replication"))

            wait_until(linked, "the replica is in step")
            found = only(diagnose_server(reads), "role", "problem")
            assert found.advice == f"connect to its master, 127.0.0.1:{port}"
            clocks = of(diagnose_server(writes), "clock")
            assert [finding.level for finding in clocks] == ["ok", "ok"]
            assert "its master's" in clocks[1].text
            replica.pause()
            clocks = of(diagnose_server(writes), "clock")
            assert clocks[1].level == "note"
            assert "not measured" in clocks[1].text
            assert "failover" in clocks[1].text
            writes.config_set("min-replicas-to-write", "2")
            assert "min-replicas-to-write" in only(diagnose_server(writes), "role", "problem").text


def test_a_cluster(session_server: Server) -> None:
    if session_server.source == "url":
        pytest.skip("needs servers of its own")
    args = (session_server.source, "--cluster-enabled", "yes")
    with launch(*args) as node, launch(*args) as other, node.client() as client:
        command(client, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: _is_up(client), "the cluster is up")
        with Queue("job2", url=node.url) as queue:
            assert "may move" in only(diagnose(queue), "cluster", "note").text
        with redis.RedisCluster.from_url(node.tcp_url) as cluster:
            findings = diagnose(Queue("job2", client=cluster))
            assert "all keys are in slot" in only(findings, "cluster", "ok").text
            assert levels(findings, "problem") == set()
            assert levels(diagnose_server(cluster), "problem") == set()
        # The slot goes to another node, which a client for one node does not follow.
        _, _, port = other.tcp_url.rpartition(":")
        command(client, "CLUSTER", "MEET", "127.0.0.1", port)
        with other.client() as there:
            wait_until(lambda: _is_up(there), "the other has joined")
            slot = command(client, "CLUSTER", "KEYSLOT", "job2")
            id = command(there, "CLUSTER", "MYID")
            for one in (there, client):
                command(one, "CLUSTER", "SETSLOT", slot, "NODE", id)
        with Queue("job2", url=node.url) as queue:
            found = only(diagnose(queue), "cluster", "problem")
        assert f"on 127.0.0.1:{port}" in found.text
        assert "RedisCluster" in found.advice


def _is_up(client: redis.Redis) -> bool:
    return "cluster_state:ok" in str(command(client, "CLUSTER", "INFO"))


# No server


def test_errors(server: Server) -> None:
    with Queue("job2", url="redis://:pw@127.0.0.1:1/0") as queue:
        with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
            diagnose(queue)
        assert not caught.value.outcome_unknown
        with pytest.raises(ServerUnavailable, match=r"^127\.0\.0\.1:1 cannot be reached"):
            diagnose_server(queue._client)
    url = server.tcp_url.replace("redis://", "redis://nobody:pw@")
    with Queue("job2", url=url) as queue, pytest.raises(PermissionDenied, match="password"):
        diagnose(queue)


# What no server here is like


def findings_of(found: Iterator[Finding]) -> list[tuple[Level, str]]:
    return [(finding.level, finding.text) for finding in found]


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "7.0.0"}, "ok"),
        ({"redis_version": "6.2.14"}, "problem"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.0"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "ok"),
        ({}, "note"),
    ],
)
def test_versions(info: Mapping[str, Any], level: Level) -> None:
    assert [found for found, _ in findings_of(module._version(info, {}))] == [level]


def test_a_server_that_tells_its_version_in_hello_only() -> None:
    found = findings_of(module._version({}, {"server": "valkey", "version": "7.0.9"}))
    assert found[0] == ("problem", "Valkey 7.0.9 is too old: its Lua lacks what the scripts need")


def test_32_bits() -> None:
    found = findings_of(module._version({"redis_version": "7.4.1", "arch_bits": 32}, {}))
    assert [level for level, _ in found] == ["ok", "problem"]
    assert "32-bit" in found[1][1]


def test_writes_that_failed() -> None:
    info = {"aof_enabled": 1, "rdb_last_bgsave_status": "err", "aof_last_write_status": "ok"}
    found = findings_of(module._persistence(info, "", "everysec"))
    assert [level for level, _ in found] == ["ok", "problem"]


def test_persistence_that_is_half_seen() -> None:
    assert findings_of(module._persistence({"aof_enabled": 0}, None, None))[0][0] == "note"
    assert findings_of(module._persistence({"aof_enabled": 1}, None, None))[0][0] == "note"
    assert findings_of(module._persistence({}, None, None))[0][0] == "note"


@pytest.mark.parametrize(
    ("skew", "error", "level"),
    [(0.9, 0.0, "ok"), (1.5, 0.6, "ok"), (1.5, 0.1, "problem"), (-1.5, 0.1, "problem")],
)
def test_clocks_of_replicas(skew: float, error: float, level: Level) -> None:
    """As long as it may be the round trip's time, nothing is said of a difference."""
    found = findings_of(module._between("the replica a:1", skew, error))
    assert [level for level, _ in found] == [level]
    assert ("behind" if skew < 0 else "ahead of") in found[0][1]


def test_this_machines_clock() -> None:
    assert findings_of(module._here((100.0, 98.0, 0.1)))[0][0] == "note"
    assert findings_of(module._here((100.0, 100.2, 0.1)))[0][0] == "ok"
