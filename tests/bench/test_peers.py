"""The comparison with other queues runs, and says what it could not run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import compare, standings
from bench.servers import describe
from bench.subjects.catalogue import BASE, NODE, SUBJECTS, Subject
from tests.servers import Server

PLAN = compare.Plan(
    rounds=1,
    scale=0.01,
    wake_seconds=0.2,
    wakes=3,
    waiting=200,
    idle_seconds=0.2,
    lost_after=0.0,
    lost_after_tuned=6.5,
)
OURS = ("pyqueue", "raw", "tutorial")

#: It is the measuring that is tested: one server is enough.
one_server = pytest.mark.parametrize("session_server", ["valkey"], indirect=True)


def subject(name: str) -> Subject:
    (found,) = (one for one in SUBJECTS if one.name == name)
    return found


@pytest.fixture
def said() -> list[str]:
    return []


@one_server
def test_subjects_are_timed_in_turns(server: Server, said: list[str]) -> None:
    subjects = [one for one in SUBJECTS if one.module in OURS]
    results = compare.time_all(describe(server.url), subjects, PLAN, said.append)
    assert list(results) == [one.name for one in subjects]
    for result in results.values():
        assert result.failures == [], result.subject
        assert result.samples["work"][0] > 0
        assert result.samples["work_commands"][0] > 0
        assert len(result.samples["wake"]) in range(1, 4)
        assert ("push" in result.samples) == bool(result.subject.pushes)
    # What it is compared with sends two commands for each item; at the ends one more or less.
    assert results[BASE].samples["work_commands"][0] == pytest.approx(2, rel=0.15)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_that_a_lease_brings_back(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "KILLS", 1)
    subjects = [
        replace(subject(name), items=400, killed=60, tuned="yes")
        for name in (BASE, "pyqueue, one per round trip")
    ]
    raw, leased = results = [compare.Result(one) for one in subjects]
    compare.count_all("valkey", results, PLAN, said.append, 2)
    for result in results:
        assert result.failures == []
        assert 60 < result.samples["bytes_keys"][0] < 110
        assert result.samples["idle_sent"][0] < 50
    # The one who was killed had an item in hand, or just none.
    assert raw.killed["tuned"]["lost"] <= 1
    assert leased.killed["tuned"]["lost"] == 0


@one_server
def test_a_subject_that_cannot_run_is_named_with_the_reason(
    server: Server, said: list[str]
) -> None:
    absent = replace(subject(BASE), name="absent", module="absent")
    node = replace(subject(BASE), name="no program", module="absent", environment=NODE)
    results = compare.time_all(describe(server.url), [absent, node], PLAN, said.append)
    (failure,) = results["absent"].failures
    assert "No module named 'bench.subjects.absent'" in failure
    assert results["no program"].failures[0].startswith("not available: ")
    assert len(said) == 2
    document = {"subjects": [one.as_json() for one in results.values()]}
    assert len(standings.failures(document)) == 2
    assert standings.TABLES[0].rows(document) == []


def entry(name: str, **figures: object) -> dict[str, object]:
    module = next(one.module for one in SUBJECTS if one.name == name)
    texts = dict.fromkeys(("settings", "redelivery", "tuned"), "")
    known = {"name": name, "producer": name, "module": module, "versions": {}, **texts}
    return {**known, "killed": {}, "failures": [], **figures}


KILLED = {"lost": 3.0, "doubled": 0.0, "seconds": 1.0, "kills": 4, "limit": 9}
DOCUMENT: standings.Document = {
    "facts": {
        "server": {"name": "valkey", "version": "9.1"},
        **dict.fromkeys(("processor", "cores", "rounds", "load_average", "at", "commit"), "?"),
    },
    "subjects": [
        entry(BASE, work=[1000, 900, 1100], push=[5000, 5000, 5000], killed={"default": KILLED}),
        entry(
            standings.SYNC,
            work=[3000, 3000, 3000],
            push=[2000, 2000, 2000],
            bytes_used=[95, 95, 95],
        ),
        entry(standings.TASKS, work=[9000, 9000, 9000], wake={"p50": 1, "p99": 2, "count": 3}),
        entry("BullMQ for Node", work=[2000, 2000, 2000]),
        entry("BullMQ for Python", work=[8000, 8000, 8000]),
    ],
}


def test_what_was_to_be_reached_is_a_ratio_of_the_same_run() -> None:
    rows = {what: cells for what, *cells in standings.aims(DOCUMENT)}
    assert rows["one per round trip, by raw LMOVE + LREM"] == ["3", "\u2265 2", "yes"]
    assert rows["Queue.push, by RPUSH"] == ["0.4", "\u2265 0.8", "no"]
    # The other library of that name is not meant.
    assert rows["AsyncWorker, by BullMQ on Node at its best"] == ["4.5", "\u2265 3", "yes"]
    # Nothing is said of what was not measured.
    assert "batches of 100, by Streams COUNT 100" not in rows


def test_the_tables_of_a_file_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{standings.BEGIN}\nold\n{standings.END}\nafter\n")
    for _ in range(2):
        standings.update(path, [DOCUMENT])
        text = path.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "old" not in text
        assert text.count(f"| {BASE} | 1,000 | 1 |") == 1
    with pytest.raises(ValueError, match="no place"):
        standings.update(Path(__file__), [DOCUMENT])


@pytest.mark.slow
def test_charts_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="in the environment of `make bench-plots`")
    from bench import plots

    written = plots.draw(DOCUMENT, tmp_path)
    names = {path.name for path in written}
    assert names == {
        f"{name}-valkey.{kind}"
        for name in ("throughput", "push", "latency", "bytes", "killed")
        for kind in ("svg", "png")
    }
    assert BASE in (tmp_path / "throughput-valkey.svg").read_text()


def test_the_command_writes_json_and_keeps_what_it_did_not_measure(tmp_path: Path) -> None:
    kept = entry("rediswq (tutorial)", work=[1, 1, 1], failures=["kept"])
    path = tmp_path / "peers-valkey.json"
    path.write_text(json.dumps({"facts": {}, "subjects": [kept]}))
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "peers", "--server", "valkey", "--only", "raw"),
            *("--quick", "--part", "timed", "--scale", "0.02", "--results", tmp_path),
            "--markdown",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    document = json.loads(path.read_text())
    assert document["facts"]["server"]["name"] == "valkey"
    first, second = document["subjects"]
    assert first["name"] == BASE
    assert first["work"][0] > 0
    assert second == kept
    assert f"| {BASE} |" in finished.stdout
    assert "Not measured: rediswq (tutorial): kept" in finished.stdout
