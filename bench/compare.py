"""``python -m bench peers``: pyqueue beside other queues, one harness and one process for each.

Timings come first: every subject once, then every subject again, on one server with a core of its
own; all that is compared runs on the other core. Then what is counted and not timed (bytes, idle
commands, items lost), where subjects have servers of their own and run side by side.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

import redis

from . import servers
from .measure import SCRIPTS, Cost, Meter, spread
from .report import percentile
from .servers import Server
from .subjects.base import VARIABLE, Settings
from .subjects.catalogue import ARQ, NODE, PEERS, Subject

ROOT = Path(__file__).parents[1]
QUEUE = "bench"
#: Seconds that a process may take to start, or to carry out an order.
PATIENCE = 90.0
#: Seconds that a worker may take for the items of a round.
ROUND = 45.0
#: How many workers are killed.
KILLS = 4


class SubjectError(Exception):
    """A subject did not do what was asked of it; the text says what it printed last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    scale: float = 1.0
    #: Seconds, and number, of wake-ups of one round; whichever is reached first.
    wake_seconds: float = 2.0
    wakes: int = 60
    #: Items that wait when bytes are counted.
    waiting: int = 10_000
    idle_seconds: float = 10.0
    #: Seconds after which an item of a killed worker counts as lost, by default and tuned to 5 s;
    #: 0 where that is left out.
    lost_after: float = 130.0
    lost_after_tuned: float = 130.0


QUICK = Plan(
    rounds=1,
    scale=0.5,
    wake_seconds=1.0,
    wakes=30,
    waiting=4000,
    idle_seconds=4.0,
    lost_after=0.0,
    lost_after_tuned=20.0,
)


def _python(environment: str) -> str:
    """The interpreter of an environment that ``make`` has made, else this one."""
    found = ROOT / {PEERS: ".venv-peers", ARQ: ".venv-peers-arq"}[environment] / "bin" / "python"
    return str(found) if found.exists() else sys.executable


def _command(subject: Subject, role: str) -> list[str]:
    if subject.environment == NODE:
        return ["node", str(ROOT / "bench" / "node" / f"{subject.module}.mjs"), role]
    return [_python(subject.environment), "-m", "bench.subjects", subject.module, role]


