"""`pyqueue doctor`: in plain words, and an exit code. What it finds is tested with `diagnose`."""

from collections.abc import Iterator

import pytest
import redis

from pyqueue import Queue
from tests.cli.tools import Cli
from tests.servers import Server, launch


@pytest.fixture
def evicting(session_server: Server) -> Iterator[Server]:
    """A server that throws queues away, and writes nothing to disk."""
    settings = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no")
    with launch(session_server.source, *settings) as server:
        yield server


def test_a_good_server(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    done = cli("doctor", "job2")
    assert (done.code, done.err) == (0, "")
    *lines, last = done.text.splitlines()
    assert last.startswith("job2 on unix:")
    assert last.endswith(": 0 problems, 2 notes")
    assert "problem" not in {line.split()[0] for line in lines}
    assert "ok permissions default may run all commands" in " ".join(done.text.split())


def test_a_bad_server(cli: Cli, evicting: Server) -> None:
    for name in ("job2", None):
        done = cli("--url", evicting.url, "doctor", *([name] if name else []))
        assert done.code == 1
        text = " ".join(done.text.split())
        assert "problem memory maxmemory-policy is allkeys-lru" in text
        assert "→ CONFIG SET maxmemory-policy noeviction" in text
        assert "problem persistence nothing is written to disk" in text
        assert "2 problems" in done.text.splitlines()[-1]


def test_as_json(cli: Cli, evicting: Server) -> None:
    done = cli("doctor", "job2", "--json", "--url", evicting.url)
    assert done.code == 1
    assert {tuple(found) for found in done.objects} == {
        ("queue", "server", "check", "level", "text", "advice")
    }
    problems = [found["check"] for found in done.objects if found["level"] == "problem"]
    assert problems == ["memory", "persistence"]
    assert {found["queue"] for found in cli("doctor", "--json").objects} == {None}


def test_foreign_keys(cli: Cli, client: redis.Redis) -> None:
    client.set("job2", "mine")
    done = cli("doctor", "job2")
    assert done.code == 1
    assert "job2 holds a string, and should hold a list" in done.text
    assert client.get("job2") == b"mine"


def test_short_timeouts_of_the_url(cli: Cli, server: Server) -> None:
    done = cli("doctor", "--url", f"{server.tcp_url}?socket_timeout=0.5")
    assert done.code == 0
    assert "socket_timeout is 0.5 s" in done.text


@pytest.mark.parametrize("name", [("job2",), ()], ids=["queue", "server"])
def test_no_server(cli: Cli, name: tuple[str, ...]) -> None:
    done = cli("--url", "redis://:secret@127.0.0.1:1", "doctor", *name)
    assert done.code == 69
    assert "127.0.0.1:1 cannot be reached" in done.err
    assert "secret" not in done.err + done.text


@pytest.mark.parametrize("name", [("job2",), ()], ids=["queue", "server"])
def test_bad_configuration(cli: Cli, server: Server, name: tuple[str, ...]) -> None:
    assert cli("--url", "http://host", "doctor", *name).code == 78
    url = server.tcp_url.replace("redis://", "redis://nobody:guessed@")
    refused = cli("--url", url, "doctor", *name)
    assert refused.code == 78
    assert "password" in refused.err
    assert "guessed" not in refused.err
    assert cli("doctor", "a{b").code == 78
