"""What a queue holds costs nothing, and neither does a fleet that waits: the measuring of both, and
what of it is no matter of speed.
"""

import json
from pathlib import Path

import pytest
import redis

from bench import fleet, scale, servers
from tests.servers import Server


def test_a_fleet_wakes_one_worker_for_an_item_and_has_no_herd(
    server: Server, client: redis.Redis
) -> None:
    """50 workers with a connection each: as the thousand of the benchmark."""
    idle, woken, bursts = fleet.measure(servers.describe(server.url), 50, 0.5, 500, 1)
    assert [x.name for x in idle] == [
        "a queue that was never used",
        "drained",
        "one item is delayed for a day",
    ]
    # Each asks again after 1.5 to 2 s: once at the most in the half second that is looked at.
    assert all(x.polls <= 2 for x in idle)
    assert (woken.least, woken.most) == (1, 1)
    assert [x.name for x in bursts] == ["RPUSH", "push_many", "delayed, due at once"]
    for burst in bursts:
        assert 1 <= burst.scripts.median <= 1.5
        assert 0 < burst.woken.median <= 0.2
    rows = json.loads(json.dumps(fleet.as_json([*idle, woken, *bursts])))
    assert rows[-1]["items"] == 500
    for heads, cells in fleet.heads_and_cells(idle, woken, bursts):
        assert all(len(row) == len(heads) for row in cells)
    assert client.keys() == []


@pytest.mark.parametrize("session_server", ["valkey"], indirect=True)
def test_what_a_call_costs_is_measured_by_what_a_queue_holds(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    sizes: dict[str, tuple[int, ...]] = {scale.WAITING: (1000, 20_000), scale.LEASED: (0, 2000)}
    rows = list(scale.measure(servers.describe(server.url), 1, sizes))
    verbs = {row.verb for row in rows if row.holds == scale.WAITING}
    assert verbs == {"push", "lease", "complete", "stats", "reclaim"}
    assert {row.size for row in rows if row.verb == "lease, 10,000 expired"} == {0, 2000}
    assert all(row.ratio.median == 1 for row in rows if row.size in {1000, 0})
    # Twenty times as many must not cost twenty times as much; what is noise is left to the bench.
    assert scale.worst(rows).ratio.median < 10
    for heads, cells in scale.heads_and_cells(rows):
        assert all(len(row) == len(heads) for row in cells)
    assert client.keys() == []

    pytest.importorskip("matplotlib")
    facts = {"server": {"name": "valkey", "version": "9"}, "processor": "x", "repetitions": 1}
    path = tmp_path / "charts" / "scale.svg"
    scale.plot({"facts": facts, "rows": scale.as_json(rows)}, path)
    assert path.read_text().count("reclaim") >= 1
