"""``python -m tests.explorer``: walks every interleaving of workers on one queue, up to a depth."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace

from tests.explorer.pool import processes
from tests.explorer.scenarios import SCENARIOS
from tests.explorer.search import Explorer, Found, walk
from tests.servers import launch


def _report(found: Found) -> None:
    per_second = found.transitions / found.seconds
    depth = f"{len(found.depths) - 1}{' (cut)' if found.cut else ''}"
    print(
        f"depth {depth}: {found.depths[-1]:,} new states, {found.states:,} in all,"
        f" {found.transitions:,} transitions, {found.seconds:.1f} s,"
        f" {found.states / found.seconds:,.0f} states/s, {per_second:,.0f} transitions/s",
        flush=True,
    )


def main() -> int:
    """Ends with 1 if something does not hold."""
    about = "; ".join(f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(prog="explorer", description=__doc__, epilog=about)
    add = parser.add_argument
    add("--scenario", choices=SCENARIOS, default="plain")
    add("--workers", type=int, default=3)
    add("--items", type=int, default=3)
    add("--pushed", type=int, default=2, help="how many of them wait at first (2)")
    add("--depth", type=int, default=99, help="how many steps to go, at the most")
    add("--states", type=int, default=120_000, help="stop when so many are known (120000)")
    add("--without", nargs="*", default=[], help="verbs and events to leave out")
    add("--server", choices=("valkey", "redis"), default="valkey")
    add("--processes", type=int, default=2)
    args = parser.parse_args()
    chosen = SCENARIOS[args.scenario]
    scenario = replace(
        chosen,
        verbs=tuple(x for x in chosen.verbs if x.__name__ not in args.without),
        events=tuple(x for x in chosen.events if x not in args.without),
    )
    print(
        f"{args.scenario}: {args.workers} workers, {args.items} items, {args.server};"
        f" {', '.join(x.__name__ for x in scenario.verbs)}; {', '.join(scenario.events)}"
    )
    with ExitStack() as stack:
        server = stack.enter_context(launch(args.server, "--appendonly", "no"))
        explorer = Explorer(server.client(), scenario, args.items)
        run = None
        if args.processes > 1:
            pool = processes(args.processes, args.server, scenario, args.items)
            run = stack.enter_context(pool)
        begin = explorer.begin(args.workers, args.pushed)
        found = walk(begin, explorer, depth=args.depth, most=args.states, run=run, report=_report)
    if found.violation:
        print(f"\nVIOLATION after {found.states:,} states, {found.transitions:,} transitions:\n")
        print("\n".join(found.trace))
        return 1
    depth = len(found.depths) - 1 - found.cut
    whole = "every state is known" if found.complete else f"all hold, complete to depth {depth}"
    print(whole, end=": ")
    print(f"{found.states:,} states, {found.transitions:,} transitions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
