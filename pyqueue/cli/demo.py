"""``pyqueue demo``: the tutorial's nine fruits, two workers, and a third one that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import queue as queues
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TypeAlias, cast

import click
import redis

from pyqueue import Queue, Stats, embedded
from pyqueue._connection import connect, describe, translated
from pyqueue._keys import Keys

from ._base import Failure, Settings, common_options

FRUITS = ("apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange")
#: Seconds.
_WORK = 0.7
_TTL = 3.0
_MOST = 60.0
_POLL = 0.1
_STOP = 5.0

#: What each worker runs for an item. The line tells the demo what is going on.
_PROGRAM = """
import json, os, sys, time
fruit, duration = sys.argv[1:]
print(json.dumps({"event": "works", "fruit": fruit, "attempt": os.environ["PYQUEUE_ATTEMPT"],
                  "item": os.environ["PYQUEUE_ID"]}), flush=True)
time.sleep(float(duration))
"""

_INTRODUCTION = """\
Nine fruits wait in the queue {name}, put there by a plain RPUSH, as redis-cli does it:

    redis-cli rpush {name} {fruits}

Workers run a program once for each:  pyqueue work {name} -- PROGRAM {{}}
One of them hangs and is killed with SIGKILL.
"""
_CONCLUSION = """
All nine fruits are done, each completed once. The worker that was killed had leased {fruit}:
that lease ran out after {ttl:g} s, and {worker} worked it off. Nobody had to look after it.

Where to go next:
    pyqueue work --help        make any program of yours a worker
    README.md                  the tutorial on Kubernetes, command by command; the API in ten lines
    PYQUEUE_URL=embedded:      the server of this demo, for a start; redis://HOST for your own
"""

Event: TypeAlias = tuple["_Process", Mapping[str, object]]


@click.command(short_help="Watch two workers, and a third one that is killed.")
@click.option("--queue", "name", default="job2", show_default=True, help="The queue to use.")
@common_options
@click.pass_obj
def demo(settings: Settings, name: str) -> None:
    """Fill a queue with nine fruits, work it off with two workers, kill a third one in the middle
    of an item, and check that each fruit was completed once.

    This needs no server: it starts one of its own and leaves nothing behind. With --url it uses
    that one, unless there is such a queue already.
    """
    with contextlib.ExitStack() as stack:
        url = settings.url or stack.enter_context(_own_server())
        queue = stack.enter_context(Queue(name, url=url))
        _fill(queue, url)
        stack.callback(queue.delete, force=True)
        click.echo(_INTRODUCTION.format(name=name, fruits=" ".join(FRUITS)))
        show = stack.enter_context(_display())
        course = _Demo(queue, url, show)
        stack.callback(course.stop)
        course.run()
        problems = course.problems()
        if not problems:
            stack.close()  # the bar is gone before the last words
            click.echo(_CONCLUSION.format(fruit=course.stranded, ttl=_TTL, worker=course.saviour))
            return
    raise Failure("the demo did not go as it must: " + "; ".join(problems))


@contextlib.contextmanager
def _own_server() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="pyqueue-demo-") as directory,
        embedded.start(directory) as server,
    ):
        try:
            yield server.url
        finally:
            server.stop()


def _fill(queue: Queue, url: str) -> None:
    """Pushes the fruits as a producer without pyqueue would. Raises Failure if there is anything
    of such a queue: it is not ours.
    """
    queue.stats()
    with connect(url) as client:
        try:
            if client.exists(*Keys(queue.name).all):
                raise Failure(
                    f"there is a queue {queue.name!r} on {describe(client)} already, and the demo"
                    " would delete it: choose another name with --queue"
                )
            client.rpush(queue.name, *FRUITS)
        except redis.RedisError as error:
            raise translated(error, queue.name, describe(client), "rpush") from error


Show: TypeAlias = Callable[[Stats, "str | None"], None]


@contextlib.contextmanager
def _display() -> Iterator[Show]:
    """Lines of what happens; and on a terminal a bar below them."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(highlight=False)
    columns = (
        TextColumn("{task.fields[waiting]} waiting"),
        TextColumn("{task.fields[leased]} in flight"),
        TextColumn("{task.completed:.0f} done"),
        BarColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(FRUITS), waiting=0, leased=0)

        def show(stats: Stats, line: str | None) -> None:
            progress.update(
                task,
                completed=stats.totals["completed"],
                waiting=stats.waiting + stats.delayed,
                leased=stats.leased,
            )
            if line is not None:
                progress.console.print(line, markup=False)

        yield show


class _Lines:
    """Each line, and the counts whenever they have changed."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, stats: Stats, line: str | None) -> None:
        if line is not None:
            click.echo(line)
        counts = (
            f"  {stats.waiting + stats.delayed} waiting, {stats.leased} in flight,"
            f" {stats.totals['completed']} done"
        )
        if counts != self._last:
            self._last = counts
            click.echo(counts)


@dataclass(slots=True, eq=False)
class _Process:
    """A worker's process, and what it has said so far."""

    name: str
    process: subprocess.Popen[bytes]
    completed: list[str] = field(default_factory=list)
    current: str | None = None
    #: What it says besides events: errors.
    said: list[str] = field(default_factory=list)


