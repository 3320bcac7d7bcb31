"""``pyqueue reclaim``, ``redrive``, ``seal``, ``pause``, ``purge`` …: what changes a queue as a
whole.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO, Literal
from uuid import UUID

import click

from pyqueue import DeadLetter, QueueNotEmpty
from pyqueue._exits import FAILED
from pyqueue._leases import PAGE

from ._base import F, Failure, Settings, common_options, json_option, queue_argument
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
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="The oldest N of them at most."
)
@json_option
@common_options
@click.pass_obj
def redrive(
    settings: Settings,
    name: str,
    given: tuple[UUID, ...],
    reason: str | None,
    limit: int | None,
    as_json: bool,
) -> int:
    """Put dead letters of QUEUE back to its end: those with the ids given, or all. Their attempts
    restart.

    What is malformed stays: it would only die again. So does what has a dedupe key that another
    item has taken. The exit code is 1 when an id was given that is not redriven.
    """
    if given and (reason is not None or limit is not None):
        raise click.UsageError("Give either ids, or --reason and --limit.")
    queue = settings.open(name)
    ids = list(dict.fromkeys(map(str, given))) or [
        letter.id for letter in queue.dead() if reason in (None, letter.reason)
    ]
    redriven = queue.redrive(ids[:limit])
    left = min(len(ids), limit or len(ids)) - redriven
    if as_json:
        write_json({"queue": name, "redriven": redriven, "not_redriven": left})
    else:
        why = f", {count(left)} not: malformed, key taken, or no dead letter" if left else ""
        click.echo(f"{name}: {items(redriven)} redriven{why}")
    return FAILED if given and left else 0


@click.command("import-dead", short_help="Bring exported dead letters back.")
@queue_argument
@click.argument("source", metavar="[FILE]", type=click.File("rb"), default="-")
@json_option
@common_options
@click.pass_obj
def import_dead(settings: Settings, name: str, source: BinaryIO, as_json: bool) -> None:
    """Put the dead letters that `pyqueue dead --export` wrote, of FILE or standard input, among
    those of QUEUE. `pyqueue redrive` then puts them to work.

    One whose id is there already is left as it is. When a line is none, those before it are in.
    """
    queue = settings.open(name)
    read = imported = 0
    some: list[DeadLetter] = []
    broken: Failure | None = None
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            some.append(DeadLetter.from_dict(found if isinstance(found, dict) else {}))
        except ValueError as error:
            broken = Failure(f"line {count(number)} is no exported dead letter: {error}")
            break
        read += 1
        if len(some) == PAGE:
            imported += queue.import_dead(some)
            some = []
    imported += queue.import_dead(some)
    if as_json:
        write_json({"queue": name, "imported": imported, "there_already": read - imported})
    else:
        there = f", {count(read - imported)} there already" if read > imported else ""
        click.echo(f"{name}: {items(imported, 'dead letter')} imported{there}")
    if broken is not None:
        raise broken


def _number(_: click.Context, parameter: click.Parameter, value: str | None) -> float | str | None:
    """A number, or `default`."""
    if value is None or value == "default":
        return value
    whole = parameter.name in _WHOLE
    try:
        return int(value) if whole else float(value)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise click.BadParameter(f"{value!r} is neither {kind} nor `default`.") from None


#: Option, what its number counts, what it means.
_CONFIGURABLE = (
    ("max_attempts", "N", "So many leases of an item may fail or run out. Default: 5."),
    ("backoff", "SECONDS", "The wait after the first failure, then doubled. Default: 1."),
    ("backoff_max", "SECONDS", "The longest of these waits. Default: 300."),
    ("ttl", "SECONDS", "How long a lease lasts that names no time. Default: 60."),
    ("max_lease", "SECONDS", "The longest that a lease lasts, however often it is extended."),
    ("max_leased", "N", "Items in flight at most."),
    ("max_waiting", "N", "Messages that wait at most: `push` is refused then."),
    ("max_bytes", "N", "The largest payload that `push` may bring."),
    ("rate", "N", "Leases per second at most."),
    ("burst", "N", "Of these so many at once. Default: those of a second."),
)
_WHOLE = {"max_attempts", "max_leased", "max_waiting", "max_bytes", "burst"}


def _configure_options(command: F) -> F:
    for option, metavar, text in reversed(_CONFIGURABLE):
        flag = "--" + option.replace("_", "-")
        command = click.option(flag, callback=_number, metavar=metavar, help=text)(command)
    return command


@click.command(short_help="Set a queue's own numbers, or show them.")
@queue_argument
@_configure_options
@json_option
@common_options
@click.pass_context
def configure(
    context: click.Context, /, name: str, as_json: bool, **given: float | str | None
) -> None:
    """Set QUEUE's own numbers, for all who use it; `default` gives one its default back. Those that
    are not given stay. Without options show what is set.

    \b
    pyqueue configure job2 --rate 5 --max-attempts 3
    pyqueue configure job2 --rate default
    """  # noqa: D301 - click wants the character
    queue = context.ensure_object(Settings).open(name)
    values = {
        option: None if value == "default" else value
        for option, value in given.items()
        if value is not None
    }
    try:
        # The names and types are those of the options above, which mypy cannot see.
        found = queue.configure(**values) if values else queue.stats().configuration  # type: ignore[arg-type]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        write_json({"queue": name, **found})
    elif found:
        for option, number in found.items():
            click.echo(f"{name}: {option.replace('_', '-')} {number:,}")
    else:
        click.echo(f"{name}: nothing is set: the defaults hold")


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
    """Drop every item of QUEUE that waits, delayed ones and those behind others of their group too,
    or with --dead every dead letter: they are lost. What workers hold stays.

    Asks first on a terminal; needs --yes elsewhere.
    """
    what: Literal["waiting", "dead"] = "dead" if dead else "waiting"
    noun = "dead letter" if dead else "item"
    queue = settings.open(name)
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
            raise click.UsageError("There is no terminal to ask on: give --yes to drop them.")
        stats = queue.stats()
        number = stats.dead if dead else stats.waiting + stats.delayed + stats.grouped
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
