"""The result of ``python -m bench peers``: JSON, and the tables that are made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .subjects.catalogue import BASE, SUBJECTS

TIMES = "\u00d7"
#: A subject of the JSON.
Entry = dict[str, Any]
Document = dict[str, Any]


def read(path: Path) -> Document:
    """A result that was written. Raises OSError, JSONDecodeError."""
    return cast("Document", json.loads(path.read_text(encoding="utf-8")))


def write(path: Path, facts: dict[str, object], entries: Iterable[Entry]) -> Document:
    """Writes what a run measured, and keeps what the last run did that was not measured again; but
    nothing of a subject that failed.
    """
    subjects = {entry["name"]: entry for entry in read(path)["subjects"]} if path.exists() else {}
    for entry in entries:
        old = {} if entry["failures"] else subjects.get(entry["name"], {})
        killed = entry["killed"] or old.get("killed", {})
        subjects[entry["name"]] = old | entry | {"killed": killed, "at": facts["at"]}
    order = [subject.name for subject in SUBJECTS]
    known = [subjects[name] for name in order if name in subjects]
    document = {"facts": facts, "subjects": known}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    return document


def number(value: float) -> str:
    """Three digits, or whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median(entry: Entry, name: str) -> float | None:
    """A figure of a subject; None where it was not measured."""
    found = entry.get(name)
    return None if found is None else float(found[0])


def _plain(name: str) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        found = median(entry, name)
        return "" if found is None else number(found)

    return cell


def _wake(which: str) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        return number(entry["wake"][which]) if "wake" in entry else ""

    return cell


def _killed(which: str) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        found = entry["killed"].get(which)
        if found is None:
            return ""
        lost, doubled = found["lost"], found["doubled"]
        after = f"{found['seconds']:.0f} s" if not lost else "-"
        return f"{lost:.0f} / {doubled:.0f} / {after}"

    return cell


@dataclass(frozen=True, slots=True)
class Table:
    """A table of some columns."""

    title: str
    columns: tuple[tuple[str, Callable[[Entry], str]], ...]
    #: What a row is called by.
    name: str = "name"

    def rows(self, document: Document) -> list[list[str]]:
        """A row for each subject that has something to say."""
        base = next((one for one in document["subjects"] if one["name"] == BASE), None)
        found = []
        for entry in document["subjects"]:
            cells = [
                _times(entry, base, heading) if heading.startswith(TIMES) else cell(entry)
                for heading, cell in self.columns
            ]
            if any(cells):
                found.append([entry[self.name] if self.name in entry else entry["name"], *cells])
        return found


def _times(entry: Entry, base: Entry | None, heading: str) -> str:
    name = "push" if "RPUSH" in heading else "work"
    mine, its = median(entry, name), median(base, name) if base else None
    return "" if mine is None or its is None else number(mine / its)


TABLES = (
    Table(
        "Worked off by one worker process, no-op work",
        (
            ("items/s", _plain("work")),
            (f"{TIMES} {BASE}", str),
            ("server CPU µs", _plain("work_cpu")),
            ("commands", _plain("work_commands")),
            ("of scripts", _plain("work_scripts")),
        ),
    ),
    Table(
        "Pushed, items/s",
        (
            ("one by one", _plain("push")),
            (f"{TIMES} RPUSH", str),
            ("many tasks", _plain("push_tasks")),
            ("bulk", _plain("push_bulk")),
            ("server CPU µs, one by one", _plain("push_cpu")),
            ("bulk", _plain("push_bulk_cpu")),
        ),
        "producer",
    ),
    Table(
        "Wake-up of an idle worker, waiting items, idle commands",
        (
            ("wake-up p50 µs", _wake("p50")),
            ("p99 µs", _wake("p99")),
            ("bytes per waiting item", _plain("bytes_used")),
            ("idle commands/s", _plain("idle_sent")),
            ("idle, with those in scripts", _plain("idle_commands")),
            ("idle server CPU µs/s", _plain("idle_cpu")),
        ),
    ),
    Table(
        "A worker killed in the middle: lost / doubled / all done after",
        (("as it is", _killed("default")), ("redelivery after 5 s", _killed("tuned"))),
    ),
)


def _versions(entry: Entry) -> str:
    """Of the library; of the clients that several share, none."""
    own = [
        f"{name} {version}"
        for name, version in entry["versions"].items()
        if name not in ("python", "redis", "hiredis") or entry["module"] in ("arq", "raw")
    ]
    return ", ".join(own)


