"""Tables for people, JSON for everything else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import standings, workloads
from .cost import Row as CostRow
from .latency import Row as LatencyRow
from .measure import Spread, spread
from .workloads import FLEET, MEMORY, PUSH, WAKE, WORK, Runner, Sample

RESULTS = Path(__file__).parent / "results"
CHARTS = Path(__file__).parent / "charts"

TITLES = {
    PUSH: "Push",
    WORK: "Lease and complete, one worker",
    WAKE: "Wake-up: from before a plain push to the idle, blocked worker having its item",
    MEMORY: "Memory of a waiting item of 64 bytes",
    FLEET: "Many workers on the clients' one core",
}


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _name(runner: Runner) -> str:
    row = runner.row
    if row.group != FLEET:
        return row.name
    kind = ("threads" if row.threads else "processes") if row.workers > 1 else "process"
    return f"{row.workers} {kind}: {row.name}"


def _base(runner: Runner, runners: Iterable[Runner], name: str) -> Runner | None:
    """The row of the same group, and the same number of workers, that is compared with."""
    mine = runner.row
    wanted = (mine.group, mine.workers, mine.threads, name)
    for other in runners:
        if (other.row.group, other.row.workers, other.row.threads, other.row.name) == wanted:
            return other
    return None


def ratio(runner: Runner, base: Runner | None, figure: Callable[[Sample], float]) -> Spread | None:
    """How many times the base, repetition by repetition."""
    if base is None:
        return None
    pairs = zip(runner.samples, base.samples, strict=True)
    return spread([figure(mine) / figure(its) for mine, its in pairs])


def rate(sample: Sample) -> float:
    """Items per second, or bytes per item."""
    return sample.rate


def median_latency(sample: Sample) -> float:
    """Of one repetition."""
    return statistics.median(sample.latencies)


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * percent // 100) - 1)]


def _times(found: Spread | None) -> str:
    return "" if found is None else _number(found.median)


def _rate_rows(runners: Sequence[Runner]) -> Iterable[tuple[Runner, dict[str, object]]]:
    for runner in runners:
        costs = [sample.cost for sample in runner.samples if sample.cost]
        base = _base(runner, runners, workloads.BASE[runner.row.group])
        tutorial = _base(runner, runners, workloads.TUTORIAL)
        yield (
            runner,
            {
                "per_second": spread([sample.rate for sample in runner.samples]),
                "times_base": ratio(runner, base, rate),
                "times_rediswq": ratio(runner, tutorial, rate),
                "client_cpu": spread([sample.client_cpu for sample in runner.samples]),
                "server_micros": spread([cost.micros for cost in costs]),
                "server_cpu": spread([cost.cpu for cost in costs]),
                "round_trips": spread([cost.calls for cost in costs]),
                "commands": spread([cost.commands for cost in costs]),
            },
        )


def _wake_rows(runners: Sequence[Runner]) -> Iterable[tuple[Runner, dict[str, object]]]:
    for runner in runners:
        base = _base(runner, runners, workloads.BASE[WAKE])
        every = [value * 1e6 for sample in runner.samples for value in sample.latencies]
        yield (
            runner,
            {
                "p50_micros": percentile(every, 50),
                "p99_micros": percentile(every, 99),
                "wakes": len(every),
                "times_base": ratio(runner, base, median_latency),
            },
        )


def _memory_rows(runners: Sequence[Runner]) -> Iterable[tuple[Runner, dict[str, object]]]:
    for runner in runners:
        base = _base(runner, runners, workloads.BASE[MEMORY])
        yield (
            runner,
            {
                "bytes": spread([sample.rate for sample in runner.samples]),
                "times_base": ratio(runner, base, rate),
            },
        )


def figures(runners: Sequence[Runner]) -> list[tuple[Runner, dict[str, object]]]:
    """Every row's figures, by name."""
    found: list[tuple[Runner, dict[str, object]]] = []
    for group, make in (
        (PUSH, _rate_rows),
        (WORK, _rate_rows),
        (FLEET, _rate_rows),
        (WAKE, _wake_rows),
        (MEMORY, _memory_rows),
    ):
        found += make([runner for runner in runners if runner.row.group == group])
    return found


