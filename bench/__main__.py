"""``python -m bench``: measures, prints tables and writes JSON. See bench/README.md."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from . import (
    compare,
    cost,
    features,
    fleet,
    latency,
    machine,
    report,
    scale,
    servers,
    standings,
    workloads,
)
from .subjects.catalogue import BASE, SUBJECTS, Subject

#: The tables are wider than many terminals, which wrap them; cut they would say nothing.
WIDTH = 170
GROUPS = (workloads.PUSH, workloads.WORK, workloads.WAKE, workloads.MEMORY, workloads.FLEET)

server_option = click.option(
    "--server",
    default=lambda: os.environ.get("PYQUEUE_URL") or "valkey",
    show_default="$PYQUEUE_URL, else valkey",
    help="valkey (the embedded one's binary), redis (redis-server on PATH) or a URL.",
)
aof_option = click.option("--aof", is_flag=True, help="With an append-only file.")
tcp_option = click.option("--tcp", is_flag=True, help="Over TCP instead of a Unix socket.")
json_option = click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the result; by default bench/results/, by kind and server.",
)


def _path(kind: str, server: servers.Server, tcp: bool) -> Path:
    ways = f"{'-tcp' if tcp else ''}{'-aof' if server.appendonly else ''}"
    return report.RESULTS / f"{kind}-{server.name}{ways}.json"


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measure pyqueue; without a command, `run`."""
    if context.invoked_subcommand is None:
        context.invoke(run_command)


