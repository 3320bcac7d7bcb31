"""A worker as a program: ``python -m pyqueue.worker``, and ``pyqueue work --handler``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

from pyqueue._exits import CONFIGURATION
from pyqueue.aio import AsyncQueue
from pyqueue.client import Queue
from pyqueue.errors import EmbeddedUnavailable, InvalidName

from ._common import PREFETCH, is_async
from ._engine import Until
from ._tasks import AsyncWorker
from ._threads import Worker


class CannotWork(Exception):
    """The command line asks for what is not there; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a command line asks for; times in seconds. None: the worker's own default."""

    handler: str
    queue: str
    url: str | None = None
    worker: str | None = None
    concurrency: int | None = None
    prefetch: int = PREFETCH
    processes: bool = False
    ttl: float | None = None
    max_lease: float | None = None
    until: Until = "forever"
    start_wait: float = 60
    grace: float = 20
    server_wait: float = 600


def load(spec: str) -> Callable[..., object]:
    """The function that ``module:name`` names; the name may have dots. Modules are found in the
    current directory too. Raises CannotWork; what the module itself raises goes on.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise CannotWork(f"{spec!r} names no handler: it is like module:function")
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise CannotWork(f"module {module_name!r} needs {error.name!r}: {error}") from error
        raise CannotWork(f"there is no module {module_name!r}: {error}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise CannotWork(f"module {module_name!r} has no {name!r}") from error
    if not callable(found):
        raise CannotWork(f"{spec!r} is no function but {type(found).__name__}")
    return found


def work(request: Request) -> int:
    """Runs the worker that was asked for: AsyncWorker for an ``async def``, else Worker. Returns
    its exit code. Raises CannotWork, InvalidName, EmbeddedUnavailable.
    """
    try:
        handler = load(request.handler)
    except CannotWork:
        raise
    except Exception as error:
        logging.getLogger("pyqueue").exception("%s cannot be imported", request.handler)
        raise CannotWork(
            f"{request.handler} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    options: dict[str, Any] = {
        "prefetch": request.prefetch,
        "ttl": request.ttl,
        "max_lease": request.max_lease,
        "until": request.until,
        "start_wait": request.start_wait,
        "grace": request.grace,
        "server_wait": request.server_wait,
    }
    if request.concurrency is not None:
        options["concurrency"] = request.concurrency
    try:
        if is_async(handler):
            if request.processes:
                raise CannotWork(f"{request.handler} is an async def, which runs in tasks")
            return asyncio.run(_work_async(request, handler, options))
        with Queue(request.queue, url=request.url, worker=request.worker) as queue:
            pool: Literal["processes", "threads"] = "processes" if request.processes else "threads"
            return Worker(queue, handler, pool=pool, **options).run()
    except (InvalidName, EmbeddedUnavailable):
        raise
    except ValueError as error:
        raise CannotWork(str(error)) from error


async def _work_async(
    request: Request, handler: Callable[..., object], options: dict[str, Any]
) -> int:
    async with AsyncQueue(request.queue, url=request.url, worker=request.worker) as queue:
        return await AsyncWorker(queue, cast("Any", handler), **options).run()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A worker that is started wrongly must fail its Job, which knows 78."""
        self.print_usage(sys.stderr)
        self.exit(CONFIGURATION, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pyqueue.worker",
        description="Calls a function for each item of a queue: an async def in tasks, another one"
        " in threads or child processes.",
        epilog="Exit codes: 0 drained, 143 SIGTERM, 130 SIGINT, 69 the server stayed out of reach,"
        " 78 bad configuration, 1 anything else.",
    )
    parser.add_argument("handler", metavar="MODULE:FUNCTION")
    parser.add_argument("--queue", required=True, metavar="NAME")
    parser.add_argument(
        "--url",
        help="the server: redis://, rediss://, unix:// or embedded:; default: $PYQUEUE_URL, else"
        " $REDIS_SERVICE_HOST and $REDIS_SERVICE_PORT, else localhost",
    )
    parser.add_argument("--worker", metavar="NAME", help="as leases show it; default: host:pid")
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="how many items are worked on at once; default: 100 tasks, or 10 threads or processes",
    )
    parser.add_argument(
        "--prefetch",
        type=int,
        default=PREFETCH,
        metavar="N",
        help="how many items are leased ahead at most, for fast handlers; default: %(default)s",
    )
    parser.add_argument(
        "--processes", action="store_true", help="child processes instead of threads"
    )
    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    parser.add_argument(
        "--ttl",
        **seconds,
        help="how soon the items of a worker that died go to another; default: the queue's",
    )
    parser.add_argument(
        "--max-lease", **seconds, help="how long a handler may keep an item; default: no limit"
    )
    parser.add_argument(
        "--until",
        choices=("drained", "sealed", "forever"),
        default="forever",
        help="when to end; default: %(default)s",
    )
    parser.add_argument(
        "--start-wait",
        **seconds,
        default=60,
        help="how long a queue that never had an item is given to get one; default: %(default)s",
    )
    parser.add_argument(
        "--grace",
        **seconds,
        default=20,
        help="how long handlers may go on after SIGTERM; default: %(default)s",
    )
    parser.add_argument(
        "--server-wait",
        **seconds,
        default=600,
        help="how long to go on when the server is out of reach; default: %(default)s",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """``python -m pyqueue.worker``; returns the exit code."""
    request = Request(**vars(_parser().parse_args(args)))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return work(request)
    except (CannotWork, InvalidName, EmbeddedUnavailable) as error:
        print(f"{_parser().prog}: {error}", file=sys.stderr)
        return CONFIGURATION
