"""``python -m bench``: measures, prints tables and writes JSON. See bench/README.md."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from . import cost, machine, report, servers, workloads

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


@main.command("cost")
@server_option
@click.option("--repetitions", "-r", default=40, show_default=True, type=click.IntRange(1))
@click.option("--only", default="", help="Rows whose name contains this; the raw one is always in.")
@click.option("--detail", is_flag=True, help="Show what each command inside takes.")
@aof_option
@json_option
def cost_command(
    server: str, repetitions: int, only: str, detail: bool, aof: bool, path: Path | None
) -> None:
    """What each verb costs a busy server: µs and commands per item."""
    console = Console(width=WIDTH)
    with servers.launch(server, appendonly=aof) as target:
        servers.pin_client()
        began = time.time()
        rows = list(cost.measure(target, repetitions, only))
        facts = machine.facts(target, began)
    facts["repetitions"] = repetitions
    title = f"Server cost per item: {target}; {repetitions} repetitions"
    report.show_cost(title, rows, detail, console)
    if path or not only:
        path = path or _path("cost", target, False)
        report.write(path, {"facts": facts, "rows": report.cost_as_json(rows)})


if __name__ == "__main__":
    main()
