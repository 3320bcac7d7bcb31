"""``pyqueue doctor``: what is wrong with the server for a queue, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pyqueue._connection import connect, describe
from pyqueue._exits import CONFIGURATION, FAILED
from pyqueue.doctor import Finding, diagnose, diagnose_server

from ._base import Failure, Settings, common_options, json_option
from ._text import items, printable, write_json
from .show import _print

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command(short_help="Say what is wrong with the server for a queue.")
@click.argument("name", metavar="[QUEUE]", required=False)
@json_option
@common_options
@click.pass_obj
def doctor(settings: Settings, name: str | None, as_json: bool) -> int:
    """Say in plain words what is wrong with the server for QUEUE, and what to do about it: its
    version, memory, persistence, clocks, timeouts, what the user may do there, and the queue's own
    keys. Without QUEUE, only what concerns every queue. Nothing is changed.

    What a managed service does not tell is said to be out of sight.

    \b
    Exit codes:
      0   fine; there may be notes
      1   a problem: items would be lost, or workers stopped
      69  the server cannot be reached
      78  bad configuration: the URL, the password, the queue's name
    """  # noqa: D301 - click wants the character
    if name is None:
        try:
            client = connect(settings.url)
        except ValueError as error:
            raise Failure(str(error), CONFIGURATION) from error
        server, findings = describe(client), diagnose_server(client)
    else:
        queue = settings.open(name)
        server, findings = describe(queue._client), diagnose(queue)
    problems = [finding for finding in findings if finding.level == "problem"]
    if as_json:
        for finding in findings:
            write_json({"queue": name, "server": server, **asdict(finding)})
    else:
        _print(_table(findings))
        notes = sum(finding.level == "note" for finding in findings)
        click.echo(
            f"{name + ' on ' if name else ''}{server}: {items(len(problems), 'problem')},"
            f" {items(notes, 'note')}"
        )
    return FAILED if problems else 0


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(printable(finding.text))
        if finding.advice:
            text.append(f"\n→ {printable(finding.advice)}", style="bold")
        table.add_row(Text(finding.level, _COLOURS[finding.level]), finding.check, text)
    return table