def _cells(group: str, values: dict[str, object]) -> list[str]:
    if group == WAKE:
        cells = [f"{values['p50_micros']:.0f}", f"{values['p99_micros']:.0f}"]
    elif group == MEMORY:
        found = values["bytes"]
        assert isinstance(found, Spread)
        cells = [f"{found.median:.1f}"]
    else:
        found = values["per_second"]
        assert isinstance(found, Spread)
        cells = [_number(found.median), f"{_number(found.low)}-{_number(found.high)}"]
    times = values["times_base"]
    assert times is None or isinstance(times, Spread)
    cells.append(_times(times))
    if group in (WORK, FLEET):
        times = values["times_rediswq"]
        assert times is None or isinstance(times, Spread)
        cells.append(_times(times))
    if group in (PUSH, WORK, FLEET):
        for name in ("client_cpu", "server_cpu", "server_micros", "round_trips", "commands"):
            found = values[name]
            assert isinstance(found, Spread)
            cells.append(_number(found.median))
    return cells


def _headings(group: str) -> list[str]:
    base = f"x {workloads.BASE[group].partition(',')[0]}"
    if group == WAKE:
        return ["", "p50 µs", "p99 µs", base]
    if group == MEMORY:
        return ["", "bytes", base]
    head = ["", "items/s", "quartiles", base]
    if group != PUSH:
        head.append("x rediswq.py")
    return [*head, "client cpu", "server cpu", "in commands", "trips", "commands"]


def show(runners: Sequence[Runner], console: Console) -> None:
    """Prints a table for each group."""
    tables: dict[str, Table] = {}
    for runner, values in figures(runners):
        group = runner.row.group
        if group not in tables:
            tables[group] = _table(_headings(group))
        tables[group].add_row(_name(runner), *_cells(group, values))
    for group, table in tables.items():
        console.print(TITLES[group], style="bold")
        console.print(table)
        console.print()


def show_cost(title: str, rows: Sequence[CostRow], detail: bool, console: Console) -> None:
    """Prints the table of the verbs."""
    heads = ("", "µs", "quartiles", "x raw", "quartiles", "x plain", "cpu µs", "calls", "commands")
    table = _table(heads)
    for row in rows:
        table.add_row(
            row.verb.name,
            f"{row.micros.median:.2f}",
            f"{row.micros.low:.2f}-{row.micros.high:.2f}",
            f"{row.ratio.median:.2f}",
            f"{row.ratio.low:.2f}-{row.ratio.high:.2f}",
            f"{row.to_plain.median:.2f}" if row.to_plain else "",
            f"{row.cpu:.1f}",
            f"{row.calls:.3g}",
            f"{row.commands:.3g}",
        )
        if not detail:
            continue
        inside = {name: value for name, value in row.each.items() if name != "evalsha"}
        for name, (micros, calls) in sorted(inside.items(), key=lambda item: -item[1][0]):
            table.add_row(f"    {name}", f"{micros:.2f}", *[""] * 6, f"{calls:.3g}")
        if "evalsha" in row.each:
            rest = row.each["evalsha"][0] - sum(micros for micros, _ in inside.values())
            table.add_row("    Lua, and the way to the commands", f"{rest:.2f}")
    console.print(title, style="bold", highlight=False)
    console.print(table)


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        return value.as_list()
    return round(value, 4) if isinstance(value, float) else value


def as_json(runners: Sequence[Runner]) -> list[dict[str, object]]:
    """The rows for JSON: a spread is its median and quartiles."""
    return [
        {
            "group": runner.row.group,
            "name": runner.row.name,
            "items": runner.row.items,
            "workers": runner.row.workers,
            "threads": runner.row.threads,
            **{name: _plain(value) for name, value in values.items()},
        }
        for runner, values in figures(runners)
    ]


