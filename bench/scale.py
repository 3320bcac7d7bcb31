"""Whether a call costs more the more a queue holds: µs of each verb beside 10 thousand to 10
million waiting items, and beside none to a million leased ones.

All queues are on one server at once and are measured in turn, to and fro. What they hold is put
there by the scripts, but for the waiting items: a list filled by RPUSH is the same list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from pyqueue import _operations as op
from pyqueue._message import envelope, new_id

from .cost import PAYLOAD, TTL, WORKER, Bench, Verb
from .measure import Meter, Spread, spread
from .servers import Server

WAITING, LEASED = "waiting", "leased"
SIZES = {
    WAITING: (10_000, 100_000, 1_000_000, 10_000_000),
    LEASED: (0, 10_000, 100_000, 1_000_000),
}
#: How many more leases have run out while the last verbs of `LEASED` are measured.
EXPIRED = 10_000
#: Calls of a verb in a repetition, and who sends them.
CALLS, WORKERS = 200, 20
#: How many times the smallest queue's a cost may be.
MOST = 1.3
#: Seconds of a lease that is to run out.
BRIEF = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """What a verb costs beside so many items."""

    #: `WAITING` or `LEASED`.
    holds: str
    size: int
    verb: str
    #: µs within the script, per call or, where a call deals with many, per item.
    micros: Spread
    #: Times the smallest queue of the same repetition.
    ratio: Spread
    #: µs from sending one call to having its answer, nothing else being sent.
    trip: Spread | None


class Place:
    """A queue that holds so much."""

    def __init__(self, client: redis.Redis, meter: Meter, holds: str, size: int) -> None:
        self.holds, self.size = holds, size
        self.bench = Bench(client, f"pyqueue-bench:{holds}-{size}")
        self.found: dict[str, list[float]] = {}
        self.trips: dict[str, list[float]] = {}
        self._client, self._meter = client, meter

    def fill(self) -> None:
        """Puts there what it holds."""
        self._push(self.size if self.holds == WAITING else self.size + 3 * EXPIRED)
        if self.holds == LEASED:
            self._lease(self.size, 24 * 3600.0)
        # So that it has a state, and no key is made or enlarged while it is measured.
        self.work_off()

    def _push(self, count: int) -> None:
        some = [envelope(new_id(), PAYLOAD) for _ in range(1000)]
        for start in range(0, count, 1000):
            self._client.rpush(self.bench.queue.name, *some[: count - start])

    def _lease(self, count: int, ttl: float) -> None:
        left = count
        while left:
            left -= len(self.bench.once(op.Lease(min(left, 1000), ttl, WORKER)).messages)

    def _timed(self, verb: str, items: int, operations: Sequence[op.Operation[Any]]) -> list[Any]:
        self._meter.start()
        replies = self.bench.run(Verb(verb, 1, WORKERS, 1, _unused), operations)
        self.found.setdefault(verb, []).append(self._meter.stop().micros / items)
        return replies

    def _trips(self, verb: str, operations: Iterable[op.Operation[Any]]) -> list[Any]:
        """One after the other, each from a slot that has been used before."""
        replies, times = [], []
        for operation in operations:
            began = time.perf_counter()
            replies.append(self.bench.once(operation))
            times.append((time.perf_counter() - began) * 1e6)
        self.trips.setdefault(verb, []).append(spread(times).median)
        return replies

    def work_off(self) -> None:
        """Pushes items, leases as many and completes them: then it holds as much as before."""
        pushes = [op.Push([envelope(new_id(), PAYLOAD)]) for _ in range(CALLS)]
        leases = [op.Lease(1, TTL, WORKER)] * CALLS
        self._timed("push", CALLS, pushes)
        self._complete("complete", self._timed("lease", CALLS, leases))
        some = CALLS // 4
        self._trips("push", pushes[:some])
        tokens = [reply.first_token for reply in self._trips("lease", leases[:some])]
        self._trips("complete", [op.Complete([token]) for token in tokens])
        self._timed("stats", CALLS, [op.ReadStats()] * CALLS)
        self._trips("stats", [op.ReadStats()] * some)

    def _complete(self, verb: str, replies: Sequence[op.LeaseReply]) -> None:
        assert all(len(reply.messages) == 1 for reply in replies)
        calls = [op.Complete([reply.first_token]) for reply in replies]
        assert not any(self._timed(verb, len(calls), calls))

    def expire(self, count: int) -> None:
        """Leases items that will have run out soon."""
        self._lease(count, BRIEF)

    def reclaim(self, count: int) -> None:
        """Takes back those that have run out, a hundred in a call; then they are dropped."""
        replies = self._timed("reclaim", count, [op.Reclaim(100, 0)] * (count // 100))
        assert sum(reply.reclaimed for reply in replies) == count
        self._drop(count)

    def _drop(self, count: int) -> None:
        # What was given back is at the head. It is a suspect, and would be leased alone.
        self._client.ltrim(self.bench.queue.name, count, -1)
        self._push(count)

    def beside_expired(self) -> None:
        """What is measured while ``EXPIRED`` leases have run out: each lease call takes 100 of them
        back, which is most of what it costs.
        """
        self._timed("stats, 10,000 expired", CALLS, [op.ReadStats()] * CALLS)
        pushes = [op.Push([envelope(new_id(), PAYLOAD)]) for _ in range(CALLS)]
        self._timed("push, 10,000 expired", CALLS, pushes)
        calls = EXPIRED // 200
        leased = self._timed("lease, 10,000 expired", calls, [op.Lease(1, TTL, WORKER)] * calls)
        self._complete("complete, 10,000 expired", leased)
        left = EXPIRED - 100 * calls
        replies = self._timed("reclaim", left, [op.Reclaim(100, 0)] * (left // 100))
        assert sum(reply.reclaimed for reply in replies) == left
        self._drop(EXPIRED - calls)


def _unused(bench: Bench, verb: Verb) -> Callable[[], object]:
    raise NotImplementedError


def measure(
    server: Server,
    repetitions: int,
    sizes: Mapping[str, tuple[int, ...]],
    log: Callable[[str], object] = bool,
) -> Iterator[Row]:
    """Measures every queue once per repetition; yields the rows when all is done."""
    with server.client() as client:
        meter = Meter(client)
        places = [Place(client, meter, holds, n) for holds, some in sizes.items() for n in some]
        for place in places:
            place.bench.clear()
        began = time.monotonic()
        for place in places:
            log(f"{place.size:,} {place.holds}")
            place.fill()
        if time.monotonic() - began > 4:
            # For the scripts there was an outage of the first ones: their leases would be held.
            for _ in range(6):
                for place in places:
                    place.work_off()
                time.sleep(1)
        for repetition in range(repetitions + 1):
            log(f"repetition {repetition} of {repetitions}")
            _repeat(places if repetition % 2 else places[::-1])
            if not repetition:  # it warms up
                for place in places:
                    place.found.clear()
                    place.trips.clear()
        for holds in sizes:
            mine = [place for place in places if place.holds == holds]
            for verb in mine[0].found:
                for place in mine:
                    yield _row(place, verb, mine[0])
        for place in places:
            place.bench.close()


def _repeat(places: Sequence[Place]) -> None:
    for place in places:
        place.work_off()
    waiting = [place for place in places if place.holds == WAITING]
    for place in waiting:
        place.expire(CALLS * 5)
    time.sleep(BRIEF + 0.01)
    for place in waiting:
        place.reclaim(CALLS * 5)
    leased = [place for place in places if place.holds == LEASED]
    for place in leased:
        place.expire(EXPIRED)
    time.sleep(BRIEF + 0.01)
    for place in leased:
        place.beside_expired()


def _row(place: Place, verb: str, base: Place) -> Row:
    mine, its = place.found[verb], base.found[verb]
    trips = place.trips.get(verb)
    return Row(
        place.holds,
        place.size,
        verb,
        spread(mine),
        spread([a / b for a, b in zip(mine, its, strict=True)]),
        spread(trips) if trips else None,
    )


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """For the file."""
    return [
        {
            "holds": row.holds,
            "size": row.size,
            "verb": row.verb,
            "micros": row.micros.as_list(),
            "ratio": row.ratio.as_list(),
            "round_trip": row.trip.as_list() if row.trip else None,
        }
        for row in rows
    ]


def heads_and_cells(rows: Sequence[Row]) -> list[tuple[list[str], list[list[str]]]]:
    """A table for each of what queues hold."""
    tables = []
    for holds in dict.fromkeys(row.holds for row in rows):
        mine = [row for row in rows if row.holds == holds]
        sizes = list(dict.fromkeys(row.size for row in mine))
        cells = []
        for verb in dict.fromkeys(row.verb for row in mine):
            some = [row for row in mine if row.verb == verb]
            trips = [row.trip.median for row in some if row.trip]
            cells.append(
                [
                    verb,
                    *(f"{row.micros.median:.2f}" for row in some),
                    *(f"{row.ratio.median:.2f}" for row in some[1:]),
                    f"{trips[0]:.0f}, {trips[-1]:.0f}" if trips else "",
                ]
            )
        heads = [f"µs beside so many {holds}", *(f"{size:,}" for size in sizes)]
        heads += [f"\u00d7 at {size:,}" for size in sizes[1:]]
        tables.append(([*heads, "round trip µs, first and last"], cells))
    return tables


def worst(rows: Sequence[Row]) -> Row:
    """The row that costs most beside the smallest queue."""
    return max(rows, key=lambda row: row.ratio.median)


def plot(document: dict[str, Any], path: Path) -> None:
    """Draws the rows of a result; the suffix of ``path`` says as what (svg, png). Needs
    matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, holds in zip(axes, (WAITING, LEASED), strict=True):
        rows = [row for row in document["rows"] if row["holds"] == holds]
        for verb in dict.fromkeys(row["verb"] for row in rows):
            # The cost of these is that of the hundred that are taken back.
            if verb.startswith("lease, "):
                continue
            mine = [row for row in rows if row["verb"] == verb]
            x = [max(row["size"], 1000) for row in mine]
            middle, low, high = zip(*(row["micros"] for row in mine), strict=True)
            dashed = "--" if "expired" in verb else "-"
            (line,) = axis.plot(x, middle, dashed, marker="o", markersize=4, label=verb)
            axis.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = sorted({row["size"] for row in rows})
        axis.set_xticks([max(size, 1000) for size in ticks], [_short(size) for size in ticks])
        axis.minorticks_off()
        axis.set_xlabel(f"{holds} items in the queue")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    facts = document["facts"]
    axes[0].set_ylabel("µs within the script (reclaim: per item)")
    axes[0].set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    server = f"{facts['server']['name']} {facts['server']['version']}"
    figure.suptitle(
        f"What a call costs the server, by what the queue holds ({server}, {facts['processor']},"
        f" median and quartiles of {facts['repetitions']})",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _short(size: int) -> str:
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if size >= unit:
            return f"{size // unit}{name}"
    return "none" if not size else str(size)
