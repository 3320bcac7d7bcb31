"""The group of all commands, and how an error ends them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import click

from pyqueue import PyQueueError, __version__
from pyqueue._exits import CONFIGURATION, exit_code

from . import _log
from ._base import Failure, Settings, common_options
from .check import check
from .demo import demo
from .doctor import doctor
from .push import push
from .show import dead, leases, peek, stats
from .upkeep import (
    configure,
    delete,
    import_dead,
    pause,
    purge,
    reclaim,
    redrive,
    resume,
    seal,
    unseal,
)
from .work import work


class _InOrder(click.Group):
    """Lists the commands as they are added, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own
        return list(self.commands)


@click.group(
    cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@common_options
@click.version_option(__version__, message="pyqueue %(version)s")
def app() -> None:
    """A work queue on Redis or Valkey: fill it, work it off, look into it."""


for command in (
    push,
    work,
    stats,
    peek,
    leases,
    dead,
    redrive,
    import_dead,
    reclaim,
    configure,
    seal,
    unseal,
    pause,
    resume,
    purge,
    delete,
    check,
    doctor,
    demo,
):
    app.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    settings = Settings()
    _log.set_up(settings.log_format)
    try:
        result = app.main(list(arguments), prog_name="pyqueue", standalone_mode=False, obj=settings)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.UsageError as error:
        return _wrong_usage(error, settings)
    except (click.ClickException, Failure, PyQueueError) as error:
        return _say(error, settings)
    return result if isinstance(result, int) else 0


def _wrong_usage(error: click.UsageError, settings: Settings) -> int:
    if settings.log_format == "json":
        _say(error, settings)
    else:
        error.show()
    # A worker that is started wrongly must fail its Job, which knows 78.
    at_work = error.ctx is not None and error.ctx.command is work
    return CONFIGURATION if at_work else error.exit_code


def _say(error: click.ClickException | Failure | PyQueueError, settings: Settings) -> int:
    """Says what went wrong, in one line."""
    if isinstance(error, click.ClickException):
        message, code = error.format_message(), error.exit_code
    else:
        message = str(error)
        code = error.code if isinstance(error, Failure) else exit_code(error)
    message = " ".join(message.split("\n"))
    if settings.log_format == "json":
        _log.log(logging.ERROR, message, {"exit_code": code})
    else:
        click.echo(f"pyqueue: {message}", err=True)
    return code