SETTINGS = Table(
    "How it is set up",
    (
        ("versions", _versions),
        ("settings", lambda entry: str(entry["settings"])),
        ("what brings back a dead worker's items", lambda entry: str(entry["redelivery"])),
        ("after 5 s by", lambda entry: str(entry["tuned"])),
    ),
)


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure of one subject by that of the best of others, and what it is to reach."""

    what: str
    figure: str
    mine: str
    #: Modules or names; none where the figure itself is the aim.
    others: tuple[str, ...]
    aim: float
    #: Whether less is better.
    least: bool = False
    #: The figure of the others, where it is another one.
    theirs: str = ""

    def row(self, document: Document) -> list[str] | None:
        """What was measured, as cells; None where something was not."""
        entries = document["subjects"]
        mine = [_figure(entry, self.figure) for entry in entries if entry["name"] == self.mine]
        theirs = [
            found
            for entry in entries
            if entry["name"] in self.others or entry["module"] in self.others
            if (found := _figure(entry, self.theirs or self.figure)) is not None
        ]
        if not mine or mine[0] is None or (self.others and not theirs):
            return None
        best = (min if self.least else max)(theirs) if theirs else 1.0
        value = mine[0] / best
        sign = "\u2264" if self.least else "\u2265"
        reached = value <= self.aim if self.least else value >= self.aim
        return [self.what, number(value), f"{sign} {self.aim:g}", "yes" if reached else "no"]


def _figure(entry: Entry, name: str) -> float | None:
    if name in ("p50", "p99"):
        return float(entry["wake"][name]) if "wake" in entry else None
    return median(entry, name)


SYNC, BATCHES = "pyqueue, one per round trip", "pyqueue, batches of 100"
THREADS, TASKS = "pyqueue Worker, 10 threads", "pyqueue AsyncWorker, 100 tasks"
STREAMS = "Streams, COUNT 100"
AIMS = (
    Aim("one per round trip, by raw LMOVE + LREM", "work", SYNC, (BASE,), 2),
    Aim("one per round trip, by rediswq", "work", SYNC, ("tutorial",), 5),
    Aim("batches of 100, by Streams COUNT 100", "work", BATCHES, (STREAMS,), 1.5),
    Aim(
        "AsyncWorker, by BullMQ on Node at its best",
        "work",
        TASKS,
        ("BullMQ for Node", "BullMQ for Node, 100 jobs"),
        3,
    ),
    Aim("AsyncWorker, by ardiq at its best", "work", TASKS, ("ardiq",), 3.5),
    Aim("AsyncWorker, by dramatiq at its best", "work", TASKS, ("dramatiq",), 7),
    Aim("Worker with threads, by raw LMOVE + LREM", "work", THREADS, (BASE,), 3),
    Aim("Queue.push, by RPUSH", "push", SYNC, (BASE,), 0.8),
    Aim("AsyncQueue.push from one task, by RPUSH", "push", TASKS, (BASE,), 0.8),
    Aim("the same, by RPUSH of redis.asyncio", "push", TASKS, ("raw_aio",), 0.8),
    Aim(
        "AsyncQueue.push from 1,000 tasks, by RPUSH", "push_tasks", TASKS, (BASE,), 8, False, "push"
    ),
    Aim("push_many, by RPUSH of 1,000", "push_bulk", SYNC, (BASE,), 0.3),
    Aim("or push_many, items/s", "push_bulk", SYNC, (), 300_000),
    Aim("wake-up p50, by BLMOVE", "p50", SYNC, (BASE,), 1.5, True),
    Aim("wake-up p99, by BLMOVE", "p99", SYNC, (BASE,), 1.5, True),
    Aim("bytes per waiting item", "bytes_used", BATCHES, (), 104, True),
    Aim(
        "server CPU, one per round trip, by raw LMOVE + LREM", "work_cpu", SYNC, (BASE,), 0.9, True
    ),
    Aim(
        "server CPU, batches of 100, by Streams COUNT 100",
        "work_cpu",
        BATCHES,
        (STREAMS,),
        1.2,
        True,
    ),
)
AIM_HEADS = ("ratio", "measured", "aim", "reached")


def aims(document: Document) -> list[list[str]]:
    """What was to be reached, as rows of ``AIM_HEADS``."""
    return [row for aim in AIMS if (row := aim.row(document)) is not None]


def failures(document: Document) -> list[str]:
    """What could not be measured, and why."""
    return [
        f"{entry['name']}: {failure}"
        for entry in document["subjects"]
        for failure in entry["failures"]
    ]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], rest: str = "---:") -> str:
    lines = [heads, ["---", *[rest] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def under(document: Document) -> str:
    """On what it was measured."""
    facts = document["facts"]
    limits = {
        counts["limit"] for entry in document["subjects"] for counts in entry["killed"].values()
    }
    lost = f", lost: not worked off within {max(limits):.0f} s" if limits else ""
    return (
        f"{facts['server']['name']} {facts['server']['version']}, {facts['processor']},"
        f" {facts['cores']} cores, {facts['rounds']} rounds, load average {facts['load_average']},"
        f" {facts['at']}, commit {facts['commit']}{lost}"
    )


def as_markdown(document: Document, tables: Iterable[Table] = (*TABLES, SETTINGS)) -> str:
    """Tables, what was to be reached, and what could not be measured."""
    parts = []
    for table in tables:
        heads = [table.title, *(heading for heading, _ in table.columns)]
        rows = table.rows(document)
        if rows:
            rest = "---" if table is SETTINGS else "---:"
            parts.append(_markdown(heads, rows, rest) + "\n")
    if rows := aims(document):
        parts.append(_markdown(AIM_HEADS, rows) + "\n")
    missing = "\n".join(f"- Not measured: {failure}" for failure in failures(document))
    return "\n".join([*parts, *([missing + "\n"] if missing else []), under(document)])


#: Around the tables of a file that has them.
BEGIN, END = "<!-- peers: `make bench-plots` writes what follows -->", "<!-- peers: up to here -->"


def update(path: Path, documents: Iterable[Document]) -> None:
    """Puts the tables into a file, between its marks: how it is all set up but once. Raises
    ValueError when the file has none.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no place for the tables")
    parts = []
    for number, document in enumerate(documents):
        shown = TABLES if number else (*TABLES, SETTINGS)
        name = document["facts"]["server"]["name"].capitalize()
        parts.append(f"### {name}\n\n{as_markdown(document, shown)}")
    tables = "\n\n".join(parts)
    path.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}", encoding="utf-8")