class Process:
    """A process of a subject, with a group of its own, and what it printed."""

    def __init__(self, subject: Subject, role: str, settings: Settings, directory: Path) -> None:
        self._log = directory / f"{role}.log"
        environment = os.environ | {VARIABLE: settings.as_json(), "PYTHONPATH": str(ROOT)}
        with self._log.open("wb") as log:
            try:
                self.process = subprocess.Popen(
                    _command(subject, role),
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if role == "produce" else log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise SubjectError(str(error)) from error

    def failure(self, what: str) -> SubjectError:
        """The error to raise: the last line that the process printed says why."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return SubjectError(f"{what}: {lines[-1].strip() if lines else 'it printed nothing'}")

    def kill(self) -> None:
        """SIGKILL to the process and to all that it started, as when a machine dies."""
        while pids := _session(self.process.pid):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def _session(leader: int) -> list[int]:
    """The processes of a session that still run; RQ's children have groups of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


@dataclass(frozen=True, slots=True)
class Done:
    """What a producer did: from when to when (monotonic ns)."""

    began: int
    ended: int

    def rate(self, items: int) -> float:
        """Items per second."""
        return items / (self.ended - self.began) * 1e9


class Producer:
    """A subject's process that pushes."""

    def __init__(self, subject: Subject, settings: Settings, directory: Path) -> None:
        self._process = Process(subject, "produce", settings, directory)
        self._pushed = 0
        hello = self._answer()
        self.offers: list[str] = hello["offers"]
        self.versions: dict[str, str] = hello["versions"]

    def do(self, order: str, count: int) -> Done:
        """Pushes items that no other push of this producer pushed."""
        stdin = cast("IO[bytes]", self._process.process.stdin)
        line = json.dumps({"do": order, "count": count, "start": self._pushed}).encode()
        self._pushed += count
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, which says why
            stdin.write(line + b"\n")
            stdin.flush()
        answer = self._answer()
        return Done(answer["began"], answer["ended"])

    def _answer(self) -> dict[str, Any]:
        stdout = cast("IO[bytes]", self._process.process.stdout)
        ready, _, _ = select.select([stdout], [], [], PATIENCE)
        line = stdout.readline() if ready else b""
        if not line:
            self.close()
            raise self._process.failure("the producer ended" if ready else "the producer hangs")
        return cast("dict[str, Any]", json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()


class Worker:
    """A subject's worker process, and what its handler tells through a fifo."""

    def __init__(self, subject: Subject, settings: Settings, directory: Path) -> None:
        fifo = directory / "handled"
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
        self._pipe = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._text = b""
        settings = replace(settings, pipe=str(fifo))
        self._process = Process(subject, "work", settings, directory)

    def wait(self, number: int, seconds: float) -> int:
        """When item ``number`` was handled (monotonic ns). Skips what was handled before it."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\n" in self._text:
                line, _, self._text = self._text.partition(b"\n")
                found, at = line.split()
                if int(found) >= number:
                    return int(at)
            left = deadline - time.monotonic()
            if left <= 0 or self._process.process.poll() is not None:
                what = "the worker ended" if left > 0 else f"item {number} not within {seconds} s"
                raise self._process.failure(what)
            select.select([self._pipe], [], [], min(left, 0.5))
            # Nothing is there while no writer has opened it, too.
            with contextlib.suppress(BlockingIOError):
                got = os.read(self._pipe, 65536)
                self._text += got
                if not got:
                    time.sleep(0.002)

    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process.process.poll() is None

    def failure(self, what: str) -> SubjectError:
        """See `Process.failure`."""
        return self._process.failure(what)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        self._process.kill()
        os.close(self._pipe)


@dataclass(slots=True)
class Result:
    """What was measured of a subject."""

    subject: Subject
    versions: dict[str, str] = field(default_factory=dict)
    #: A value for each round; of "wake" µs of each wake-up.
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    killed: dict[str, dict[str, float]] = field(default_factory=dict)
    #: Why something could not be measured.
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Medians and quartiles."""
        subject = self.subject
        values: dict[str, object] = {
            name: spread(values).as_list()
            for name, values in self.samples.items()
            if values and name != "wake"
        }
        if wakes := self.samples["wake"]:
            values["wake"] = {
                "p50": round(statistics.median(wakes), 1),
                "p99": round(percentile(wakes, 99), 1),
                "count": len(wakes),
            }
        return {
            "name": subject.name,
            "producer": subject.producer or subject.name,
            "module": subject.module,
            "settings": subject.settings,
            "redelivery": subject.redelivery,
            "tuned": subject.tuned,
            "versions": self.versions,
            **values,
            "killed": self.killed,
            "failures": self.failures,
        }


def as_json(results: Mapping[str, Result]) -> list[dict[str, object]]:
    """All of them."""
    return [result.as_json() for result in results.values()]


def scripts(cost: Cost) -> float:
    """EVALSHA and the like."""
    return sum(calls for name, (_, calls) in cost.each.items() if name in SCRIPTS)


class Bench:
    """Measures one subject on one server, round by round."""

    def __init__(self, subject: Subject, server: Server, directory: Path, *, tuned: bool) -> None:
        self.result = Result(subject)
        self.subject = subject
        self.directory = directory / subject.name.replace("/", "-").replace(" ", "-")
        self.directory.mkdir(exist_ok=True)
        self.client = server.client()
        self.settings = Settings(server.url, QUEUE, subject.variant, tuned)
        self.producer = Producer(subject, self.settings, self.directory)
        self.result.versions = self.producer.versions
        self.client.flushall()
        self.producer.do("push", 5)  # loads scripts
        self.client.flushall()

    def close(self) -> None:
        """Ends the producer."""
        self.producer.close()
        self.client.close()

    def round(self, plan: Plan) -> None:
        """One round of all that is timed."""
        if self.subject.pushes:
            self._pushes(plan)
        self._work(plan)

    def _note(self, **values: float) -> None:
        for name, value in values.items():
            self.result.samples[name].append(value)

    def _pushes(self, plan: Plan) -> None:
        some = max(20, int(self.subject.pushes * plan.scale))
        meter = Meter(self.client)
        for order, name, count in (
            ("push", "push", some),
            ("push_tasks", "push_tasks", some * 3),
            ("push_bulk", "push_bulk", some * 10),
        ):
            if order != "push" and order not in self.producer.offers:
                continue
            self.client.flushall()
            meter.start()
            rate = self.producer.do(order, count).rate(count)
            cost = meter.stop().per(count)
            self._note(
                **{
                    name: rate,
                    f"{name}_cpu": cost.cpu,
                    f"{name}_commands": cost.commands,
                }
            )

    def _work(self, plan: Plan) -> None:
        count = max(20, int(self.subject.items * plan.scale))
        first = count // 10
        self.client.flushall()
        self.producer.do("fill", count)
        worker = Worker(
            self.subject, replace(self.settings, first=first, last=count), self.directory
        )
        try:
            began = worker.wait(first, PATIENCE)
            meter = Meter(self.client)
            ended = worker.wait(count, ROUND)
            cost = meter.stop().per(count - first)
            self._note(
                work=(count - first) / (ended - began) * 1e9,
                work_cpu=cost.cpu,
                work_commands=cost.commands,
                work_scripts=scripts(cost),
            )
            self._wake(plan, worker, count)
        finally:
            worker.kill()

    def _wake(self, plan: Plan, worker: Worker, number: int) -> None:
        # What it has to do after the last item, it does.
        time.sleep(0.3)
        deadline = time.monotonic() + plan.wake_seconds
        for woken in range(number + 1, number + 1 + plan.wakes):
            time.sleep(random.uniform(0.005, 0.025))
            pushed = self.producer.do("push", 1).began
            self._note(wake=(worker.wait(woken, 10) - pushed) / 1e3)
            if time.monotonic() > deadline:
                break

    # What is counted, not timed

    def count(self, plan: Plan) -> None:
        """Bytes, and what an idle worker does."""
        count = min(plan.waiting, self.subject.items * 2)
        self.client.flushall()
        self.producer.do("fill", 1)
        time.sleep(0.2)
        before = _used(self.client)
        self.producer.do("fill", count)
        time.sleep(0.2)
        used = _used(self.client) - before
        keys = sum(_usage(self.client))
        self._note(bytes_used=used / count, bytes_keys=keys / (count + 1))
        self.client.flushall()
        worker = Worker(self.subject, replace(self.settings, first=1, last=1), self.directory)
        try:
            self.producer.do("push", 1)
            worker.wait(1, PATIENCE)
            time.sleep(min(2, plan.idle_seconds))
            meter = Meter(self.client)
            began = time.monotonic()
            sent = _sent(self.client, plan.idle_seconds)
            cost = meter.stop()
            seconds = time.monotonic() - began
            self._note(
                idle_sent=sent / seconds,
                idle_commands=cost.commands / seconds,
                idle_cpu=cost.cpu / seconds,
            )
            if not worker.alive():
                raise worker.failure("the idle worker ended")
        finally:
            worker.kill()

    def lose(self, seconds: float) -> dict[str, float]:
        """Kills some workers one after the other, and lets a last one finish for at most
        ``seconds``.
        """
        count = self.subject.killed
        record = self.directory / "record"
        record.unlink(missing_ok=True)
        record.touch()
        self.client.flushall()
        self.producer.do("fill", count)
        settings = replace(self.settings, record=str(record), hold=0.01, last=1 << 60)
        for number in range(KILLS):
            enough = count * (number + 1) // (KILLS + 2)
            worker = Worker(self.subject, settings, self.directory)
            try:
                _until(lambda: len(_lines(record)) >= enough, PATIENCE, worker)  # noqa: B023
            finally:
                worker.kill()
        killed, before = time.monotonic(), len(_lines(record))
        worker = Worker(self.subject, settings, self.directory)
        try:
            with contextlib.suppress(TimeoutError):
                _until(lambda: len(set(_lines(record))) >= count, seconds, worker)
            last = record.stat().st_mtime - time.time() + time.monotonic() - killed
            # An item that comes back late comes twice.
            time.sleep(1)
        finally:
            worker.kill()
        times = Counter(_lines(record))
        return {
            "items": count,
            "kills": KILLS,
            "before": before,
            "lost": count - len(times),
            "doubled": sum(found - 1 for found in times.values()),
            "seconds": round(last, 1),
            "limit": seconds,
        }


def _until(holds: Callable[[], bool], seconds: float, worker: Worker) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if not worker.alive():
            raise worker.failure("the worker ended")
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def _sent(client: redis.Redis, seconds: float) -> int:
    """How many commands clients send in a time; what scripts run is not among them."""
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        connection.send_command("MONITOR")
        connection.read_response()
        time.sleep(seconds)
        lines = []
        while connection.can_read(timeout=0):
            lines.append(connection.read_response())
    finally:
        connection.disconnect()
        pool.release(connection)
    return sum(b" lua]" not in line for line in lines)


def _used(client: redis.Redis) -> int:
    """Bytes, but for those of connections: a producer with a pool has many."""
    info = cast("dict[str, int]", client.info("memory"))
    return info["used_memory"] - info["mem_clients_normal"]


def _usage(client: redis.Redis) -> Iterator[int]:
    """MEMORY USAGE of every key."""
    pipeline = client.pipeline(transaction=False)
    for key in client.scan_iter(count=1000):
        pipeline.memory_usage(key, samples=0)
    yield from cast("list[int]", pipeline.execute())


Log = Callable[[str], object]


def _attempt(result: Result, what: str, log: Log, do: Callable[[], object]) -> bool:
    """Notes a failure with the subject, whose other figures, and all others', still count."""
    try:
        do()
    except (SubjectError, TimeoutError, redis.RedisError) as error:
        result.failures.append(f"{what}: {error}")
        log(f"{result.subject.name}: {result.failures[-1]}")
        return False
    return True


def time_all(
    server: Server, subjects: Sequence[Subject], plan: Plan, log: Log
) -> dict[str, Result]:
    """The interleaved rounds."""
    results = {subject.name: Result(subject) for subject in subjects}
    with tempfile.TemporaryDirectory(prefix="pyqueue-bench-") as directory:
        benches: list[Bench] = []
        try:
            for subject in subjects:

                def start(subject: Subject = subject) -> None:
                    bench = Bench(subject, server, Path(directory), tuned=False)
                    results[subject.name] = bench.result
                    benches.append(bench)

                _attempt(results[subject.name], "not available", log, start)
            for number in range(plan.rounds):
                for bench in list(benches):
                    log(f"{server.name}, round {number + 1} of {plan.rounds}: {bench.subject.name}")
                    if not _attempt(
                        bench.result, "timed", log, functools.partial(bench.round, plan)
                    ):
                        bench.close()
                        benches.remove(bench)
        finally:
            for bench in benches:
                bench.close()
    return results


def _count_one(result: Result, server: Server, plan: Plan, log: Log, directory: Path) -> None:
    subject = result.subject

    def run(tuned: bool, do: Callable[[Bench], object]) -> None:
        bench = Bench(subject, server, directory, tuned=tuned)
        try:
            do(bench)
        finally:
            bench.close()
        for name, values in bench.result.samples.items():
            result.samples[name] += values

    log(f"{server.name}, counting: {subject.name}")
    _attempt(result, "counted", log, lambda: run(False, lambda bench: bench.count(plan)))
    for name, tuned, seconds in (
        ("default", False, plan.lost_after),
        ("tuned", True, plan.lost_after_tuned),
    ):
        if not subject.killed or not seconds or (tuned and not subject.tuned):
            continue

        def kill(bench: Bench, name: str = name, seconds: float = seconds) -> None:
            result.killed[name] = bench.lose(seconds)

        _attempt(result, f"killed, {name}", log, functools.partial(run, tuned, kill))


def count_all(kind: str, results: Sequence[Result], plan: Plan, log: Log, at_once: int) -> None:
    """What needs no quiet machine: each subject on a server of its own, several at once."""
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="pyqueue-bench-") as directory,
        ThreadPoolExecutor(at_once) as pool,
    ):
        # Started before the threads: a fork of a process with threads could hang.
        own = [stack.enter_context(servers.launch(kind, tcp=True)) for _ in results]
        jobs = [
            pool.submit(_count_one, result, server, plan, log, Path(directory))
            for result, server in zip(results, own, strict=True)
        ]
        for job in jobs:
            job.result()
