"""``pyqueue reclaim``, ``redrive``, ``seal``, ``pause``, ``purge`` …: what changes a queue as a
whole.
"""

from __future__ import annotations

import sys
from typing import Literal
from uuid import UUID

import click

from pyqueue import QueueNotEmpty

from ._base import FAILED, Failure, Settings, common_options, json_option, queue_argument
from ._text import count, items, write_json


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


@click.command(short_help="Put dead letters back to the end of the queue.")
@queue_argument
@click.argument("given", metavar="[ID]...", nargs=-1, type=click.UUID)
@click.option("--reason", metavar="TEXT", help="Only those that died of exactly that.")
@json_option
@common_options
@click.pass_obj
def redrive(
    settings: Settings, name: str, given: tuple[UUID, ...], reason: str | None, as_json: bool
) -> int:
    """Put dead letters of QUEUE back to its end: those with the ids given, or all. Their attempts
    restart.

    What is malformed stays: it would only die again. The exit code is 1 when an id was given that
    is not redriven.
    """
    if given and reason is not None:
        raise click.UsageError("Give either ids or --reason.")
    queue = settings.open(name)
    ids = list(dict.fromkeys(map(str, given))) or [
        letter.id for letter in queue.dead() if reason in (None, letter.reason)
    ]
    redriven = queue.redrive(ids)
    left = len(ids) - redriven
    if as_json:
        write_json({"queue": name, "redriven": redriven, "not_redriven": left})
    else:
        why = f", {count(left)} not: malformed, or no dead letter" if left else ""
        click.echo(f"{name}: {items(redriven)} redriven{why}")
    return FAILED if given and left else 0


@click.command(short_help="Let a queue take no more items.")
@queue_argument
@json_option
@common_options
@click.pass_obj
def seal(settings: Settings, name: str, as_json: bool) -> None:
    """Let QUEUE take no more items: `pyqueue push` is refused. Workers with --until sealed end when
    what it holds is done.

    A plain RPUSH cannot be refused; what it brings is worked off if anybody still works.
    """
    changed = settings.open(name).seal()
    _say_state(name, "sealed", "sealed", changed=changed, on=True, as_json=as_json)


@click.command(short_help="Let a queue take items again.")
@queue_argument
@json_option
@common_options
@click.pass_obj
def unseal(settings: Settings, name: str, as_json: bool) -> None:
    """Let QUEUE take items again."""
    changed = settings.open(name).unseal()
    _say_state(name, "sealed", "unsealed", changed=changed, on=False, as_json=as_json)


@click.command(short_help="Let workers lease nothing.")
@queue_argument
@json_option
@common_options
@click.pass_obj
def pause(settings: Settings, name: str, as_json: bool) -> None:
    """Let workers lease nothing from QUEUE until `pyqueue resume`. What they hold they go on with,
    and items can be pushed.
    """
    changed = settings.open(name).pause()
    _say_state(name, "paused", "paused", changed=changed, on=True, as_json=as_json)


@click.command(short_help="Let workers lease again.")
@queue_argument
@json_option
@common_options
@click.pass_obj
def resume(settings: Settings, name: str, as_json: bool) -> None:
    """Let workers lease from QUEUE again. They notice within 2 s."""
    changed = settings.open(name).resume()
    _say_state(name, "paused", "resumed", changed=changed, on=False, as_json=as_json)


def _say_state(name: str, flag: str, word: str, *, changed: bool, on: bool, as_json: bool) -> None:
    if as_json:
        write_json({"queue": name, flag: on, "changed": changed})
    elif changed:
        click.echo(f"{name}: {word}")
    else:
        click.echo(f"{name}: was {flag} already" if on else f"{name}: was not {flag}")


@click.command(short_help="Drop what waits, or the dead letters.")
@queue_argument
@click.option("--dead", is_flag=True, help="Drop the dead letters instead of what waits.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@common_options
@click.pass_obj
def purge(settings: Settings, name: str, dead: bool, yes: bool, as_json: bool) -> None:
    """Drop every item of QUEUE that waits, delayed ones too, or with --dead every dead letter: they
    are lost. What workers hold stays.

    Asks first on a terminal; needs --yes elsewhere.
    """
    what: Literal["waiting", "dead"] = "dead" if dead else "waiting"
    noun = "dead letter" if dead else "item"
    queue = settings.open(name)
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
            raise click.UsageError("There is no terminal to ask on: give --yes to drop them.")
        stats = queue.stats()
        number = stats.dead if dead else stats.waiting + stats.delayed
        which = items(number, noun) + (
            "" if dead else f" that {'waits' if number == 1 else 'wait'}"
        )
        if not click.confirm(f"{name}: drop {which}?", err=True):
            raise Failure(f"queue {name!r}: nothing was dropped")
    dropped = queue.purge(what)
    if as_json:
        write_json({"queue": name, "what": what, "purged": dropped})
    else:
        click.echo(f"{name}: {items(dropped, noun)} dropped")


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
