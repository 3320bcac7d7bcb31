"""``pyqueue check``: what is wrong within a queue, and mending it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyqueue._exits import FAILED

from ._base import Settings, common_options, json_option, queue_argument
from ._text import count, items, printable, write_json
from .show import _print

if TYPE_CHECKING:
    from rich.table import Table

    from pyqueue import Report


@click.command(short_help="Find, and with --repair mend, what is wrong within a queue.")
@queue_argument
@click.option("--repair", is_flag=True, help="Mend what is found.")
@json_option
@common_options
@click.pass_obj
def check(settings: Settings, name: str, repair: bool, as_json: bool) -> int:
    """Look through all of QUEUE for what a lost write, an eviction, a deleted key or somebody
    else's command can have left: an item without a lease, a second copy, a group that nobody leads.
    With --repair it is mended. Workers and producers may go on meanwhile.

    When nobody works on the queue, all of its items are accounted for. What cannot be known is
    whether a raw message that was never leased was taken away, or is there twice.

    \b
    Exit codes:
      0   nothing is wrong, or all of it was mended
      1   something is wrong
      69  the server cannot be reached
      78  bad configuration: the URL, the password, the queue's name
    """  # noqa: D301 - click wants the character
    report = settings.open(name).check(repair)
    if as_json:
        write_json({"queue": name} | report.as_dict())
    else:
        if report.findings:
            _print(_table(report))
        click.echo(f"{name}: {_verdict(report)}")
    return 0 if report.ok else FAILED


def _verdict(report: Report) -> str:
    mended = sum(finding.repaired for finding in report.findings)
    wrong = len(report.findings) - mended
    parts = [f"{count(wrong)} wrong" if wrong else "nothing is wrong"]
    if mended:
        parts = [f"{count(mended)} mended", f"{count(wrong)} still wrong" if wrong else "all well"]
    if report.accounted:
        parts.append("every item accounted for")
    elif report.missing > 0:
        parts.append(f"{items(report.missing)} missing")
    elif report.missing < 0:
        parts.append(f"{items(-report.missing)} more than came in")
    else:
        parts.append("items not counted up")
    held = ", ".join(f"{count(number)} {state}" for state, number in report.items.items() if number)
    text = f"{', '.join(parts)} ({held or 'empty'})"
    return "\n  ".join((text, *map(printable, report.notes)))


def _table(report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for finding in report.findings:
        done = Text("mended", "green") if finding.repaired else Text("wrong", "bold red")
        what = Text(printable(finding.what))
        table.add_row(done, finding.kind, what, Text(printable(finding.text)))
    return table