@main.command("run")
@server_option
@click.option("--only", "groups", multiple=True, type=click.Choice(GROUPS), help="Some tables.")
@click.option("--repetitions", "-r", default=11, show_default=True, type=click.IntRange(1))
@click.option("--scale", default=1.0, show_default=True, help="Times the number of items.")
@aof_option
@tcp_option
@json_option
def run_command(
    server: str,
    groups: tuple[str, ...] = (),
    repetitions: int = 11,
    scale: float = 1.0,
    aof: bool = False,
    tcp: bool = False,
    path: Path | None = None,
) -> None:
    """Throughput, latency and memory, beside the same work done in other ways."""
    chosen = groups or GROUPS
    console = Console(width=WIDTH)
    with (
        servers.launch(server, appendonly=aof, tcp=tcp) as target,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        servers.pin_client()
        began = time.time()
        rows = workloads.select(chosen, scale)
        task = progress.add_task(str(target), total=len(rows) * (repetitions + 1))
        runners = workloads.run(target, rows, repetitions, lambda: progress.advance(task))
        facts = machine.facts(target, began)
    facts |= {"repetitions": repetitions, "scale": scale, "transport": "tcp" if tcp else "unix"}
    console.print(f"{target}; {repetitions} interleaved repetitions; medians\n", highlight=False)
    report.show(runners, console)
    path = path or _path("run", target, tcp)
    report.write(path, {"facts": facts, "rows": report.as_json(runners)})
    console.print(f"written to {path}", highlight=False)


markdown_option = click.option("--markdown", is_flag=True, help="Print the table as Markdown.")


@main.command("cost")
@server_option
@click.option("--repetitions", "-r", default=40, show_default=True, type=click.IntRange(1))
@click.option(
    "--only",
    multiple=True,
    help=f"A group of rows ({', '.join(features.GROUPS)}), or a part of their names.",
)
@click.option("--detail", is_flag=True, help="Show what each command inside takes.")
@markdown_option
@aof_option
@json_option
def cost_command(
    server: str,
    repetitions: int,
    only: tuple[str, ...],
    detail: bool,
    markdown: bool,
    aof: bool,
    path: Path | None,
) -> None:
    """What each verb costs a busy server: µs and commands per item; and what each feature adds."""
    console = Console(width=WIDTH)
    with servers.launch(server, appendonly=aof) as target:
        servers.pin_client()
        began = time.time()
        rows = list(cost.measure(target, repetitions, features.select(only)))
        facts = machine.facts(target, began)
    facts["repetitions"] = repetitions
    title = f"Server cost per item: {target}; {repetitions} repetitions"
    if markdown:
        console.print(report.cost_as_markdown(rows), highlight=False, markup=False, soft_wrap=True)
        console.print(report.under(facts), highlight=False, markup=False, soft_wrap=True)
    else:
        report.show_cost(title, rows, detail, console)
    if path or not only:
        path = path or _path("cost", target, False)
        report.write(path, {"facts": facts, "rows": report.cost_as_json(rows)})


@main.command("latency")
@server_option
@click.option("--repetitions", "-r", default=11, show_default=True, type=click.IntRange(1))
@click.option("--only", multiple=True, help="A part of the names of the rows.")
@markdown_option
@json_option
def latency_command(
    server: str, repetitions: int, only: tuple[str, ...], markdown: bool, path: Path | None
) -> None:
    """How long the longest calls keep the server from others: ms, as its slow log has them."""
    console = Console(width=WIDTH)
    with servers.launch(server) as target:
        servers.pin_client()
        began = time.time()
        rows = list(latency.measure(target, repetitions, latency.select(only)))
        facts = machine.facts(target, began)
    facts["repetitions"] = repetitions
    if markdown:
        console.print(report.latency_as_markdown(rows), highlight=False, markup=False)
        console.print(report.under(facts), highlight=False, markup=False, soft_wrap=True)
    else:
        report.show_latency(
            f"The longest calls: {target}; {repetitions} repetitions", rows, console
        )
    if path or not only:
        path = path or _path("latency", target, False)
        report.write(path, {"facts": facts, "rows": report.latency_as_json(rows)})


@main.command("scale")
@server_option
@click.option("--repetitions", "-r", default=11, show_default=True, type=click.IntRange(1))
@click.option(
    "--largest", default=10_000_000, show_default=True, help="Leave out queues that hold more."
)
@markdown_option
@json_option
def scale_command(
    server: str, repetitions: int, largest: int, markdown: bool, path: Path | None
) -> None:
    """Whether a call costs more the more a queue holds; draws a chart where matplotlib is
    installed. 10 million items take 2 GB of memory.
    """
    console = Console(width=WIDTH)
    sizes = {k: tuple(n for n in given if n <= largest) for k, given in scale.SIZES.items()}
    with servers.launch(server) as target:
        servers.pin_client()
        began = time.time()
        log = functools.partial(click.echo, err=True)
        rows = list(scale.measure(target, repetitions, sizes, log))
        facts = machine.facts(target, began) | {"repetitions": repetitions}
    document: dict[str, Any] = {"facts": facts, "rows": scale.as_json(rows)}
    if markdown:
        text = report.tables_as_markdown(scale.heads_and_cells(rows)) + "\n" + report.under(facts)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        report.show_tables(scale.heads_and_cells(rows), console)
    path = path or _path("scale", target, False)
    report.write(path, document)
    if importlib.util.find_spec("matplotlib"):
        scale.plot(document, report.CHARTS / f"{path.stem}.svg")


@main.command("fleet")
@server_option
@click.option("--workers", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=20.0, show_default=True, help="How long idleness is watched.")
@click.option("--items", default=10_000, show_default=True, help="Items of a burst.")
@click.option("--repetitions", "-r", default=5, show_default=True, type=click.IntRange(1))
@markdown_option
@json_option
def fleet_command(
    server: str,
    workers: int,
    seconds: float,
    items: int,
    repetitions: int,
    markdown: bool,
    path: Path | None,
) -> None:
    """What blocked workers cost, whom a push wakes, and how a burst is worked off."""
    console = Console(width=WIDTH)
    with servers.launch(server) as target:
        servers.pin_client()
        began = time.time()
        log = functools.partial(click.echo, err=True)
        idle, woken, bursts = fleet.measure(target, workers, seconds, items, repetitions, log)
        facts = machine.facts(target, began) | {"repetitions": repetitions, "workers": workers}
    tables = fleet.heads_and_cells(idle, woken, bursts)
    if markdown:
        text = report.tables_as_markdown(tables) + "\n" + report.under(facts)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        report.show_tables(tables, console)
    path = path or _path("fleet", target, False)
    report.write(path, {"facts": facts, "rows": fleet.as_json([*idle, woken, *bursts])})


def _subjects(only: tuple[str, ...]) -> list[Subject]:
    """All subjects, or those whose name or module has one of some words, and what they are
    compared with.
    """
    return [
        subject
        for subject in SUBJECTS
        if not only
        or subject.name == BASE
        or any(word.lower() in (subject.name.lower(), subject.module) for word in only)
    ]


results_option = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=report.RESULTS,
    help="The folder of the JSON; by default bench/results.",
)


