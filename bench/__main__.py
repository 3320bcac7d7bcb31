"""``python -m bench``: measures, prints a table and writes JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from . import cost, machine, servers

RESULTS = Path(__file__).parent / "results"
console = Console()


@click.group()
def main() -> None:
    """Measure pyqueue."""


@main.command("cost")
@click.option("--server", default="valkey", show_default=True, help="valkey, redis, or a URL.")
@click.option("--repetitions", "-r", default=40, show_default=True)
@click.option("--only", default="", help="Rows whose name contains this (raw is always measured).")
@click.option("--detail", is_flag=True, help="Show what each command inside takes.")
@click.option("--aof", is_flag=True, help="With an append-only file, as the embedded server has.")
@click.option("--json", "to_json", type=click.Path(path_type=Path), help="Where to write JSON.")
def cost_command(
    server: str, repetitions: int, only: str, detail: bool, aof: bool, to_json: Path | None
) -> None:
    """What each verb costs the server."""
    with servers.launch(server, appendonly=aof) as target:
        servers.pin_client()
        began = time.time()
        rows = list(cost.measure(target, repetitions, only))
        facts = machine.facts(target, began)
    table = Table(title=f"Server cost per item: {target}; {repetitions} repetitions", box=None)
    for heading in ("verb", "µs", "quartiles", "times raw", "calls", "commands", "cpu µs"):
        table.add_column(heading, justify="left" if heading == "verb" else "right")
    for row in rows:
        table.add_row(
            row.verb.name,
            f"{row.micros.median:.2f}",
            f"{row.micros.low:.2f}-{row.micros.high:.2f}",
            f"{row.ratio.median:.2f}",
            f"{row.calls:.3g}",
            f"{row.commands:.3g}",
            f"{row.cpu:.1f}",
        )
        if detail:
            inside = sum(m for name, (m, _) in row.each.items() if name != "evalsha")
            for name, (micros, calls) in sorted(row.each.items(), key=lambda x: -x[1][0]):
                if name != "evalsha":
                    table.add_row(f"    {name}", f"{micros:.2f}", "", "", "", f"{calls:.3g}", "")
            if "evalsha" in row.each:
                table.add_row("    Lua and dispatch", f"{row.each['evalsha'][0] - inside:.2f}")
    console.print(table)
    path = to_json or RESULTS / f"cost-{target.name}{'-aof' if aof else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "facts": facts,
        "repetitions": repetitions,
        "rows": [
            {
                "verb": row.verb.name,
                "micros": row.micros.as_list(),
                "ratio": row.ratio.as_list(),
                "cpu": round(row.cpu, 3),
                "calls": row.calls,
                "commands": row.commands,
                "each": {name: [round(v, 4) for v in value] for name, value in row.each.items()},
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
