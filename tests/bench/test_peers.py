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
    lost_after=1.0,
    lost_after_tuned=9.0,
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
        replace(subject(name), items=400, killed=60)
        for name in (BASE, "pyqueue, one per round trip")
    ]
    raw, leased = results = [compare.Result(one) for one in subjects]
    compare.count_all("valkey", results, PLAN, said.append, 2)
    for result in results:
        assert result.failures == []
        assert 60 < result.samples["bytes_keys"][0] < 110
        assert result.samples["idle_sent"][0] < 50
    # The one who was killed had an item in hand, or just none.
    assert raw.killed["default"]["lost"] <= 1
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


def test_the_command_writes_json_and_keeps_what_it_did_not_measure(tmp_path: Path) -> None:
    kept: dict[str, object] = {
        "name": "rediswq (tutorial)",
        "work": [1, 1, 1],
        "failures": ["kept"],
    }
    kept |= {"killed": {}, "versions": {}, "settings": "", "redelivery": "", "tuned": ""}
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
