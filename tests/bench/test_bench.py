"""The benchmark measures what it says, with few items: so that it is there when it is needed."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis
from rich.console import Console

from bench import cost, features, latency, peers, report, servers, workloads
from tests.servers import Server, wait_until

NAME = "pyqueue-bench:test"

#: Where it is the measuring that is tested, one server is enough.
one_server = pytest.mark.parametrize("session_server", ["valkey"], indirect=True)


def every(kind: type[peers.Peer]) -> list[type[peers.Peer]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in every(sub))]


@pytest.mark.parametrize("kind", [*every(peers.Raw), *every(peers.PyQueue), *every(peers.Streams)])
def test_a_peer_completes_what_it_filled(
    kind: type[peers.Peer], server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYQUEUE_URL", "")
    peer = kind(server.url, NAME)
    peer.fill(7)
    assert sum(peer.consume()) == 7
    peer.clean()
    peer.close()
    assert client.keys() == []


@pytest.mark.parametrize("row", workloads.select([workloads.PUSH], 0), ids=lambda row: row.name)
def test_what_was_pushed_can_be_consumed(row: workloads.Row, server: Server) -> None:
    peer = row.peer(server.url, NAME)
    peer.push(3)
    if isinstance(peer, peers.Streams):
        peer._open()
    assert sum(peer.consume()) == 3
    peer.close()


@pytest.mark.parametrize("row", workloads.select([workloads.WAKE], 0), ids=lambda row: row.name)
def test_a_blocked_worker_is_woken_by_a_plain_push(
    row: workloads.Row, server: Server, client: redis.Redis
) -> None:
    peer = row.peer(server.url, NAME)
    worker = threading.Thread(target=peer.wake)
    worker.start()
    wait_until(lambda: client.info("clients")["blocked_clients"], "it blocks")
    if isinstance(peer, peers.Streams):
        client.xadd(NAME, {"p": peers.payloads(1)[0]})
    else:
        client.rpush(NAME, peers.payloads(1)[0])
    worker.join(10)
    assert not worker.is_alive()
    peer.settle()
    peer.clean()
    peer.close()


@one_server
def test_rows_are_measured_and_shown(server: Server, client: redis.Redis) -> None:
    rows = [
        workloads.Row(workloads.WORK, "raw LMOVE + LREM", peers.Raw, 20),
        workloads.Row(workloads.WORK, workloads.TUTORIAL, peers.Tutorial, 20),
        workloads.Row(workloads.FLEET, "raw LMOVE + LREM", peers.Raw, 20, 2),
        workloads.Row(workloads.FLEET, "raw LMOVE + LREM", peers.Raw, 20, 2, True),
        workloads.Row(workloads.WAKE, "raw BLMOVE", peers.Raw, 2),
        workloads.Row(workloads.MEMORY, "list filled by RPUSH", peers.Raw, 2000),
    ]
    runners = workloads.run(servers.describe(server.url), rows, 1)
    found = {runner.row: values for runner, values in report.figures(runners)}
    assert list(found) == rows
    # Two commands per item, and one that finds the list empty.
    assert runners[0].samples[0].cost is not None
    assert runners[0].samples[0].cost.commands == 41 / 20
    assert report.as_json(runners)[1]["times_rediswq"] == [1, 1, 1]
    assert 64 < runners[5].samples[0].rate < 100
    text = io.StringIO()
    report.show(runners, Console(file=text, width=200))
    assert "2 threads: raw LMOVE + LREM" in text.getvalue()
    assert client.keys() == []


@one_server
def test_an_error_in_a_rows_process_ends_the_run(server: Server, client: redis.Redis) -> None:
    client.set("pyqueue-bench:0", "no list")
    runner = workloads.Runner(
        workloads.Row(workloads.WORK, "raw", peers.Raw, 5), servers.describe(server.url), 0
    )
    with pytest.raises(RuntimeError, match="has ended"):
        runner.ask("fill")
    runner.close()


def test_every_verb_and_feature_has_a_cost(server: Server, client: redis.Redis) -> None:
    measured = list(cost.measure(servers.describe(server.url), 1, features.select(())))
    rows = {row.verb.name: row for row in measured}
    assert list(rows) == [verb.name for verb in features.ALL]
    assert rows[cost.RAW].commands == 2
    assert rows[cost.RAW].ratio.median == 1
    # One call for 100 items, and more commands than calls: those inside are counted, once.
    assert rows[cost.BOTH_100].calls == pytest.approx(0.01)
    assert 0.05 < rows[cost.BOTH_100].commands < 1
    assert all(row.micros.median > 0 for row in measured)
    # A feature is used where a row says so, and not where none does.
    plain = rows[cost.BOTH]
    assert rows[f"{cost.BOTH}, priority"].commands > plain.commands
    assert rows[f"{cost.BOTH}, features used once"].commands > plain.commands
    assert rows[f"0.1: {cost.BOTH}"].commands == pytest.approx(plain.commands, abs=0.5)
    table = report.cost_as_markdown(measured)
    assert table.count("\n|") > len(rows)
    assert client.keys() == []


def test_rows_are_chosen_by_group_or_name_with_those_they_are_compared_with() -> None:
    assert [verb.name for verb in features.select(["push, delayed"])] == [
        cost.RAW,
        "push",
        "push, delayed",
    ]
    assert {verb.group for verb in features.select(["unused"])} == {"verbs", "unused"}
    assert len({verb.name for verb in features.ALL}) == len(features.ALL)


def test_every_long_call_is_measured(server: Server, client: redis.Redis) -> None:
    target = servers.describe(server.url)
    rows = {row.name: row for row in latency.measure(target, 1, latency.CASES)}
    assert list(rows) == [case.name for case in latency.CASES]
    assert 0 < rows["lease 1000"].median < 1000
    # Each item is looked at, and what it holds is freed.
    assert rows["complete 200, dedupe key and group"].commands > rows["complete 1000"].commands
    assert client.keys() == []


def test_the_command_starts_a_server_of_its_own_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "cost", "--server", "valkey"),
            *("--repetitions", "1", "--only", "complete + lease 10", "--detail", "--json", path),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert cost.BOTH_100 in finished.stdout
    document = json.loads(path.read_text())
    assert document["facts"]["server"]["name"] == "valkey"
    assert document["rows"][0]["verb"] == cost.RAW


def test_a_table_is_printed_as_markdown() -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "latency", "--server", "valkey", "--markdown"),
            *("--repetitions", "1", "--only", "reclaim 200"),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith("| the longest calls | ms |")
    assert lines[2].startswith("| reclaim 200 |")
    assert "1 repetitions" in lines[-1]