def cost_as_json(rows: Sequence[CostRow]) -> list[dict[str, object]]:
    """The verbs for JSON."""
    return [
        {
            "verb": row.verb.name,
            "micros": row.micros.as_list(),
            "group": row.verb.group,
            "times_raw": row.ratio.as_list(),
            "plain": row.verb.plain,
            "times_plain": row.to_plain.as_list() if row.to_plain else None,
            "cpu": round(row.cpu, 3),
            "calls": row.calls,
            "commands": row.commands,
            "each": {
                name: [round(number, 4) for number in pair] for name, pair in row.each.items()
            },
        }
        for row in rows
    ]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


COST_HEADS = {
    "verbs": "µs per item",
    "features": "with a feature",
    "unused": "the scripts of 0.1",
}


def cost_as_markdown(rows: Sequence[CostRow]) -> str:
    """A table for each group of rows."""
    tables = []
    for group, title in COST_HEADS.items():
        some = [row for row in rows if row.verb.group == group]
        cells = [
            [
                row.verb.name,
                f"{row.micros.median:.2f}",
                f"{row.micros.low:.2f}-{row.micros.high:.2f}",
                f"{row.commands:.3g}",
                f"{row.ratio.median:.1f}",
                *(
                    [f"{row.to_plain.median:.2f}" if row.to_plain else ""]
                    if group != "verbs"
                    else []
                ),
            ]
            for row in some
        ]
        heads = [title, "µs", "quartiles", "commands", "\u00d7 raw"]
        if group != "verbs":
            heads.append("\u00d7 without" if group == "features" else "\u00d7 today's")
        if some:
            tables.append(_markdown(heads, cells) + "\n")
    return "\n".join(tables)


def under(facts: dict[str, object]) -> str:
    """The line below a table: on what it was measured."""
    server = facts["server"]
    assert isinstance(server, dict)
    return (
        f"{server['name']} {server['version']}, {facts['processor']}, {facts['cores']} cores,"
        f" {facts['repetitions']} repetitions, load average {facts['load_average']},"
        f" {facts['at']}, commit {facts['commit']}"
    )


LATENCY_HEADS = ("the longest calls", "ms", "least", "most", "commands")


def _latency_cells(row: LatencyRow) -> list[str]:
    figures = (row.median, row.least, row.most)
    return [row.name, *(f"{figure:.2f}" for figure in figures), f"{row.commands:,.0f}"]


def show_latency(title: str, rows: Sequence[LatencyRow], console: Console) -> None:
    """Prints the table of the longest calls."""
    table = _table(LATENCY_HEADS)
    for row in rows:
        table.add_row(*_latency_cells(row))
    console.print(title, style="bold", highlight=False)
    console.print(table)


def latency_as_markdown(rows: Sequence[LatencyRow]) -> str:
    """The table of the longest calls."""
    return _markdown(LATENCY_HEADS, map(_latency_cells, rows)) + "\n"


def latency_as_json(rows: Sequence[LatencyRow]) -> list[dict[str, object]]:
    """The longest calls for JSON."""
    return [asdict(row) for row in rows]


def show_peers(document: standings.Document, console: Console) -> None:
    """Prints the tables of `peers`."""
    console.print(standings.under(document), highlight=False)
    for shown in standings.TABLES:
        table = _table(["", *(heading for heading, _ in shown.columns)])
        for cells in shown.rows(document):
            table.add_row(*cells)
        console.print(f"\n{shown.title}", style="bold")
        console.print(table)
    if rows := standings.aims(document):
        table = _table(standings.AIM_HEADS)
        for cells in rows:
            table.add_row(*cells)
        console.print()
        console.print(table)
    for failure in standings.failures(document):
        console.print(f"not measured: {failure}", highlight=False, soft_wrap=True)


def show_tables(tables: Iterable[tuple[list[str], list[list[str]]]], console: Console) -> None:
    """Prints tables, given as heads and cells."""
    for heads, cells in tables:
        table = _table(heads)
        for row in cells:
            table.add_row(*row)
        console.print(table)


def tables_as_markdown(tables: Iterable[tuple[list[str], list[list[str]]]]) -> str:
    """The same tables."""
    return "\n".join(_markdown(heads, cells) + "\n" for heads, cells in tables)


def write(path: Path, document: dict[str, object]) -> None:
    """Writes a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
