"""What the subjects share: what they are told, what their handlers do, and what they offer."""

from __future__ import annotations

import asyncio
import itertools
import json
import mmap
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

PAYLOAD_BYTES = 64
#: Items in one call of those that take many.
BULK = 1000
#: The environment variable that holds `Settings`, so that processes which a library starts see it.
VARIABLE = "PYQUEUE_BENCH"


def payloads(count: int, start: int = 0) -> list[str]:
    """Different texts of 64 bytes, by which lost and doubled items are counted."""
    return [f"{number:0{PAYLOAD_BYTES}d}" for number in range(start, start + count)]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process of a subject is told."""

    url: str
    queue: str
    #: Which of the library's settings: "" for those it recommends or has by default.
    variant: str = ""
    #: Whether a dead worker's items are to come back after 5 s, where a setting can do that.
    tuned: bool = False
    #: A fifo for lines of "number monotonic-ns" when the item of that number was handled: for the
    #: item `first` and for each from `last` on.
    pipe: str = ""
    first: int = 0
    last: int = 0
    #: A file that the payload of each item is added to when it has been handled.
    record: str = ""
    #: Seconds that the handler works for on average.
    hold: float = 0.0
    #: Further settings of a subject.
    options: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        """For the environment variable."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @staticmethod
    def read() -> Settings:
        """From the environment variable."""
        return Settings(**json.loads(os.environ[VARIABLE]))


def _shared_count() -> Callable[[], int]:
    """Counts what forked children do one after the other."""
    memory = mmap.mmap(-1, 8)

    def count() -> int:
        number = int.from_bytes(memory[:8], "little") + 1
        memory[:8] = number.to_bytes(8, "little")
        return number

    return count


class Handler:
    """What all workers do with an item: nothing, but that the harness learns of it."""

    def __init__(self, settings: Settings) -> None:
        self.hold = settings.hold
        self._first, self._last = settings.first, settings.last
        self._count: Callable[[], int] = itertools.count(1).__next__
        self._record = -1
        if settings.record:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._record = os.open(settings.record, flags, 0o600)
        self._pipe = os.open(settings.pipe, os.O_WRONLY) if settings.pipe else -1

    def count_in_children(self) -> None:
        """For a worker that forks for each item: counts go on from one child to the next."""
        self._count = _shared_count()

    def __call__(self, payload: str | bytes) -> None:
        """Handles an item; for a handler that blocks."""
        if self.hold:
            time.sleep(random.uniform(0, 2 * self.hold))
        self.done(payload)

    async def wait(self, payload: str | bytes) -> None:
        """Handles an item; for a handler that is a coroutine."""
        if self.hold:
            await asyncio.sleep(random.uniform(0, 2 * self.hold))
        self.done(payload)

    def done(self, payload: str | bytes) -> None:
        """Notes that an item has been handled."""
        if len(payload) != PAYLOAD_BYTES:
            raise ValueError(f"not a payload: {payload!r}")
        number = self._count()
        if number >= self._last or number == self._first:
            self._tell(number)
        if self._record >= 0:
            text = payload if isinstance(payload, bytes) else payload.encode()
            os.write(self._record, text + b"\n")

    def _tell(self, number: int) -> None:
        if self._pipe >= 0:
            os.write(self._pipe, b"%d %d\n" % (number, time.monotonic_ns()))


_current: list[Handler] = []
_making = threading.Lock()


def current() -> Handler:
    """The handler of this process, where a library knows its tasks by their names."""
    if not _current:
        with _making:  # else two threads could make two of them, which would count apart
            if not _current:
                _current.append(Handler(Settings.read()))
    return _current[0]


class Subject(ABC):
    """A library, as its users use it. Methods that a library has nothing for are left alone."""

    #: The distributions whose versions count.
    packages: ClassVar[tuple[str, ...]] = ("redis", "hiredis")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def variant(self) -> str:
        """See `Settings.variant`."""
        return self.settings.variant

    def handler(self) -> Handler:
        """What the worker does with an item."""
        return Handler(self.settings)

    @abstractmethod
    def push(self, items: list[str]) -> None:
        """Pushes items one by one, the next when the one before is there."""

    def push_bulk(self, items: list[str]) -> None:
        """Pushes items by the call of the library that takes many."""
        raise NotImplementedError

    def push_tasks(self, items: list[str]) -> None:
        """Pushes items by one call each from many tasks of one event loop at a time."""
        raise NotImplementedError

    def fill(self, items: list[str]) -> None:
        """Pushes items, the fastest way there is."""
        (self.push_bulk if "push_bulk" in self.offers() else self.push)(items)

    @abstractmethod
    def work(self) -> None:
        """Runs the worker until the process is ended."""

    def offers(self) -> list[str]:
        """Which of the methods that it may leave alone it has."""
        return [
            name
            for name in ("push_bulk", "push_tasks")
            if getattr(type(self), name) is not getattr(Subject, name)
        ]


class AsyncSubject(Subject):
    """A library for asyncio: its producer keeps one event loop."""

    #: Tasks that push at a time in ``push_tasks``.
    tasks = 1000

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.loop = asyncio.new_event_loop()

    async def one(self, item: str) -> None:
        """Pushes an item."""
        raise NotImplementedError

    async def many(self, items: list[str]) -> None:
        """Pushes items by the library's call that takes many."""
        raise NotImplementedError

    async def open(self) -> None:
        """Connects the producer."""

    def push(self, items: list[str]) -> None:
        async def run() -> None:
            for item in items:
                await self.one(item)

        self.loop.run_until_complete(run())

    def push_bulk(self, items: list[str]) -> None:
        async def run() -> None:
            for start in range(0, len(items), BULK):
                await self.many(items[start : start + BULK])

        self.loop.run_until_complete(run())

    def push_tasks(self, items: list[str]) -> None:
        async def run() -> None:
            left = iter(items)

            async def task() -> None:
                for item in left:
                    await self.one(item)

            await asyncio.gather(*(task() for _ in range(self.tasks)))

        self.loop.run_until_complete(run())

    def fill(self, items: list[str]) -> None:
        (self.push_bulk if "push_bulk" in self.offers() else self.push_tasks)(items)

    def offers(self) -> list[str]:
        several = type(self).many is not AsyncSubject.many
        return [*(["push_bulk"] if several else []), "push_tasks"]
