"""``pyqueue stats``, ``peek``, ``leases`` and ``dead``: what a queue holds, nothing changed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pyqueue import Item, MalformedMessage, ServerUnavailable, Stats

from ._base import Settings, common_options, json_option, queue_argument
from ._text import MOST_SHOWN, count, item_as_json, items, printable, seconds, shown, write_json

if TYPE_CHECKING:
    from rich.table import Table


class _Interval(click.FloatRange):
    """Seconds, which can be left out: what follows --watch may be meant as something else."""

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return float(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(
                f"{value!r} is no number of seconds from {self.min} to {self.max}."
                " Give the queue's name before --watch.",
                param,
                ctx,
            )


@click.command(short_help="Count what a queue holds and has done.")
@queue_argument
@click.option(
    "--watch",
    "interval",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=2.0,
    type=_Interval(0.05, 86400),
    help="Show it again and again, every 2 s by default, until Ctrl-C.",
)
@json_option
@common_options
@click.pass_obj
def stats(settings: Settings, name: str, interval: float | None, as_json: bool) -> None:
    """Count what QUEUE holds, and what it has done over its life."""
    queue = settings.open(name)
    found = queue.stats()
    if interval is None:
        if as_json:
            write_json(_as_json(name, found))
        else:
            _print(_table(name, found))
        return
    with contextlib.ExitStack() as stack:
        show: Callable[[_Sight], None] = _show_line
        if as_json:
            show = _show_json
        elif sys.stdout.isatty():
            show = stack.enter_context(_live())
        sight = _Sight(name, found)
        while True:
            show(sight)
            time.sleep(interval)
            try:
                sight = sight.next(queue.stats())
            except ServerUnavailable as error:
                # A failover is what one watches: the next look may work.
                click.echo(f"{name}: {error}", err=True)


@dataclass(frozen=True, slots=True)
class _Sight:
    """Statistics, and how many items a second were completed since those before."""

    name: str
    stats: Stats
    rate: float | None = None
    at: float = 0.0

    def next(self, stats: Stats) -> _Sight:
        now = time.monotonic()
        rate = None
        if self.at:
            done = stats.totals["completed"] - self.stats.totals["completed"]
            rate = max(done, 0) / (now - self.at)
        return _Sight(self.name, stats, rate, now)


def _show_json(sight: _Sight) -> None:
    write_json(_as_json(sight.name, sight.stats))


def _show_line(sight: _Sight) -> None:
    stats = sight.stats
    line = (
        f"{sight.name}: {count(stats.waiting)} waiting, {count(stats.delayed)} delayed,"
        + (f" {count(stats.grouped)} grouped," if stats.grouped else "")
        + f" {count(stats.leased)} leased, {count(stats.totals['completed'])} completed,"
        f" {count(stats.dead)} dead"
    )
    if sight.rate is not None:
        line += f", {sight.rate:,.1f}/s"
    click.echo(line + _flags(stats))


@contextlib.contextmanager
def _live() -> Iterator[Callable[[_Sight], None]]:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield lambda sight: live.update(_table(sight.name, sight.stats, sight.rate), refresh=True)


def _as_json(name: str, stats: Stats) -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"queue": name, "time": now, **stats.as_dict()}


def _flags(stats: Stats) -> str:
    flags = [
        word
        for word, is_set in (
            ("sealed", stats.sealed),
            ("paused", stats.paused),
            ("drained", stats.drained),
        )
        if is_set
    ]
    return f" ({', '.join(flags)})" if flags else ""


def _table(name: str, stats: Stats, rate: float | None = None) -> Table:
    notes = {
        "waiting": "" if stats.oldest is None else f"the next one is {seconds(stats.oldest)} old",
        "delayed": ""
        if stats.next_due is None
        else f"the next is due in {seconds(stats.next_due)}",
        "grouped": f"of {items(stats.groups, 'group')} that have items",
        "leased": f"{count(stats.expired)} of them ran out" if stats.expired else "",
        "dead": "",
    }
    rows = [(f"{name}{_flags(stats)}", "", "")]
    rows += [
        (f"  {state}", count(number), notes[state])
        for state, number in (
            ("waiting", stats.waiting),
            ("delayed", stats.delayed),
            ("grouped", stats.grouped),
            ("leased", stats.leased),
            ("dead", stats.dead),
        )
        if number or state != "grouped"
    ]
    if stats.unique:
        rows.append(("dedupe keys taken", count(stats.unique), ""))
    if stats.configuration:
        rows.append(("configured", "", ""))
        rows += [
            (f"  {option.replace('_', '-')}", f"{number:,}", "")
            for option, number in stats.configuration.items()
        ]
    rows.append(("over its life", "", ""))
    rows += [
        (
            f"  {what}",
            count(number),
            f"{rate:,.1f}/s" if what == "completed" and rate is not None else "",
        )
        for what, number in stats.totals.items()
        if number or what in {"pushed", "completed", "failed"}
    ]
    return _grid((), rows, numbers={1})


def _grid(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Collection[int],
    texts: Collection[int] = (),
) -> Table:
    """A table without lines. ``numbers`` are its columns of numbers, ``texts`` those that are cut
    where it would be too wide, the widest first.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(titles), header_style="bold")
    started = False
    for row in rows:
        if not started:
            started = True
            for position in range(len(row)):
                table.add_column(
                    titles[position] if titles else "",
                    justify="right" if position in numbers else "left",
                    # A column that could wrap is the one that gets narrower. Its cells do not.
                    no_wrap=position not in texts,
                )
        # Text, not str: a payload must not be read as markup.
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        # As wide as it gets: what is cut is cut already.
        console = Console(highlight=False, width=4 * MOST_SHOWN)
    console.print(table)


