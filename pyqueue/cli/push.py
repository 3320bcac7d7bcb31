"""``pyqueue push``: items from the command line, or one per line of a file or of standard input."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import BinaryIO, TypeAlias, cast
from uuid import UUID

import click

from pyqueue import Message, PyQueueError, Queue, ServerUnavailable
from pyqueue import _operations as op
from pyqueue._exits import exit_code
from pyqueue._message import DEFAULT_MAX_BYTES, FIXED, HeaderValue
from pyqueue._outgoing import MOST_NAME, MOST_PRIORITY, encode, grouped

from ._base import Failure, Settings, common_options, json_option, queue_argument
from ._text import count, items, seconds

Headers: TypeAlias = dict[str, HeaderValue]
#: Shows how many items have been pushed.
_Progress: TypeAlias = Callable[[int], None]

#: One call of the server appends so many items, or bytes, at most: all of them or none.
_ITEMS = 1000
_BYTES = 2 << 20
_READ = 256 << 10
#: Seconds between two lines of progress where there is no terminal.
_EVERY = 5.0


class _Seconds(click.FloatRange):
    """A time that a message can be given."""

    def __init__(self) -> None:
        super().__init__(0, 1e10)


class _Broken(Exception):
    """An item that cannot be pushed."""


def _header(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Headers:
    headers: Headers = {}
    for given in values:
        key, equals, value = given.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{given!r} is not KEY=VALUE")
        if not key.isprintable():
            raise click.BadParameter(f"{key!r} is no name for a header")
        try:
            headers[key] = os.fsencode(value).decode()
        except UnicodeDecodeError:
            raise click.BadParameter(f"the value of {key!r} is not UTF-8") from None
    return headers


@click.command(short_help="Append items to a queue.")
@queue_argument
@click.argument("given", metavar="[ITEM]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--stdin", "from_stdin", is_flag=True, help="Push each line of standard input.")
@click.option("--file", "source", type=click.File("rb"), help="Push each line of a file.")
@click.option("-0", "--null", is_flag=True, help="Items end with a NUL byte, not with a newline.")
@click.option(
    "--header",
    "headers",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_header,
    help="Give every item a header. May be repeated.",
)
@click.option(
    "--delay",
    type=_Seconds(),
    default=0,
    metavar="SECONDS",
    help="They cannot be leased before that time has passed.",
)
@click.option(
    "--priority",
    type=click.IntRange(-MOST_PRIORITY, MOST_PRIORITY),
    default=0,
    show_default=True,
    help="The higher, the sooner they are leased.",
)
@click.option(
    "--unique",
    metavar="KEY",
    help="Not if there is an item with this key already, until that is done or dead.",
)
@click.option("--unique-payload", is_flag=True, help="The same, and each payload is its own key.")
@click.option(
    "--unique-for",
    type=_Seconds(),
    metavar="SECONDS",
    help="The key holds for so long instead, whatever becomes of the item.",
)
@click.option("--group", metavar="NAME", help="One item of a group at a time is leased, in order.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 65535),
    help="So many may fail until they are dead. Default: the queue's, else 5.",
)
@click.option(
    "--backoff",
    type=_Seconds(),
    metavar="SECONDS",
    help="How long they wait after the first failure; twice as long after each other one."
    " Default: the queue's, else 1.",
)
@click.option(
    "--backoff-max",
    type=_Seconds(),
    metavar="SECONDS",
    help="The longest of these. Default: the queue's, else 300.",
)
@click.option(
    "--id",
    "id_",
    type=click.UUID,
    metavar="UUID",
    help="The id of the only ITEM. Within an hour the same id is pushed once.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=0),
    default=DEFAULT_MAX_BYTES,
    show_default=True,
    help="The largest item that is taken.",
)
@click.option(
    "--seal", is_flag=True, help="Seal the queue then, so that it takes no more. May stand alone."
)
@click.option("--ids", "show_ids", is_flag=True, help="Print the id of each item.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@json_option
@common_options
@click.pass_obj
def push(
    settings: Settings,
    name: str,
    given: tuple[str, ...],
    from_stdin: bool,
    source: BinaryIO | None,
    null: bool,
    headers: Headers,
    delay: float,
    priority: int,
    unique: str | None,
    unique_payload: bool,
    unique_for: float | None,
    group: str | None,
    max_attempts: int | None,
    backoff: float | None,
    backoff_max: float | None,
    id_: UUID | None,
    max_bytes: int,
    seal: bool,
    show_ids: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Append items to QUEUE: those given as arguments, or the lines of --stdin or --file.

    A line is an item, whatever its bytes, without the newline at its end. An empty line is an
    empty item; a carriage return is a part of the item. Lines that arrive slowly are pushed as they
    arrive. When a line cannot be pushed, those before it have been, and the error says so; then
    --seal does not seal.

    What is there already under its key or --id is not pushed again; with --ids the id of that item
    is printed.

    \b
    pyqueue push job2 apple banana
    find . -name '*.tif' -print0 | pyqueue push job2 --stdin --null --seal
    """  # noqa: D301 - click wants the character
    sources = bool(given) + from_stdin + (source is not None)
    if sources > 1 or (sources == 0 and not seal):
        raise click.UsageError("Give either items, or --stdin, or --file.")
    if null and not from_stdin and source is None:
        raise click.UsageError("--null goes with --stdin or --file.")
    if unique is not None and unique_payload:
        raise click.UsageError("Give either --unique or --unique-payload.")
    if unique_for is not None and unique is None and not unique_payload:
        raise click.UsageError("--unique-for goes with --unique or --unique-payload.")
    if id_ is not None and len(given) != 1:
        raise click.UsageError("--id goes with one ITEM.")
    try:
        like = Message(
            payload=b"",
            headers=headers,
            id=None if id_ is None else str(id_),
            delay=delay,
            priority=priority,
            unique="payload" if unique_payload else unique,
            unique_for=unique_for,
            group=group,
            max_attempts=max_attempts,
            backoff=backoff,
            backoff_max=backoff_max,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if from_stdin:
        source = sys.stdin.buffer
    # Ids on the same screen would tear a bar to pieces.
    torn = sys.stdout.isatty() and (show_ids or as_json)
    tally = _Tally(name, "item" if source is None else "line", seals=seal)
    overhead = FIXED + len(like.packed()[1]) + (MOST_NAME if unique_payload else 0)
    queue = settings.open(name, max_bytes=max_bytes)
    with tally, _progress(name, None if quiet or torn else source) as tell:
        batches = _batches(given, source, b"\0" if null else b"\n", max_bytes)
        for batch in _calls(batches, max_bytes, overhead, tally.unit):
            tally.trying = len(batch)
            ids, there = _append(queue, like, batch, max_bytes, by_payload=unique_payload)
            tally.there += there
            tally.add(batch)
            if as_json:
                sys.stdout.write("".join(f'{{"id": "{id}"}}\n' for id in ids))
            elif show_ids:
                sys.stdout.write("".join(f"{id}\n" for id in ids))
            sys.stdout.flush()
            tell(tally.pushed)
        if seal:
            tally.seal(queue.seal)
    if not quiet:
        click.echo(str(tally), err=True)


class _Tally:
    """What has been pushed so far. As a context manager it adds that to what goes wrong."""

    def __init__(self, name: str, unit: str, *, seals: bool) -> None:
        self.unit = unit
        #: Those that were there already among them.
        self.pushed = 0
        self.there = 0
        self._seals = seals
        self._sealing = False
        self._sealed = ""
        #: How many of the next are being pushed.
        self.trying = 0
        self._name = name
        self._empty = 0
        self._started = time.monotonic()

    def add(self, batch: list[bytes]) -> None:
        """Counts what one call has pushed."""
        self.pushed += len(batch)
        self.trying = 0
        self._empty += batch.count(b"")

    def seal(self, call: Callable[[], bool]) -> None:
        """Seals the queue, after all was pushed."""
        self._sealing = True
        self._sealed = ", and sealed" if call() else "; it was sealed already"

    def __str__(self) -> str:
        """The last line of it all."""
        line = f"{self._name}: {items(self.pushed - self.there)} pushed"
        if self.there:
            line += f", {count(self.there)} {'was' if self.there == 1 else 'were'} there already"
        if self._empty:
            line += f" ({count(self._empty)} of them empty)"
        if self.pushed > _ITEMS:
            duration = time.monotonic() - self._started
            line += f" in {seconds(duration)}, {count(round(self.pushed / duration))}/s"
        return line + self._sealed

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        before = "nothing was pushed"
        if self.pushed:
            were = "was" if self.pushed == 1 else "were"
            before = f"the {items(self.pushed)} before that {were} pushed"
        if isinstance(error, _Broken):
            after = self._after(unknown=False)
            raise Failure(f"queue {self._name!r}: {error}; {before}{after}") from error
        if isinstance(error, PyQueueError):
            unknown = isinstance(error, ServerUnavailable) and error.outcome_unknown
            after = self._after(unknown=unknown)
            raise Failure(f"{error}; {before}{after}", exit_code(error)) from error
        if isinstance(error, KeyboardInterrupt):
            message = f"queue {self._name!r}: interrupted; {before}{self._after(unknown=True)}"
            raise Failure(message, 130) from error

    def _after(self, *, unknown: bool) -> str:
        """What became of the call that failed, ``unknown`` if it may have been carried out, and of
        those that did not come any more.
        """
        if self._sealing and unknown:
            return "; whether the queue is sealed is unknown"
        first, last = self.pushed + 1, self.pushed + self.trying
        after = ""
        if unknown and last >= first:
            which = f"{self.unit} {count(first)}" + (f" to {count(last)}" if last > first else "")
            after = f"; whether {which} too is unknown"
        return after + ("; --seal was not done" if self._seals else "")


def _append(
    queue: Queue, like: Message, batch: list[bytes], most: int, *, by_payload: bool
) -> tuple[list[str], int]:
    """Pushes a call's items; returns their ids, and how many were there already."""
    if like.unique is None and like.id is None:
        ids = queue.push_many(
            batch,
            headers=like.headers,
            delay=like.delay,
            priority=like.priority,
            group=like.group,
            max_attempts=like.max_attempts,
            backoff=like.backoff,
            backoff_max=like.backoff_max,
        )
        return ids, 0
    ids, there = [], 0
    messages = (
        replace(like, payload=x, unique=_key(x) if by_payload else like.unique) for x in batch
    )
    for some in grouped(encode(message, most) for message in messages):
        new, taken = queue._push(op.Push(some.messages, some.options))
        ids, there = ids + new, there + taken
    return ids, there


def _key(payload: bytes) -> str:
    """The dedupe key of a payload: itself, or its hash where it cannot be a key."""
    if 0 < len(payload) <= MOST_NAME and b"\0" not in payload:
        with contextlib.suppress(UnicodeDecodeError):
            return payload.decode()
    return "sha256:" + hashlib.sha256(payload).hexdigest()


def _batches(
    given: tuple[str, ...], source: BinaryIO | None, separator: bytes, most: int
) -> Iterator[list[bytes]]:
    if source is None:
        yield [os.fsencode(item) for item in given]
    else:
        yield from _read(source, separator, most)


def _read(source: BinaryIO, separator: bytes, most: int) -> Iterator[list[bytes]]:
    """The items of a stream, as they arrive: what one read brings, without waiting for more. Ends
    with an item that is longer than ``most``, before the rest of it fills the memory.
    """
    read = cast("io.BufferedReader", source).read1
    rest = b""
    while chunk := read(_READ):
        *whole, rest = (rest + chunk).split(separator)
        if whole:
            yield whole
        if len(rest) > most:
            break
    if rest:
        yield [rest]


def _calls(
    batches: Iterable[list[bytes]], most: int, overhead: int, unit: str
) -> Iterator[list[bytes]]:
    """The same items, as many at a time as one call appends. Raises _Broken at one that is longer
    than ``most``, after those before it.
    """
    number = 0
    for batch in batches:
        some: list[bytes] = []
        size = 0
        for item in batch:
            number += 1
            if some and (len(item) > most or len(some) == _ITEMS or size + len(item) > _BYTES):
                yield some
                some, size = [], 0
            if len(item) > most:
                raise _Broken(
                    f"{unit} {number} is larger than {count(most)} bytes: store it elsewhere and"
                    " push its address, or raise --max-bytes"
                )
            some.append(item)
            size += len(item) + overhead
        if some:
            yield some


def _progress(name: str, source: BinaryIO | None) -> AbstractContextManager[_Progress]:
    """Shows a bar on a terminal, a line every few seconds elsewhere; nothing without a source."""
    if source is None:
        return contextlib.nullcontext(lambda _: None)
    if sys.stderr.isatty():
        return _bar(name, source)
    return contextlib.nullcontext(_lines(name))


def _lines(name: str) -> _Progress:
    started = time.monotonic()
    following = _EVERY

    def tell(pushed: int) -> None:
        nonlocal following
        passed = time.monotonic() - started
        if passed >= following:
            following = passed + _EVERY
            click.echo(
                f"{name}: {items(pushed)} pushed so far, {count(round(pushed / passed))}/s",
                err=True,
            )

    return tell


@contextlib.contextmanager
def _bar(name: str, source: BinaryIO) -> Iterator[_Progress]:
    """A bar by bytes where the size is known, else one that only moves."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    position = _position_of(source)
    columns = [TextColumn("{task.description}"), BarColumn()]
    if position is not None:
        columns += [TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = None if position is None else os.fstat(source.fileno()).st_size
        task = progress.add_task(name, total=total)
        started = time.monotonic()

        def tell(pushed: int) -> None:
            rate = count(round(pushed / (time.monotonic() - started)))
            progress.update(
                task,
                completed=pushed if position is None else position(),
                description=f"{name}: {items(pushed)}, {rate}/s",
            )

        yield tell


def _position_of(source: BinaryIO) -> Callable[[], int] | None:
    """How to ask how many bytes of a regular file have been read; None for anything else."""
    try:
        return source.tell if source.seekable() and os.fstat(source.fileno()).st_size else None
    except OSError:
        return None