@main.command("peers")
@click.option(
    "--server", "kinds", multiple=True, type=click.Choice(["valkey", "redis"]), help="One of them."
)
@click.option("--only", multiple=True, help="A subject, or a library with all of its subjects.")
@click.option("--quick", is_flag=True, help="Fewer of everything; the folder is build/bench.")
@click.option("--rounds", "-r", type=click.IntRange(1), help="Rounds of what is timed.")
@click.option("--scale", type=float, help="Times the number of items.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["timed", "counted"]),
    help="Only what is timed (one subject after the other), or counted (several at once).",
)
@click.option("--at-once", default=12, show_default=True, help="Subjects counted at once.")
@markdown_option
@results_option
def peers_command(
    kinds: tuple[str, ...],
    only: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    scale: float | None,
    parts: tuple[str, ...],
    at_once: int,
    markdown: bool,
    results: Path,
) -> None:
    """This queue beside others; figures of subjects that are not measured again are kept."""
    plan = compare.QUICK if quick else compare.Plan()
    plan = replace(plan, rounds=rounds or plan.rounds, scale=scale or plan.scale)
    folder = Path("build/bench") if quick and results == report.RESULTS else results
    parts = parts or ("timed", "counted")
    # As an exception it passes by all that ends the processes of the subjects.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    log = functools.partial(click.echo, err=True)
    servers.pin_client()
    for kind in kinds or ("valkey", "redis"):
        began = time.time()
        path = folder / f"peers-{kind}.json"
        subjects = _subjects(only)
        found = {subject.name: compare.Result(subject) for subject in subjects}
        with servers.launch(kind, tcp=True) as target:
            facts = machine.facts(target, began)
            facts |= {"rounds": plan.rounds, "plan": asdict(plan), "nice": os.nice(0)}
            if "timed" in parts:
                found = compare.time_all(target, subjects, plan, log)
        document = standings.write(path, facts, compare.as_json(found))
        if "counted" in parts:
            compare.count_all(kind, list(found.values()), plan, log, at_once)
            # What is lost is the library's doing, not the server's: it is looked for once.
            plan = replace(plan, lost_after=0, lost_after_tuned=0)
            facts["seconds"] = round(time.time() - began, 1)
            document = standings.write(path, facts, compare.as_json(found))
        if markdown:
            click.echo(standings.as_markdown(document))
        else:
            report.show_peers(document, Console(width=WIDTH))
        click.echo(f"written to {path}")


def _documents(results: Path) -> list[standings.Document]:
    """The results of the last runs of `peers`, Valkey's first; else those that the README cites."""
    paths = list(results.glob("peers-*.json")) or list(results.glob("reference/peers-*.json"))
    return [standings.read(path) for path in sorted(paths, reverse=True)]


@main.command("standings")
@markdown_option
@click.option(
    "--update",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file that has marks for them, which is written anew.",
)
@results_option
def standings_command(markdown: bool, update: Path | None, results: Path) -> None:
    """The tables of the last runs of `peers`, from their JSON."""
    documents = _documents(results)
    if update:
        standings.update(update, documents)
        return
    for document in documents:
        if markdown:
            click.echo(standings.as_markdown(document))
        else:
            report.show_peers(document, Console(width=WIDTH))


@main.command("plots")
@results_option
@click.option(
    "--charts",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the charts; by default bench/charts.",
)
def plots_command(results: Path, charts: Path | None) -> None:
    """Charts of the last runs of `peers`; needs matplotlib, as `make bench-plots` has it."""
    from . import plots

    for document in _documents(results):
        for written in plots.draw(document, charts or plots.CHARTS):
            click.echo(written)


if __name__ == "__main__":
    main()
