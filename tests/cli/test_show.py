"""`pyqueue stats`, `peek` and `leases`, `reclaim` and `delete`."""

import base64
import json
import subprocess
from collections.abc import Iterator

import pytest
import redis

from pyqueue import Queue
from tests.cli.tools import COMMAND, SECONDS, Cli, on_terminal
from tests.servers import Server, wait_until


@pytest.fixture(autouse=True)
def nothing_is_changed_by_looking(request: pytest.FixtureRequest) -> Iterator[None]:
    """The commands that only look leave every key as it was."""
    if not request.node.name.startswith("test_look"):
        yield
        return
    server: Server = request.getfixturevalue("server")
    before: dict[bytes, bytes | None] = {}
    request.node.remember = lambda: before.update(dump(server))
    yield
    assert before
    assert dump(server) == before


def dump(server: Server) -> dict[bytes, bytes | None]:
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def fill(queue: Queue) -> None:
    """Two that wait, one that is delayed, one that is leased."""
    queue.push_many(["apple", "banana", "cherry", "date"])
    first, _second = queue.lease_many(2, ttl=600)
    first.fail("no", retry_in=500)


def test_look_stats(cli: Cli, queue: Queue, request: pytest.FixtureRequest) -> None:
    fill(queue)
    request.node.remember()
    text = cli("stats", "job2").text
    words = dict(line.split()[:2] for line in text.splitlines() if len(line.split()) > 1)
    assert {k: words[k] for k in ("waiting", "delayed", "leased", "dead", "failed")} == {
        "waiting": "2",
        "delayed": "1",
        "leased": "1",
        "dead": "0",
        "failed": "1",
    }
    (found,) = cli("stats", "job2", "--json").objects
    assert found["queue"] == "job2"
    stats = queue.stats()
    assert {k: found[k] for k in ("waiting", "delayed", "leased", "live", "drained", "totals")} == {
        "waiting": 2,
        "delayed": 1,
        "leased": 1,
        "live": 4,
        "drained": False,
        "totals": dict(stats.totals),
    }


def test_stats_say_what_is_special(cli: Cli, queue: Queue) -> None:
    queue.pause()
    queue.seal()
    assert "job2 (sealed, paused, drained)" in cli("stats", "job2").text