class _Demo:
    def __init__(self, queue: Queue, url: str, show: Show) -> None:
        self._queue = queue
        self._url = url
        self._show = show
        self._events: queues.SimpleQueue[Event] = queues.SimpleQueue()
        self._workers: list[_Process] = []
        self._readers: list[threading.Thread] = []
        self._fruits: dict[str, str] = {}
        self._started: Counter[str] = Counter()
        self._give_up = time.monotonic() + _MOST
        #: The fruit of the worker that was killed, and who worked it off.
        self.stranded = ""
        self.saviour = ""

    def run(self) -> None:
        """Goes on until the workers have ended."""
        victim = self._launch("worker-3", 10 * _MOST)
        self._until(lambda: victim.current is not None)
        others = [self._launch(f"worker-{number}", _WORK) for number in (1, 2)]
        self._until(lambda: any(worker.current is not None for worker in others))
        victim.process.kill()
        victim.process.wait()
        self.stranded = victim.current or ""
        self._tell(
            f"{victim.name}  killed while it works on {self.stranded}: its lease runs out within"
            f" {_TTL:g} s"
        )
        self._until(lambda: all(worker.process.poll() is not None for worker in others))
        for reader in self._readers:
            reader.join(_STOP)
        self._until(lambda: self._queue.stats().drained)

    def _launch(self, name: str, duration: float) -> _Process:
        program = (sys.executable, "-I", "-S", "-c", _PROGRAM, "{}", str(duration))
        options = ("--log-format", "json", "--worker", name, "--ttl", str(_TTL), "--grace", "1")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pyqueue", "work", self._queue.name),
                *(*options, "--", *program),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYQUEUE_URL": self._url},
        )
        worker = _Process(name, process)
        self._workers.append(worker)
        for stream in (process.stdout, process.stderr):
            read = partial(self._read, worker, cast("IO[bytes]", stream))
            self._readers.append(threading.Thread(target=read, daemon=True))
            self._readers[-1].start()
        return worker

    def _read(self, worker: _Process, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "said", "message": line.decode(errors="replace").rstrip()}
            self._events.put((worker, event))

    def _until(self, condition: Callable[[], bool]) -> None:
        """Shows what happens until the condition is true. Raises Failure after a minute, and when
        a worker ends that should not.
        """
        while True:
            met = condition()
            try:
                while True:
                    self._note(*self._events.get(timeout=0 if met else _POLL))
            except queues.Empty:
                self._show(self._queue.stats(), None)
            if met:
                return
            for worker in self._workers:
                if worker.process.poll() not in (None, 0, -signal.SIGKILL):
                    said = "; ".join(worker.said) or "it has said nothing"
                    raise Failure(f"{worker.name} ended with {worker.process.returncode}: {said}")
            if time.monotonic() > self._give_up:
                raise Failure(f"the demo is not done after {_MOST:g} s")

    def _note(self, worker: _Process, event: Mapping[str, object]) -> None:
        item, kind = str(event.get("item")), event.get("event")
        if kind == "works":
            fruit = worker.current = self._fruits[item] = str(event["fruit"])
            self._started[fruit] += 1
            again = "" if event["attempt"] == "1" else f", attempt {event['attempt']}"
            self._tell(f"{worker.name}  works on {fruit}{again}")
        elif kind == "completed":
            fruit = self._fruits[item]
            worker.completed.append(fruit)
            if fruit == self.stranded:
                self.saviour = worker.name
            self._tell(f"{worker.name}  completed {fruit}")
        elif kind == "said" or event.get("level") in ("warning", "error"):
            worker.said.append(str(event.get("message")))
            self._tell(f"{worker.name}  {event.get('message')}")

    def _tell(self, line: str) -> None:
        self._show(self._queue.stats(), line)

    def problems(self) -> list[str]:
        """What did not go as it must, by what the workers have said and what the queue counts."""
        done = Counter(fruit for worker in self._workers for fruit in worker.completed)
        stats = self._queue.stats()
        expected = {"raw": len(FRUITS), "completed": len(FRUITS), "expired": 1}
        found = {name: number for name, number in stats.totals.items() if number}
        checks = {
            f"the workers say that they completed {dict(done)}": done == Counter(FRUITS),
            f"the programs were started {dict(self._started)}": self._started
            == Counter([*FRUITS, self.stranded]),
            f"the queue counts {found}": found == expected,
            f"the queue holds {stats.live} items": stats.drained,
            f"{self.stranded or 'the fruit'} was completed by {self.saviour or 'nobody'}": (
                self.saviour in ("worker-1", "worker-2")
            ),
        }
        return [what for what, holds in checks.items() if not holds]

    def stop(self) -> None:
        """Ends what is still running."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(_STOP)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
