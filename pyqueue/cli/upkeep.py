"""``pyqueue reclaim`` and ``delete``: what changes a queue as a whole."""

from __future__ import annotations

import click

from pyqueue import QueueNotEmpty

from ._base import Failure, Settings, common_options, json_option, queue_argument
from ._text import items, write_json


@click.command(short_help="Take back the leases that have run out.")
@queue_argument
@json_option
@common_options
@click.pass_obj
def reclaim(settings: Settings, name: str, as_json: bool) -> None:
    """Take back every lease of QUEUE that has run out: its items wait again, or are dead when their
    attempts are used up.

    Workers do it too, whenever they lease: this is for a queue that nobody works on. When nobody
    has called for a while, workers that are alive get 5 s first to say so.
    """
    number = settings.open(name).reclaim()
    if as_json:
        write_json({"queue": name, "reclaimed": number})
    else:
        click.echo(f"{name}: {items(number)} reclaimed")


@click.command(short_help="Delete a queue.")
@queue_argument
@click.option(
    "--force", is_flag=True, help="Even if it holds items or dead letters: they are lost."
)
@common_options
@click.pass_obj
def delete(settings: Settings, name: str, force: bool) -> None:
    """Delete QUEUE, when it is drained and has no dead letters."""
    try:
        settings.open(name).delete(force=force)
    except QueueNotEmpty as error:
        raise Failure(str(error).replace("force=True", "--force")) from error
    click.echo(f"{name}: deleted")