def test_stats_watch_writes_lines(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    watch = cli.start("stats", "job2", "--watch", "0.05")
    wait_until(lambda: "job2: 1 waiting" in watch.out, "a line")
    queue.push("banana")
    wait_until(lambda: "job2: 2 waiting" in watch.out, "a line with two")
    watch.send(2)
    assert watch.wait() == 130
    assert watch.err.strip() == ""


def test_stats_watch_writes_an_object_per_line(cli: Cli, queue: Queue) -> None:
    watch = cli.start("stats", "job2", "--watch", "0.05", "--json")
    wait_until(lambda: watch.out.count("\n") >= 2, "two lines")
    watch.stop()
    assert all(json.loads(line)["queue"] == "job2" for line in watch.out.splitlines())


def test_stats_watch_goes_on_when_the_server_comes_back(
    cli: Cli, server: Server, queue: Queue
) -> None:
    watch = cli.start("stats", "job2", "--watch", "0.05")
    wait_until(lambda: "job2: 0 waiting" in watch.out, "a line")
    server.stop()
    watch.until("cannot be reached")
    server.start()
    queue.push("apple")
    wait_until(lambda: "job2: 1 waiting" in watch.out, "a line with one")


def test_stats_watch_on_a_terminal_stays_in_place(cli: Cli, queue: Queue) -> None:
    queue.push_many(["a", "b", "c"])
    with on_terminal("stats", "job2", "--watch", "0.05") as until:
        until("waiting      3")
        queue.push("d")
        until("waiting      4")


def test_watch_takes_no_name_for_its_seconds(cli: Cli) -> None:
    done = cli("stats", "--watch", "job2")
    assert done.code == 2
    assert "'job2' is no number of seconds" in done.err


def test_look_peek(cli: Cli, queue: Queue, request: pytest.FixtureRequest) -> None:
    fill(queue)
    request.node.remember()
    lines = cli("peek", "job2").text.splitlines()
    assert [line.split()[-1] for line in lines] == ["PAYLOAD", "cherry", "date", "apple"]
    assert "due in 8 min" in lines[-1]
    second = cli("peek", "job2", "-n", "1", "--offset", "1", "--json").objects
    assert [(item["position"], item["payload"]) for item in second] == [(1, "date")]
    beyond = cli("peek", "job2", "--offset", "3")
    assert (beyond.code, beyond.out) == (0, b"")
    assert beyond.err == "job2: nothing waits from 3 on\n"


def test_look_peek_lets_nothing_act_on_the_terminal(
    cli: Cli, queue: Queue, client: redis.Redis, request: pytest.FixtureRequest
) -> None:
    """Escape sequences, 8-bit control characters, reversed text, newlines, markup."""
    nasty = "\x1b]0;title\a\x9b31m\u202egnp.exe\r\n[red]x[/red]"
    client.rpush("job2", nasty, b"\xff\0")
    queue.push(nasty, headers={nasty: "\x9b"})
    request.node.remember()
    for args in ((), ("--json",)):
        out = cli("peek", "job2", *args).text
        assert all(c.isprintable() or c == "\n" for c in out)
    lines = cli("peek", "job2").text.splitlines()
    assert r"\x1b]0;title\x07\x9b31m\u202egnp.exe\r\n[red]x[/red]" in lines[1]
    assert " raw " in lines[1]
    raw, binary, pushed = cli("peek", "job2", "--json").objects
    assert raw["payload"] == pushed["payload"] == nasty
    assert raw["id"] is None
    assert base64.b64decode(binary["payload_base64"]) == b"\xff\0"
    assert pushed["headers"] == {nasty: "\x9b"}


def test_peek_cuts_what_is_long(cli: Cli, queue: Queue) -> None:
    queue.push("x" * 5000)
    text = cli("peek", "job2").text
    assert "x" * 500 + "… (5,000 bytes)" in text
    assert "x" * 501 not in text
    assert cli("peek", "job2", "--json").objects[0]["payload"] == "x" * 5000
    with on_terminal("peek", "job2") as until:
        line = next(line for line in until("…").splitlines() if "xx" in line)
    assert len(line.rstrip()) <= 100
    (item,) = queue.waiting()
    assert line.split()[:4] == ["0", "waiting", item.id, "0"]


def test_headers_of_another_program_are_no_reason_to_fail(cli: Cli, client: redis.Redis) -> None:
    """Any MessagePack map is an envelope's: with odd keys, values that JSON has not, or no text."""
    beginning = b"\0PQ\1" + bytes(16) + b"\0" + bytes(4)
    odd = b"\x83\x01\x92\xc3\x02\xa1a\xcb\x7f\xf0\0\0\0\0\0\0\xa1b\xd4\x01\x02"
    for headers in (odd, b"\x81\xa1a"):
        client.rpush("job2", beginning + len(headers).to_bytes(2, "big") + headers + b"body")
    readable, broken = cli("peek", "job2", "--json").objects
    assert readable["headers"]["1"] == [True, 2]
    assert readable["headers"]["a"] == "inf"
    assert "cannot be read" in broken["headers_error"]
    assert readable["payload"] == broken["payload"] == "body"
    assert cli("peek", "job2").code == 0


def test_look_leases(
    cli: Cli, queue: Queue, server: Server, request: pytest.FixtureRequest
) -> None:
    with Queue("job2", url=server.url, worker="pod\x1b-1") as worker:
        worker.push_many(["apple", b"\xff"])
        first, second = worker.lease_many(2, ttl=590)
        second.extend(900)
    request.node.remember()
    lines = cli("leases", "job2").text.splitlines()
    assert len(lines) == 3
    for word in (str(first.token), first.id, r"pod\x1b-1", "in 9 min", "apple"):
        assert word in lines[1]
    found = cli("leases", "job2", "--json").objects
    assert [item["token"] for item in found] == [first.token, second.token]
    assert found[0]["worker"] == "pod\x1b-1"
    assert 500 < found[0]["expires_in"] <= 590
    assert found[1]["payload_base64"] == "/w=="
    assert cli("leases", "job2", "--offset", "2").err == "job2: nothing is leased from 2 on\n"


def test_leases_that_have_run_out_say_so(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    queue.lease(ttl=0.001)
    wait_until(lambda: queue.stats().expired, "the lease runs out")
    assert " ago " in cli("leases", "job2").text
    assert "1 of them ran out" in cli("stats", "job2").text


def test_nobody_reads_to_the_end(cli: Cli, queue: Queue) -> None:
    """`pyqueue peek job2 | head -1` ends quietly."""
    queue.push_many(["x" * 400] * 2000)
    with subprocess.Popen(
        [*COMMAND, "peek", "job2", "-n", "2000", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 1


def test_reclaim_says_how_many(cli: Cli, queue: Queue) -> None:
    queue.push_many(["a", "b", "c"])
    queue.lease(ttl=600)
    queue.lease_many(2, ttl=0.001)
    wait_until(lambda: queue.stats().expired == 2, "two leases run out")
    assert cli("reclaim", "job2").text == "job2: 2 items reclaimed\n"
    assert cli("reclaim", "job2", "--json").objects == [{"queue": "job2", "reclaimed": 0}]
    assert queue.stats().waiting == 2


def test_delete_takes_force_to_lose_something(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    queue.push("apple")
    done = cli("delete", "job2")
    assert done.code == 1
    assert "1 items" in done.err
    assert "--force" in done.err
    assert queue.stats().waiting == 1
    assert cli("delete", "job2", "--force").text == "job2: deleted\n"
    assert client.keys() == []
    assert cli("delete", "job2").code == 0
