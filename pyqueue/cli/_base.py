"""What the commands have in common: where the server is, and how to log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from pyqueue import InvalidName, Queue
from pyqueue._exits import CONFIGURATION, FAILED
from pyqueue._message import DEFAULT_MAX_BYTES

from . import _log

F = TypeVar("F", bound=Callable[..., Any])


class Failure(Exception):
    """Ends the command with one line on standard error and an exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Settings:
    """The options that every command takes, before or after its name."""

    url: str | None = None
    log_format: str = "text"

    def open(
        self, name: str, *, worker: str | None = None, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> Queue:
        """The queue ``name`` on the server that was asked for. Raises InvalidName, Failure.

        A command that leases nothing need not close it: its process ends.
        """
        try:
            return Queue(name, url=self.url, worker=worker, max_bytes=max_bytes)
        except InvalidName:
            raise
        except ValueError as error:
            raise Failure(str(error), CONFIGURATION) from error


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    setattr(context.ensure_object(Settings), parameter.name or "", value)
    if parameter.name == "log_format":
        _log.set_up(value)


def common_options(command: F) -> F:
    """Adds the options of Settings to a command or the group."""
    url = click.option(
        "--url",
        metavar="URL",
        expose_value=False,
        callback=_remember,
        help="The server: redis://, rediss://, unix:// or embedded:. Default: $PYQUEUE_URL, else"
        " $REDIS_SERVICE_HOST and $REDIS_SERVICE_PORT, else localhost.",
    )
    log_format = click.option(
        "--log-format",
        type=click.Choice(_log.FORMATS),
        expose_value=False,
        callback=_remember,
        help="How to write messages on standard error; text by default.",
    )
    return url(log_format(command))


queue_argument = click.argument("name", metavar="QUEUE")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
