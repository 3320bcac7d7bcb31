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


def merge(path: Path, facts: dict[str, object], entries: Iterable[Entry]) -> Document:
    """A run of some subjects, and of those of the last run that were not in it."""
    subjects = {entry["name"]: entry for entry in read(path)["subjects"]} if path.exists() else {}
    for entry in entries:
        subjects[entry["name"]] = entry
    order = [subject.name for subject in SUBJECTS]
    known = [subjects[name] for name in order if name in subjects]
    return {"facts": facts, "subjects": known}


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


def failures(document: Document) -> list[str]:
    """What could not be measured, and why."""
    return [
        f"{entry['name']}: {failure}"
        for entry in document["subjects"]
        for failure in entry["failures"]
    ]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def under(document: Document) -> str:
    """On what it was measured."""
    facts = document["facts"]
    return (
        f"{facts['server']['name']} {facts['server']['version']}, {facts['processor']},"
        f" {facts['cores']} cores, {facts['rounds']} rounds, load average {facts['load_average']},"
        f" {facts['at']}, commit {facts['commit']}"
    )


def as_markdown(document: Document) -> str:
    """All tables."""
    parts = []
    for table in (*TABLES, SETTINGS):
        heads = [table.title, *(heading for heading, _ in table.columns)]
        rows = table.rows(document)
        if rows:
            parts.append(_markdown(heads, rows) + "\n")
    parts += [f"- Not measured: {failure}" for failure in failures(document)]
    return "\n".join([*parts, "", under(document)])