_number_option = click.option(
    "-n",
    "--count",
    "number",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many.",
)
_offset_option = click.option(
    "--offset", type=click.IntRange(min=0), default=0, help="How many to leave out before."
)


@click.command(short_help="Show what waits.")
@queue_argument
@_number_option
@_offset_option
@json_option
@common_options
@click.pass_obj
def peek(settings: Settings, name: str, number: int, offset: int, as_json: bool) -> None:
    """Show what waits in QUEUE, in the order of leasing: nothing is changed.

    Control characters are escaped and long payloads cut; --json has them whole, those that are not
    UTF-8 in base64.
    """
    queue = settings.open(name)
    found = enumerate(queue.waiting(offset, number), offset)
    if as_json:
        for position, item in found:
            write_json(
                {
                    "position": position,
                    "state": item.state,
                    "due_in": item.due_in,
                    "id": item.id,
                    **item_as_json(item),
                }
            )
        return
    rows = [
        (
            str(position),
            f"due in {seconds(item.due_in)}" if item.due_in > 0 else item.state,
            item.id or "raw",
            str(item.attempts),
            *_asked(item),
            shown(item.payload),
        )
        for position, item in found
    ]
    if rows:
        # Columns that say nothing are left out.
        used = [at for at in range(len(rows[0])) if at not in (4, 5) or any(x[at] for x in rows)]
        titles = ("", "STATE", "ID", "ATTEMPTS", "PRIORITY", "GROUP", "PAYLOAD")
        _print(
            _grid(
                [titles[at] for at in used],
                [[row[at] for at in used] for row in rows],
                numbers={used.index(at) for at in (0, 3, 4) if at in used},
                texts={used.index(at) for at in (5, 6) if at in used},
            )
        )
    else:
        click.echo(f"{name}: nothing waits" + (f" from {offset} on" if offset else ""), err=True)


def _asked(item: Item) -> tuple[str, str]:
    """Priority and group, empty where there is none."""
    try:
        return str(item.priority or ""), printable(item.group or "")
    except MalformedMessage:
        return "", ""


@click.command(short_help="Show what is in flight, and who has it.")
@queue_argument
@_number_option
@_offset_option
@json_option
@common_options
@click.pass_obj
def leases(settings: Settings, name: str, number: int, offset: int, as_json: bool) -> None:
    """Show what is leased from QUEUE and by which worker, the next to run out first."""
    queue = settings.open(name)
    found = queue.leases(offset, number)
    if as_json:
        for item in found:
            write_json(
                {
                    "token": item.token,
                    "id": item.id,
                    "worker": item.worker,
                    "deadline": datetime.fromtimestamp(item.deadline, UTC).isoformat(
                        timespec="milliseconds"
                    ),
                    "expires_in": item.expires_in,
                    **item_as_json(item),
                }
            )
        return
    rows = [
        (
            str(item.token),
            item.id,
            printable(item.worker),
            f"in {seconds(item.expires_in)}"
            if item.expires_in >= 0
            else f"{seconds(-item.expires_in)} ago",
            str(item.attempts + 1),
            shown(item.payload),
        )
        for item in found
    ]
    if rows:
        titles = ("TOKEN", "ID", "WORKER", "RUNS OUT", "ATTEMPT", "PAYLOAD")
        _print(_grid(titles, rows, numbers={0, 4}, texts={2, 5}))
    else:
        click.echo(
            f"{name}: nothing is leased" + (f" from {offset} on" if offset else ""), err=True
        )


@click.command(short_help="Show the dead letters, and what they died of.")
@queue_argument
@_number_option
@_offset_option
@json_option
@click.option(
    "--export",
    "exports",
    is_flag=True,
    help="Write them whole as lines of JSON, all unless --count is given, for import-dead.",
)
@common_options
@click.pass_context
def dead(
    context: click.Context, name: str, number: int, offset: int, as_json: bool, exports: bool
) -> None:
    """Show the dead letters of QUEUE, the oldest first: nothing is changed.

    The reason is `failed` or `expired` when an item's attempts were used up, `malformed`, or why it
    was buried. Of the error this shows the first line, or what was raised at the end of a Python
    traceback; --json has it whole, and payloads as `pyqueue peek --json` has them.
    """
    queue = context.ensure_object(Settings).open(name)
    if exports:
        given = context.get_parameter_source("number") is not ParameterSource.DEFAULT
        for letter in queue.dead(offset, number if given else None):
            write_json(letter.as_dict())
        return
    found = queue.dead(offset, number)
    if as_json:
        for letter in found:
            write_json(
                {
                    "id": letter.id,
                    "died_at": datetime.fromtimestamp(letter.died_at, UTC).isoformat(
                        timespec="milliseconds"
                    ),
                    "reason": letter.reason,
                    "worker": letter.worker,
                    "error": letter.error,
                    **item_as_json(letter),
                }
            )
        return
    now = time.time()
    rows = [
        (
            letter.id,
            # By this machine's clock, which may be behind the server's.
            f"{seconds(max(now - letter.died_at, 0))} ago",
            printable(letter.reason),
            printable(letter.worker),
            str(letter.attempts),
            shown(_gist(letter.error).encode()),
            shown(letter.payload),
        )
        for letter in found
    ]
    if rows:
        titles = ("ID", "DIED", "REASON", "WORKER", "ATTEMPTS", "ERROR", "PAYLOAD")
        _print(_grid(titles, rows, numbers={4}, texts={2, 3, 5, 6}))
    else:
        click.echo(f"{name}: no dead letters" + (f" from {offset} on" if offset else ""), err=True)


def _gist(error: str) -> str:
    """The first line of an error; the last one of what has a Python traceback in it, whose first
    lines say least.
    """
    lines = error.strip().splitlines() or [""]
    return lines[-1 if '  File "' in error else 0]
