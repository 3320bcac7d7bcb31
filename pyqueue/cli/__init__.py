"""The command ``pyqueue``. Needs the extra ``cli`` (click and rich)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with ``arguments`` (default: those of the process); returns its exit code.

    0: done. 1: an error. 2: wrong usage. 69: the server cannot be reached. 78: bad configuration.
    """
    # As PID 1 of a container a process has no default action for SIGTERM: it would be ignored
    # while the rest is being imported.
    signal.signal(signal.SIGTERM, _stop)
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        print(
            "pyqueue: the command line is not installed: pip install 'pyqueue-redis[cli]'",
            file=sys.stderr,
        )
        return 78
    from ._app import run

    return run(sys.argv[1:] if arguments is None else arguments)
